"""Qwen3's models: their dimensions as published, and the library's model of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from bench.workload import TWIN_VOCABULARY, with_twins
from bench.workloads.language.grouped import GroupedQuery
from bench.workloads.layers.transformers import library_model

if TYPE_CHECKING:
    from torch import nn

TWIN_EXPERTS, TWIN_WINDOW = 2, 8


class Size(GroupedQuery, frozen=True, kw_only=True):
    """The dimensions of one model."""

    vocabulary: int = 151_936
    positions: int = 40_960
    rope_theta: float = 1_000_000.0
    head_width: int = 128
    head_norms: bool = True

    def construct(self, attention: str = "eager", experts: str = "grouped_mm") -> nn.Module:
        """The library's model. Raises `Unsupported` where the library has none."""
        kind, name = ("qwen3_moe", "Qwen3Moe") if self.experts else ("qwen3", "Qwen3")
        options = self.options(attention)
        if self.experts:
            options |= {
                "moe_intermediate_size": self.expert,
                "num_experts": self.experts,
                "num_experts_per_tok": self.active,
                "norm_topk_prob": True,
                "experts_implementation": experts,
            }
        if self.window is not None:
            options |= {"use_sliding_window": True, "max_window_layers": 0}
            options |= {"sliding_window": self.window}
        return library_model(kind, f"{name}ForCausalLM", rms_norm_eps=1e-6, **options)


TINY = Size(hidden=64, layers=3, heads=4, key_value_heads=2, feed_forward=128, vocabulary=512)
SIZES = {
    "tiny": TINY,
    "tiny-moe": replace(TINY, feed_forward=0, experts=16, active=4, expert=32),
    "tiny-window": replace(TINY, window=12),
    "qwen3-0.6b": Size(
        hidden=1024,
        layers=28,
        heads=16,
        key_value_heads=8,
        feed_forward=3072,
        published_parameters=596_049_920,
    ),
    "qwen3-8b": Size(
        hidden=4096,
        layers=36,
        heads=32,
        key_value_heads=8,
        feed_forward=12_288,
        tied=False,
        published_parameters=8_190_735_360,
    ),
    "qwen3-30b-a3b": Size(
        hidden=2048,
        layers=48,
        heads=32,
        key_value_heads=4,
        experts=128,
        active=8,
        expert=768,
        tied=False,
        published_parameters=30_532_122_624,
    ),
}
"""Dimensions as in each model's published configuration; `tiny` and its like are for tests."""
EMBEDDERS = {
    "tiny": TINY,
    "qwen3-embedding-0.6b": replace(
        SIZES["qwen3-0.6b"],
        vocabulary=151_669,
        positions=32_768,
        published_parameters=595_776_512,
    ),
}
RERANKERS = {
    "tiny": TINY,
    "qwen3-reranker-0.6b": replace(
        SIZES["qwen3-0.6b"], vocabulary=151_669, published_parameters=595_776_512
    ),
}


def _with_twins(sizes: dict[str, Size]) -> dict[str, Size]:
    cut = {"experts": TWIN_EXPERTS, "active": TWIN_EXPERTS, "window": TWIN_WINDOW}
    return with_twins(sizes, layers=2, vocabulary=TWIN_VOCABULARY, **cut)


SIZES, EMBEDDERS, RERANKERS = map(_with_twins, (SIZES, EMBEDDERS, RERANKERS))
"""With a cut of each, by a name in `-2l`, for the numerics gate."""
