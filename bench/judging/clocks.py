"""Clocks that somebody set, as a device's telemetry shows them: a figure by those is no chip's."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.observed import Reading, Telemetry
from bench.records.outcome import Measured
from bench.records.run import Launch
from bench.telemetry.flags import steady_readings

CLOCKS_SET = "CLOCKS_SET"
"""The flag of a case: a launch had its clocks held by a setting, as of locked ones."""


def clocks_set(launch: Launch) -> bool | None:
    """Whether a setting held the clocks of one of its devices in most of the steady readings; None
    where nobody can say."""
    known = [r for r in steady(launch) if r.reasons is not None and "idle" not in r.reasons]
    said = [2 * sum("user clocks" in (r.reasons or ()) for r in known) > len(known)] * bool(known)
    for share in launch.outcome.ranks if isinstance(launch.outcome, Measured) else ():
        if share.rank and (watched := share.watched) and watched.readings:
            said.append(2 * watched.reasons.get("user clocks", 0) > watched.readings)
    return any(said) if said else None


def steady(launch: Launch) -> Sequence[Reading]:
    """The readings of its steady blocks; none where nobody watched."""
    if not isinstance(launch.outcome, Measured) or not isinstance(launch.telemetry, Telemetry):
        return ()
    return steady_readings(launch.outcome, launch.telemetry)
