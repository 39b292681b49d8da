"""Llama language models, 135M to 70B: training, LoRA, prefill (TTFT) and decode (TPOT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.workload import (
    QUANTIZED_PRECISIONS,
    TRAINING_PRECISIONS,
    TWIN_VOCABULARY,
    with_twins,
)
from bench.workloads import _language, _lora
from bench.workloads._family import Family, language_modes
from bench.workloads._grouped import GroupedQuery
from bench.workloads._untied import SCALED

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "smollm2-135m"
"""A model is a published size, or `tiny`; with `-2l`, cut to 2 layers and 4,096 tokens, for the
gate."""


class Size(GroupedQuery, frozen=True, kw_only=True):
    """The dimensions of one model."""

    vocabulary: int = 128_256
    positions: int = 131_072
    rope_theta: float = 500_000.0
    rope_factor: float | None = None
    """Factor of the `llama3` frequency scaling; None for plain rotary embeddings."""

    def construct(self, attention: str = "eager", experts: str = "") -> nn.Module:
        """The library's model."""
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        options = self.options(attention)
        if self.rope_factor is not None:
            options["rope_parameters"] |= {**SCALED, "factor": self.rope_factor}
        config = LlamaConfig(rms_norm_eps=1e-5, **options)
        model: nn.Module = LlamaForCausalLM(config)
        return model


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


SIZES = {
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
SIZES = with_twins(SIZES, layers=2, vocabulary=TWIN_VOCABULARY)


class TrainParameters(_language.ShardedTrainParameters, frozen=True, kw_only=True):
    """Next-token prediction over full sequences; AdamW."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class LoraParameters(_lora.LoraParameters, frozen=True, kw_only=True):
    """As training, but of adapters of this rank alone; their alpha is twice the rank."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class PrefillParameters(_language.PrefillParameters, frozen=True, kw_only=True):
    """A prompt to its first token."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class DecodeParameters(_language.DecodeParameters, frozen=True, kw_only=True):
    """Tokens after a prompt, one a step; after `new_tokens` it starts over behind the prompt."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class Llama(Family):
    """Llama, arXiv 2407.21783, and models of its architecture."""

    name = "llama"
    version = 2
    libraries = ("transformers.models.llama.modeling_llama",)
    sizes = SIZES
    blocks = "model.layers"
    modes = language_modes(
        TrainParameters,
        PrefillParameters,
        DecodeParameters,
        training=TRAINING_PRECISIONS,
        inference=QUANTIZED_PRECISIONS,
        lora=_lora.mode(LoraParameters),
    )


WORKLOAD = Llama()
