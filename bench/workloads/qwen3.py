"""Qwen3 language models, dense and with experts: training, prefill (TTFT) and decode (TPOT).

Experts are multiplied as DeepSeek's are (see `bench.workloads.deepseek`), and for the same reasons
there is no float16, TF32 or autocast. The twin has two experts, and every token goes to both: which
are best is not seen, each of them is heard. `tiny-window` is no published model: it is there so
that a window, which the architecture allows, is tried.
"""

from __future__ import annotations

from bench.workloads import _language
from bench.workloads._family import Family, language_modes
from bench.workloads._qwens import SIZES

DEFAULT_MODEL = "qwen3-0.6b"
"""A model is a published size, or `tiny`; with `-2l`, cut for the gate to 2 layers, 4,096 tokens,
2 experts and a window of 8."""


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
