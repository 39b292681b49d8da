"""A step as torch's own profiler sees it, unrecorded: the cross-check of what was replayed.

An event counts, children and all, where it is an operator of the tape and none above it is:
`_to_copy` does its work in a `copy_`, and by self time alone that would be another operator. Of
several steps each call counts with its median, as it does in a replay: the profiler's clock is the
wall's, and by the mean one turn that the host gave to others would be the largest operator.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.backend import is_out_of_memory
from bench.measuring.explaining.kinds import OPTIMIZER, kind_of
from bench.measuring.explaining.rows import Rows
from bench.measuring.explaining.tape import Tape
from bench.records.explained import Kind, Operator, Profile

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

MARK = "accelmark: a step"
"""What a step is called in the profiler's events."""
LOG_LEVEL = "KINETO_LOG_LEVEL"
"""At 99, torch's profiler writes no line to stderr whenever it is started and stopped."""
NO_KERNELS = "torch's profiler sees no kernels of this device"
REWINDING, AT_LEAST = 0.1, 4
"""Share of kernels, and their number, that a step may have beyond like ones: it begins a sequence
anew."""
Taken = Callable[[Any], float]
"""Of an event, microseconds."""


class Span(NamedTuple):
    """A call of an operator of the tape in a step that nobody recorded."""

    name: str
    kind: Kind
    us: float


class Profiler:
    """Looks at steps, one at a time, in turns with whatever else is done."""

    def __init__(self, job: Job, device: Device) -> None:
        self._job, self._device = job, device
        self._kinds: dict[str, Kind] | None = None
        self._unread: list[Any] = []
        self._steps: list[list[Span]] = []
        self._walls: list[int] = []
        self.absent = ""
        """Why it sees nothing; empty as long as it does."""

    def look(self) -> None:
        """One step, and what was seen of it is kept."""
        if self.absent:
            return
        try:
            found, wall = _profiled(self._job, self._device, 1)
        except (ImportError, RuntimeError) as error:
            self.absent = not_here(error)
            return
        self._walls.append(wall)
        self._unread.append(found)
        self._read()

    def names(self, tape: Tape) -> list[str]:
        """The operators of the first of its steps, in their order: the tape's own, and those that
        are the same but for whether they write in place. Before `follow`."""
        if not self._unread:
            return []
        kinds = _kinds(tape)
        for name, kind in list(kinds.items()):
            kinds.setdefault(f"{name}_", kind)
        return [span.name for span in spans(self._unread[0].events() or (), kinds, self._taken)]

    def follow(self, tape: Tape) -> None:
        """From now on what is seen is read at once, which takes longer than the step: events that
        are kept lie where the step's memory was, and it would be given other each time."""
        self._kinds = _kinds(tape)
        self._read()

    def _read(self) -> None:
        if self._kinds is not None:
            each = [spans(one.events() or (), self._kinds, self._taken) for one in self._unread]
            self._steps += each
            self._unread.clear()

    def seen(self, tape: Tape) -> tuple[Profile | None, tuple[Operator, ...]]:
        """What it saw of the tape's operators, and the rows that they make; nothing where it saw
        none, and `absent` says why."""
        self.follow(tape)
        if self.absent or not self._steps:
            return None, ()
        profile = summed(self._steps, self._walls)
        if not sum(profile.kinds.values()):
            self.absent = NO_KERNELS
            return None, ()
        return profile, rows(self._steps, tape)

    def _taken(self, event: Any) -> float:
        if self._device.synchronous:
            return float(event.cpu_time_total)
        return float(getattr(event, "device_time_total", 0.0) or 0.0)


def not_here(error: Exception) -> str:
    """Why it sees nothing. Raises the error where it is the step's own: no memory."""
    if is_out_of_memory(error):
        raise error
    return f"torch's profiler does not work here: {error}".splitlines()[0]


def events_of(job: Job, device: Device, steps: int) -> tuple[list[list[Any]], int]:
    """All that the profiler sees of each of so many steps, with shapes and FLOP; and their wall ns,
    together."""
    found, wall = _profiled(job, device, steps, shapes=True)
    events = list(found.events() or ())
    return [[one for one in events if _within(one, mark)] for mark in _marks(events)], wall


def whole(steps: Sequence[list[Any]]) -> list[list[Any]]:
    """Those of like steps of which the profiler lost no event of the device's: a tracer may drop
    the first of a session, without a word. None where no half of them has as many."""
    counts = [sum(map(is_kernel, step)) for step in steps]
    usual, often = max(Counter(counts).items(), key=lambda pair: pair[1], default=(0, 0))
    beyond = max(AT_LEAST, REWINDING * usual)
    if (most := max(counts, default=0)) > usual + beyond:  # then it is the usual that lacks some
        usual, often = most, counts.count(most)
    if 2 * often < len(steps):
        return []
    return [step for step, count in zip(steps, counts, strict=True) if count >= usual]


