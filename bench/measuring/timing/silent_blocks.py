"""Blocks without communication, in pairs with real ones, once all else of a launch is known.

They leave weights that no run would have: nothing may look at the job afterwards. A rank that dies
or hangs here ends its launch as it would in any block.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bench.measuring.ranks.edges import Edges
from bench.measuring.ranks.hush import Hush
from bench.measuring.timing.blocks import BlockTimer, collected
from bench.records.reason import of_error, reason
from bench.records.silent import Silent

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.records.outcome import Block
    from bench.records.run import Settings
    from bench.workload import Job

PAIRS = 8
LEAST_PAIRS = 2
"""However long a step is."""
SHARE = 0.5
"""Of the time that the steady blocks may take: after it no further pair is begun."""
MOST_SECONDS = 30.0
"""However long those may take: a short launch whose report takes two minutes may be ended as one
that hangs, and each block has a step before it."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    silent: Silent | None = None
    own_ns: tuple[int, ...] = ()
    """Of each silent block what this rank took by itself."""
    absent: str = ""
    """Why there are none; the same on all ranks, but for what a library says."""


def taken(
    job: Job,
    device: Device,
    settings: Settings,
    steady: tuple[Block, ...],
    hush: Hush,
    edges: Edges,
    progress: Callable[[], None],
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Taken:
    """Pairs of blocks with as many steps as the steady ones; every rank must come.

    steady: the launch's; progress: called between blocks; clock: ns. What a block takes is the
    slowest rank's, so that all ranks take as many pairs.
    """
    steps = len(steady[-1].step_ns)
    step_seconds = statistics.median(block.sample_seconds for block in steady)
    least_seconds = 4 * LEAST_PAIRS * steps * step_seconds
    limit_seconds = min(SHARE * settings.steady_limit_seconds, MOST_SECONDS)
    if least_seconds > MOST_SECONDS:
        return Taken(absent=f"{LEAST_PAIRS} pairs of blocks would take {least_seconds:.0f} s")
    pairs = Pairs(job, device, BlockTimer(job, device, settings, clock, None, edges), hush)
    with collected():
        if absent := tried(pairs, edges):
            return Taken(absent=absent)
        found: dict[bool, list[int]] = {False: [], True: []}
        own: list[int] = []
        for number in range(PAIRS):
            spent = sum(map(sum, found.values())) / 1e9
            if number >= LEAST_PAIRS and spent > limit_seconds:
                break
            # Real, silent, silent, real: whatever drifts evenly is the same for both.
            for silent in (False, True) if number % 2 == 0 else (True, False):
                progress()
                wall_ns, own_ns = pairs.block(steps, silent)
                found[silent].append(wall_ns)
                own += [own_ns] if silent else []
        if not edges.all(math.isfinite(job.witness())):
            return Taken(absent="what the silent steps computed is not finite")
    made = Silent(steps=steps, real_ns=tuple(found[False]), silent_ns=tuple(found[True]))
    return Taken(silent=made, own_ns=tuple(own))


class Pairs(NamedTuple):
    """Takes blocks of one job, real ones and silent ones."""

    job: Job
    device: Device
    timer: BlockTimer
    hush: Hush

    def silent_step(self) -> None:
        """One, by itself."""
        with self.hush.silence():
            self.job.step()
            self.device.synchronize()

    def block(self, steps: int, silent: bool) -> tuple[int, int]:
        """The slowest rank's nanoseconds, and this one's.

        After a step of its own kind: what the other kind left in caches and allocators is gone.
        """
        if silent:
            self.silent_step()
        else:
            self.job.step()
            self.device.synchronize()
        gc.collect()
        within = self.hush.silence() if silent else contextlib.nullcontext()
        block = self.timer.block(steps, within)
        return block.wall_ns, self.timer.busy_ns[-1]


def tried(pairs: Pairs, edges: Edges) -> str:
    """Why a silent step cannot be taken; empty where every rank has taken one.

    One in which nothing was hushed sends by ways that nobody knows.
    """
    why = ""
    try:
        pairs.silent_step()
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no silent step
        why = f"a step without communication fails: {reason(of_error(error))}"
    else:
        if not pairs.hush.calls:
            why = "none of its collectives could be kept from running"
    if edges.all(not why):
        return ""
    return why or "another rank could not take a step without communication"
