"""The protocol of a workload: a step that is the same work on every device.

A workload is one file in `bench/workloads/` (or an entry point in `accelmark.workloads`) that
exposes one constant, `WORKLOAD`. The file imports torch only inside functions: the parent process
plans from it (parameters, modes, counts) without torch.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bench import rehearsal
from bench.parameters import (
    TWIN_SUFFIX,
    TWIN_VOCABULARY,
    AccumulationSteps,
    AdamW,
    BatchSize,
    Dimensions,
    Later,
    OneOf,
    Parameters,
    Sgd,
    Within,
    require_one_of,
    require_within,
    twin_name,
    with_twins,
)
from bench.precision import Precision
from bench.quantized_product import Products
from bench.ranks import Part, Ranks, each_alone
from bench.records.execution import ALL_EXECUTIONS, DECODE_EXECUTIONS, EXECUTIONS
from bench.records.outcome import Work
from bench.records.parallelism import NONE, Parallelism

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch
    from torch import Tensor

TRAINING_PRECISIONS = ("bf16", "bf16-amp", "fp32", "tf32")
"""No fp16: it would need loss scaling, which is another step."""
INFERENCE_PRECISIONS = ("bf16", "fp16", "fp32", "tf32")
QUANTIZED_PRECISIONS = (*INFERENCE_PRECISIONS, "fp8", "int8")
"""Of inference whose workload quantizes its layers (`bench.workloads.layers.quantized`)."""

PACKED = "packed"
"""A layout of weights: matrices that read the same input lie in one, and are one product."""

Queued = Callable[[], None]
"""Queues something on the device."""
Recorder = Callable[[Queued, Queued], Queued]
"""See `bench.backend.Device.recorder`."""


class Unsupported(Exception):
    """This device cannot run this case, and that is no fault: it is skipped, with the reason."""


class Wrong(Exception):
    """What this device computes is wrong, by a trial: the launch is void, with the reason."""


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """Short blocks of a device that has rested: what it reaches before heat or a power limit."""

    blocks: int = 20
    rest_seconds: float = 2.0
    """Before each of them."""
    most_seconds: float = 0.03
    """Of a block; one step where that takes longer."""


class Mode(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a workload."""

    parameters: type[Parameters]
    version: int | None = None
    """Raised whenever this mode's step changes meaning; None for the workload's."""
    precisions: tuple[str, ...] = INFERENCE_PRECISIONS
    executions: tuple[str, ...] = ("eager",)
    latency: str | None = None
    """What the time of one request is called (`latency`, `TTFT`, `TPOT`); None if it has none."""
    libraries: tuple[str, ...] = ()
    """Modules that this mode's `build` needs besides the workload's."""
    serves: bool = False
    """Whether it builds a `bench.serving_job.ServingJob`, which has a loop of its own."""
    layouts: tuple[str, ...] = ()
    """Beside the workload's memory formats those of this mode alone, which every device has; a
    tuned case may choose among them. See `PACKED`."""
    burst: Burst | None = None
    """None where its steps are measured under load, as work is that goes on."""
    schemes: tuple[str, ...] = ("none",)
    """How its work may be spread over devices; see `bench.records.parallelism`."""
    together: bool = False
    """Whether it is what two or more devices do together, however many, and nothing for one."""
    multiplies: bool = True
    """Whether a device must have its precision's arithmetic; what only moves or adds values is
    tried, and its job says where a library does not take them."""
    extra: str = ""
    """As `Workload.extra`, for what this mode alone needs: without it only this mode is skipped."""
    optional: tuple[str, ...] = ()
    """Top-level modules of that extra."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how a job is built."""

    device: torch.device
    precision: Precision
    seed: int
    """Weights and inputs come from this seed, generated on the CPU: the same on every device."""
    execution: str = "eager"
    """`eager`; `compile`: the model goes through torch.compile, and what that cannot do fails;
    `graph`: the step is recorded once and replayed; `compile-graph`: compiled, and then that."""
    compiler: str = "inductor"
    """torch's name for what compiles here; see `bench.backend.Backend.compilers`."""
    recorder: Recorder | None = None
    """What records a step, where the device has it; see `bench.backend.Device.recorder`."""
    products: Products = Products()
    """What multiplies narrow operands there; see `bench.backend.Backend.products`."""
    memory_format: str = "contiguous"
    """`contiguous` or `channels_last`, as the backend allows; or one of `Mode.layouts`."""
    ranks: Ranks | None = None
    """The processes that do the step together, where there are several."""
    as_ranks: int = 1
    """Of a reference by one process: of how many ranks it does the work, each with its rows. Only
    what depends on which rows come together (batch statistics) need look at it."""

    @property
    def is_reference(self) -> bool:
        """Whether what is built here is what others are judged by: never timed, and float64."""
        return self.precision.weights == "float64"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was asked for, and what was seen when it was looked up."""

    what: str
    asked: str
    seen: str
    then: str = "Correct it, or ask for what was seen, and run again"
    """What to do next where the two differ."""


class LookedUp(msgspec.Struct, frozen=True, kw_only=True):
    """Rows [N] of tables [R, d], updated beside an optimizer; their values and gradients [N, d]."""

    tables: Tensor
    rows: Tensor
    before: Tensor
    gradients: Tensor
    enlarged: Callable[[Any, float], AbstractContextManager[LookedUp | None]] | None = None
    """An update of those lookups alone (int64, on the host), by so many times their gradients, and
    undone on leaving: a step's own may be too small to move a narrow table."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """How a job's steps move its weights: what one update can be predicted from."""

    optimizer: Any
    """Its state, and which weights it moves: torch's own, or what has `moved`; see
    `bench.framework.Tensors.moved`."""
    settings: Mapping[str, Any]
    """As asked, by torch's names: `lr`, `weight_decay`; `betas` and `eps`, or SGD's `momentum`."""
    parts: tuple[Part, ...] = ()
    """Which rows of each weight that the optimizer moves lie here, in order; empty where all do."""
    fixed: tuple[Tensor, ...] = ()
    """Weights that it computes with and does not move."""
    kinks: bool = False
    """Whether a rounding may turn what it decides, a ReLU's side or which of several is largest:
    gradients then jump, in any precision."""
    looked_up: Callable[[], LookedUp | None] = lambda: None
    """Of the last step, if it updates such rows; by the same settings."""


class Job(ABC):
    """A workload on a device, ready to step.

    The methods from `outputs` to `training` let the harness prove that the work was done. None is
    called within a block; a job without them is measured all the same, as not proved. A step of a
    job that has them draws no random numbers: at equal seeds devices draw others.
    """

    facts: Mapping[str, str]
    """What the record must say of this job: parameter count, memory format, optimizer, ..."""

    thorough: bool = True
    """Whether `looks` may take some steps more, as one launch of a case does."""
    own_work: Work | None = None
    """What a step does, where the number of devices has a say in it; else as `Workload.work`."""

    @property
    def most_steps(self) -> int | None:
        """Most steps of a block, where steps use their operands up; None where any number goes."""
        return None

    def refill(self) -> None:  # noqa: B027 - the steps of most jobs leave their inputs alone
        """Makes the operands anew that steps use up. Before each block, outside the clock."""

    @property
    def input_wait_ns(self) -> int | None:
        """Host ns that its steps have waited for inputs so far; None where those lie ready."""
        return None

    def on_input(self, mark: Callable[[], None] | None) -> None:  # noqa: B027 - most lie ready
        """Has `mark` called in each step, until None is given, once its inputs have come and before
        it queues anything: by it the timer asks a device that queues what it waited."""

    @property
    def turns(self) -> int:
        """In how many turns each rank meets each other in a step; 0 where ranks do not."""
        return 0

    def meet(self, turn: int) -> int | None:
        """Queues what a rank exchanges with another in a turn; gives with whom, None with nobody.
        Timed by itself after all steps, for a map of the links."""
        return None

    @abstractmethod
    def step(self) -> None:
        """Queues one step. Never synchronizes with the host."""

    @abstractmethod
    def witness(self) -> float:
        """Loss, or the mean of the output, of the last step. Synchronizes; outside timing only."""

    @abstractmethod
    def probe(self) -> dict[str, torch.Tensor]:
        """Runs the job on its inputs and gives what the numerics gate compares, by quantity.

        For inference the output (`logits`); for training `logits`, `loss`, `gradient_norm`,
        `loss after 2 steps`, and best `each gradient` [weights, values] and `logits of other
        inputs` too. Of quantized layers also `products`: what each of them multiplies.
        Called once, on a job of its own that is not timed.
        """

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """What the last step computed, by quantity: `output` of inference; `loss` and `gradients`
        of training. No copies, and no sums."""
        return {}

    def force(self, on: bool) -> bool:
        """Feeds back given tokens of text, or again those chosen; gives whether there are any: a
        choice between two near-equal logits is no error, but all after it would differ."""
        return False

    def weights(self) -> Sequence[Tensor]:
        """What it computes with, as it was built and as its steps move it: parameters, tables."""
        return ()

    def inputs(self) -> Sequence[Tensor]:
        """What the last step read besides; the first is changed in place for a moment after timing.
        Nothing where steps build on one another, unless they train."""
        return ()

    def back(self) -> bool:
        """Has the next step of training read what the last one did; gives whether it will."""
        return False

    def again(self) -> bool:
        """Has the last step's `outputs` computed anew, from the same inputs and the weights as they
        are now; moves on nothing. By another `step`, where steps repeat; of training without the
        optimizer's. False where that cannot be done."""
        return False

    def as_written(self) -> Mapping[str, Sequence[Tensor]]:
        """The last step's `outputs` computed anew without a recording, while nothing compiles: as
        `again` does, unless that replays. Nothing where that cannot be done."""
        return self.outputs() if self.again() else {}

    def training(self) -> Training | None:
        """How its steps move its weights; None where they do not."""
        return None

    def joined(self, kind: Parallelism) -> Iterable[tuple[Tensor, int]]:
        """Has a rehearsal go on as one of ranks that share it so; of which tensors a rank has how
        many bytes. Raises NotImplementedError where that is not counted."""
        raise NotImplementedError(f"{kind}: what ranks share of its memory is not counted")

    def rehearsed(self) -> bool:
        """Leaves out of its steps what holds no more; gives whether they must come to their end."""
        return False

    def looks(self) -> Iterable[Look]:
        """What it was asked for and what there is: layouts, devices, attention, modes.

        Called once, after all timing and after the last witness, so it may step again. Where the
        two differ, nothing of the launch is kept. What torch or a library chose by itself is no
        Look: that belongs into `facts`, which are read after this.
        """
        return ()

    def counted(self, work: Work) -> Work:
        """The work of a step, with what its shapes alone do not say: which experts were hit. Called
        once, after all timing; may step, outside of what is compiled or recorded."""
        return work

    def close(self) -> None:  # noqa: B027 - most jobs start nothing
        """Ends what the job started besides itself: processes, threads."""


