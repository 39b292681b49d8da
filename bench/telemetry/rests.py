"""Whether a launch's device rested between its blocks (`bench.workload.Burst`)."""

from __future__ import annotations

from bench.records.outcome import Measured

REST_SECONDS = 1.0
"""Between two steady blocks, in the mean: who rests for so long is read at rest, so that neither
its clock nor its power is that of the work."""


def rests(outcome: Measured) -> bool:
    """By when its blocks began; false where the record does not say."""
    first, last = outcome.steady[0], outcome.steady[-1]
    if first.start_ns is None or last.start_ns is None or len(outcome.steady) < 2:
        return False
    elapsed = (last.start_ns - first.start_ns + last.wall_ns) / 1e9
    return elapsed - outcome.steady_seconds >= REST_SECONDS * (len(outcome.steady) - 1)
