"""Whether every step of a block is done, of a device that queues.

By the time that a step takes otherwise: alone, or in a block of which each output is read, so that
what computes only what somebody reads computes all. And by what comes of steps that are told from
one another by their inputs, or by the tokens that they are given. Of a host no times are asked:
while it is at work for others a step alone may wait for a core that a block keeps; where a step is
done when its call returns, nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bench.measuring.proving.otherwise import MOST, MOST_SECONDS, SHORT_BLOCK, Otherwise

ALONE_SECONDS = 2e-4
"""Shorter steps may take longer alone by rights, of which the most part is to queue them."""
SHORT_SECONDS = 2e-3
"""Steps that are shorter alone are looked at in a block that is read."""
TRIES = 40
"""Before a step is said to be left out, both take so many turns: other work may have slowed the
first, and slows both. Of ten, all were held up now and then where three launches shared two cores.
"""
BACK_TO_BACK = "steps back to back by what they read"
READ_SECONDS, MOST_READ = 1e-3, 256
"""A block that is read takes so long, by what a step takes in a block, or has so many steps."""
ALIKE = 0.01
"""Sums of outputs that are this near to one another may differ by rounding."""


def complaints(otherwise: Otherwise) -> Iterator[str]:
    """What was not done, with figures. Takes steps."""
    job = otherwise.job
    if otherwise.device.queues_on_host:
        if otherwise.repeats():
            yield from _untrue(otherwise)
        elif job.training() is None and not job.inputs() and job.force(True):
            yield from _untrue(otherwise, _given)
            job.force(False)
        return
    alone, block = _turns(
        otherwise, otherwise.job.step, 1, lambda: None, SHORT_BLOCK, ALONE_SECONDS
    )
    if block is not None:
        yield (
            f"a step takes {alone:.2g} s alone and {block:.2g} s in a block: not every step of a "
            "block was done"
        )
    elif alone < SHORT_SECONDS and otherwise.repeats():
        yield from _unread(otherwise)
        yield from _untrue(otherwise)


def _turns(
    otherwise: Otherwise,
    work: Callable[[], object],
    count: int,
    beside: Callable[[], object],
    steps: int,
    least: float,
) -> tuple[float, float | None]:
    """A step of work; and one in a block of so many, where the first takes too long.

    count: steps of work; beside: what work does besides them; least: seconds below which a step
    does not take too long.
    """
    between, usual = otherwise.between, otherwise.step_seconds
    taken, extra, blocks, waits = [between(work)], [between(beside)], list[float](), list[float]()
    for _ in range(TRIES):
        if min(taken) / count < max(least, MOST * usual):
            return min(taken) / count, None
        blocks.append(between(lambda: otherwise.steps(steps)))
        waits.append(between(lambda: None))
        taken.append(between(work))
        extra.append(between(beside))
    # The least of each, and only now: any of them may have been held up.
    seconds = (min(taken) - min(extra)) / count
    in_block = max(usual, (min(blocks) - min(waits)) / steps)
    return seconds, in_block if seconds >= max(least, MOST * in_block) else None


def _unread(otherwise: Otherwise) -> Iterator[str]:
    """Where nobody reads its output, a step may be left out."""
    wanted = math.ceil(READ_SECONDS / max(otherwise.step_seconds, 1e-9))
    steps = min(max(wanted, SHORT_BLOCK), MOST_READ)

    def read() -> None:
        for _ in range(steps):
            otherwise.job.step()
            otherwise.total()

    def reading() -> None:
        for _ in range(steps):
            otherwise.total()

    taken, block = _turns(otherwise, read, steps, reading, steps, 0.0)
    if block is not None:
        yield (
            f"a step takes {taken:.2g} s in a block of which every output is read, and "
            f"{block:.2g} s in one of which none is: not every step of a block was done"
        )


class _Outcome(NamedTuple):
    """What a step gave."""

    key: object
    """Which input it read, and whether that was changed."""
    total: Any


def _pairs(otherwise: Otherwise, steps: int, waits: bool) -> list[_Outcome]:
    """Each second one of a changed input."""
    job, kit, found = otherwise.job, otherwise.kit, list[_Outcome]()
    for number in range(steps):
        changed = number % 2 == 1
        if changed:  # the input of the step before
            kit.turn(job.inputs()[0])
            job.again()
        else:
            job.step()
        if waits:
            otherwise.device.synchronize()
        first = job.inputs()[0]
        found.append(_Outcome((id(first), changed), otherwise.total()))
        if changed:
            kit.turn(first)
    return found


def _given(otherwise: Otherwise, steps: int, waits: bool) -> list[_Outcome]:
    """Each builds on the one before, from the first given token on."""
    otherwise.job.force(True)
    found = []
    for number in range(steps):
        otherwise.job.step()
        if waits:
            otherwise.device.synchronize()
        found.append(_Outcome(number, otherwise.total()))
    return found


def _untrue(
    otherwise: Otherwise, taken: Callable[[Otherwise, int, bool], list[_Outcome]] = _pairs
) -> Iterator[str]:
    """In a block, steps give what they give apart."""
    longest = otherwise.edges.slowest(round(1e9 * min(otherwise.step_seconds, MOST_SECONDS)))
    steps = min(2 * SHORT_BLOCK, int(1e9 * MOST_SECONDS / 12 / max(longest, 1)))
    if steps < 2:
        otherwise.skipped.append(BACK_TO_BACK)
        return
    if not otherwise.fits(BACK_TO_BACK, 2 * steps):
        return
    apart = {key: float(total) for key, total in taken(otherwise, steps, True)}
    together = taken(otherwise, steps, False)
    otherwise.device.synchronize()
    told = Told(apart)
    wrong = sum(told.of_another(key, float(total)) for key, total in together)
    if wrong:
        yield (
            f"{wrong} of {len(together)} steps of a block gave what comes of another input: "
            "not every step of a block was done"
        )


class Told:
    """Sums by input, as far as they tell inputs from one another."""

    def __init__(self, sums: Mapping[object, float]) -> None:
        self._sums = sums
        spread = max(sums.values()) - min(sums.values())
        self._apart = spread / MOST if spread > ALIKE * max(map(abs, sums.values())) else math.inf

    def of_another(self, key: object, total: float) -> bool:
        """Whether a sum is far from its own input's, and far nearer to another's."""
        off = abs(total - self._sums.get(key, total))
        others = (abs(total - one) for other, one in self._sums.items() if other != key)
        return off > self._apart and MOST * min(others, default=math.inf) < off
