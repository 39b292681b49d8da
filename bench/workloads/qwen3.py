"""Qwen3 language models, dense and with experts: training, prefill (TTFT) and decode (TPOT).

Experts are multiplied as DeepSeek's are (see `bench.workloads.deepseek`), and for the same reasons
there is no float16, TF32 or autocast. The twin has two experts, and every token goes to both: which
are best is not seen, each of them is heard. `tiny-window` is no published model: it is there so
that a window, which the architecture allows, is tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from bench.workload import TWIN_VOCABULARY, with_twins
from bench.workloads import _language
from bench.workloads._family import Family, language_modes
from bench.workloads._grouped import GroupedQuery
from bench.workloads._transformers import library_class

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "qwen3-0.6b"
"""A model is a published size, or `tiny`; with `-2l`, cut for the gate to 2 layers, 4,096 tokens,
2 experts and a window of 8."""
TWIN_EXPERTS, TWIN_WINDOW = 2, 8
MODELS = "transformers.models."


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
        config_of = library_class(f"{MODELS}{kind}.configuration_{kind}", f"{name}Config")
        model_of = library_class(f"{MODELS}{kind}.modeling_{kind}", f"{name}ForCausalLM")
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
        config = config_of(rms_norm_eps=1e-6, **options)
        model: nn.Module = model_of(config)
        return model


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
SIZES = with_twins(
    SIZES,
    layers=2,
    vocabulary=TWIN_VOCABULARY,
    experts=TWIN_EXPERTS,
    active=TWIN_EXPERTS,
    window=TWIN_WINDOW,
)


class TrainParameters(_language.ShardedTrainParameters, frozen=True, kw_only=True):
    """Next-token prediction over full sequences; AdamW."""

    sizes = SIZES
    earlier = _language.NONE_EARLIER
    model: str = DEFAULT_MODEL


class PrefillParameters(_language.PrefillParameters, frozen=True, kw_only=True):
    """A prompt to its first token."""

    sizes = SIZES
    earlier = _language.NONE_EARLIER
    model: str = DEFAULT_MODEL


class DecodeParameters(_language.DecodeParameters, frozen=True, kw_only=True):
    """Tokens after a prompt, one a step; after `new_tokens` it starts over behind the prompt."""

    sizes = SIZES
    earlier = _language.NONE_EARLIER
    model: str = DEFAULT_MODEL


class Qwen3(Family):
    """Qwen3, arXiv 2505.09388."""

    name = "qwen3"
    version = 1
    libraries = ("transformers",)
    sizes = SIZES
    modes = language_modes(
        TrainParameters,
        PrefillParameters,
        DecodeParameters,
        training=("bf16", "fp32"),
        inference=("bf16", "fp32"),
    )


WORKLOAD = Qwen3()
