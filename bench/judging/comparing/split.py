"""A ratio in two: what the chips can do, and what software makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from bench.judging.ceilings import of_each
from bench.judging.comparing.side import Side
from bench.judging.row import Row

Ceiling = Literal["matmul", "memory bandwidth"]


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio as the product of two: what the chips can do, and what software makes of it."""

    ceiling: Ceiling
    """The one of which the base reaches the larger share: what limits the case there."""
    chip: float
    """Other / base measured ceiling."""
    software: float
    """Other / base share of it."""
    shares: tuple[float, float]
    """Of base and other, by the base's FLOP or bytes of an item."""


def split(sides: tuple[Side, Side], base: Row, other: Row) -> Split | None:
    """By the ceiling that the base is nearer to; None where the two runs share none, and of ranks
    that share a host. Ceilings are one device's, and so is what each device does of the work.

    An item is what it is to the base: else, where one side has counted it otherwise (the experts
    that its tokens went to), chip times software would not be the ratio.
    """
    if base.shared_host or other.shared_host or base.throughput is None or other.throughput is None:
        return None
    mine, theirs = (side.ceilings for side in sides)
    arithmetic, rows, ratio = base.arithmetic, (base, other), other.throughput / base.throughput
    splits = [
        _split_by(
            "matmul",
            (mine.matmul.get(arithmetic, {}), theirs.matmul.get(arithmetic, {})),
            [of_each(row, row.least_flop_per_second) for row in rows],
            ratio,
        )
    ]
    if base.choice == other.choice:  # a larger batch moves fewer bytes an item: no share of its own
        rates = [of_each(row, row.bytes_per_second) for row in rows]
        splits.append(
            _split_by("memory bandwidth", (mine.bandwidth, theirs.bandwidth), rates, ratio)
        )
    return max(filter(None, splits), key=lambda s: s.shares[0], default=None)


def _split_by(
    ceiling: Ceiling,
    ceilings: Sequence[Mapping[str, float]],
    rates: Sequence[float | None],
    ratio: float,
) -> Split | None:
    """By the best of the cases that both measured: the best of other shapes is another ceiling."""
    common = ceilings[0].keys() & ceilings[1].keys()
    mine = rates[0]
    if not common or mine is None or rates[1] is None:
        return None
    best = [max(of[case] for case in common) for of in ceilings]
    shares = mine / best[0], mine * ratio / best[1]
    return Split(
        ceiling=ceiling, chip=best[1] / best[0], software=shares[1] / shares[0], shares=shares
    )
