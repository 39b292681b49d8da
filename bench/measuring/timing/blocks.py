"""Blocks of steps, timed: by the host's clock, or by events of the device.

Within a block nothing waits for the device: it is synchronized before the first step and after the
last one, so that queueing overlaps with work as it does in a real job. A *timing sample* is a
block's wall time divided by its steps. On synchronous devices (CPUs) a step is over when its call
returns, so the host clock also times every step; on others a device event is recorded after each
step, without synchronizing, and read after the block.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from bench.measuring.ranks.edges import SINGLE, Edges
from bench.measuring.timing.arrivals import noted, waited_ns
from bench.measuring.timing.usage import Usage
from bench.records.outcome import Block
from bench.records.run import Settings

if TYPE_CHECKING:
    from bench.backend import Device

SHORT_STEP_SECONDS = 1e-4
"""Where a block holds so many steps that they are shorter than this, the host's usage is not read
at each of them."""
DEAR_NS, DEAR_SHARE = 20_000, 0.05
"""An event that the host takes longer to record, and so much of a step, times no step: it would be
a part of it. Most take 1 to 3 us, and some, by public reports, 120."""
TRIED = 8
"""Events whose recording is timed, of which the quickest counts."""
TOLD_NS = 1_000_000
"""So long is nothing to no event: some vendors' layers have ones that always say so."""
UNCHANGED = nullcontext()


StepClock = Literal["host", "device event", "block"]
"""See `bench.records.outcome.Measured.step_clock`."""


class Steps(Protocol):
    """What the engine needs of a job."""

    def step(self) -> None:
        """Queues one step."""

    def witness(self) -> float:
        """A number computed by the last step."""


def shared(total: int, count: int) -> tuple[int, ...]:
    """A sum in so many nearly equal parts."""
    each, more = divmod(total, count)
    return (each + 1,) * more + (each,) * (count - more)


def refilled(job: Steps, device: Device) -> None:
    """Has the operands made anew that a job's steps use up, if they do: outside the clock."""
    refill = getattr(job, "refill", None)
    if refill is not None:
        refill()
        device.synchronize()


@contextmanager
def collected() -> Iterator[None]:
    """Garbage collection is a pause of the harness's language, and no work of the step: it is off
    within a block. Who collects between blocks looks at what is newer than the job, so that a step
    that leaves cycles behind does not fill the memory."""
    gc.collect()
    gc.freeze()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


