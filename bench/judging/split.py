"""A ratio in two: what the chips can do, and what software makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from bench.judging.ceilings import of_each
from bench.judging.row import Row
from bench.judging.side import Side

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
    """Of base and other."""


def split(sides: tuple[Side, Side], base: Row, other: Row) -> Split | None:
    """By the ceiling that the base is nearer to; None where the two runs share none, and of ranks
    that share a host. Ceilings are one device's, and so is what each device does of the work."""
    if base.shared_host or other.shared_host:
        return None
    mine, theirs = (side.ceilings for side in sides)
    arithmetic = base.arithmetic
    matmul = _split_by(
        _common(mine.matmul.get(arithmetic, {}), theirs.matmul.get(arithmetic, {})),
        "matmul",
        (of_each(base, base.least_flop_per_second), of_each(other, other.least_flop_per_second)),
    )
    bandwidth = _split_by(
        _common(mine.bandwidth, theirs.bandwidth),
        "memory bandwidth",
        (of_each(base, base.bytes_per_second), of_each(other, other.bytes_per_second)),
    )
    if base.choice != other.choice:  # a larger batch moves fewer bytes an item: no product
        bandwidth = None
    splits = [s for s in (matmul, bandwidth) if s is not None]
    return max(splits, key=lambda s: s.shares[0], default=None)


def _common(mine: Mapping[str, float], theirs: Mapping[str, float]) -> tuple[float, float] | None:
    """The best of the cases that both measured: the best of other shapes is another ceiling."""
    common = mine.keys() & theirs.keys()
    if not common:
        return None
    return max(mine[f] for f in common), max(theirs[f] for f in common)


def _split_by(
    ceilings: tuple[float, float] | None,
    ceiling: Ceiling,
    rates: tuple[float | None, float | None],
) -> Split | None:
    mine, theirs = rates
    if ceilings is None or mine is None or theirs is None:
        return None
    shares = mine / ceilings[0], theirs / ceilings[1]
    return Split(
        ceiling=ceiling,
        chip=ceilings[1] / ceilings[0],
        software=shares[1] / shares[0],
        shares=shares,
    )
