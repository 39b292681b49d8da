"""The time of one thing on a device, by the clock that its kind has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.measuring.timing.blocks import TOLD_NS
from bench.records.reason import first_line
from bench.workload import Unsupported

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

MOST_CALLS = 200
"""Calls between two events: a kernel of 2 us is blurred by one."""
LEAST_NS = 2_000_000
"""Least time between two events. After a synchronization the first of them is over at once, and the
device idles until the first kernel comes, some 10 us later: half a percent of this."""
LESS_THAN_NOTHING_NS = 1.0
LAUNCHES = 100
"""Of next to nothing, in a row."""
LAUNCH_REPEATS = 5


@dataclass(eq=False)
class Stopwatch:
    """Times what is called again and again."""

    device: Device
    clock: Callable[[], int] = time.perf_counter_ns
    """Monotonic ns, of the host."""
    failed: list[str] = field(default_factory=list)
    """The words of a recording that failed: what is recorded in this process after it may fail of
    that, and what is drawn too."""

    def step_ns(self, job: Job) -> int:
        """Host ns from a synchronization to the next, with one step between them, which has the
        operands again that it uses up."""
        job.refill()
        self.device.synchronize()
        start = self.clock()
        job.step()
        self.device.synchronize()
        return max(1, self.clock() - start)

    def queued_ns(self, work: Callable[[], object]) -> int:
        """Host ns of one call of what only queues, from an idle device on."""
        self.device.synchronize()
        start = self.clock()
        work()
        taken = self.clock() - start
        self.device.synchronize()
        return taken

    def each_ns(self, work: Callable[[], object], calls: int = 1) -> float:
        """ns of one of so many calls in a row: device time, where the device has events that tell
        it; else the host's, from a synchronization to the next."""
        if self.device.synchronous:
            start = self.clock()
            for _ in range(calls):
                work()
            return max(LESS_THAN_NOTHING_NS, (self.clock() - start) / calls)
        first, last = self.device.event(), self.device.event()
        self.device.synchronize()
        start = self.clock()
        if first is not None:
            first.record()
        for _ in range(calls):
            work()
        if last is not None:
            last.record()
        self.device.synchronize()
        taken = self.clock() - start
        seen = 0 if first is None else self.device.elapsed_ns(first, last)
        if first is None or (seen <= 0 and taken >= TOLD_NS):
            seen = taken
        return max(LESS_THAN_NOTHING_NS, seen / calls)

    def best_ns(self, work: Callable[[], object], seconds: float) -> float:
        """The fastest of several calls, after one that is not timed; for so many seconds."""
        work()
        found: list[float] = []
        begin = self.clock()
        while len(found) < 3 or (self.clock() - begin < seconds * 1e9 and len(found) < 100):
            found.append(self.each_ns(work, self.calls(found)))
        return min(found)

    def calls(self, found: list[float]) -> int:
        """How many calls in a row one event covers."""
        if self.device.synchronous or not found:
            return 1
        return max(1, min(MOST_CALLS, int(LEAST_NS / found[-1])))

    def in_a_row(self, work: Callable[[], object]) -> int:
        """How many calls of that work one event covers, of an asynchronous device by two calls."""
        work()
        return 1 if self.device.synchronous else self.calls([self.each_ns(work)])

    def in_graph(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """The replay of work that the device recorded; None where it has no graphs, does not take
        it into one, or has failed to record something."""
        recorder = self.device.recorder()
        if recorder is None or self.failed:
            return None
        try:
            return recorder(work, lambda: None)
        except Unsupported:  # it asks the device
            pass
        except RuntimeError as error:  # its library cannot be recorded
            self.failed.append(first_line(error))
        self.device.synchronize()
        return None


def launch_ns(stopwatch: Stopwatch) -> float | None:
    """The least that a call takes on an asynchronous device that works on one element there, in a
    graph where it has graphs, else in a loop; None where it has some and did not record it."""
    import torch

    one = torch.ones(1, device=stopwatch.device.torch_device)

    def work() -> None:
        for _ in range(LAUNCHES):
            one.add_(1.0)

    work()
    replay = stopwatch.in_graph(work)
    if replay is None:
        if stopwatch.device.recorder() is not None:
            return None
        replay = work
    calls = stopwatch.in_a_row(replay)
    return min(stopwatch.each_ns(replay, calls) for _ in range(LAUNCH_REPEATS)) / LAUNCHES
