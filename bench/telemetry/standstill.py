"""Whether a launch's process, or its whole machine, stood still while it was timed.

A process that is stopped (SIGSTOP, a debugger, a freezer), swapped out, or on a machine that is
suspended neither computes nor waits for a core, and time goes on: its figure is of no device.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterator, Sequence

import msgspec

from bench.records.observed import Contention
from bench.records.outcome import Block, Measured
from bench.records.served import Served
from bench.telemetry.contention import at_once, causes

STOP_SECONDS = 0.5
"""A shorter stop is not told from what systems do to any process (the longest pause beside the
usual step in 480 published launches of two machines: 0.25 s, on a machine short of memory)."""
STOP_SHARE = 0.01
"""Of the timed wall time: a stop below this changes no figure by more than it."""
FAR = 10.0
"""Times the usual step, from which on a step is far beyond the rest."""
FAR_ACCOUNTED = 2.0
"""The same where it is known what the process computed and how long it waited for a core, and
neither is why."""
NEAR = 3
"""Steps of an engine on either side."""
IDLE_SHARE = 0.1
"""Of the time in which the one thread of a job stood: stopped in slices, each too short to see."""
SUSPENDED_SECONDS = 0.05
"""The two clocks are read one after the other: what is less may be that."""


def seen(
    steady: Sequence[Block],
    contention: Contention | None,
    cpu_ns: Sequence[int] | None = None,
    requests_ns: Sequence[int] = (),
    suspended_ns: int = 0,
    served: Served | None = None,
) -> str:
    """What stood still, with its figure; empty if nothing did, as far as is known.

    cpu_ns: CPU time of the process in each block, all threads; None where that is not known.
    contention: of the steady blocks; what is explained by other work on the host is no stop.
    suspended_ns: how far the clock that runs on in a suspended machine went beyond the one that
    does not. served: of a load, whose one block is no series; the engine's steps are.
    """
    if suspended_ns > SUSPENDED_SECONDS * 1e9:
        return f"the machine was suspended for {suspended_ns / 1e9:.2g} s"
    told = contention is not None and contention.waiting_seconds is not None
    far = FAR if cpu_ns is None or not told else FAR_ACCOUNTED
    found = (*_stops(steady, cpu_ns, far), *_engine_stops(served))
    stops = [seconds for seconds in found if seconds >= STOP_SECONDS]
    seconds = sum(stops) - _explained(contention)
    wall = sum(block.wall_ns for block in steady) / 1e9
    if seconds >= max(STOP_SECONDS, STOP_SHARE * wall):
        of = f"of {len(steady)} blocks" if served is None else "of its engine's steps"
        where = f"in {len(stops)} {of}"
        cpu = "" if cpu_ns is None else " without CPU time"
        return f"the process stood still for {seconds:.2g} s {where}{cpu}"
    if idle := _idle(steady, contention):
        return f"its one thread neither ran nor waited for a core for {idle:.0%} of the time"
    usual = _usual(requests_ns) if requests_ns else 0.0
    late = [_beyond(ns, usual) for ns in requests_ns]
    if sum(late) >= max(STOP_SECONDS, STOP_SHARE * sum(requests_ns) / 1e9):
        count = sum(one > 0 for one in late)
        return f"the process stood still for {sum(late):.2g} s in {count} of {len(late)} requests"
    return ""


def recorded(outcome: Measured) -> str:
    """The same of a record, which may be older than this was looked for; of several ranks of the
    first, whose steps it holds."""
    series = [block.step_cpu_ns for block in outcome.steady]
    cpu = None if None in series else [sum(one or ()) for one in series]
    steady = own(outcome.steady, outcome.ranks[0].busy_ns) if outcome.ranks else outcome.steady
    return seen(steady, outcome.contention, cpu, outcome.request_ns or (), served=outcome.served)


def own(blocks: Sequence[Block], busy_ns: Sequence[int]) -> list[Block]:
    """Blocks as long as this process's own time in each: the rest it waited for the slowest."""
    pairs = zip(blocks, busy_ns, strict=True)
    return [msgspec.structs.replace(block, wall_ns=busy) for block, busy in pairs]


