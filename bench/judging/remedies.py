"""What a remedy that was tried came to, over the processes that tried it."""

from __future__ import annotations

import statistics

from bench.records.explained import Tried

LEAST_GAIN = 0.01
"""Relative; of less nobody can say that it helped."""


def helped(tried: Tried) -> bool:
    """Whether the step got faster with it: every pair of turns but one in ten says so, and by as
    much as anybody can see."""
    if tried.absent:
        return False
    pairs = zip(tried.before_ns, tried.after_ns, strict=True)
    faster = sum(after < before for before, after in pairs)
    gain = 1 - statistics.median(tried.after_ns) / statistics.median(tried.before_ns)
    return gain >= LEAST_GAIN and faster >= 0.9 * len(tried.before_ns)


def said(tried: Tried) -> str:
    """`tried memory format channels_last: 261 -> 233 ms, held`."""
    if tried.absent:
        return f"not tried: {tried.remedy}: {tried.absent}"
    before, after = (statistics.median(x) / 1e6 for x in (tried.before_ns, tried.after_ns))
    return (
        f"tried {tried.remedy}: {before:.4g} -> {after:.4g} ms, "
        f"{'held' if helped(tried) else 'did not help'}"
    )
