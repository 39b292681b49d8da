"""How long each two ranks take to exchange a message: a map of what joins them.

Timed after all blocks, turn by turn of a round-robin tournament, so that no pair waits for another
one: in each turn all pairs that can meet do so at once, as often as a repetition says, and all
ranks wait for one another before the next.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench.measuring.ranks.edges import Edges

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

SWEEPS = 3
"""Of all turns; of a pair's times the median counts."""
REPEATED = 4
"""Exchanges within one time."""


def peer_ns(
    job: Job,
    size: int,
    device: Device,
    edges: Edges,
    clock: Callable[[], int],
    progress: Callable[[], None],
) -> tuple[int, ...]:
    """Host ns of an exchange with each of so many ranks, as this one saw it; 0 with itself.

    progress: called before each turn: over slow links all of them take minutes. Empty where ranks
    do not meet in pairs. All ranks call it together.
    """
    if not job.turns:
        return ()
    found: list[list[int]] = [[] for _ in range(size)]
    for _ in range(SWEEPS):
        for turn in range(job.turns):
            progress()
            edges.meet()
            device.synchronize()
            start = clock()
            for _ in range(REPEATED):
                other = job.meet(turn)
            device.synchronize()
            if other is not None:
                found[other].append(max(1, (clock() - start) // REPEATED))
    return tuple(round(statistics.median(times)) if times else 0 for times in found)
