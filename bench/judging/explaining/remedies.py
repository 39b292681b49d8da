"""What a remedy that was tried came to, in the one process that tried it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from bench.records.explained import Tried

LEAST_GAIN = 0.01
"""Relative; of less nobody can say that it helped."""
CHANCE = 0.05
"""That as many turns or more would say so of any remedy of a case, were all steps equal; a sign
test, of one side, by Bonferroni."""


def measured(tried: Sequence[Tried]) -> int:
    """How many of them could be tried."""
    return sum(not one.absent for one in tried)


def helped(tried: Tried, of: int = 1) -> bool | None:
    """Whether the step got faster with it: by as much as anybody can see, and in more turns than
    chance gives of equal steps: 9 of 10, or 10 of 10 where more than four were tried. None where
    the first is so and not the second: nobody knows.

    of: how many remedies of the case were measured, this one included.
    """
    if tried.absent:
        return False
    gain = 1 - statistics.median(tried.after_ns) / statistics.median(tried.before_ns)
    if gain < LEAST_GAIN:
        return False
    turns = len(tried.before_ns)
    as_many = sum(math.comb(turns, k) for k in range(_faster(tried), turns + 1))
    return True if as_many * of <= CHANCE * 2**turns else None


def _faster(tried: Tried) -> int:
    """Pairs of turns in which the step with it was the faster one."""
    return sum(a < b for b, a in zip(tried.before_ns, tried.after_ns, strict=True))


def said(tried: Tried, of: int = 1) -> str:
    """`tried memory format channels_last: 261 -> 233 ms, held in one launch`.

    of: see `helped`.
    """
    if tried.absent:
        return f"not tried: {tried.remedy}: {tried.absent}"
    before, after = (statistics.median(x) / 1e6 for x in (tried.before_ns, tried.after_ns))
    unsure = f"not sure: faster in {_faster(tried)} of {len(tried.before_ns)} turns"
    found = {True: "held in one launch", False: "did not help", None: unsure}[helped(tried, of)]
    return f"tried {tried.remedy}: {before:.4g} -> {after:.4g} ms, {found}"
