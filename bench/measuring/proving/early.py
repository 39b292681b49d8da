"""Whether a device that was waited for is done, and a short block takes as long by its steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from bench.measuring.proving.otherwise import AGAIN, MOST, SHORT_BLOCK, Otherwise
from bench.measuring.timing.blocks import refilled

REST, LEAST_REST = 0.2, 5e-3
"""Share of a block, and seconds, that may be left after a synchronization: a busy host adds to
both. A short block is as long at least where it is held to a long one."""


def complaints(otherwise: Otherwise, steps: int) -> Iterator[str]:
    """What was left to do when the device had been waited for, with figures, in each of some tries
    on one rank at least. steps: of a block as it is timed."""
    if not otherwise.fits("a block that is waited for", 4 * steps):
        return
    tries = []
    for _ in range(AGAIN):
        tries.append(_once(otherwise, steps))
        wrong = [said[-1] for said in zip(*tries, strict=True) if all(said)]
        if otherwise.edges.all(not wrong):
            break
    yield from wrong


def _once(otherwise: Otherwise, steps: int) -> tuple[str, str]:
    waited, rest = _until_read(otherwise, steps)
    early = rest > max(LEAST_REST, REST * (waited + rest))
    short = min(SHORT_BLOCK, steps)
    idle = otherwise.between(lambda: None)
    soon = otherwise.edges.quickest(round(1e9 * sum(_until_read(otherwise, short)))) / 1e9 - idle
    in_short, in_block = soon / short, (waited + rest) / steps
    fewer = soon > LEAST_REST and in_short >= MOST * in_block
    fewer &= not otherwise.device.queues_on_host
    return (
        f"synchronize returned before the work was done: after {waited:.2g} s of a block of "
        f"{steps} steps, and to read what it gave took {rest:.2g} s more"
        if early
        else "",
        f"a step takes {in_short:.2g} s in a block of {short} and {in_block:.2g} s in one of "
        f"{steps}: not every step of a block was done"
        if fewer
        else "",
    )


def _until_read(otherwise: Otherwise, steps: int) -> tuple[float, float]:
    """Seconds until a block was waited for, and those that to read it took more than again."""
    refilled(otherwise.job, otherwise.device)
    otherwise.device.synchronize()
    _read(otherwise)
    at = [otherwise.clock()]
    otherwise.steps(steps)
    for again in range(3):
        _read(otherwise) if again else otherwise.device.synchronize()
        at.append(otherwise.clock())
    whole, first, again = (b - a for a, b in itertools.pairwise(at))
    return whole / 1e9, max(0, first - again) / 1e9


def _read(otherwise: Otherwise) -> None:
    """A value of all that a step gives, of what it moves, and of what it read: where outputs lie on
    the host, that waits for the device."""
    import numpy as np

    job, kit = otherwise.job, otherwise.kit
    given = [*job.outputs().values(), job.weights()[-1:], job.inputs()[:1]]
    held = [x for some in given for x in some[:1] if math.prod(kit.shape(x))]
    if held:
        kit.picked(held, [np.zeros(1, dtype=np.int64)] * len(held))
