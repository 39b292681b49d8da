"""GPT-OSS language models: training, LoRA, prefill (TTFT) and decode (TPOT).

Every other layer attends within a window; each head has a sink; queries, keys, values and results
have biases; positions are scaled as YaRN does it. A token goes to four experts, weighed by a
softmax over those four, whose gates are clamped. Experts are multiplied as DeepSeek's are (see
`bench.workloads.deepseek`), and for the same reasons there is no float16, TF32 or autocast. The
twin has four experts, and every token goes to all: each is heard, and which are best is looked at
in the timed model.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from bench.workload import Site
from bench.workloads.jobs.seeded import SeededData, build_model, parameter_count
from bench.workloads.language import language
from bench.workloads.language import lora as adapters
from bench.workloads.language.family import Family, language_modes
from bench.workloads.language.gpts import NARROW, SIZES, Size
from bench.workloads.language.language import NONE_EARLIER, of_family
from bench.workloads.layers import mxfp4 as mxfp4_experts
from bench.workloads.layers.transformers import attention_of

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "gpt-oss-20b-cut"
"""A model is a published size, a cut of one that says so, or `tiny`; with `-2l`, cut for the gate
to 2 layers, 4,096 tokens, 4 experts, all of them active, and a window of 8."""
PRECISIONS = ("bf16", "fp32")


def _wide(self: Any, precision: str, execution: str, parallelism: str) -> str:
    """Rows are bfloat16 where experts are in mxfp4."""
    if precision == "bf16" or not NARROW[self.model].narrow:
        return ""
    wide = self.model.replace(mxfp4_experts.SUFFIX, "")
    return (
        f"{self.model} multiplies rows of bfloat16 by experts in mxfp4, and has no {precision}. "
        f'Ask for precision = "bf16", or for {wide}'
    )


_of = functools.partial(of_family, model=DEFAULT_MODEL, earlier=NONE_EARLIER)
TrainParameters = _of(language.ShardedTrainParameters, SIZES)
LoraParameters = _of(adapters.LoraParameters, SIZES)
PrefillParameters = _of(language.PrefillParameters, NARROW, unfit=_wide)
DecodeParameters = _of(language.DecodeParameters, NARROW, unfit=_wide)


class GptOss(Family):
    """GPT-OSS, arXiv 2508.10925."""

    name = "gpt-oss"
    version = 1
    libraries = ("transformers",)
    sizes = NARROW
    modes = language_modes(
        TrainParameters,
        PrefillParameters,
        DecodeParameters,
        training=PRECISIONS,
        inference=PRECISIONS,
        lora=msgspec.structs.replace(adapters.mode(LoraParameters), precisions=PRECISIONS),
    )

    def model(self, size: Size, data: SeededData, site: Site) -> tuple[nn.Module, dict[str, str]]:
        """As of all families; with experts in mxfp4, which the device's own product multiplies."""
        if not size.narrow:
            return super().model(size, data, site)
        mxfp4_experts.register_experts()
        experts = "eager" if site.is_reference else mxfp4_experts.EXPERTS
        narrowing = mxfp4_experts.Narrowing(site)
        construct = functools.partial(size.construct, attention_of(site), experts)
        published = size.published_parameters
        model = build_model(construct, published, data, site, cut=narrowing.cut)
        narrowing.finish(model)
        narrow = size.layers * size.experts * 3 * size.hidden * size.expert
        count = parameter_count(model) + (0 if site.is_reference else narrow)
        return model, {"experts": experts, "parameters": str(count)}


WORKLOAD = GptOss()
