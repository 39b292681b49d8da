"""What the language models share: the parameters of their modes, their work, and their jobs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import msgspec

from bench.precision import Precision
from bench.records.execution import is_recorded
from bench.records.outcome import Work
from bench.workload import (
    AccumulationSteps,
    AdamW,
    BatchSize,
    Job,
    Later,
    OneOf,
    Parameters,
    Site,
    require_one_of,
    require_within,
)
from bench.workloads.decoding.generation import DecodeJob, Generator, PrefillJob
from bench.workloads.decoding.replayed_decode import ReplayedDecodeJob
from bench.workloads.decoding.teacher import TeacherForced
from bench.workloads.jobs.executed import executed
from bench.workloads.jobs.jobs import BATCHES, TrainingJob, adamw_learning_rate
from bench.workloads.jobs.looks import AGAIN
from bench.workloads.jobs.modes import at_most
from bench.workloads.jobs.seeded import SeededData
from bench.workloads.jobs.sharded import rows
from bench.workloads.layers.transformers import checkpoint_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

LENGTHS = {"sequence_length": 32, "prompt_length": 32, "new_tokens": 9}
"""Parameters that count tokens of a sequence, and how many the twin has at most: longer than a
window of 8, and decode goes from one eight of places into the next."""


AUTOCAST, POLICY = "autocast", "policy"
BEFORE_CHECKPOINTING = MappingProxyType(
    {1: MappingProxyType({"gradient_checkpointing": False, "accumulation_steps": 1})}
)
"""`Parameters.earlier` of what trains; these two parameters were all that raised the version."""
NONE_EARLIER: MappingProxyType[int, MappingProxyType[str, Any]] = MappingProxyType({})
"""`Parameters.earlier` of a family that is in its first version."""


OfMode = TypeVar("OfMode", bound="LanguageParameters")


class LanguageParameters(Parameters, frozen=True, kw_only=True):
    """What the modes share. A family has its own: see `of_family`."""

    sizes: ClassVar[Mapping[str, Any]] = {}
    """By model name; each has `positions`, the longest sequence that it was made for."""

    model: str = ""
    batch_size: BatchSize = 1
    earlier = MappingProxyType({1: MappingProxyType({})})
    """It was training alone that changed, and the version was the whole workload's."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        super().__post_init__()
        require_one_of("model", self.model, self.sizes)
        for name in LENGTHS:
            if hasattr(self, name):
                require_within(name, getattr(self, name), 1, self.sizes[self.model].positions)


def of_family(
    base: type[OfMode], sizes: Mapping[str, Any], model: str, **others: Any
) -> type[OfMode]:
    """The parameters of a mode with a family's `sizes` and its default model; others: what else its
    class says."""
    made: Any = msgspec.defstruct(
        base.__name__,
        [("model", str, model)],
        bases=(base,),
        namespace={"__doc__": base.__doc__, "sizes": sizes, **others},
        frozen=True,
        kw_only=True,
    )
    found: type[OfMode] = made
    return found


class TrainParameters(LanguageParameters, frozen=True, kw_only=True):
    """Next-token prediction over full sequences; AdamW."""

    batch_size: BatchSize = 2
    sequence_length: int = 256
    optimizer: AdamW = "adamw"
    gradient_checkpointing: bool = False
    """Layers keep their input only, and are computed again in the backward."""
    accumulation_steps: AccumulationSteps = 1
    earlier = BEFORE_CHECKPOINTING


class ShardedTrainParameters(TrainParameters, frozen=True, kw_only=True):
    """As said there; and how weights that are sharded are rounded."""

    mixed_precision: Annotated[str, OneOf((AUTOCAST, POLICY)), Later()] = AUTOCAST
    """What `bf16-amp` is where weights are sharded: autocast to bfloat16, under which they are
    gathered in float32; or FSDP2's policy, which gathers them in bfloat16, computes all in it, and
    reduces gradients in float32."""

    @property
    def rounds(self) -> bool:
        """Whether FSDP2's policy rounds, and not autocast."""
        return self.mixed_precision == POLICY

    def unfit(self, precision: str, execution: str, parallelism: str) -> str:
        """The policy is of sharded weights, wider than what is computed."""
        sharded = parallelism.startswith(("fsdp", "hsdp"))
        if not self.rounds or (precision == "bf16-amp" and sharded):
            return ""
        return (
            f'mixed_precision = "{POLICY}" is of FSDP2: of precision "bf16-amp" over devices that '
            'shard weights, parallelism = "fsdp" or "hsdp". Give both, or leave it out'
        )


class PrefillParameters(LanguageParameters, frozen=True, kw_only=True):
    """A prompt to its first token."""

    prompt_length: int = 512


