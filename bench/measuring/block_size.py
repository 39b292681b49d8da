"""How many steps a block holds: enough that the clock and the synchronizations do not count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench import stats
from bench.measuring.edges import SINGLE, Edges
from bench.records.outcome import Block
from bench.records.run import BLOCK_STEPS, Settings

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Burst

SYNC_COST_FACTOR = 1000
"""A block lasts at least this many times the cost of reading the clock and synchronizing."""


class BlockSize:
    """Sizes the blocks of one launch."""

    def __init__(
        self,
        device: Device,
        settings: Settings,
        clock: Callable[[], int],
        edges: Edges = SINGLE,
        most: int | None = None,
        burst: Burst | None = None,
    ) -> None:
        """clock: monotonic ns; edges: where several processes do the step; most: steps of a block
        at most, where the job says so; burst: of a device that rests between blocks."""
        self._burst = burst
        self._most = BLOCK_STEPS if most is None else min(BLOCK_STEPS, most)
        self.device = device
        self.settings = settings
        self.clock = clock
        self.edges = edges
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
        if self._burst is not None:
            return max(1, min(self._most, int(self._burst.most_seconds * 1e9 / step_ns)))
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
