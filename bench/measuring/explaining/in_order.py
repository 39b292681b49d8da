"""A step of a synchronous device explained: step, tape and ceilings in turns, then the cross-check.

In turns, so that what else runs here disturbs all of them alike. It is the last that a process
does with its job: replays train the weights.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bench.measuring.explaining import fresh
from bench.measuring.explaining.calls import Call, Key
from bench.measuring.explaining.ceilings import Meter
from bench.measuring.explaining.profiled import Profiler
from bench.measuring.explaining.replay import Player, Replay, operands, typical
from bench.measuring.explaining.rows import Rows
from bench.measuring.explaining.tape import Tape, recorded
from bench.measuring.explaining.timing import Stopwatch
from bench.measuring.explaining.undone import in_place
from bench.measuring.timing.blocks import collected
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
"""With a step under the profiler, whose time is not counted."""
LONGEST_ORDER = 20_000
"""Calls of a step of which each is written down with its time."""
SPARE = 0.95
"""Of the memory that is there, how much a replay may take."""


Disturbed = Callable[[], dict[Seen, str]]
"""Says what has disturbed the turns so far."""


def explained(
    job: Job,
    device: Device,
    clock: Callable[[], int] = time.perf_counter_ns,
    disturbed: Disturbed = dict,
    batch: int | None = None,
    seconds: float = TURNS_SECONDS,
) -> Explained | Unexplained:
    """The account of a job's step. The job is spoiled by it.

    clock: monotonic ns (CPU time is as good where one thread computes); batch: of the case, for
    the advice where memory is too small; seconds: for the turns, but for the profiler's part.
    """
    (found,) = together([job], device, clock, disturbed, batch, seconds)
    return found


def together(
    jobs: Sequence[Job],
    device: Device,
    clock: Callable[[], int] = time.perf_counter_ns,
    disturbed: Disturbed = dict,
    batch: int | None = None,
    seconds: float = TURNS_SECONDS,
) -> list[Explained | Unexplained]:
    """The accounts of several jobs' steps, which take turns with one another too."""
    each = [_Account(job, device, clock, batch) for job in jobs]
    played = [one for one in each if not one.lacking]
    with collected():
        for one in played:
            one.begin()
        spent, turn = 0.0, 0
        while played and (turn < LEAST_TURNS or (spent < seconds and turn < MOST_TURNS)):
            begin = time.perf_counter()
            order = played if turn % 2 == 0 else played[::-1]
            for one in order:
                one.turn(turn)
            spent += time.perf_counter() - begin
            for one in order if turn < PROFILED_TURNS else ():
                one.look()
            gc.collect()
            turn += 1
        causes = disturbed()
        return [one.found(causes) for one in each]


class _Account:
    """A job's step, its tape, its ceilings and its profile, as they are found turn by turn."""

    def __init__(
        self, job: Job, device: Device, clock: Callable[[], int], batch: int | None
    ) -> None:
        self._job, self._clock = job, clock
        self._profiler = Profiler(job, device)
        self._tape = taped(job, device, self._profiler)
        needed = self._tape.replay_bytes()
        self.lacking = too_little_memory(needed, device.capacity_bytes(), batch)
        """Why it is refused; empty where it is not."""
        self._player, self._stopwatch = Player(self._tape, clock), Stopwatch(device, clock)
        self._device = device
        self._steps: list[int] = []
        self._played: list[Replay] = []

    def begin(self) -> None:
        """What comes before the first turn."""
        self._meter = Meter(self._device, self._stopwatch, products(self._tape))
        self._player.play()  # a first one fetches what the allocator does not have yet

    def turn(self, number: int) -> None:
        """Each of the two after the other as often: what comes first finds caches that others have
        filled. Neither counts while it gets fresh memory."""
        for each in (self._step, self._play) if number % 2 == 0 else (self._play, self._step):
            each()
        self._meter.look()

    def look(self) -> None:
        """A step under the profiler; reading what it saw takes longer than all else of a turn."""
        self._profiler.look()

    def _step(self) -> None:
        self._steps.append(fresh.settled(self._stepped))

    def _play(self) -> None:
        self._played.append(fresh.settled(self._player.play))

    def _stepped(self) -> int:
        self._job.refill()
        start = self._clock()
        self._job.step()
        return max(1, self._clock() - start)

    def found(self, causes: dict[Seen, str]) -> Explained | Unexplained:
        """The account; causes: what disturbed its turns."""
        if self.lacking:
            return Unexplained(reason=self.lacking)
        tape, meter = self._tape, self._meter
        launch = self._player.launch_ns()
        taken = typical(self._played, self._steps)
        floor = self._player.floor_in_place_ns(taken)
        each = [ns - floor for ns in taken]
        rows = Rows(tape, each)
        alone = _alone(tape, rows, self._stopwatch, meter)
        profile, profiled = self._profiler.seen(tape)
        operators, order = rows.operators(alone)
        short = len(order) <= LONGEST_ORDER
        return Explained(
            how="tape in order",
            step_ns=tuple(self._steps),
            freeing_ns=statistics.median(one.freeing_ns for one in self._played),
            call_floor_ns=max(0.0, floor),
            operators=operators,
            ceilings=meter.ceilings(launch),
            profile=profile,
            profile_absent=self._profiler.absent,
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
    profiler.follow(tape)
    return tape


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