class DecodeParameters(LanguageParameters, frozen=True, kw_only=True):
    """Tokens after a prompt, one a step; after `new_tokens` it starts over behind the prompt."""

    prompt_length: int = 128
    new_tokens: int = 32

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        super().__post_init__()
        window = self.prompt_length + self.new_tokens
        longest = self.sizes[self.model].positions
        require_within("prompt_length + new_tokens", window, 2, longest)

    @property
    def context(self) -> float:
        """Tokens that a new one attends to, itself included: the mean over the window."""
        return self.prompt_length + (self.new_tokens + 1) / 2


def twin_of(parameters: Any) -> Any:
    """The same mode of the model's twin: at most two short sequences."""
    return at_most(parameters, batch_size=2, accumulation_steps=2, **LENGTHS)


def language_work(size: Any, parameters: Any, precision: Precision) -> Work:
    """Work of one step: training is three times the forward, decode has the mean of its contexts.

    A training step counts all its micro-batches. What gradient checkpointing computes a second time
    is left out, as an MFU leaves it out, and counted by itself: `Work.again_flop`.

    size: of the model; see `bench.workloads.language.family.Family.sizes`.
    """
    twice = None
    batch = parameters.batch_size
    if isinstance(parameters, DecodeParameters):
        context = parameters.context
        flop = batch * size.flop(1, context, 1)
        moved = size.decode_bytes(batch, context, precision)
        return Work(items=batch, unit="token", flop=flop, moved_bytes=moved)
    if isinstance(parameters, PrefillParameters):
        tokens = parameters.prompt_length
        flop, passes = batch * size.flop(tokens, tokens, 1), 1
    else:
        batch *= parameters.accumulation_steps
        tokens = parameters.sequence_length
        flop, passes = 3 * batch * size.flop(tokens, tokens, tokens), 3
        if parameters.gradient_checkpointing:
            twice = batch * size.again(tokens)
    least = flop - passes * batch * size.masked(tokens)
    items = batch * tokens
    return Work(items=items, unit="token", flop=flop, least_flop=least, again_flop=twice)


def training_job(
    model: nn.Module,
    size: Any,
    parameters: Any,
    data: SeededData,
    site: Site,
    facts: dict[str, str],
) -> TrainingJob:
    """Predicts each token of random texts from those before it; wants `TrainParameters`."""
    if parameters.gradient_checkpointing:
        checkpoint_layers(model)
    facts = {**facts, AGAIN: "on" if parameters.gradient_checkpointing else "off"}
    shape = (parameters.batch_size, parameters.sequence_length + 1)
    count = BATCHES * parameters.accumulation_steps
    texts = [drawn(size, shape, data, site) for _ in range(count)]
    batches = [(text[:, :-1].contiguous(), text[:, 1:].contiguous()) for text in texts]
    return TrainingJob(
        model,
        _logits,
        batches,
        parameters.optimizer,
        adamw_learning_rate(size.hidden),
        site,
        {"attention": "sdpa"} | facts,
        accumulation_steps=parameters.accumulation_steps,
        policy=isinstance(parameters, ShardedTrainParameters) and parameters.rounds,
    )


def generating_job(
    model: nn.Module,
    size: Any,
    parameters: PrefillParameters | DecodeParameters,
    data: SeededData,
    site: Site,
    facts: dict[str, str],
) -> Job:
    """Prefill of random prompts, or decode behind one; decode also fills its cache."""
    import torch

    batch, length, cache = parameters.batch_size, parameters.prompt_length, size.cache
    here = batch if site.ranks is None else batch // site.ranks.size
    if isinstance(parameters, PrefillParameters):
        prompts = [drawn(size, (batch, length), data, site) for _ in range(BATCHES)]
        if site.is_reference:
            return TeacherForced(model, prompts[0], length, site)
        return PrefillJob(Generator(model, cache, (here, length), 0, site, facts), prompts)
    lengths = length, parameters.new_tokens
    prompt, forced = (drawn(size, (batch, tokens), data, site) for tokens in lengths)
    if site.is_reference:
        return TeacherForced(model, torch.cat((prompt, forced), dim=1), length, site)
    generator = Generator(model, cache, (here, length), parameters.new_tokens, site, facts)
    if is_recorded(site.execution):
        job: DecodeJob = ReplayedDecodeJob(generator, prompt, forced)
    else:
        executed(generator.step, site)
        job = DecodeJob(generator, prompt, forced)
    if size.experts:
        context, precision = parameters.context, site.precision
        job.moved = lambda hit: size.decode_bytes(here, context, precision, hit)
    return job


def drawn(size: Any, shape: tuple[int, int], data: SeededData, site: Site) -> Tensor:
    """Random texts [B, T], of which this rank has its rows."""
    return rows(data.integers(0, size.vocabulary, shape), site)


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """[B, T] to [B, T, V]."""
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits
