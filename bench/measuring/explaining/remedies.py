"""Known remedies, each tried on the whole step: in turns with the step as it is, and gated.

What is above its bound need not have a faster way. So nothing is promised: another memory format,
the compiler, other implementations of attention, optimizer and gathers, and a larger batch are
built and measured, and what they came to is said.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench.measuring.compilers import make_room, strictly
from bench.measuring.explaining import spellings
from bench.measuring.explaining.spellings import Spelled
from bench.measuring.explaining.tape import recorded
from bench.measuring.explaining.timing import Stopwatch
from bench.measuring.proving.law import Law
from bench.measuring.timing.blocks import collected
from bench.records.execution import is_compiled
from bench.records.explained import Tried
from bench.records.reason import of_error
from bench.workload import Site, Workload

if TYPE_CHECKING:
    from bench.backend import Backend, Device
    from bench.records.outcome import Numerics
    from bench.workload import Job

TURNS = 10
WARM_UP = 3
LONGEST_SECONDS = 60.0
"""After which no turn is begun, once there are `FEWEST_TURNS`."""
FEWEST_TURNS = 8
"""Of fewer none of seven or more remedies can be said to have helped."""
Around = Callable[[], AbstractContextManager[object]]
OPTIMIZERS = ("fused", "foreach")
"""torch's implementations of an optimizer besides a loop over its tensors, as its groups say."""


LEAST_GATHERED = 0.02
"""Of all bytes that the step must move: of less no spelling of a gather makes a difference."""
LARGER = 2
"""Times the batch."""
COMPILED = 5
"""Jobs in one process where the step is compiled: itself, and of a layout and of a larger batch the
twin of the numerics gate and the job."""
UNUSED = "no call of it can be spelled otherwise: torch makes it by itself, or more is asked of it"


class Remedy(NamedTuple):
    """A change of how a step is run, and of nothing that it computes of an item."""

    name: str
    site: Site
    parameters: Any
    around: Around = contextlib.nullcontext
    """Entered around all that is done with the changed job."""
    times_items: int = 1
    """Items of its step over those of the step as it is."""


class Bench(NamedTuple):
    """What a remedy is tried with."""

    workload: Workload
    mode: str
    parameters: Any
    site: Site
    backend: Backend
    device: Device
    gate: Callable[[Any, Site], Numerics]
    """The numerics gate of changed parameters and a changed configuration."""


def remedies(bench: Bench, job: Job) -> Iterator[Remedy]:
    """All that are known for a case and that it does not have already. May take a step."""
    site, given, declared = bench.site, bench.parameters, bench.workload.modes[bench.mode]
    for layout in bench.workload.memory_formats:
        if layout != site.memory_format and bench.backend.memory_format(layout) == layout:
            other = msgspec.structs.replace(site, memory_format=layout)
            yield Remedy(f"memory format {layout}", other, given)
    if site.execution == "eager":
        yield from _in_eager(bench, job)
        if "compile" in declared.executions:
            strictly()
            compiled = msgspec.structs.replace(site, execution="compile")
            yield Remedy("execution compile", compiled, given)
    batch = getattr(given, "batch_size", None)
    if isinstance(batch, int):
        larger = msgspec.structs.replace(given, batch_size=LARGER * batch)
        yield Remedy(
            f"batch_size {LARGER * batch}, for the items of {batch}",
            *(site, larger),
            times_items=LARGER,
        )


def _in_eager(bench: Bench, job: Job) -> Iterator[Remedy]:
    """What is chosen anew with every call."""
    site, given = bench.site, bench.parameters
    if "attention" in job.facts:
        yield Remedy("attention as plain products", site, given, _plain_attention)
    training = job.training()
    groups = [] if training is None else training.optimizer.param_groups
    for how in OPTIMIZERS:
        if groups and not any(group.get(how, True) for group in groups):
            yield Remedy(f"optimizer {how}", site, given, functools.partial(_optimizer, how))
    job.refill()
    tape = recorded(job.step, bench.device.torch_device.type)
    moved = sum(sum(call.moved) for call in tape.calls)
    gathered = Counter[str]()
    for call in tape.calls:
        gathered[call.name] += sum(call.moved)
    large = [name for name, size in gathered.items() if size >= LEAST_GATHERED * moved > 0]
    for spelling in spellings.known(large):
        yield Remedy(spelling.name, site, given, Spelled(spelling))


def _plain_attention() -> AbstractContextManager[object]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    plain: AbstractContextManager[object] = sdpa_kernel([SDPBackend.MATH])
    return plain


@contextlib.contextmanager
def _optimizer(how: str) -> Iterator[None]:
    """The same optimizer in another of torch's implementations, from its next step on."""
    from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

    def choose(optimizer: Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            group.update({other: other == how for other in OPTIMIZERS if other in group})

    with register_optimizer_step_pre_hook(choose):
        yield


def tried(
    bench: Bench, job: Job, clock: Callable[[], int] = time.perf_counter_ns
) -> tuple[Tried, ...]:
    """What each remedy came to, with the job as it is beside it."""
    if is_compiled(bench.site.execution):
        make_room(COMPILED)
    return tuple(try_one(bench, job, remedy, clock) for remedy in remedies(bench, job))


def try_one(bench: Bench, job: Job, remedy: Remedy, clock: Callable[[], int]) -> Tried:
    """One remedy; whatever goes wrong with it is its reason."""
    try:
        with remedy.around():
            verdict = bench.gate(remedy.parameters, remedy.site)
            if verdict.complaint:
                return Tried(remedy=remedy.name, absent=f"numerics: {verdict.complaint}")
            other = bench.workload.build(bench.mode, remedy.parameters, remedy.site)
        try:
            if wrong := astray(other, remedy.around, bench.site.seed):
                return Tried(remedy=remedy.name, absent=wrong)
            before, after = _in_turns(job, other, remedy.around, Stopwatch(bench.device, clock))
        finally:
            other.close()
            del other
            bench.device.release_memory()
    except Exception as error:  # noqa: BLE001 - its row says why it was not tried
        return Tried(remedy=remedy.name, absent=of_error(error).splitlines()[0])
    if isinstance(remedy.around, Spelled) and not remedy.around.calls:
        return Tried(remedy=remedy.name, absent=UNUSED)
    each = (max(1, round(ns / remedy.times_items)) for ns in after)
    return Tried(remedy=remedy.name, before_ns=tuple(before), after_ns=tuple(each))


def astray(job: Job, around: Around, seed: int) -> str:
    """What an update of a training job does that its optimizer's law does not: the gate sees no
    weights that are left as they were. Empty of all else; takes two steps."""
    with around():
        job.refill()
        job.step()
        if (training := job.training()) is None:
            return ""
        law = Law(training, seed)
        law.before()
        job.refill()
        job.step()
    return next((found.complaint for found in law.findings() if found.complaint), "")


def _in_turns(
    job: Job, other: Job, around: Around, stopwatch: Stopwatch
) -> tuple[list[int], list[int]]:
    """Steps of both, AB BA AB ..., so that what drifts hits both alike."""
    before: list[int] = []
    after: list[int] = []

    def plain() -> int:
        return stopwatch.step_ns(job)

    def changed() -> int:
        with around():
            return stopwatch.step_ns(other)

    for _ in range(WARM_UP):
        plain()
        changed()
    begin = time.monotonic()
    with collected():
        for turn in range(TURNS):
            if turn >= FEWEST_TURNS and time.monotonic() - begin > LONGEST_SECONDS:
                break
            sides = [(before, plain), (after, changed)]
            for found, step in sides if turn % 2 == 0 else sides[::-1]:
                found.append(step())
    return before, after
