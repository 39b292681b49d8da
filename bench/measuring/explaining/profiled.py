"""A step as torch's own profiler sees it, unrecorded: the cross-check of what was replayed.

An event counts, children and all, where it is an operator of the tape and none above it is:
`_to_copy` does its work in a `copy_`, and by self time alone that would be another operator.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from bench.measuring.explaining.kinds import OPTIMIZER
from bench.measuring.explaining.tape import Tape
from bench.records.explained import Kind, Profile

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

Step = Callable[[], object]
MARK = "accelmark: a step"
"""What a step is called in the profiler's events."""


def beside(step: Step, before: Step, steps: int, tape: Tape) -> Profile:
    """What the profiler sees of the tape's operators, in so many steps of a synchronous device.

    before: called before each step, outside what counts.
    """
    events, wall = _events(step, before, lambda: None, steps)
    return _summed(events, wall, steps, tape, lambda event: float(event.cpu_time_total))


def events_of(job: Job, device: Device, steps: int) -> tuple[list[Any], int]:
    """All that the profiler sees in so many steps, with shapes and FLOP; and their wall ns."""
    return _events(job.step, job.refill, device.synchronize, steps, shapes=True)


def of_device(job: Job, device: Device, steps: int, tape: Tape) -> tuple[Profile | None, str]:
    """The same by the kernels of an asynchronous device; or why torch's profiler sees none."""
    try:
        events, wall = _events(job.step, job.refill, device.synchronize, steps)
    except (ImportError, RuntimeError) as error:
        return None, f"torch's profiler does not work here: {error}".splitlines()[0]

    def kernels(event: Any) -> float:
        return float(getattr(event, "device_time_total", 0.0) or 0.0)

    found = _summed(events, wall, steps, tape, kernels)
    if not sum(found.kinds.values()):
        return None, "torch's profiler sees no kernels of this device"
    return found, ""


def _summed(
    events: list[Any], wall: int, steps: int, tape: Tape, taken_us: Callable[[Any], float]
) -> Profile:
    """Of the tape's operators: time by kind, and calls, in a step."""
    kinds: dict[str, Kind] = {call.name: call.kind for call in tape.calls if not call.structure}
    spent: dict[Kind, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for event in events:
        place = _place(event, kinds) if event.name in kinds else None
        if place is not None:
            spent[place or kinds[event.name]] += taken_us(event) * 1e3 / steps
            calls[event.name] += 1
    return Profile(
        step_ns=wall / steps,
        kinds=dict(spent),
        calls={name: count / steps for name, count in sorted(calls.items())},
    )


def _place(event: Any, kinds: dict[str, Kind]) -> Kind | Literal[""] | None:
    """`optimizer` within an optimizer's step; empty elsewhere in a step; None outside a step, and
    within another operator of the tape."""
    place: Kind | Literal[""] = ""
    above = event.cpu_parent
    while above is not None and above.name not in kinds:
        if above.name == MARK:
            return place
        if above.name.startswith(OPTIMIZER):
            place = "optimizer"
        above = above.cpu_parent
    return None


def _events(
    step: Step, before: Step, after: Step, steps: int, *, shapes: bool = False
) -> tuple[list[Any], int]:
    """The profiler's events of so many steps, of all that it can see here, and their wall ns."""
    from torch.profiler import profile, record_function, supported_activities

    wall = 0
    activities = sorted(supported_activities(), key=str)
    with profile(activities=activities, record_shapes=shapes, with_flops=shapes) as found:
        for _ in range(steps):
            before()
            after()
            start = time.perf_counter_ns()
            with record_function(MARK):
                step()
            after()
            wall += time.perf_counter_ns() - start
    return list(found.events() or ()), wall
