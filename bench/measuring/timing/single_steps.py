"""Steps timed one by one on a device that queues: as requests, and while they are queued."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from bench.dispatch import seen_by
from bench.measuring.ranks.edges import SINGLE, Edges
from bench.measuring.timing.arrivals import waited_ns
from bench.measuring.timing.blocks import Steps, refilled

if TYPE_CHECKING:
    from bench.backend import Device

NOTHING = nullcontext()
QUEUED_STEPS = 5
"""Steps whose queueing is timed by itself."""
CATCH_UP = 200
"""Operators after which the device is waited for, where the queueing is timed without the host's
waiting for room in the queue: it may be full at about a thousand kernels, as is often found and
nowhere promised, and an operator may be several."""
FULL = 500
"""Operators of a step from which on the queue may be full."""
LEAST_WAIT = 0.1
"""Of such a step, that the host waits for the device: of less the queue never was full, and the
time as it was taken is the better one: what it costs to see the operators is not in it."""
WAITING_STEPS = 2
"""Steps that are timed so."""
CALLS = 300
"""Of a small operator, to find what it costs that each is seen."""
REQUESTS = 400
"""Requests of the latency pass: enough for a 99th percentile (368)."""


def requests(
    job: Steps,
    device: Device,
    clock: Callable[[], int],
    limit_seconds: float,
    edges: Edges = SINGLE,
) -> tuple[int, ...]:
    """Times requests one by one, synchronized, for at most a limit of time.

    Where several processes do the step, a request takes as long as the slowest.
    """
    request_ns: list[int] = []
    spent = 0
    while len(request_ns) < REQUESTS and spent < limit_seconds * 1e9:
        refilled(job, device)
        device.synchronize()
        edges.meet()
        before = clock()
        job.step()
        device.synchronize()
        request_ns.append(edges.slowest(clock() - before))
        spent += request_ns[-1]
    return tuple(request_ns)


def queueing(
    job: Steps, device: Device, clock: Callable[[], int], *, calls_operators: bool = False
) -> tuple[int, ...]:
    """Host time to queue one step on an idle device: what the host alone takes for it.

    Less what it waited for inputs, which has a figure of its own. calls_operators: whether the host
    calls each of torch's operators in each step. A step of many fills the queue, and then the host
    is as slow as the device: where it takes less in steps that let the device catch up, that is it,
    within what it costs to see each operator.
    """
    times = [_queued(job, device, clock) for _ in range(QUEUED_STEPS)]
    device.synchronize()
    if calls_operators:
        found = _with_room(job, device, clock)
        if found and statistics.median(found) < statistics.median(times):
            return found
    return tuple(times)


def _queued(
    job: Steps,
    device: Device,
    clock: Callable[[], int],
    around: AbstractContextManager[object] = NOTHING,
) -> int:
    refilled(job, device)
    device.synchronize()
    before, waited = clock(), waited_ns(job) or 0
    with around:
        job.step()
    return clock() - before - (waited_ns(job) or 0) + waited


def _with_room(job: Steps, device: Device, clock: Callable[[], int]) -> tuple[int, ...]:
    """The same of steps in which the queue never gets full; nothing where it would not either."""
    seen = _Counting(device, clock)
    found = []
    for _ in range(WAITING_STEPS):
        took = _queued(job, device, clock, seen_by(seen.see))
        if seen.calls < FULL or seen.waited_ns < LEAST_WAIT * took:
            return ()
        found.append((took - seen.waited_ns, seen.calls))
        seen.calls = seen.waited_ns = 0
    device.synchronize()
    each = _cost_of_counting(device, clock, seen)
    alone = tuple(round(took - calls * each) for took, calls in found)
    return alone if min(alone) > 0 else ()


def _cost_of_counting(device: Device, clock: Callable[[], int], seen: _Counting) -> float:
    """ns a call; the least of three turns each way."""
    import torch

    x = torch.zeros(1, device=device.place)

    def calls_ns() -> int:
        device.synchronize()
        before = clock()
        for _ in range(CALLS):
            x.add_(1.0)
        return clock() - before

    plain: list[int] = []
    counted: list[int] = []
    for _ in range(3):
        plain.append(calls_ns())
        seen.waited_ns = 0
        with seen_by(seen.see):
            took = calls_ns()
        counted.append(took - seen.waited_ns)
    return max(0, min(counted) - min(plain)) / CALLS


class _Counting:
    """Counts operators, and lets the device catch up."""

    def __init__(self, device: Device, clock: Callable[[], int]) -> None:
        self._device, self._clock = device, clock
        self.calls = self.waited_ns = 0

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls an operator."""
        found = func(*args, **kwargs)
        self.calls += 1
        if self.calls % CATCH_UP == 0:
            before = self._clock()
            self._device.synchronize()
            self.waited_ns += self._clock() - before
        return found
