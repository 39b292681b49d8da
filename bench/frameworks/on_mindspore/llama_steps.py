"""Llama in MindSpore: what whole texts and single tokens go through, as plain functions.

As in `steps.py`, MindSpore is imported where this module loads, for its parser.

Weights come in torch's order: the embedding; of each layer `EACH`; the last norm; and the output
matrix, where that is not the embedding. `shape` is Python's numbers, which a graph is made for:
layers, heads of queries, heads of keys, width of a head, index of the output matrix; and whether
whole texts are attended to by MindSpore's own operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from bench.frameworks.on_mindspore.steps import fused as causal

EACH = 9
"""Of a layer: queries, keys, values, what joins the heads; gate, up, down; two norms."""
EPSILON = 1e-5

_by_rows = ops.MatMul(transpose_b=True)
_scores = ops.BatchMatMul(transpose_b=True)
_mixed = ops.BatchMatMul()
_written = ops.ScatterUpdate()


def prefilled(
    tokens: Any, cosines: Any, sines: Any, mask: Any, shape: tuple[int, ...], *held: Any
) -> tuple[Any, Any]:
    """Logits [B, 1, V] after the prompt [B, T], and the token that they choose; fills the caches.

    held: of each layer its keys and its values [B heads L, D], of L >= T; then the weights.
    """
    caches, weights = held[: 2 * shape[0]], held[2 * shape[0] :]
    batch = tokens.shape[0]
    hidden = read(tokens, cosines, sines, mask, shape, weights, caches)
    last = hidden.reshape(batch, -1, hidden.shape[-1])[:, -1]
    return answered(last, weights[shape[4]])


def decoded(
    tokens: Any,
    places: Any,
    cosines: Any,
    sines: Any,
    mask: Any,
    shape: tuple[int, ...],
    *held: Any,
) -> tuple[Any, Any]:
    """Logits [B, 1, V] after tokens [B, 1], and those that they choose.

    places: rows of a cache that theirs go to, [B heads]; cosines, sines: [D]; mask: [L].
    """
    layers, heads, keys, width, head, _ = shape
    caches, weights = held[: 2 * layers], held[2 * layers :]
    batch = tokens.shape[0]
    stream = ops.gather(weights[0], tokens.reshape(-1), 0)
    for layer in range(layers):
        first = 1 + EACH * layer
        normed = norm(stream, weights[first + 7])
        query = _by_rows(normed, weights[first]).reshape(batch, heads, width)
        key = _by_rows(normed, weights[first + 1]).reshape(batch * keys, width)
        value = _by_rows(normed, weights[first + 2]).reshape(batch * keys, width)
        query = rotated(query, cosines, sines).reshape(batch, keys, -1, width)
        every = _written(caches[2 * layer], places, rotated(key, cosines, sines))
        values = _written(caches[2 * layer + 1], places, value)
        found = attended(
            query,
            every.reshape(batch, keys, -1, width),
            values.reshape(batch, keys, -1, width),
            mask,
        )
        stream = stream + _by_rows(found.reshape(batch, -1), weights[first + 3])
        stream = stream + fed(norm(stream, weights[first + 8]), weights, first)
    return answered(norm(stream, weights[1 + EACH * layers]), weights[head])


def read(
    tokens: Any,
    cosines: Any,
    sines: Any,
    mask: Any,
    shape: tuple[int, ...],
    weights: Sequence[Any],
    caches: tuple[Any, ...],
) -> Any:
    """What comes out of the last norm, [B T, H], of texts [B, T].

    cosines, sines: [T, D]; mask: of the heads that share a key one after another, [G T, T], or for
    MindSpore's own operator what it leaves out; caches: as of `prefilled`, or none.
    """
    layers, heads, keys, width, _, fused = shape
    batch, length = tokens.shape
    stream = ops.gather(weights[0], tokens.reshape(-1), 0)
    for layer in range(layers):
        first = 1 + EACH * layer
        normed = norm(stream, weights[first + 7])
        query = _by_rows(normed, weights[first]).reshape(batch, length, heads, width)
        key = _by_rows(normed, weights[first + 1]).reshape(batch, length, keys, width)
        value = _by_rows(normed, weights[first + 2]).reshape(batch, length, keys, width)
        query = rotated(query.swapaxes(1, 2), cosines, sines)
        key = rotated(key.swapaxes(1, 2), cosines, sines)
        value = value.swapaxes(1, 2)
        if caches:
            filled(caches[2 * layer], key)
            filled(caches[2 * layer + 1], value)
        if fused:
            found = causal(query, key, value, mask)
        else:
            found = attended(query.reshape(batch, keys, -1, width), key, value, mask)
        found = found.reshape(batch, heads, length, width).swapaxes(1, 2)
        stream = stream + _by_rows(found.reshape(batch * length, -1), weights[first + 3])
        stream = stream + fed(norm(stream, weights[first + 8]), weights, first)
    return norm(stream, weights[1 + EACH * layers])


class Llama(nn.Cell):  # type: ignore[misc]
    """A model that is trained: whole texts to what follows each of their tokens."""

    def __init__(self, weights: Sequence[Any], tables: tuple[Any, ...], shape: tuple[int, ...]):
        """weights: in torch's order; tables: cosines, sines and mask, as of `read`."""
        super().__init__()
        names = [f"weight_{number}" for number in range(len(weights))]
        held = [ms.Parameter(w, name=name) for w, name in zip(weights, names, strict=True)]
        self.held = ms.ParameterTuple(held)
        self.tables = tables
        self.numbers = shape

    def construct(self, tokens: Any) -> Any:
        """[B, T] to [B, T, V]."""
        cosines, sines, mask = self.tables
        hidden = read(tokens, cosines, sines, mask, self.numbers, self.held, ())
        logits = _by_rows(hidden, self.held[self.numbers[4]])
        return logits.reshape(tokens.shape[0], tokens.shape[1], -1)


