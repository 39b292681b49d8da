"""The measuring engine: first step, warm-up to a steady state, then blocks of steps.

Within a block nothing waits for the device: it is synchronized before the first step and after the
last one, so that queueing overlaps with work as it does in a real job. A *timing sample* is a
block's wall time divided by its steps. On synchronous devices (CPUs) a step is over when its call
returns, so the host clock also times every step; on others a device event is recorded after each
step, without synchronizing, and read after the block.

The clock and the usage counters are passed in, so tests script them and get exact numbers.
"""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from bench import stats
from bench.records.environment import usable_cores
from bench.records.observed import Contention
from bench.records.outcome import Block, Flag, Phase
from bench.records.run import Settings
from bench.telemetry import contention
from bench.telemetry.contention import Counters

if TYPE_CHECKING:
    from bench.backend import Device

SYNC_COST_FACTOR = 1000
"""A block lasts at least this many times the cost of reading the clock and synchronizing."""
WARMUP_SAMPLES = 60
"""After this many samples a job that is not steady is measured all the same, and flagged."""
HOST_GAP_LIMIT = 0.02
"""Relative difference of device-event time and wall time above which a launch is flagged."""
SHORT_STEP_SECONDS = 1e-4
"""Where a block holds so many steps that they are shorter than this, the host's usage is not read
at each of them."""
BLOCK_STEPS = 100_000
"""Most steps of a block: bounds the memory of a launch whose step takes next to nothing."""
QUEUED_STEPS = 5
"""Steps whose queueing is timed by itself."""
REQUESTS = 400
"""Requests of the latency pass: enough for a 99th percentile (368)."""

Listener = Callable[[Phase, list[Block]], None]
"""Told between blocks where the launch is and what it has."""

Usage = Callable[[], tuple[float, int]]
"""CPU seconds of the process so far, all threads, and its involuntary context switches."""


class Steps(Protocol):
    """What the engine needs of a job."""

    def step(self) -> None:
        """Queues one step."""

    def witness(self) -> float:
        """A number computed by the last step."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """What one launch measured, before it is joined with its numerics and its work."""

    started_ns: int
    """When the first step began, by the engine's clock."""
    first_step_ns: int
    warmup: tuple[Block, ...]
    steady: tuple[Block, ...]
    step_clock: Literal["host", "device event"]
    witness: tuple[float, float]
    flags: tuple[Flag, ...]
    request_ns: tuple[int, ...] | None
    queue_ns: tuple[int, ...] | None
    contention: Contention | None = None
    """What the host did beside the steady blocks, on devices whose work the host does."""


def process_usage() -> Usage | None:
    """The host's usage counters; None where there are none (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    getrusage, who = resource.getrusage, resource.RUSAGE_SELF

    def usage() -> tuple[float, int]:
        now = getrusage(who)
        return now.ru_utime + now.ru_stime, now.ru_nivcsw

    return usage


class Engine:
    """Measures one job on one device."""

    def __init__(
        self,
        job: Steps,
        device: Device,
        settings: Settings,
        clock: Callable[[], int] = time.perf_counter_ns,
        usage: Usage | None = None,
        host: Callable[[], Counters] | None = None,
        threads: int = 1,
    ) -> None:
        """clock: monotonic ns; usage, host: counters of the process and of the host, for
        synchronous devices; threads: how many the job computes with.
        """
        self.job = job
        self.device = device
        self.settings = settings
        self.clock = clock
        self.usage = usage if device.synchronous else None
        self.host = host if device.synchronous else None
        self.threads = threads
        self._marks: list[Counters] = []
        self._sync_cost_ns: int | None = None
        self._started_ns: int | None = None

    def measure(
        self,
        samples: int = stats.MINIMUM_SAMPLES,
        latency: bool = False,
        progress: Listener = lambda phase, blocks: None,
    ) -> Series:
        """Runs the whole launch.

        samples: steady samples to take (10 to 200); latency: whether requests are timed one by one
        on a device that is not synchronous; progress: called between blocks, never inside one.
        """
        # Garbage collection is a pause of the harness's language, not work of the step: it is off
        # within a block. Between blocks it looks at what is newer than the job, so that a step
        # that leaves cycles behind does not fill the memory.
        gc.collect()
        gc.freeze()
        enabled = gc.isenabled()
        gc.disable()
        try:
            return self._measure(samples, latency, progress)
        finally:
            gc.unfreeze()
            if enabled:
                gc.enable()

    def _measure(self, samples: int, latency: bool, progress: Listener) -> Series:
        blocks = [self.block(1)]
        first_witness = self.job.witness()
        start = self._warm_up(blocks, progress)
        steady_from = len(blocks) if start is None else start
        limit_ns = self.settings.steady_limit_seconds * 1e9
        size = self._block_steps(blocks)
        steady = blocks[steady_from:]
        if len(steady) >= samples:  # nothing is left to take, but witnesses and requests
            progress("measure", steady)
        while len(steady) < samples:
            if len(steady) >= stats.MINIMUM_SAMPLES and sum(b.wall_ns for b in steady) >= limit_ns:
                break
            progress("measure", steady)
            self._append(steady, size)
        beside = self._contention(steady_from, steady)
        requests = self._requests() if latency and not self.device.synchronous else None
        queueing = None if self.device.synchronous else self._queueing()
        return Series(
            started_ns=self._started_ns or 0,
            first_step_ns=blocks[0].wall_ns,
            warmup=tuple(blocks[:steady_from]),
            steady=tuple(steady),
            step_clock="host" if self.device.synchronous else "device event",
            witness=(first_witness, self.job.witness()),
            flags=self._flags(start, steady),
            request_ns=requests,
            queue_ns=queueing,
            contention=beside,
        )

    def _contention(self, first: int, steady: list[Block]) -> Contention | None:
        """What the host's counters rose by since before that block; the launch's first has none."""
        if self.host is None:
            return None
        before = self._marks[max(first - 1, 0)]
        return contention.over(before, self.host(), steady, self.threads, usable_cores())

    def _warm_up(self, blocks: list[Block], progress: Listener) -> int | None:
        """Runs until the job is steady; the index of the first steady block, or None.

        The first three blocks are single steps: from the second on they size the block.
        """
        minimum = self.settings.warmup_seconds if self.device.needs_warmup_under_load else 0.0
        while True:
            progress("warm-up", blocks)
            if len(blocks) == stats.WARMUP_MINIMUM:
                # From here on: what the first steps alone allocate (algorithm search) is not it.
                self.device.reset_peak_memory()
            size = self._block_steps(blocks) if len(blocks) >= stats.WARMUP_MINIMUM else 1
            self._append(blocks, size)
            # The first step is a cold figure: one that compiles may outlast every limit by itself.
            elapsed, loaded = 0.0, 0
            for number, block in enumerate(blocks):
                loaded += elapsed < minimum
                elapsed += block.wall_ns / 1e9 if number else 0.0
            if elapsed >= minimum:
                start = stats.steady_start([b.sample_seconds for b in blocks], first=loaded)
                if start is not None:
                    return start
                # The limits count only after the time under load that the device needs anyway.
                if len(blocks) - loaded >= WARMUP_SAMPLES:
                    return None
            if elapsed - minimum >= self.settings.warmup_limit_seconds:
                return None

    def _append(self, blocks: list[Block], steps: int) -> None:
        gc.collect()
        if self.host is not None:
            self._marks.append(self.host())
        blocks.append(self.block(steps))

    def _block_steps(self, blocks: list[Block]) -> int:
        """Steps of the next block, from the shortest step seen lately (the first one left out)."""
        if self.settings.timing == "step":
            return 1
        recent = blocks[1:][-stats.WINDOW :]
        step_ns = min(b.wall_ns / len(b.step_ns) for b in recent)
        if self._sync_cost_ns is None:
            self._sync_cost_ns = self.sync_cost_ns()
        least_ns = max(self.settings.block_seconds * 1e9, SYNC_COST_FACTOR * self._sync_cost_ns)
        return max(1, min(BLOCK_STEPS, math.ceil(least_ns / step_ns)))

    def sync_cost_ns(self) -> int:
        """Least of five: reading the clock and synchronizing an idle device."""
        costs = []
        for _ in range(5):
            before = self.clock()
            self.device.synchronize()
            costs.append(self.clock() - before)
        return min(costs)

    def block(self, steps: int) -> Block:
        """Runs `steps` steps between two synchronizations."""
        before = self._waited_ns()
        block = self._host_timed(steps) if self.device.synchronous else self._event_timed(steps)
        after = self._waited_ns()
        if before is None or after is None:
            return block
        return msgspec.structs.replace(block, input_wait_ns=after - before)

    def _waited_ns(self) -> int | None:
        """What the job's steps have waited for inputs so far; None where it has no pipeline."""
        waited: int | None = getattr(self.job, "input_wait_ns", None)
        return waited

    def _host_timed(self, steps: int) -> Block:
        step, clock = self.job.step, self.clock
        # Asking the kernel costs a microsecond: nothing to a step of a millisecond, and a third of
        # one of three microseconds.
        short = steps * SHORT_STEP_SECONDS >= self.settings.block_seconds
        usage = None if short else self.usage
        marks = [0] * (steps + 1)
        usages: list[Any] = [None] * (steps + 1)
        self.device.synchronize()
        if usage is None:
            marks[0] = clock()
            for i in range(1, steps + 1):
                step()
                marks[i] = clock()
        else:
            usages[0] = usage()
            marks[0] = clock()
            for i in range(1, steps + 1):
                step()
                marks[i] = clock()
                usages[i] = usage()
        self.device.synchronize()
        step_ns = tuple(b - a for a, b in itertools.pairwise(marks))
        wall_ns = marks[-1] - marks[0]
        start_ns = self._since_first(marks[0])
        if usage is None:
            return Block(start_ns=start_ns, wall_ns=wall_ns, step_ns=step_ns)
        pairs = list(itertools.pairwise(usages))
        return Block(
            start_ns=start_ns,
            wall_ns=wall_ns,
            step_ns=step_ns,
            step_cpu_ns=tuple(round((b[0] - a[0]) * 1e9) for a, b in pairs),
            step_switches=tuple(b[1] - a[1] for a, b in pairs),
        )

    def _event_timed(self, steps: int) -> Block:
        step, device = self.job.step, self.device
        events = [device.event() for _ in range(steps + 1)]
        device.synchronize()
        start = self.clock()
        events[0].record()
        for i in range(1, steps + 1):
            step()
            events[i].record()
        device.synchronize()
        wall_ns = self.clock() - start
        step_ns = tuple(device.elapsed_ns(a, b) for a, b in itertools.pairwise(events))
        return Block(start_ns=self._since_first(start), wall_ns=wall_ns, step_ns=step_ns)

    def _since_first(self, now_ns: int) -> int:
        """Nanoseconds since the first block began."""
        if self._started_ns is None:
            self._started_ns = now_ns
        return now_ns - self._started_ns

    def _requests(self) -> tuple[int, ...]:
        """Times requests one by one, synchronized, for at most a block's limit of time."""
        request_ns: list[int] = []
        spent = 0
        while len(request_ns) < REQUESTS and spent < self.settings.steady_limit_seconds * 1e9:
            self.device.synchronize()
            before = self.clock()
            self.job.step()
            self.device.synchronize()
            request_ns.append(self.clock() - before)
            spent += request_ns[-1]
        return tuple(request_ns)

    def _queueing(self) -> tuple[int, ...]:
        """Host time to queue one step on an idle device: what the host alone takes for it.

        Less what it waited for inputs, which has a figure of its own.
        """
        times = []
        for _ in range(QUEUED_STEPS):
            self.device.synchronize()
            before, waited = self.clock(), self._waited_ns() or 0
            self.job.step()
            times.append(self.clock() - before - (self._waited_ns() or 0) + waited)
        self.device.synchronize()
        return tuple(times)

    def _flags(self, start: int | None, steady: list[Block]) -> tuple[Flag, ...]:
        flags: list[Flag] = []
        if start is None:
            flags.append("NO_STEADY_STATE")
        if stats.drifts([b.sample_seconds for b in steady]):
            flags.append("DRIFT")
        if not self.device.synchronous:
            wall = sum(b.wall_ns for b in steady)
            events = sum(sum(b.step_ns) for b in steady)
            if abs(wall - events) > HOST_GAP_LIMIT * wall:
                flags.append("HOST_GAP")
        return tuple(flags)