@dataclass(eq=False)
class BlockTimer:
    """Runs blocks of one job's steps on one device."""

    job: Steps
    device: Device
    settings: Settings
    clock: Callable[[], int]
    """Monotonic ns."""
    usage: Usage | None = None
    """Counters of the process, for synchronous devices."""
    edges: Edges = SINGLE
    """Where several processes do the step."""

    def __post_init__(self) -> None:
        self.busy_ns: list[int] = []
        """Of every block so far, this process's own time."""
        self._have_events = True
        """Until the device gives none, they are dear, or say that a millisecond was nothing."""
        self._event_ns = 0
        """That the host takes to record one."""
        self.started_ns: int | None = None
        """When the first step began; None before it."""
        self._events: list[Any] = []
        """Of the block, and kept for the next one; each has been recorded."""

    @property
    def step_clock(self) -> StepClock:
        """What times steps."""
        if self.device.synchronous:
            return "host"
        return "device event" if self._have_events else "block"

    def block(self, steps: int, within: AbstractContextManager[object] = UNCHANGED) -> Block:
        """Runs `steps` steps between two synchronizations; of several processes the slowest's.

        within: what is changed for them, once all have met.
        """
        before = waited_ns(self.job)
        refilled(self.job, self.device)
        events = None if self.device.synchronous else self._recorded(steps + 1)
        self.edges.meet()
        with within:
            if events is not None:
                block = self._event_timed(steps, events)
            else:
                timed = self._host_timed if self.device.synchronous else self._only_timed
                block = timed(steps)
        self.busy_ns.append(block.wall_ns)
        slowest = self.edges.slowest(block.wall_ns)
        if slowest != block.wall_ns:
            block = msgspec.structs.replace(block, wall_ns=slowest)
        after = waited_ns(self.job)
        if before is None or after is None or block.input_wait_ns is not None:
            return block
        return msgspec.structs.replace(block, input_wait_ns=after - before)

    def _host_timed(self, steps: int) -> Block:
        step, clock = self.job.step, self.clock
        # Asking the kernel costs a microsecond: nothing to a step of a millisecond, and a third of
        # one of three microseconds.
        short = steps * SHORT_STEP_SECONDS >= self.settings.block_seconds
        usage = None if short else self.usage
        marks = [0] * (steps + 1)
        usages: list[Any] = [None] * (steps + 1)
        self.device.synchronize()
        if usage is None:
            marks[0] = clock()
            for i in range(1, steps + 1):
                step()
                marks[i] = clock()
        else:
            usages[0] = usage()
            marks[0] = clock()
            for i in range(1, steps + 1):
                step()
                marks[i] = clock()
                usages[i] = usage()
        self.device.synchronize()
        step_ns = tuple(b - a for a, b in itertools.pairwise(marks))
        wall_ns = marks[-1] - marks[0]
        start_ns = self._since_first(marks[0])
        if usage is None:
            return Block(start_ns=start_ns, wall_ns=wall_ns, step_ns=step_ns)
        pairs = list(itertools.pairwise(usages))
        return Block(
            start_ns=start_ns,
            wall_ns=wall_ns,
            step_ns=step_ns,
            step_cpu_ns=tuple(round((b[0] - a[0]) * 1e9) for a, b in pairs),
            step_switches=tuple(b[1] - a[1] for a, b in pairs),
        )

    def _event_timed(self, steps: int, events: list[Any]) -> Block:
        step, device = self.job.step, self.device
        with noted(self.job, device, steps) as arrivals:
            device.synchronize()
            start = self.clock()
            events[0].record()
            for i in range(1, steps + 1):
                step()
                events[i].record()
            device.synchronize()
            wall_ns = self.clock() - start
        # Of very short intervals a timestamp may be read a little too early.
        step_ns = tuple(max(0, device.elapsed_ns(a, b)) for a, b in itertools.pairwise(events))
        if wall_ns >= TOLD_NS and not any(step_ns):
            self._have_events = False
            step_ns, waited = shared(wall_ns, steps), None
        else:
            waited = arrivals.waited_ns(events)
            if self._event_ns > max(DEAR_NS, DEAR_SHARE * wall_ns / steps):
                self._have_events = False
        return Block(
            start_ns=self._since_first(start),
            wall_ns=wall_ns,
            step_ns=step_ns,
            input_wait_ns=waited,
        )

    def _recorded(self, count: int) -> list[Any] | None:
        """So many events; None where the device has none. A driver makes one when it is recorded
        first, and in a block the host would pay for that at each step."""
        known = len(self._events)
        while self._have_events and len(self._events) < count:
            event = self.device.event()
            if event is None:
                self._have_events = False
            else:
                event.record()
                self._events.append(event)
        if self._events and not known:
            marks = [self.clock()]
            for _ in range(TRIED):
                self._events[0].record()
                marks.append(self.clock())
            self._event_ns = min(b - a for a, b in itertools.pairwise(marks))
        return self._events[:count] if self._have_events else None

    def _only_timed(self, steps: int) -> Block:
        """Of a device that queues and has no events; each step is given the mean of all."""
        step, usage = self.job.step, self.usage
        self.device.synchronize()
        before = usage() if usage is not None else None
        start = self.clock()
        for _ in range(steps):
            step()
        self.device.synchronize()
        wall_ns = self.clock() - start
        after = usage() if usage is not None else None
        block = Block(
            start_ns=self._since_first(start), wall_ns=wall_ns, step_ns=shared(wall_ns, steps)
        )
        if before is None or after is None or not self.device.queues_on_host:
            return block
        return msgspec.structs.replace(
            block,
            step_cpu_ns=shared(round((after[0] - before[0]) * 1e9), steps),
            step_switches=shared(after[1] - before[1], steps),
        )

    def _since_first(self, now_ns: int) -> int:
        """Nanoseconds since the first block began."""
        if self.started_ns is None:
            self.started_ns = now_ns
        return now_ns - self.started_ns
