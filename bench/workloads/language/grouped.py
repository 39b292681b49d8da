"""Decoders of grouped-query attention, dense or with experts: their dimensions, FLOP and bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.precision import Precision
from bench.workloads.contexts.contexts import pairs
from bench.workloads.decoding.decoder import CacheShape
from bench.workloads.jobs.seeded import initial_std
from bench.workloads.language.family import experts_touched
from bench.workloads.layers.quantized import SCALE_BYTES


class GroupedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The dimensions of one model; a family's own subclass builds it."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int = 0
    """0: the hidden width over the heads."""
    feed_forward: int = 0
    """0 where every layer has experts."""
    experts: int = 0
    active: int = 0
    """Experts that a token goes to."""
    expert: int = 0
    """Width of one expert."""
    vocabulary: int
    tied: bool = True
    """Whether the output matrix is the embedding."""
    positions: int
    rope_theta: float
    window: int | None = None
    """Over how many tokens each attends, itself included; None for all."""
    alternating: bool = False
    """Whether every other layer alone has the window, the first one too."""
    head_norms: bool = False
    """Whether queries and keys have a norm, over a head's width."""
    published_parameters: int | None = None
    """None for a size that nobody published."""

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.head_width or self.hidden // self.heads

    @property
    def cache(self) -> CacheShape:
        """Keys and values of the heads that have some."""
        return CacheShape(heads=self.key_value_heads, first=self.head, second=self.head)

    @property
    def head_weights(self) -> int:
        """Weights of the output matrix."""
        return self.hidden * self.vocabulary

    def options(self, attention: str) -> dict[str, Any]:
        """What the library's configurations of all such models are given."""
        return {
            "initializer_range": initial_std(self.hidden),
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward or self.expert,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head,
            "max_position_embeddings": self.positions,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tied,
            "attn_implementation": attention,
        }

    def layer_weights(self, experts: float) -> float:
        """Weights in the matrices of one layer, with so many of its experts."""
        attention = 2 * self.hidden * self.head * (self.heads + self.key_value_heads)
        if not self.experts:
            return attention + 3 * self.hidden * self.feed_forward
        return attention + self.hidden * self.experts + experts * 3 * self.hidden * self.expert

    def layer_vectors(self, experts: float) -> float:
        """Values of one layer, and so many of its experts, that lie in no matrix: norms."""
        return 2 * self.hidden + 2 * self.head * self.head_norms

    def spared(self, precision: Precision) -> float:
        """Bytes by which an expert's weight is narrower than those of the other matrices."""
        return 0.0

    @property
    def layer_rows(self) -> int:
        """Rows of a dense layer's matrices, each with a scale of its own where it is quantized."""
        queries_keys_values = self.head * (self.heads + 2 * self.key_value_heads)
        return queries_keys_values + 2 * self.hidden + 2 * self.feed_forward

    def flop(self, tokens: int, context: float, answering: int) -> int:
        """2 FLOP for each weight of a matrix and each token, and attention: 4 T C h a layer.

        T tokens attend to a context of C, or of its layer's window, over heads h wide together;
        `answering` of them get logits.
        Attention counts in full, not the causal half: see `masked`. Of experts a token meets its
        active ones and the router. Left out: embeddings, norms, softmax, the weighing of experts.
        Source: PaLM, arXiv 2204.02311, appendix B.
        """
        weights = tokens * self.layers * self.layer_weights(self.active)
        matrices = 2 * (weights + answering * self.head_weights)
        return int(matrices) + round(4 * tokens * self.seen(context) * self.heads * self.head)

    def masked(self, tokens: int) -> int:
        """Of the `flop` of a text that attends to itself, those of keys that a token does not see.

        A causal kernel leaves them out: token i sees i keys, or its layer's window.
        """
        whole = self.layers // 2 if self.alternating else 0
        seen = (self.layers - whole) * pairs(tokens, tokens, self.window or 0)
        seen += whole * pairs(tokens, tokens, 0)
        return round(4 * (tokens * self.seen(tokens) - seen) * self.heads * self.head)

    def again(self, tokens: int) -> int:
        """FLOP of a text that layers which keep their input only must do again in the backward: not
        their last product, of which torch needs no more than what goes into it."""
        last = self.layers * self.hidden * (self.active * self.expert or self.feed_forward)
        return self.flop(tokens, tokens, 0) - self.masked(tokens) - 2 * tokens * last

    def served_flop(self, prompt: int, answer: int) -> int:
        """Of one request: its prompt at once, then `answer` - 1 tokens, one after the other.

        The first token comes from the prompt; each further one attends to all before it.
        """
        each = self.flop(1, prompt + answer / 2, 1)
        return self.flop(prompt, prompt, 1) + (answer - 1) * each

    def decode_bytes(
        self, batch: int, context: float, precision: Precision, hit: float | None = None
    ) -> int:
        """Bytes that one decode step must move: every weight and the cache of every sequence are
        read once, and the new token's keys and values are written.

        Of the experts those that the tokens of the batch go to, `hit` of each layer, or as even
        loads have it. The cache is counted up to the mean context of the window, though a kernel
        may read all of its allocation. Of an embedding that is not tied to the output matrix, a row
        per sequence. Where the layers' matrices are quantized, each of their rows has a scale.
        """
        if hit is None:
            hit = experts_touched(self.experts, self.active, batch) if self.experts else 0.0
        others = self.layers * self.layer_vectors(hit) + self.hidden
        others += self.head_weights + batch * self.hidden
        cache = 2 * batch * (self.seen(context) + self.layers)
        cache *= self.key_value_heads * self.head
        matrices = self.layers * self.layer_weights(hit) * precision.matrix_bytes
        matrices -= self.layers * hit * 3 * self.hidden * self.expert * self.spared(precision)
        if precision.quantized is not None:
            matrices += self.layers * self.layer_rows * SCALE_BYTES
        return round(matrices + (others + cache) * precision.element_bytes)

    def seen(self, context: float) -> float:
        """Tokens that one attends to, of a context of so many: of all layers together."""
        within = context if self.window is None else min(context, self.window)
        whole = self.layers // 2 if self.alternating else 0
        return (self.layers - whole) * within + whole * context
