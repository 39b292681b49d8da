"""BERT for question answering in MindSpore's own layers, its weights in torch's order.

Imported by jobs alone; see `steps.py`.
"""

from __future__ import annotations

from typing import Any

from mindspore import nn, ops

from bench.workloads.bert import MOST_POSITIONS, Size
from bench.workloads.jobs.seeded import initial_std

EPSILON = 1e-12
KINDS = 2
"""Of tokens: of a question, of a text."""


class Attention(nn.Cell):  # type: ignore[misc]
    """Of several heads, over the whole sequence: two products and a softmax, or MindSpore's own."""

    def __init__(self, filled: Any, size: Size) -> None:
        """filled: `models.Filled`."""
        super().__init__()
        self.heads = size.heads
        self.scale = (size.hidden // size.heads) ** -0.5
        self.fused = filled.fuses(size.hidden // size.heads)
        self.query = _dense(filled, size.hidden, size.hidden, size)
        self.key = _dense(filled, size.hidden, size.hidden, size)
        self.value = _dense(filled, size.hidden, size.hidden, size)

    def construct(self, hidden: Any) -> Any:
        """[B, T, d] to [B, T, d]."""
        batch, length, width = hidden.shape
        apart = (batch, length, self.heads, width // self.heads)
        query = self.query(hidden).reshape(apart).swapaxes(1, 2)
        key = self.key(hidden).reshape(apart).swapaxes(1, 2)
        value = self.value(hidden).reshape(apart).swapaxes(1, 2)
        if self.fused:
            found = ops.flash_attention_score(
                query, key, value, self.heads, scalar_value=self.scale, input_layout="BNSD"
            )
        else:
            scores = ops.matmul(query, key.swapaxes(-1, -2)) * self.scale
            found = ops.matmul(ops.softmax(scores, -1), value)
        return found.swapaxes(1, 2).reshape(batch, length, width)


class Layer(nn.Cell):  # type: ignore[misc]
    """Attention and a feed-forward network, a norm behind each."""

    def __init__(self, filled: Any, size: Size) -> None:
        """As torch's twin draws."""
        super().__init__()
        self.attention = Attention(filled, size)
        self.output = _dense(filled, size.hidden, size.hidden, size)
        self.norm = _norm(filled, size)
        self.wide = _dense(filled, size.hidden, size.feed_forward, size)
        self.narrow = _dense(filled, size.feed_forward, size.hidden, size)
        self.last_norm = _norm(filled, size)

    def construct(self, hidden: Any) -> Any:
        """[B, T, d] to [B, T, d]."""
        hidden = self.norm(self.output(self.attention(hidden)) + hidden)
        inner = ops.gelu(self.wide(hidden), approximate="none")
        return self.last_norm(self.narrow(inner) + hidden)


class Bert(nn.Cell):  # type: ignore[misc]
    """Tokens to where an answer starts, and where it ends."""

    def __init__(self, filled: Any, size: Size, length: int) -> None:
        """length: tokens of a sequence, none of which is padding."""
        super().__init__()
        self.words = _embedding(filled, size.vocabulary, size)
        self.positions = _embedding(filled, MOST_POSITIONS, size)
        self.kinds = _embedding(filled, KINDS, size)
        self.norm = _norm(filled, size)
        self.layers = nn.SequentialCell(*(Layer(filled, size) for _ in range(size.layers)))
        self.head = _dense(filled, size.hidden, 2, size)
        self.places = filled.integers(range(length))
        self.first = filled.integers([0])

    def construct(self, tokens: Any) -> Any:
        """[B, T] to [B, 2, T]."""
        hidden = self.words(tokens) + self.kinds(self.first) + self.positions(self.places)
        return self.head(self.layers(self.norm(hidden))).swapaxes(1, 2)


def _embedding(filled: Any, count: int, size: Size) -> Any:
    table = filled.normal((count, size.hidden), initial_std(size.hidden))
    return nn.Embedding(count, size.hidden, embedding_table=table, dtype=filled.dtype)


def _dense(filled: Any, inputs: int, outputs: int, size: Size) -> Any:
    return nn.Dense(
        inputs,
        outputs,
        weight_init=filled.normal((outputs, inputs), initial_std(size.hidden)),
        bias_init="zeros",
        dtype=filled.dtype,
    )


def _norm(filled: Any, size: Size) -> Any:
    return nn.LayerNorm((size.hidden,), epsilon=EPSILON, dtype=filled.dtype)
