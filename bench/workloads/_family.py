"""One seam for language models: a family gives its sizes, and each size counts and builds itself.

A family is a file: the dimensions of its models and their library's class, its parameters with
their default model, and its modes. Work, twin and jobs are the same for all, and are here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

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
from bench.workloads import _language, _lora, _pooled
from bench.workloads._decoder import CacheShape
from bench.workloads._modes import COPIES, SHARDED
from bench.workloads._seeded import SeededData, build_model
from bench.workloads._transformers import attention_of

if TYPE_CHECKING:
    from torch import nn


class Size(Protocol):
    """The dimensions of one model, its counts, and the library's model of them."""

    @property
    def hidden(self) -> int:
        """Width between layers."""

    @property
    def vocabulary(self) -> int:
        """Tokens that it knows."""

    @property
    def experts(self) -> int:
        """Of each layer that has some; 0 of a dense model."""

    @property
    def published_parameters(self) -> int | None:
        """None for a size that nobody published."""

    @property
    def cache(self) -> CacheShape:
        """What a layer keeps of a token."""

    def flop(self, tokens: int, context: float, answering: int) -> int:
        """Of one sequence's forward: each token attends to `context`, `answering` get logits."""

    def masked(self, tokens: int) -> int:
        """Of the `flop` of a text that attends to itself, what a causal kernel leaves out."""

    def again(self, tokens: int) -> int:
        """FLOP of a text that layers which keep their input only must do again in the backward: not
        their last product, of which torch needs no more than what goes into it."""

    def decode_bytes(
        self, batch: int, context: float, precision: Precision, hit: float | None = None
    ) -> int:
        """That must move for one token of each sequence; hit: experts of a layer that the tokens
        go to, None for what even loads have of them (`experts_touched`)."""

    def construct(self, attention: str = "eager", experts: str = "grouped_mm") -> nn.Module:
        """The library's model, with attention and experts as the library names them."""


class Family(Workload):
    """Language models of one architecture."""

    sizes: ClassVar[Mapping[str, Any]]
    """`Size` by the name of the model, twins too."""
    blocks: ClassVar[str] = ""
    """The path of the blocks whose linear layers 8-bit precisions quantize; empty: none."""

    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """FLOP and bytes as the model's `Size` counts them, see there, by `language_work`: training
        is three times the forward, prefill applies the output matrix to its last token only, decode
        has one token and the mean context of its window. LoRA is counted by `_lora.lora_flop`, an
        embedding or a reranking by `_pooled.work`."""
        size: Size = self.sizes[parameters.model]
        batch = parameters.batch_size
        if isinstance(parameters, _lora.LoraParameters):
            return _lora.lora_work(size, parameters)
        if isinstance(parameters, _pooled.PooledParameters):
            return _pooled.work(size, parameters)
        return _language.language_work(
            parameters,
            size.flop,
            size.masked,
            lambda context: size.decode_bytes(batch, context, precision),
            size.again,
        )

    def twin(self, mode: str, parameters: Any) -> Parameters:
        """Two layers of the same widths, a small vocabulary, at most two short sequences."""
        if isinstance(parameters, _pooled.PooledParameters):
            return _pooled.twin(parameters)
        twin: Parameters = _language.twin_of(parameters)
        return twin

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """Random tokens. Decode also fills its cache from the prompt.

        The gate's reference has the library's own attention, and its experts one after another.
        """
        size: Size = self.sizes[parameters.model]
        data = SeededData(site.seed)
        model, facts = self.model(size, data, site)
        if isinstance(parameters, _lora.LoraParameters):
            facts |= _lora.add_adapters(model, parameters.lora_rank, data, site)
        if isinstance(parameters, _language.TrainParameters):
            return _language.training_job(
                model, size.hidden, size.vocabulary, parameters, data, site, facts
            )
        if isinstance(parameters, _pooled.PooledParameters):
            return _pooled.job(model, size.vocabulary, parameters, data, site, facts)
        moved = functools.partial(_moved, size, parameters, site) if size.experts else None
        return _language.generating_job(
            model, size.vocabulary, size.cache, parameters, data, site, facts, moved
        )

    def model(self, size: Any, data: SeededData, site: Site) -> tuple[nn.Module, dict[str, str]]:
        """A model of that size with its weights, and what the record says of it."""
        experts = "eager" if site.is_reference else "grouped_mm"
        construct = functools.partial(size.construct, attention_of(site), experts)
        model = build_model(construct, size.published_parameters, data, site, self.blocks)
        return model, {"experts": experts} if size.experts else {}


def _moved(size: Size, parameters: Any, site: Site, hit: float) -> int:
    """Bytes of a decode step on one device, whose tokens go to so many experts of a layer."""
    batch = parameters.batch_size // (1 if site.ranks is None else site.ranks.size)
    return size.decode_bytes(batch, parameters.context, site.precision, hit)


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
