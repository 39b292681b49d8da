"""Whether a step was computed, or known from what was seen before: by the time that it takes.

Of jobs of one process, on any device; by their inputs of torch's alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from bench.measuring.proving.otherwise import AGAIN, Otherwise
from bench.windowed_job import WindowedJob

KEPT = 1.5
"""A step that takes this many times as long on what never was, each time, was left out on what was
seen before."""
KEPT_SECONDS, MOST_KEPT = 0.02, 64
"""A block of these takes so long, by what a step takes, or has so many steps."""


def complaints(otherwise: Otherwise, torchs: bool = True) -> Iterator[str]:
    """What was not computed, but kept, with figures. Takes steps. torchs: whether the tensors are
    torch's, of which a row can be changed where it lies."""
    job, fits = otherwise.job, otherwise.fits
    if torchs and otherwise.repeats() and fits("a step on an input that never was", 12):
        yield from _known(otherwise)
    if isinstance(job, WindowedJob) and fits("steps behind a token that never was", 12):
        yield from _behind(otherwise, job)


def _known(otherwise: Otherwise) -> Iterator[str]:
    """On an input of which a row is changed each time, to what it never was, a step takes as long
    as on one that stays as it is, while the like is done beside it."""
    job, kit, steps = otherwise.job, otherwise.kit, _steps(otherwise)
    first = job.inputs()[0].detach()
    turned, numbers = set[int](), itertools.count(1)

    def block(where: Any, odd: set[int], order: Iterator[int]) -> float:
        def work() -> None:
            for number in itertools.islice(order, steps):
                row = ((number & -number).bit_length() - 1) % len(where)
                odd.symmetric_difference_update({row})
                kit.turn(where[row : row + 1])
                job.again()

        job.again()
        return otherwise.between(work) / steps

    def pair(number: int) -> tuple[float, float]:
        if _turned(number):
            changed = block(first, turned, numbers)
            return changed, block(beside, set(), itertools.count())
        same = block(beside, set(), itertools.count())
        return block(first, turned, numbers), same

    beside = first[:1].clone()
    try:
        found = _slower(pair)
    finally:
        for row in turned:
            kit.turn(first[row : row + 1])
    job.again()
    if found:
        yield (
            f"a step takes {found[0]:.2g} s on a changed input and {found[1]:.2g} s on one seen "
            "before, of which it was not computed, but kept"
        )


def _behind(otherwise: Otherwise, job: WindowedJob) -> Iterator[str]:
    """Where steps build on one another: those behind a token that never was, another each time,
    take as long as the same ones taken again. The same, as experts take longer of others."""
    steps = min(_steps(otherwise), job.begin())

    def block(number: int) -> float:
        job.begin(turned=number)
        return otherwise.between(lambda: otherwise.steps(steps)) / steps

    def pair(number: int) -> tuple[float, float]:
        anew = block(number)
        if _turned(number):
            block(number)
        return anew, block(number)

    found = _slower(pair)
    job.begin()
    if found:
        yield (
            f"a step takes {found[0]:.2g} s behind a token that never was and {found[1]:.2g} s "
            "behind one seen before: it was not computed, but kept"
        )


def _turned(number: int) -> bool:
    """Whether the blocks of a pair come the other way round, or further apart: by Thue and Morse,
    with no period. What takes turns with other processes may lose its core in step with a period,
    each time in the same block."""
    return bool(number.bit_count() % 2)


def _steps(otherwise: Otherwise) -> int:
    wanted = max(1, math.ceil(KEPT_SECONDS / max(otherwise.step_seconds, 1e-9)))
    return min(wanted, MOST_KEPT)


def _slower(pair: Callable[[int], tuple[float, float]]) -> tuple[float, float] | None:
    """The least of either, where the first took longer in each pair, numbered from 1."""
    found = list[tuple[float, float]]()
    while len(found) < AGAIN:
        found.append(pair(len(found) + 1))
        if found[-1][0] < KEPT * found[-1][1]:
            return None
    others, same = zip(*found, strict=True)
    return min(others), min(same)
