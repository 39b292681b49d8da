"""A step of a synchronous device explained: step, tape and ceilings in turns, then the cross-check.

In turns, so that what else runs here disturbs all of them alike. It is the last that a process
does with its job: replays train the weights.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from bench.measuring.explaining.ceilings import Meter
from bench.measuring.explaining.profiled import Profiler
from bench.measuring.explaining.replay import Player, operands
from bench.measuring.explaining.rows import Key, Rows
from bench.measuring.explaining.tape import Call, Tape, recorded
from bench.measuring.explaining.timing import Stopwatch
from bench.measuring.explaining.undone import in_place
from bench.records.explained import Explained, Seen, Unexplained

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

LEAST_TURNS, MOST_TURNS = 5, 20
TURNS_SECONDS = 8.0
"""After which no turn is begun, once there are `LEAST_TURNS`."""
ALONE_SECONDS = 0.05
"""For one shape by itself."""
MOST_ALONE = 12
"""Shapes of products that are measured by themselves: those that took longest."""
PROFILED_TURNS = 6
"""With a step under the profiler: to read what it saw takes longer than the step."""
LONGEST_ORDER = 20_000
"""Calls of a step of which each is written down with its time."""
SPARE = 0.95
"""Of the memory that is there, how much a replay may take."""


class Turns(NamedTuple):
    """What the turns took, in ns."""

    steps: list[int]
    calls: list[list[int]]
    freeing: list[int]


class Watcher:
    """What is told of where it is, and what is asked of the host meanwhile; here nobody."""

    def turn(self) -> None:
        """A turn has ended."""

    def causes(self) -> dict[Seen, str]:
        """What disturbed the turns so far."""
        return {}


def explained(
    job: Job,
    device: Device,
    clock: Callable[[], int] = time.perf_counter_ns,
    watcher: Watcher | None = None,
    batch: int | None = None,
    seconds: float = TURNS_SECONDS,
) -> Explained | Unexplained:
    """The account of a job's step. The job is spoiled by it.

    clock: monotonic ns (CPU time is as good where one thread computes); batch: of the case, for
    the advice where memory is too small; seconds: for the turns.
    """
    watcher = watcher or Watcher()
    profiler = Profiler(job, device)
    tape = taped(job, device, profiler)
    if lacking := too_little_memory(tape.replay_bytes(), device.capacity_bytes(), batch):
        return Unexplained(reason=lacking)
    player, stopwatch = Player(tape, clock), Stopwatch(device, clock)
    with collected():
        meter = Meter(device, stopwatch, products(tape))
        turns = _turns(job, player, meter, profiler, clock, watcher, seconds)
        launch, causes = player.launch_ns(), watcher.causes()
        taken = [statistics.median(column) for column in zip(*turns.calls, strict=True)]
        floor = player.floor_in_place_ns(taken)
        each = [ns - floor for ns in taken]
        rows = Rows(tape, each)
        alone = _alone(tape, rows, stopwatch, meter)
        profile, profiled = profiler.seen(tape)
    found, order = rows.operators(alone)
    short = len(order) <= LONGEST_ORDER
    return Explained(
        how="tape in order",
        step_ns=tuple(turns.steps),
        freeing_ns=statistics.median(turns.freeing),
        call_floor_ns=max(0.0, floor),
        operators=found,
        ceilings=meter.ceilings(launch),
        profile=profile,
        profile_absent=profiler.absent,
        profiled_operators=profiled,
        causes=causes,
        notes=tape.notes,
        order=order if short else (),
        call_ns=tuple(max(0, round(ns)) for ns in each) if short else (),
    )


def taped(job: Job, device: Device, profiler: Profiler) -> Tape:
    """A step of a job, with what recording does to it taken back as another showed it."""
    profiler.look()
    job.refill()
    tape = recorded(job.step, device.torch_device.type)
    device.synchronize()
    in_place(tape, profiler.names(tape))
    return tape


def _turns(
    job: Job,
    player: Player,
    meter: Meter,
    profiler: Profiler,
    clock: Callable[[], int],
    watcher: Watcher,
    seconds: float,
) -> Turns:
    player.play()  # a first one fetches what the allocator does not have yet
    steps: list[int] = []
    calls: list[list[int]] = []
    freeing: list[int] = []

    def step() -> None:
        job.refill()
        start = clock()
        job.step()
        steps.append(max(1, clock() - start))

    def play() -> None:
        played = player.play()
        calls.append(played.call_ns)
        freeing.append(played.freeing_ns)

    begin = time.perf_counter()
    while len(steps) < LEAST_TURNS or (
        time.perf_counter() - begin < seconds and len(steps) < MOST_TURNS
    ):
        # Each after the other as often: what comes first finds caches that others have filled.
        for each in (step, play) if len(steps) % 2 == 0 else (play, step):
            each()
        meter.look()
        if len(steps) < PROFILED_TURNS:
            profiler.look()
        gc.collect()
        watcher.turn()
    return Turns(steps, calls, freeing)


def _alone(tape: Tape, rows: Rows, stopwatch: Stopwatch, meter: Meter) -> dict[Key, float]:
    """FLOP/s of the products that took longest, each by itself on operands that stay in the cache.

    What one reaches is a ceiling of its kind, as a list's shapes are.
    """
    found: dict[Key, float] = {}
    heaviest = sorted(rows.ns, key=lambda key: -rows.ns[key])
    for key in [k for k in heaviest if rows.first(k).flop][:MOST_ALONE]:
        call = rows.first(key)
        try:
            taken = alone_ns(tape, call, stopwatch)
        except (RuntimeError, IndexError):  # its operands cannot be made up
            continue
        found[key] = call.flop / taken * 1e9
        meter.note(ceiling_of(call), found[key])
    return found


def alone_ns(tape: Tape, call: Call, stopwatch: Stopwatch) -> float:
    """ns of a call by itself, its operands hot."""
    import torch

    args, kwargs = operands(tape, call, stopwatch.device.torch_device)
    with torch.no_grad():
        return stopwatch.best_ns(lambda: call.func(*args, **kwargs), ALONE_SECONDS)


def ceiling_of(call: Call) -> str:
    """The name of the ceiling of a call's arithmetic: attention is made of products."""
    return f"{'convolution' if call.kind == 'convolution' else 'matmul'} {call.precision}"


def products(tape: Tape) -> set[str]:
    """Of which kinds and precisions a step's products are."""
    return {ceiling_of(call) for call in tape.calls if call.flop}


def too_little_memory(needed: int, available: int | None, batch: int | None) -> str:
    """Why a replay is refused, with a batch that would fit; empty where it is not.

    needed: bytes beside the job's own; available: what is left, None where nobody says.
    """
    from bench import units

    if available is None or needed <= available * SPARE:
        return ""
    text = (
        f"tape and replay need {units.memory(needed)} beside the job, "
        f"{units.memory(available)} are there"
    )
    if batch is None or batch < 2:
        return f"{text}: explain it where there is more memory"
    fits = 2 ** int(max(1.0, batch * available * SPARE / needed)).bit_length() // 2
    return f"{text}: explain it at batch_size = {min(fits, batch - 1)}"


@contextmanager
def collected() -> Iterator[None]:
    """Garbage collection is a pause of the harness's language, and no part of a step. Between
    turns it looks at what is newer than the tape."""
    gc.collect()
    gc.freeze()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
