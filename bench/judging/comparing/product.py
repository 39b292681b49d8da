"""A ratio of two systems as a product: how many devices, how good one is, how well they scale.

other / base = count x chip x scaling, where count is that of the devices, chip the ratio of one
device to one device at the same work, and scaling the ratio of the efficiencies, each of which is
throughput over that of as many times one device. Chip and scaling are contrasts of two and of four
groups of launches on the log scale (`bench.stats.contrast`). The groups are taken for independent:
where a session drifted as a whole, a scaling's interval is rather too wide than too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bench import stats
from bench.judging.comparing.comparability import incomparable
from bench.judging.comparing.side import Side
from bench.judging.comparing.system import NAMES, Product
from bench.judging.comparing.verdicts import COMPARE_LAUNCHES, disturbed
from bench.judging.interval import Interval
from bench.judging.ranks.scaling import of_equal_rounds
from bench.judging.row import Row


def product(sides: tuple[Side, Side], base: Row, other: Row, level: float) -> Product:
    """Of two measured rows of one work; level: of the intervals."""
    count = other.case.devices / base.case.devices
    mine, theirs = (_Figures.of(side, row) for side, row in zip(sides, (base, other), strict=True))
    wide = level if mine.enough and theirs.enough else None
    found = Product(
        count=count,
        per_device=_quotient([theirs.all], [mine.all], count, wide),
        efficiencies=(mine.efficiency(level), theirs.efficiency(level)),
    )
    if why := [
        f"{who} has no figure of one device alone at this batch{one.why}"
        for who, one in zip(NAMES, (mine, theirs), strict=True)
        if one.one is None
    ]:
        return msgspec.structs.replace(found, unsplit="; ".join(why))
    assert mine.row is not None
    assert theirs.row is not None
    assert mine.one is not None
    assert theirs.one is not None
    unlike = [reason.words for reason in incomparable(sides, mine.row, theirs.row)]
    if unlike:
        words = f"of one device alone they are not comparable: {'; '.join(unlike)}"
        return msgspec.structs.replace(found, unsplit=words)
    return msgspec.structs.replace(
        found,
        chip=_quotient([theirs.one], [mine.one], 1.0, wide),
        scaling=_quotient([theirs.all, mine.one], [theirs.one, mine.all], count, wide),
    )


Rates = Sequence[float]
"""Of the launches of one row. The same ones are the same object."""


class _Figures(NamedTuple):
    """Of one side: the launches of the work on all its devices, and on one alone.

    Both are of the same rounds, so that what drifts while one has launches that the other lacks is
    not taken for scaling.
    """

    devices: int
    fewest: int
    """Launches of the row that has fewer."""
    all: Rates
    row: Row | None = None
    """Of one device."""
    one: Rates | None = None
    why: str = ""
    """Why there is none; empty too where it was not planned."""

    @classmethod
    def of(cls, side: Side, row: Row) -> _Figures:
        count, one = row.case.devices, one_device(side, row)
        if one is None:
            return cls(count, row.launches, row.rates)
        if not one.measured:
            return cls(count, row.launches, row.rates, why=f" ({one.status}: {one.reason})")
        for reason in disturbed("it", one):
            return cls(count, row.launches, row.rates, why=f" ({reason.words})")
        if one == row:
            return cls(count, row.launches, row.rates, one, row.rates)
        few, many = of_equal_rounds(one, row)
        return cls(count, min(one.launches, row.launches), many, one, few)

    @property
    def enough(self) -> bool:
        """Whether it has the launches that an interval needs, in equal rounds or not."""
        return self.fewest >= COMPARE_LAUNCHES

    def efficiency(self, level: float) -> Interval | None:
        """Against one device; None without."""
        if self.one is None:
            return None
        return _quotient([self.all], [self.one], self.devices, level if self.enough else None)


def one_device(side: Side, row: Row) -> Row | None:
    """The row of the same work on one device; the row itself where it is that."""
    wanted = row.work.alone.fingerprint
    return next((one for one in side.rows.values() if one.work.fingerprint == wanted), None)


def _quotient(
    above: Sequence[Rates], below: Sequence[Rates], count: float, level: float | None
) -> Interval:
    """Product of throughputs over a product of throughputs and a count; level: None without an
    interval.

    What stands above and below is left out: it is one number.
    """
    over = [rates for rates in above if not any(rates is one for one in below)]
    under = [rates for rates in below if not any(rates is one for one in above)]
    value = 1 / count
    for rates in over:
        value *= stats.geometric_mean(rates)
    for rates in under:
        value /= stats.geometric_mean(rates)
    groups = [*((1.0, rates) for rates in over), *((-1.0, rates) for rates in under)]
    if not groups:
        return Interval(value=value, low=value, high=value)
    found = None if level is None else stats.contrast(groups, level)
    if found is None:
        return Interval(value=value)
    return Interval(value=value, low=found.ratio.low / count, high=found.ratio.high / count)