def filled(cache: Any, new: Any) -> Any:
    """A cache [B heads L, D] that begins with these tokens' [B, heads, T, D]; zeros behind them."""
    rows = new.reshape(-1, new.shape[2], new.shape[3])
    behind = cache.shape[0] // rows.shape[0] - rows.shape[1]
    if behind > 0:
        rest = ops.zeros((rows.shape[0], behind, rows.shape[2]), rows.dtype)
        rows = ops.cat((rows, rest), 1)
    return cache.copy_(rows.reshape(cache.shape))


def norm(values: Any, weight: Any) -> Any:
    """By the root of the mean square, which is float32, over the last dimension."""
    wide = values.astype(ms.float32)
    wide = wide * ops.rsqrt(ops.mean(ops.square(wide), -1, True) + EPSILON)
    return wide.astype(values.dtype) * weight


def rotated(values: Any, cosines: Any, sines: Any) -> Any:
    """Values [..., D] turned by their places; the sines bear the sign of the halves that swap."""
    half = values.shape[-1] // 2
    swapped = ops.cat((values[..., half:], values[..., :half]), -1)
    return values * cosines + swapped * sines


def attended(query: Any, key: Any, value: Any, mask: Any) -> Any:
    """Of queries [B, K, N, D], that share K heads of keys and values [B, K, L, D]."""
    scores = _scores(query, key) * (query.shape[-1] ** -0.5) + mask
    shares = ops.softmax(scores.astype(ms.float32), -1).astype(value.dtype)
    return _mixed(shares, value)


def fed(normed: Any, weights: Sequence[Any], first: int) -> Any:
    """SwiGLU of the layer whose weights begin there."""
    gate = ops.silu(_by_rows(normed, weights[first + 4]))
    return _by_rows(gate * _by_rows(normed, weights[first + 5]), weights[first + 6])


def answered(last: Any, head: Any) -> tuple[Any, Any]:
    """Logits [B, 1, V] of what came last [B, H], and the token that they choose, [B, 1]."""
    logits = _by_rows(last, head)
    logits = logits.reshape(logits.shape[0], 1, logits.shape[1])
    return logits, ops.argmax(logits, -1).astype(ms.int32)
