"""How many steps a block holds: enough that the clock and the synchronizations do not count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import stats
from bench.measuring.ranks.edges import SINGLE, Edges
from bench.records.outcome import Block
from bench.records.run import BLOCK_STEPS, Settings

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Burst

SYNC_COST_FACTOR = 1000
"""A block lasts at least this many times the cost of reading the clock and synchronizing."""


@dataclass(eq=False)
class BlockSize:
    """Sizes the blocks of one launch."""

    device: Device
    settings: Settings
    clock: Callable[[], int]
    """Monotonic ns."""
    edges: Edges = SINGLE
    """Where several processes do the step."""
    most: int | None = None
    """Steps of a block at most, where the job says so."""
    burst: Burst | None = None
    """Of a device that rests between blocks."""

    def __post_init__(self) -> None:
        self._most = BLOCK_STEPS if self.most is None else min(BLOCK_STEPS, self.most)
        self._sync_cost_ns: int | None = None
        self.cut = False
        """Whether the job's `most` made the last block shorter than it was to be."""

    def steps(self, blocks: Sequence[Block]) -> int:
        """Steps of the next block, from the shortest step seen lately (the first one left out)."""
        if self.settings.timing == "step":
            return 1
        recent = blocks[1:][-stats.WINDOW :]
        step_ns = min(b.wall_ns / len(b.step_ns) for b in recent)
        if self._sync_cost_ns is None:
            self._sync_cost_ns = self.edges.slowest(self.sync_cost_ns())
        if self.burst is not None:
            return max(1, min(self._most, int(self.burst.most_seconds * 1e9 / step_ns)))
        least_ns = max(self.settings.block_seconds * 1e9, SYNC_COST_FACTOR * self._sync_cost_ns)
        wanted = math.ceil(least_ns / step_ns)
        self.cut = self._most < min(wanted, BLOCK_STEPS)
        return max(1, min(self._most, wanted))

    def sync_cost_ns(self) -> int:
        """Least of five: reading the clock and synchronizing an idle device."""
        costs = []
        for _ in range(5):
            before = self.clock()
            self.device.synchronize()
            costs.append(self.clock() - before)
        return min(costs)
