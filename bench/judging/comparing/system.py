"""What a comparison of whole systems says beside their ratio, as values."""

from __future__ import annotations

import msgspec

from bench.judging.interval import Interval

NAMES = ("base", "other")
NEITHER = "—"
"""Stands where a side has no such work."""


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """Of one ratio, by the rounds in which a side measured both all its devices and one alone: of
    a run with a fixed number of launches, of which none was left out, that is all of them.

    An interval's ends are None below five launches of any of its rows.
    """

    count: float
    """Other / base devices."""
    per_device: Interval
    """Other / base throughput of each device: chip x scaling."""
    chip: Interval | None = None
    """Other / base throughput of one device alone; None where a side lacks it."""
    scaling: Interval | None = None
    """Other / base efficiency; None likewise."""
    efficiencies: tuple[Interval | None, Interval | None] = (None, None)
    """Of base and other: throughput of each device over that of one alone, at the same global
    batch. Exactly 1 of one device."""
    unsplit: str = ""
    """Why chip and scaling are not told apart; empty where they are."""

    @property
    def ratio(self) -> float:
        """The product; the case's own ratio where that is of the same rounds."""
        return self.count * self.per_device.value


class System(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison of whole systems says beside the ratio."""

    spreads: tuple[str, str]
    """Of base and other: `dp8`, `1 device`; empty where a side has no such work."""
    product: Product | None = None
    """The ratio as count x chip x scaling; None where there is no ratio."""
    beside: tuple[str, ...] = ()
    """What else of this work the runs have and is not set beside each other, in words."""

    @property
    def words(self) -> str:
        """`dp8 | fsdp64`, base and other."""
        return " | ".join(spread or NEITHER for spread in self.spreads)
