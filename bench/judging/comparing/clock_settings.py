"""Clocks that differ between two runs as only a setting makes them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from bench.judging.clocks import clocks_set, steady
from bench.judging.comparing.differences import Difference
from bench.records.observed import THROTTLING
from bench.records.run import Launch, RunFile
from bench.telemetry.flags import slowest_clock

OTHER_CLOCK = 0.05
"""Relative difference from which on two clocks are not the same."""


def settings(files: tuple[RunFile, RunFile], alike: bool) -> Iterator[Difference]:
    """Clocks that differ between two runs as only a setting makes them; of work that both have.

    alike: whether their devices are of one kind, whose memory then has one clock.
    """
    names = [{launch.case.name for launch in file.launches} for file in files]
    base, other = (
        [launch for launch in file.launches if launch.case.name in names[0] & names[1]]
        for file in files
    )
    held = [_set(launches) for launches in (base, other)]
    mhz = [_slowest_mhz(launches) for launches in (base, other)]
    if None not in held and (held[0] != held[1] or (alike and held[0] and _apart(mhz))):
        said = [
            (f"at {clock:.0f} MHz" if clock else "yes") if one else "no"
            for one, clock in zip(held, mhz, strict=True)
        ]
        yield Difference(name="locked clocks", base=said[0], other=said[1])
    mhz = [_memory_mhz(launches) for launches in (base, other)]
    if alike and _apart(mhz):
        first, second = (f"{clock:.0f} MHz" for clock in mhz)
        yield Difference(name="memory clock", base=first, other=second)


def _apart(mhz: Sequence[float]) -> bool:
    """Whether both are known, and not the same."""
    return min(mhz) > 0 and max(mhz) > (1 + OTHER_CLOCK) * min(mhz)


def _set(launches: Sequence[Launch]) -> bool | None:
    """Of most launches; None where nobody can say."""
    found = [held for launch in launches if (held := clocks_set(launch)) is not None]
    return 2 * sum(found) > len(found) if found else None


def _slowest_mhz(launches: Sequence[Launch]) -> float:
    """Of the device that ran at the lowest clock, not at its power limit; 0 where none is known."""
    found = [mhz for launch in launches if (mhz := slowest_clock(launch)) is not None]
    return statistics.median(found) if found else 0.0


def _memory_mhz(launches: Sequence[Launch]) -> float:
    """The highest that was seen of a device under load and unhindered; 0 where none was. Some
    lower it where the work needs less."""
    return max(
        (
            reading.memory_clock_mhz
            for launch in launches
            for reading in steady(launch)
            if reading.memory_clock_mhz
            and not {*THROTTLING, "power cap", "idle"} & {*(reading.reasons or ())}
        ),
        default=0.0,
    )
