"""Llama models: their dimensions as published, and with an output matrix of their own to serve.

Random weights whose output matrix is the embedding repeat one token for ever, and then no answer
says anything of the engine. So a model whose published form ties the two is another one where it
serves, and its name says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bench.workload import TWIN_VOCABULARY, with_twins
from bench.workloads.language.grouped import GroupedQuery
from bench.workloads.layers.transformers import library_model

if TYPE_CHECKING:
    from torch import nn

SCALED: dict[str, float | str] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""Rotary frequencies of Llama 3.1 and 3.2, but for their factor."""


class Size(GroupedQuery, frozen=True, kw_only=True):
    """The dimensions of one model."""

    vocabulary: int = 128_256
    positions: int = 131_072
    rope_theta: float = 500_000.0
    rope_factor: float | None = None
    """Factor of the `llama3` frequency scaling; None for plain rotary embeddings."""

    def construct(self, attention: str = "eager", experts: str = "") -> nn.Module:
        """The library's model."""
        options = self.options(attention)
        if self.rope_factor is not None:
            options["rope_parameters"] |= {**SCALED, "factor": self.rope_factor}
        return library_model("llama", "LlamaForCausalLM", rms_norm_eps=1e-5, **options)


def _third(
    hidden: int, layers: int, heads: int, feed_forward: int, published: int, **others: Any
) -> Size:
    """Of the third generation, whose models all have eight heads of keys."""
    return Size(
        hidden=hidden,
        layers=layers,
        heads=heads,
        key_value_heads=8,
        feed_forward=feed_forward,
        published_parameters=published,
        **{"rope_factor": 8.0, **others},
    )


PUBLISHED = {
    "tiny": Size(
        hidden=64,
        layers=3,
        heads=4,
        key_value_heads=2,
        feed_forward=128,
        vocabulary=512,
        positions=2048,
    ),
    "smollm2-135m": Size(
        hidden=576,
        layers=30,
        heads=9,
        key_value_heads=3,
        feed_forward=1536,
        vocabulary=49_152,
        positions=8192,
        rope_theta=100_000.0,
        published_parameters=134_515_008,
    ),
    "llama-3.2-1b": _third(2048, 16, 32, 8192, 1_235_814_400, rope_factor=32.0),
    "llama-3.2-3b": _third(3072, 28, 24, 8192, 3_212_749_824, rope_factor=32.0),
    "llama-3.1-8b": _third(4096, 32, 32, 14_336, 8_030_261_248, tied=False),
    "llama-3.1-70b": _third(8192, 80, 64, 28_672, 70_553_706_496, tied=False),
}
"""Dimensions as in each model's published configuration; `tiny` is for tests."""
CUT = {"layers": 2, "vocabulary": TWIN_VOCABULARY}
SIZES = with_twins(PUBLISHED, **CUT)
"""And of each, by a name in `-2l`, a cut for the numerics gate."""


def untied(name: str, size: Size) -> tuple[str, Size]:
    """The model that serves, and its name: the same, but for an output matrix of its own."""
    if not size.tied:
        return name, size
    published = size.published_parameters
    if published is not None:
        published += size.head_weights
    return f"{name}-untied", msgspec.structs.replace(
        size, tied=False, published_parameters=published
    )


UNTIED = with_twins(dict(untied(name, size) for name, size in PUBLISHED.items()), **CUT)
"""Models that serve, likewise."""
