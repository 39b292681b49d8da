"""What a remedy that was tried came to, over the processes that tried it."""

from __future__ import annotations

import math
import statistics

from bench.records.explained import Tried

LEAST_GAIN = 0.01
"""Relative; of less nobody can say that it helped."""
CHANCE = 0.05
"""That as many turns or more would say so of equal steps; a sign test, of one side."""


def helped(tried: Tried) -> bool | None:
    """Whether the step got faster with it: by as much as anybody can see, and in more turns than
    chance gives of equal steps: 5 of 5, 9 of 10. None where the first is so and not the second:
    nobody knows."""
    if tried.absent:
        return False
    gain = 1 - statistics.median(tried.after_ns) / statistics.median(tried.before_ns)
    if gain < LEAST_GAIN:
        return False
    turns = len(tried.before_ns)
    as_many = sum(math.comb(turns, k) for k in range(_faster(tried), turns + 1))
    return True if as_many <= CHANCE * 2**turns else None


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
