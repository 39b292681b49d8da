"""Qwen3 language models, dense and with experts: training, prefill, decode, embedding, reranking.

Experts are multiplied as DeepSeek's are (see `bench.workloads.deepseek`), and for the same reasons
there is no float16, TF32 or autocast. The twin has two experts, and every token goes to both: each
is heard, and which are best is looked at in the timed model. `tiny-window` is no published model:
it is there so that a window, which the architecture allows, is tried.
"""

from __future__ import annotations

import functools
from typing import Any

from bench.workloads.language import language, pooled, qwens
from bench.workloads.language.family import Family, language_modes
from bench.workloads.language.language import NONE_EARLIER, of_family

DEFAULT_MODEL = "qwen3-0.6b"
"""A model is a published size, or `tiny`; with `-2l`, cut for the gate to 2 layers, 4,096 tokens,
2 experts and a window of 8."""
EIGHT_BITS = ("fp8", "int8")
SIZES = {**qwens.SIZES, **qwens.EMBEDDERS, **qwens.RERANKERS}
"""Of all modes."""


def _no_experts(self: Any, precision: str, execution: str, parallelism: str) -> str:
    """Of 8 bits are the matrices of a dense model's blocks."""
    if precision not in EIGHT_BITS or not SIZES[self.model].experts:
        return ""
    return (
        f"the experts of {self.model} are multiplied in bfloat16: no {precision} here. Ask for "
        'precision = "bf16", or for a model without experts'
    )


_of = functools.partial(of_family, sizes=qwens.SIZES, model=DEFAULT_MODEL, earlier=NONE_EARLIER)
TrainParameters = _of(language.ShardedTrainParameters)
PrefillParameters = _of(language.PrefillParameters, unfit=_no_experts)
DecodeParameters = _of(language.DecodeParameters, unfit=_no_experts)
EmbedParameters = of_family(pooled.PooledParameters, qwens.EMBEDDERS, "qwen3-embedding-0.6b")
"""Texts without padding to the last token's state, of length 1."""
RerankParameters = of_family(
    *(pooled.PooledParameters, qwens.RERANKERS, "qwen3-reranker-0.6b"), answers=(2152, 9693)
)
"""Texts without padding, a query and a document each, to the logits of "no" and "yes"."""


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
        embed=pooled.mode(EmbedParameters, ("bf16", "fp32", *EIGHT_BITS)),
        rerank=pooled.mode(RerankParameters, ("bf16", "fp32", *EIGHT_BITS)),
    )


WORKLOAD = Qwen3()