def spans(events: Iterable[Any], kinds: dict[str, Kind], taken: Taken) -> list[Span]:
    """The calls of those operators in one step, in their order; kinds: by an operator's name."""
    events = list(events)
    marks = _marks(events)
    found: list[tuple[float, Span]] = []
    for event in events:
        if (
            event.name not in kinds
            or not on_host(event)
            or not any(_within(event, mark) for mark in marks)
        ):
            continue
        holders = list(above(event))
        if any(one.name in kinds for one in holders):
            continue
        optimizes = any(one.name.startswith(OPTIMIZER) for one in holders)
        kind: Kind = "optimizer" if optimizes else kinds[event.name]
        found.append((event.time_range.start, Span(event.name, kind, taken(event))))
    return [span for _, span in sorted(found, key=lambda one: one[0])]


def summed(steps: Sequence[Sequence[Span]], walls: Sequence[int]) -> Profile:
    """One step of several: each call's median."""
    spent: dict[Kind, float] = defaultdict(float)
    for (_, kind, _), each in _by_call(steps).items():
        spent[kind] += statistics.median(each) * 1e3 * len(each) / len(steps)
    calls = Counter(span.name for step in steps for span in step)
    return Profile(
        step_ns=statistics.median(walls),
        kinds=dict(spent),
        calls={name: count / len(steps) for name, count in sorted(calls.items())},
    )


def rows(steps: Sequence[Sequence[Span]], tape: Tape) -> tuple[Operator, ...]:
    """The tape's rows, with the times that the profiler saw; none where it saw other calls."""
    seen, each, count = _by_call(steps), list[float](), Counter[str]()
    by_place = {(name, k): times for (name, _, k), times in seen.items()}
    for call in tape.calls:
        if call.structure:
            each.append(0.0)
            continue
        times = by_place.pop((call.name, count[call.name]), None)
        count[call.name] += 1
        if times is None:
            return ()
        each.append(statistics.median(times) * 1e3)
    return () if by_place else Rows(tape, each).operators({})[0]


def above(event: Any) -> Iterator[Any]:
    """The events that hold an event, the innermost first."""
    while (event := event.cpu_parent) is not None:
        yield event


def _kinds(tape: Tape) -> dict[str, Kind]:
    """By an operator's name; whether it is an optimizer's is told by what holds it."""
    return {call.name: kind_of(call.func) for call in tape.calls if not call.structure}


def _by_call(steps: Sequence[Sequence[Span]]) -> dict[tuple[str, Kind, int], list[float]]:
    """Times of an operator's first, second, ... call over the steps."""
    found: dict[tuple[str, Kind, int], list[float]] = defaultdict(list)
    for step in steps:
        count = Counter[str]()
        for span in step:
            found[span.name, span.kind, count[span.name]].append(span.us)
            count[span.name] += 1
    return found


def on_host(event: Any) -> bool:
    """Whether it is the host's; else it is a kernel, or the shadow of a mark among them."""
    return str(event.device_type).endswith(".CPU")


def is_kernel(event: Any) -> bool:
    """Whether it is work of the device."""
    return not on_host(event) and not getattr(event, "is_user_annotation", False)


def _marks(events: Iterable[Any]) -> list[Any]:
    return [event for event in events if event.name == MARK and on_host(event)]


def _within(event: Any, mark: Any) -> bool:
    """By time and not by what is above it: an accelerator's backward runs in another thread."""
    return event is not mark and bool(
        mark.time_range.start <= event.time_range.start <= mark.time_range.end
    )


def _profiled(job: Job, device: Device, steps: int, *, shapes: bool = False) -> tuple[Any, int]:
    """torch's profile of so many steps, of all that it can see here, and their wall ns."""
    from torch.profiler import profile, record_function, supported_activities

    wall = 0
    # Without `acc_events` some versions warn that there may be a second cycle.
    told: dict[str, Any] = {"record_shapes": shapes, "with_flops": shapes, "acc_events": True}
    with profile(activities=sorted(supported_activities(), key=str), **told) as found:
        for _ in range(steps):
            job.refill()
            device.synchronize()
            start = time.perf_counter_ns()
            with record_function(MARK):
                job.step()
                device.synchronize()  # within the mark: what was queued belongs to it
            wall += time.perf_counter_ns() - start
    return found, wall
