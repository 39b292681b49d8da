"""Qwen3 language models, dense and with experts: training, prefill, decode, embedding, reranking.

Experts are multiplied as DeepSeek's are (see `bench.workloads.deepseek`), and for the same reasons
there is no float16, TF32 or autocast. The twin has two experts, and every token goes to both: each
is heard, and which are best is looked at in the timed model. `tiny-window` is no published model:
it is there so that a window, which the architecture allows, is tried.
"""

from __future__ import annotations

from typing import Any

from bench.workloads import _language, _pooled, _qwens
from bench.workloads._family import Family, language_modes

DEFAULT_MODEL = "qwen3-0.6b"
"""A model is a published size, or `tiny`; with `-2l`, cut for the gate to 2 layers, 4,096 tokens,
2 experts and a window of 8."""
EIGHT_BITS = ("fp8", "int8")
SIZES = {**_qwens.SIZES, **_qwens.EMBEDDERS, **_qwens.RERANKERS}
"""Of all modes."""


class TrainParameters(_language.ShardedTrainParameters, frozen=True, kw_only=True):
    """Next-token prediction over full sequences; AdamW."""

    sizes = _qwens.SIZES
    earlier = _language.NONE_EARLIER
    model: str = DEFAULT_MODEL


def _no_experts(self: Any, precision: str, execution: str, parallelism: str) -> str:
    """Of 8 bits are the matrices of a dense model's blocks."""
    if precision not in EIGHT_BITS or not SIZES[self.model].experts:
        return ""
    return (
        f"the experts of {self.model} are multiplied in bfloat16: no {precision} here. Ask for "
        'precision = "bf16", or for a model without experts'
    )


class PrefillParameters(_language.PrefillParameters, frozen=True, kw_only=True):
    """A prompt to its first token."""

    sizes = _qwens.SIZES
    earlier = _language.NONE_EARLIER
    model: str = DEFAULT_MODEL
    unfit = _no_experts


class DecodeParameters(_language.DecodeParameters, frozen=True, kw_only=True):
    """Tokens after a prompt, one a step; after `new_tokens` it starts over behind the prompt."""

    sizes = _qwens.SIZES
    earlier = _language.NONE_EARLIER
    model: str = DEFAULT_MODEL
    unfit = _no_experts


class EmbedParameters(_pooled.PooledParameters, frozen=True, kw_only=True):
    """Texts without padding to the last token's state, of length 1."""

    sizes = _qwens.EMBEDDERS
    model: str = "qwen3-embedding-0.6b"


class RerankParameters(_pooled.PooledParameters, frozen=True, kw_only=True):
    """Texts without padding, a query and a document each, to the logits of "no" and "yes"."""

    sizes = _qwens.RERANKERS
    model: str = "qwen3-reranker-0.6b"
    answers = (2152, 9693)


class Qwen3(Family):
    """Qwen3, arXiv 2505.09388, and its embedding and reranking models, arXiv 2506.05176."""

    name = "qwen3"
    version = 1
    libraries = ("transformers",)
    sizes = SIZES
    blocks = "model.layers"
    modes = language_modes(
        TrainParameters,
        PrefillParameters,
        DecodeParameters,
        training=("bf16", "fp32"),
        inference=("bf16", "fp32", *EIGHT_BITS),
        embed=_pooled.mode(EmbedParameters, ("bf16", "fp32", *EIGHT_BITS)),
        rerank=_pooled.mode(RerankParameters, ("bf16", "fp32", *EIGHT_BITS)),
    )


WORKLOAD = Qwen3()
