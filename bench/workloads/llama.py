"""Llama language models, 135M to 70B: training, LoRA, prefill (TTFT) and decode (TPOT)."""

from __future__ import annotations

from bench.workload import (
    QUANTIZED_PRECISIONS,
    TRAINING_PRECISIONS,
)
from bench.workloads.language import language
from bench.workloads.language import lora as adapters
from bench.workloads.language.family import Family, language_modes
from bench.workloads.language.language import of_family
from bench.workloads.language.llamas import SIZES

DEFAULT_MODEL = "smollm2-135m"
"""A model is a published size, or `tiny`; with `-2l`, cut to 2 layers and 4,096 tokens, for the
gate."""


TrainParameters = of_family(language.ShardedTrainParameters, SIZES, DEFAULT_MODEL)
LoraParameters = of_family(adapters.LoraParameters, SIZES, DEFAULT_MODEL)
PrefillParameters = of_family(language.PrefillParameters, SIZES, DEFAULT_MODEL)
DecodeParameters = of_family(language.DecodeParameters, SIZES, DEFAULT_MODEL)


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
        lora=adapters.mode(LoraParameters),
    )


WORKLOAD = Llama()
