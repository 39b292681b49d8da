"""Llama language models, 135M to 70B: training, LoRA, prefill (TTFT) and decode (TPOT)."""

from __future__ import annotations

from bench.workload import (
    QUANTIZED_PRECISIONS,
    TRAINING_PRECISIONS,
)
from bench.workloads import _language, _lora
from bench.workloads._family import Family, language_modes
from bench.workloads._language import of_family
from bench.workloads._llamas import SIZES

DEFAULT_MODEL = "smollm2-135m"
"""A model is a published size, or `tiny`; with `-2l`, cut to 2 layers and 4,096 tokens, for the
gate."""


TrainParameters = of_family(_language.ShardedTrainParameters, SIZES, DEFAULT_MODEL)
LoraParameters = of_family(_lora.LoraParameters, SIZES, DEFAULT_MODEL)
PrefillParameters = of_family(_language.PrefillParameters, SIZES, DEFAULT_MODEL)
DecodeParameters = of_family(_language.DecodeParameters, SIZES, DEFAULT_MODEL)


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
