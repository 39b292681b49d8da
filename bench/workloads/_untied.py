"""Llama models that serve: their dimensions, each with an output matrix of its own.

Random weights whose output matrix is the embedding repeat one token for ever, and then no answer
says anything of the engine. So a model whose published form ties the two is another one here, and
its name says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bench.workload import TWIN_VOCABULARY, with_twins
from bench.workloads._seeded import initial_std

if TYPE_CHECKING:
    from torch import nn

SCALED: dict[str, float | str] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""Rotary frequencies of Llama 3.1 and 3.2, but for their factor."""


class Untied(msgspec.Struct, frozen=True, kw_only=True):
    """The dimensions of one model."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int = 128_256
    positions: int = 131_072
    rope_theta: float = 500_000.0
    rope_factor: float | None = None
    """None for plain rotary embeddings."""
    published_parameters: int | None = None
    """As published, and the output matrix where that is not in it; None where nobody did."""

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def layer_weights(self) -> int:
        """Weights in the matrices of one layer."""
        attention = 2 * self.hidden * self.head * (self.heads + self.key_value_heads)
        return attention + 3 * self.hidden * self.feed_forward

    def flop(self, tokens: int, context: float, answering: int) -> int:
        """Of one request's forward: each token attends to `context`, `answering` get logits.

        2 for each weight of a matrix and each token, and 4 T C h a layer for attention.
        Source: PaLM, arXiv 2204.02311, appendix B.
        """
        head = self.hidden * self.vocabulary
        matrices = 2 * (tokens * self.layers * self.layer_weights + answering * head)
        return matrices + round(4 * tokens * context * self.layers * self.hidden)

    def construct(self) -> nn.Module:
        """The library's model, as it initialises it; weights of deviation hidden^-0.5, so that
        each layer keeps the size of what it is given (0.06 at a width of 256 to 300)."""
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        rope: dict[str, float | str] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_factor is not None:
            rope |= {**SCALED, "factor": self.rope_factor}
        config = LlamaConfig(
            initializer_range=initial_std(self.hidden),
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=self.positions,
            rms_norm_eps=1e-5,
            rope_parameters=rope,
            tie_word_embeddings=False,
        )
        model: nn.Module = LlamaForCausalLM(config)
        return model


SIZES = with_twins(
    {
        "tiny-untied": Untied(
            hidden=64,
            layers=3,
            heads=4,
            key_value_heads=2,
            feed_forward=128,
            vocabulary=512,
            positions=2048,
        ),
        "smollm2-135m-untied": Untied(
            hidden=576,
            layers=30,
            heads=9,
            key_value_heads=3,
            feed_forward=1536,
            vocabulary=49_152,
            positions=8192,
            rope_theta=100_000.0,
            published_parameters=134_515_008 + 576 * 49_152,
        ),
        "llama-3.2-1b-untied": Untied(
            hidden=2048,
            layers=16,
            heads=32,
            key_value_heads=8,
            feed_forward=8192,
            rope_factor=32.0,
            published_parameters=1_235_814_400 + 2048 * 128_256,
        ),
        "llama-3.2-3b-untied": Untied(
            hidden=3072,
            layers=28,
            heads=24,
            key_value_heads=8,
            feed_forward=8192,
            rope_factor=32.0,
            published_parameters=3_212_749_824 + 3072 * 128_256,
        ),
        "llama-3.1-8b": Untied(
            hidden=4096,
            layers=32,
            heads=32,
            key_value_heads=8,
            feed_forward=14_336,
            rope_factor=8.0,
            published_parameters=8_030_261_248,
        ),
        "llama-3.1-70b": Untied(
            hidden=8192,
            layers=80,
            heads=64,
            key_value_heads=8,
            feed_forward=28_672,
            rope_factor=8.0,
            published_parameters=70_553_706_496,
        ),
    },
    layers=2,
    vocabulary=TWIN_VOCABULARY,
)
"""As in each model's published configuration, but for what the head of this file says; `tiny` is
for tests, and what ends in `-2l` for the numerics gate."""
