"""One seam for language models: a family gives its sizes, and each size counts and builds itself.

A family is a file: the dimensions of its models and their library's class, its parameters with
their default model, and its modes. Work, twin and jobs are the same for all, and are here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import (
    ALL_EXECUTIONS,
    PACKED,
    Job,
    Mode,
    Parameters,
    Site,
    Workload,
)
from bench.workloads.jobs.modes import COPIES, SHARDED
from bench.workloads.jobs.seeded import SeededData, build_model
from bench.workloads.language import language, lora, pooled
from bench.workloads.layers.transformers import attention_of

if TYPE_CHECKING:
    from torch import nn


class Family(Workload):
    """Language models of one architecture."""

    sizes: ClassVar[Mapping[str, Any]]
    """By the name of the model, twins too: its dimensions, its counts, and the library's model of
    them. See `GroupedQuery` in `grouped.py` and `Size` in `latent.py`."""
    blocks: ClassVar[str] = ""
    """The path of the blocks whose linear layers 8-bit precisions quantize; empty: none."""

    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """FLOP and bytes as the model's size counts them, see there, by `language_work`: training
        is three times the forward, prefill applies the output matrix to its last token only, decode
        has one token and the mean context of its window. LoRA is counted by `lora.lora_flop`, an
        embedding or a reranking by `pooled.work`."""
        size = self.sizes[parameters.model]
        if isinstance(parameters, lora.LoraParameters):
            return lora.lora_work(size, parameters)
        if isinstance(parameters, pooled.PooledParameters):
            return pooled.work(size, parameters)
        return language.language_work(size, parameters, precision)

    def twin(self, mode: str, parameters: Any) -> Parameters:
        """Two layers of the same widths, a small vocabulary, at most two short sequences."""
        if isinstance(parameters, pooled.PooledParameters):
            return pooled.twin(parameters)
        twin: Parameters = language.twin_of(parameters)
        return twin

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """Random tokens. Decode also fills its cache from the prompt.

        The gate's reference has the library's own attention, and its experts one after another.
        """
        size = self.sizes[parameters.model]
        data = SeededData(site.seed)
        model, facts = self.model(size, data, site)
        if isinstance(parameters, lora.LoraParameters):
            facts |= lora.add_adapters(model, parameters.lora_rank, data, site)
        if isinstance(parameters, language.TrainParameters):
            return language.training_job(model, size, parameters, data, site, facts)
        if isinstance(parameters, pooled.PooledParameters):
            return pooled.job(model, size, parameters, data, site, facts)
        return language.generating_job(model, size, parameters, data, site, facts)

    def model(self, size: Any, data: SeededData, site: Site) -> tuple[nn.Module, dict[str, str]]:
        """A model of that size with its weights, and what the record says of it."""
        experts = "eager" if site.is_reference else "grouped_mm"
        construct = functools.partial(size.construct, attention_of(site), experts)
        model = build_model(construct, size.published_parameters, data, site, self.blocks)
        return model, {"experts": experts} if size.experts else {}


def language_modes(
    train: type[Parameters],
    prefill: type[Parameters],
    decode: type[Parameters],
    training: tuple[str, ...],
    inference: tuple[str, ...],
    **others: Mode,
) -> Mapping[str, Mode]:
    """The modes of a family; `training` and `inference` are their precisions."""
    return MappingProxyType(
        {
            "train": Mode(
                parameters=train, precisions=training, executions=ALL_EXECUTIONS, schemes=SHARDED
            ),
            **others,
            "prefill": Mode(
                parameters=prefill,
                precisions=inference,
                executions=ALL_EXECUTIONS,
                latency="TTFT",
                schemes=COPIES,
            ),
            "decode": Mode(
                parameters=decode,
                precisions=inference,
                executions=ALL_EXECUTIONS,
                latency="TPOT",
                schemes=COPIES,
                layouts=(PACKED,),
            ),
        }
    )


def experts_touched(experts: int, active: int, batch: int) -> float:
    """Expected number of distinct experts that a batch of tokens goes to in one layer.

    An expert is among a token's k of E with probability k / E, and is missed by B independent
    tokens with (1 - k / E)^B; even loads, as random weights and tokens give.
    """
    return experts * (1.0 - (1.0 - active / experts) ** batch)
