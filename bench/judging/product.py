"""A ratio of two systems as a product: how many devices, how good one is, how well they scale.

other / base = count x chip x scaling, where count is that of the devices, chip the ratio of one
device to one device at the same work, and scaling the ratio of the efficiencies, each of which is
throughput over that of as many times one device. Chip and scaling are contrasts of two and of four
groups of launches on the log scale (`bench.stats.contrast`). The groups are taken for independent:
where a session drifted as a whole, a scaling's interval is rather too wide than too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench import stats
from bench.judging.comparability import incomparable
from bench.judging.row import Interval, Row
from bench.judging.side import Side
from bench.judging.system import NAMES, Product
from bench.judging.verdicts import COMPARE_LAUNCHES, disturbed
from bench.judging.whole import alone


def product(sides: tuple[Side, Side], base: Row, other: Row, level: float) -> Product:
    """Of two measured rows of one work; level: of the intervals."""
    rows = (base, other)
    count = other.case.devices / base.case.devices
    found = Product(count=count, per_device=_quotient([other], [base], count, level))
    ones = [one_device(side, row) for side, row in zip(sides, rows, strict=True)]
    efficiencies = tuple(
        None
        if one is None or _unusable(one)
        else _quotient([row], [one], row.case.devices / one.case.devices, level)
        for row, one in zip(rows, ones, strict=True)
    )
    found = msgspec.structs.replace(found, efficiencies=efficiencies)
    why = [
        f"{who} has no figure of one device alone at this batch{_unusable(one)}"
        for who, one in zip(NAMES, ones, strict=True)
        if one is None or _unusable(one)
    ]
    mine, theirs = ones
    if why or mine is None or theirs is None:
        return msgspec.structs.replace(found, unsplit="; ".join(why))
    unlike = [reason.words for reason in incomparable(sides, mine, theirs)]
    if unlike:
        words = f"of one device alone they are not comparable: {'; '.join(unlike)}"
        return msgspec.structs.replace(found, unsplit=words)
    return msgspec.structs.replace(
        found,
        chip=_quotient([theirs], [mine], 1.0, level),
        scaling=_quotient([other, mine], [theirs, base], count, level),
    )


def one_device(side: Side, row: Row) -> Row | None:
    """The row of the same work on one device; the row itself where it is that."""
    wanted = alone(row.work).fingerprint
    return next((one for one in side.rows.values() if one.work.fingerprint == wanted), None)


def _unusable(one: Row | None) -> str:
    """Why nothing is divided by the figure of one device; empty where it is fine."""
    if one is None:
        return ""
    if one.status != "measured":
        return f" ({one.status}: {one.reason})"
    return "".join(f" ({reason.words})" for reason in disturbed("it", one))


def _quotient(above: Sequence[Row], below: Sequence[Row], count: float, level: float) -> Interval:
    """Product of throughputs over a product of throughputs and a count.

    A row that stands above and below is left out, as it is on both the same number.
    """
    over = [row for row in above if row not in below]
    under = [row for row in below if row not in above]
    value = 1 / count
    for row in over:
        value *= _throughput(row)
    for row in under:
        value /= _throughput(row)
    groups = [*((1.0, row.rates) for row in over), *((-1.0, row.rates) for row in under)]
    if not groups:
        return Interval(value=value, low=value, high=value)
    if min(len(rates) for _, rates in groups) < COMPARE_LAUNCHES:
        return Interval(value=value)
    found = stats.contrast(groups, level)
    assert found is not None
    return Interval(value=value, low=found.ratio.low / count, high=found.ratio.high / count)


def _throughput(row: Row) -> float:
    assert row.throughput is not None
    return row.throughput