def _stops(steady: Sequence[Block], cpu_ns: Sequence[int] | None, far: float) -> list[float]:
    """Seconds of each block in steps far beyond the rest, less what the process computed longer
    or waited for its input.
    """
    usual = _usual([block.wall_ns / len(block.step_ns) for block in steady])
    found = []
    own = _own_seconds(steady, cpu_ns)
    for block, more in zip(steady, own, strict=True):
        if block.wall_ns - usual * len(block.step_ns) < STOP_SECONDS * 1e9:
            found.append(0.0)  # as most; and a block may hold a hundred thousand steps
            continue
        # Behind the last event of a device that queues, the host's clock may go on alone.
        beside = max(block.wall_ns - sum(block.step_ns), 0)
        over = sum(
            (ns - of) / 1e9
            for ns, of in ((beside, 0), *((ns, usual) for ns in block.step_ns))
            if ns >= far * usual and (ns - of) / 1e9 >= STOP_SECONDS
        )
        found.append(max(over - more - (block.input_wait_ns or 0) / 1e9, 0.0))
    return found


def _own_seconds(steady: Sequence[Block], cpu_ns: Sequence[int] | None) -> list[float]:
    """Wall seconds of each block in which the process computed more than it usually does."""
    if cpu_ns is None:
        return [0.0] * len(steady)
    usual = statistics.median(cpu / len(b.step_ns) for cpu, b in zip(cpu_ns, steady, strict=True))
    threads = statistics.median(cpu / b.wall_ns for cpu, b in zip(cpu_ns, steady, strict=True))
    return [
        max(cpu - usual * len(block.step_ns), 0.0) / max(threads, 1.0) / 1e9
        for cpu, block in zip(cpu_ns, steady, strict=True)
    ]


def _idle(steady: Sequence[Block], contention: Contention | None) -> float:
    """Of a job with one thread, which never sleeps by itself: the share of the time in which it did
    neither; 0 where that is little, or its waiting for a core or for inputs is not known.
    """
    if contention is None or contention.waiting_seconds is None or contention.helper_seconds:
        return 0.0
    if contention.idle_share is None or any(block.input_wait_ns for block in steady):
        return 0.0
    idle = contention.idle_share - _explained(contention) / contention.elapsed_seconds
    return idle if idle > IDLE_SHARE else 0.0


def _explained(contention: Contention | None) -> float:
    """Seconds in which other work, the container's limit or the machine's host held the job.

    What limit and host took of one core may hold all of a job, where it is told of as a cause. What
    is too little for that is taken as of all cores alike: added up over many it would hide a stop.
    """
    if contention is None:
        return 0.0
    told = causes(contention)
    return (
        (contention.waited_for_others_seconds or 0.0)
        + (contention.throttled_seconds or 0.0) / (1 if "QUOTA" in told else at_once(contention))
        + (contention.steal_seconds or 0.0) / (1 if "CONTENDED" in told else contention.cores)
    )


def _beyond(ns: int, usual: float) -> float:
    """Seconds of a request beyond the usual one, where it is far beyond; else 0."""
    over = (ns - usual) / 1e9
    return over if ns >= FAR * usual and over >= STOP_SECONDS else 0.0


def _engine_stops(served: Served | None) -> Iterator[float]:
    """Seconds of each step of an engine in the window, beyond those next to it of its kind: with a
    part of a prompt, or without. How far it looks back in its texts changes more than one of them.

    Counted from when it could begin: without work, when the next request is due.
    """
    if served is None or served.steps is None or (window := served.window) is None:
        return
    kinds: tuple[list[int], list[int]] = ([], [])
    due, steps, ended = sorted(one.due_ns for one in served.requests), served.steps, 0
    for start, wall, rows in zip(steps.start_ns, steps.wall_ns, steps.prompt_rows, strict=True):
        at = bisect.bisect(due, ended)
        begun, ended = min([start, *due[at : at + 1]]), start + wall
        if window.holds(begun):
            kinds[rows > 0].append(ended - begun)
    for kind in kinds:
        for k, ns in enumerate(kind):
            near = kind[max(k - NEAR, 0) : k] + kind[k + 1 : k + 1 + NEAR]
            if ns >= STOP_SECONDS * 1e9 and len(near) >= NEAR:
                yield _beyond(ns, max(near))


def _usual(series: Sequence[float]) -> float:
    """The lower quartile: a stop in more than half of a launch's blocks does not move it."""
    return sorted(series)[len(series) // 4]
