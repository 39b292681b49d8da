"""A ratio per cycle: whether a device did its work in other time, or ran at another clock.

Two runs of one device may differ because its clock did: by its heat, its power limit, or whoever
set it. So FASTER and SLOWER must hold for throughput divided by the clock that each launch was seen
to run at. It is the robust rule of nvbench's comparison, with each launch by its own clock; of
several devices by that of the slowest.

Of one kind of device only: a cycle of another is another unit. Not of work that memory, the link,
an input pipeline or the host limits, whose rate is not counted in the clock's cycles.
"""

from __future__ import annotations

import math

import msgspec

from bench import stats
from bench.judging.chips import one_kind
from bench.judging.comparing.side import Side
from bench.judging.row import Row

BY_ITS_CLOCK = "by its clock, not its work"
UNSURE = "not sure per cycle"
OTHERWISE_LIMITED = ("memory", "transfer", "input", "host")
"""Limits of `Row.limit` that have a clock of their own, or none."""
EXPLAINED = 0.5
"""Share of a difference, on the log scale, that the clocks make up where it is called theirs."""


class PerCycle(msgspec.Struct, frozen=True, kw_only=True):
    """Other / base, of one case."""

    ratio: stats.Estimate
    """Throughput over the launch's clock: Welch interval as of the throughput."""
    clock: float
    """The clocks themselves, geometric means over launches."""

    def remark(self, ratio: float, least: float) -> str:
        """What a reader must know beside FASTER or SLOWER; empty where it holds per cycle too.

        ratio: of the throughputs; least: the smallest difference that counts, of the larger over
        the smaller.
        """
        faster = ratio > 1
        sure = self.ratio.low > 1 if faster else self.ratio.high < 1
        size = self.ratio.value if faster else 1 / self.ratio.value
        if sure and size >= 1 + least:
            return ""
        explained = math.log(self.clock) / math.log(ratio)
        return BY_ITS_CLOCK if explained >= EXPLAINED else UNSURE


def per_cycle(sides: tuple[Side, Side], base: Row, other: Row, level: float) -> PerCycle | None:
    """None where a clock was not observable, or where cycles are not what the two differ in."""
    if not one_kind(*(side.file.run.device for side in sides)):
        return None
    if any(row.limit is not None and row.limit[0] in OTHERWISE_LIMITED for row in (base, other)):
        return None
    clocks = [[mhz for mhz in row.slowest_clocks_mhz if mhz] for row in (base, other)]
    if any(len(found) < len(row.rates) for found, row in zip(clocks, (base, other), strict=True)):
        return None
    cycled = [
        [rate / mhz for rate, mhz in zip(row.rates, found, strict=True)]
        for row, found in zip((base, other), clocks, strict=True)
    ]
    if not all(0 < rate < math.inf for side in cycled for rate in side):
        return None  # of a record whose figures no number holds
    welch = stats.welch(cycled[0], cycled[1], level)
    if welch is None:
        return None
    return PerCycle(
        ratio=welch.ratio,
        clock=stats.geometric_mean(clocks[1]) / stats.geometric_mean(clocks[0]),
    )
