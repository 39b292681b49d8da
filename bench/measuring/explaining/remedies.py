"""Known remedies, each tried on the whole step: in turns with the step as it is, and gated.

What is above its bound need not have a faster way. So nothing is promised: another memory format,
the compiler, another implementation of attention are built and measured, and what they came to is
said.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench.measuring.explaining.in_order import collected
from bench.measuring.explaining.timing import Stopwatch
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
"""After which no turn is begun, once there are three."""
Around = Callable[[], AbstractContextManager[object]]


class Remedy(NamedTuple):
    """A change of how a step is run, and of nothing that it computes."""

    name: str
    site: Site
    around: Around = contextlib.nullcontext
    """Entered around all that is done with the changed job."""


class Bench(NamedTuple):
    """What a remedy is tried with."""

    workload: Workload
    mode: str
    parameters: Any
    site: Site
    backend: Backend
    device: Device
    gate: Callable[[Site], Numerics]
    """The numerics gate of the changed configuration."""


def remedies(bench: Bench, job: Job) -> Iterator[Remedy]:
    """All that are known for a case and that it does not have already."""
    site, declared = bench.site, bench.workload.modes[bench.mode]
    for layout in bench.workload.memory_formats:
        if layout != site.memory_format and bench.backend.memory_format(layout) == layout:
            other = msgspec.structs.replace(site, memory_format=layout)
            yield Remedy(f"memory format {layout}", other)
    if site.execution == "eager" and "compile" in declared.executions:
        yield Remedy("execution compile", msgspec.structs.replace(site, execution="compile"))
    if site.execution == "eager" and "attention" in job.facts:
        yield Remedy("attention as plain products", site, _plain_attention)


def _plain_attention() -> AbstractContextManager[object]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    plain: AbstractContextManager[object] = sdpa_kernel([SDPBackend.MATH])
    return plain


def tried(
    bench: Bench, job: Job, clock: Callable[[], int] = time.perf_counter_ns
) -> tuple[Tried, ...]:
    """What each remedy came to, with the job as it is beside it."""
    return tuple(try_one(bench, job, remedy, clock) for remedy in remedies(bench, job))


def try_one(bench: Bench, job: Job, remedy: Remedy, clock: Callable[[], int]) -> Tried:
    """One remedy; whatever goes wrong with it is its reason."""
    try:
        with remedy.around():
            verdict = bench.gate(remedy.site)
            if verdict.complaint:
                return Tried(remedy=remedy.name, absent=f"numerics: {verdict.complaint}")
            other = bench.workload.build(bench.mode, bench.parameters, remedy.site)
        try:
            before, after = _in_turns(job, other, remedy.around, Stopwatch(bench.device, clock))
        finally:
            other.close()
            del other
            bench.device.release_memory()
    except Exception as error:  # noqa: BLE001 - its row says why it was not tried
        return Tried(remedy=remedy.name, absent=of_error(error).splitlines()[0])
    return Tried(remedy=remedy.name, before_ns=tuple(before), after_ns=tuple(after))


def _in_turns(
    job: Job, other: Job, around: Around, stopwatch: Stopwatch
) -> tuple[list[int], list[int]]:
    """Steps of both, AB BA AB ..., so that what drifts hits both alike."""
    before: list[int] = []
    after: list[int] = []

    def plain() -> int:
        job.refill()
        return stopwatch.once_ns(job.step)

    def changed() -> int:
        with around():
            other.refill()
            return stopwatch.once_ns(other.step)

    for _ in range(WARM_UP):
        plain()
        changed()
    begin = time.monotonic()
    with collected():
        for turn in range(TURNS):
            if turn >= 3 and time.monotonic() - begin > LONGEST_SECONDS:
                break
            sides = [(before, plain), (after, changed)]
            for found, step in sides if turn % 2 == 0 else sides[::-1]:
                found.append(step())
    return before, after