class Workload(ABC):
    """Named, standard work. Stateless."""

    name: str
    version: int
    """Of every mode that has none of its own (`Mode.version`). Raised whenever a step changes
    meaning: records of two versions are compared only where `Parameters.earlier` says why."""
    modes: Mapping[str, Mode]
    usual_mode: str = ""
    """The mode of a suite's entry that names none; empty where it must, unless there is but one."""
    memory_formats: tuple[str, ...] = ("contiguous",)
    """Layouts of four-dimensional tensors that make a difference to it. A fixed case has the first
    one; a tuned case may leave open which. `channels_last` for what is made of convolutions."""
    libraries: tuple[str, ...] = ("torch",)
    """Modules that `build` needs; imported beforehand, so that their cost is a cold figure."""
    extra: str = ""
    """The extra of this distribution that installs what a plain installation lacks, if any. Where
    one of its packages is absent, the workload is skipped and says so; nothing else is."""
    optional: tuple[str, ...] = ()
    """Top-level modules of that extra."""

    def version_of(self, mode: str) -> int:
        """The version of a mode, which its cases bear."""
        return self.modes[mode].version or self.version

    @abstractmethod
    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """Items, FLOP and bytes of one step, from shapes; formula and source in its docstring."""

    @abstractmethod
    def twin(self, mode: str, parameters: Any) -> Parameters:
        """The same mode, small enough for a float64 reference on a CPU in about a second."""

    @abstractmethod
    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """Builds model, inputs and optimizer. The same code builds the timed job and the twin."""

    def peak_bytes(self, mode: str, parameters: Any, site: Site) -> int:
        """Most device bytes that the job's tensors will hold in a steady step, from shapes.

        Counted by a rehearsal of the job in eager execution (`bench.rehearsal`): compiled it holds
        less; of ranks, on one of them. Raises what `build`, `joined` and `step` raise there.
        """
        import torch

        alone = None if site.ranks is None else each_alone(site.ranks)
        stage = msgspec.structs.replace(
            site, device=torch.device("cpu"), execution="eager", ranks=alone
        )
        kind = NONE if site.ranks is None else site.ranks.parallelism
        building = functools.partial(self.build, mode, parameters, stage)
        joined = () if kind.scheme in ("none", "replicas") else (lambda job: job.joined(kind),)
        return rehearsal.peak_bytes(building, lambda job: job.rehearsed(), *joined)


__all__ = [
    "ALL_EXECUTIONS",
    "DECODE_EXECUTIONS",
    "EXECUTIONS",
    "INFERENCE_PRECISIONS",
    "PACKED",
    "QUANTIZED_PRECISIONS",
    "TRAINING_PRECISIONS",
    "TWIN_SUFFIX",
    "TWIN_VOCABULARY",
    "AccumulationSteps",
    "AdamW",
    "BatchSize",
    "Burst",
    "Dimensions",
    "Job",
    "Later",
    "Look",
    "LookedUp",
    "Mode",
    "OneOf",
    "Parameters",
    "Queued",
    "Recorder",
    "Sgd",
    "Site",
    "Training",
    "Unsupported",
    "Within",
    "Workload",
    "Wrong",
    "require_one_of",
    "require_within",
    "twin_name",
    "with_twins",
]
