"""When the warm-up is over: the job is steady, or is waited for no longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench import stats
from bench.records.outcome import Block
from bench.records.run import Settings

WARMUP_SAMPLES = 60
"""After this many samples a job that is not steady is measured all the same, and flagged."""
LAUNCH_SHARE = 1 / 3
"""Of a launch's limit: a job of long steps goes on until there is enough to judge, if by then."""


class WarmedUp(NamedTuple):
    """How a warm-up ended."""

    steady_from: int
    """Index of the first block that counts."""
    steady: bool
    """Whether the job was seen to be steady; else a limit ended the warm-up."""


def warmed_up(blocks: Sequence[Block], settings: Settings, under_load: bool) -> WarmedUp | None:
    """How the warm-up ended with the last of these blocks; None while it goes on.

    under_load: whether the device needs its time under load.
    """
    minimum = settings.warmup_seconds if under_load else 0.0
    # The first step is a cold figure: one that compiles may outlast every limit by itself.
    elapsed, loaded = 0.0, 0
    for number, block in enumerate(blocks):
        loaded += elapsed < minimum
        elapsed += block.wall_ns / 1e9 if number else 0.0
    if elapsed >= minimum:
        start = stats.steady_start([b.sample_seconds for b in blocks], first=loaded)
        if start is not None:
            return WarmedUp(start, steady=True)
        # The limits count only after the time under load that the device needs anyway.
        if len(blocks) - loaded >= WARMUP_SAMPLES:
            return WarmedUp(len(blocks), steady=False)
    # Nor before there were two windows to judge, which then are a steady job's samples: unless
    # blocks like the last one would come too late.
    late, judged = elapsed - minimum, len(blocks) - max(loaded, stats.WARMUP_MINIMUM)
    lacking = 2 * stats.WINDOW - judged
    by_then = late + lacking * blocks[-1].wall_ns / 1e9
    enough = lacking <= 0 or by_then > LAUNCH_SHARE * settings.launch_limit_seconds
    if late >= settings.warmup_limit_seconds and judged > 0 and enough:
        return WarmedUp(len(blocks), steady=False)
    return None
