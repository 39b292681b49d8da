"""What a remedy that was tried came to, over the processes that tried it."""

from __future__ import annotations

import statistics

from bench.records.explained import Tried

LEAST_GAIN = 0.01
"""Relative; of less nobody can say that it helped."""


def helped(tried: Tried) -> bool | None:
    """Whether the step got faster with it: by as much as anybody can see, and every pair of turns
    but one in ten says so. None where the first is so and not the second: nobody knows."""
    if tried.absent:
        return False
    gain = 1 - statistics.median(tried.after_ns) / statistics.median(tried.before_ns)
    if gain < LEAST_GAIN:
        return False
    return True if _faster(tried) >= 0.9 * len(tried.before_ns) else None


def _faster(tried: Tried) -> int:
    """Pairs of turns in which the step with it was the faster one."""
    return sum(a < b for b, a in zip(tried.before_ns, tried.after_ns, strict=True))


def said(tried: Tried) -> str:
    """`tried memory format channels_last: 261 -> 233 ms, held`."""
    if tried.absent:
        return f"not tried: {tried.remedy}: {tried.absent}"
    before, after = (statistics.median(x) / 1e6 for x in (tried.before_ns, tried.after_ns))
    unsure = f"not sure: faster in {_faster(tried)} of {len(tried.before_ns)} turns"
    found = {True: "held", False: "did not help", None: unsure}[helped(tried)]
    return f"tried {tried.remedy}: {before:.4g} -> {after:.4g} ms, {found}"
