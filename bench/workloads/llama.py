"""Llama language models, 135M to 70B: training, LoRA, prefill (TTFT) and decode (TPOT)."""

from __future__ import annotations

from bench.workload import (
    QUANTIZED_PRECISIONS,
    TRAINING_PRECISIONS,
)
from bench.workloads import _language, _lora
from bench.workloads._family import Family, language_modes
from bench.workloads._llamas import SIZES

DEFAULT_MODEL = "smollm2-135m"
"""A model is a published size, or `tiny`; with `-2l`, cut to 2 layers and 4,096 tokens, for the
gate."""


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
