"""Steps timed one by one on a device that queues: as requests, and while they are queued."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.measuring.arrivals import waited_ns
from bench.measuring.blocks import Steps, refilled
from bench.measuring.edges import SINGLE, Edges

if TYPE_CHECKING:
    from bench.backend import Device

QUEUED_STEPS = 5
"""Steps whose queueing is timed by itself."""
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


def queueing(job: Steps, device: Device, clock: Callable[[], int]) -> tuple[int, ...]:
    """Host time to queue one step on an idle device: what the host alone takes for it.

    Less what it waited for inputs, which has a figure of its own.
    """
    times = []
    for _ in range(QUEUED_STEPS):
        refilled(job, device)
        device.synchronize()
        before, waited = clock(), waited_ns(job) or 0
        job.step()
        times.append(clock() - before - (waited_ns(job) or 0) + waited)
    device.synchronize()
    return tuple(times)
