"""The measuring engine: first step, warm-up to a steady state, blocks of steps, single steps.

The clock and the usage counters are passed in, so tests script them and get exact numbers.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

from bench import stats
from bench.measuring.ranks.edges import SINGLE, Edges
from bench.measuring.timing import single_steps
from bench.measuring.timing.block_size import BlockSize
from bench.measuring.timing.blocks import BlockTimer, Steps, collected
from bench.measuring.timing.usage import Usage, peak
from bench.measuring.timing.warm_up import WarmedUp, warmed_up
from bench.records.cpu_limits import affinity_cores
from bench.records.observed import Contention
from bench.records.outcome import Block, Flag, Memory, Phase
from bench.records.run import Settings
from bench.telemetry import contention, standstill
from bench.telemetry.contention import Counters

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Burst

HOST_GAP_LIMIT = 0.02
"""Relative difference of device-event time and wall time above which a launch is flagged."""

Listener = Callable[[Phase, list[Block]], None]
"""Told between blocks where the launch is and what it has."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """What one launch measured, before it is joined with its numerics and its work."""

    started_ns: int
    """When the first step began, by the engine's clock."""
    first_step_ns: int
    warmup: tuple[Block, ...]
    steady: tuple[Block, ...]
    step_clock: Literal["host", "device event", "block"]
    witness: tuple[float, float]
    memory: Memory
    """After the last step."""
    flags: tuple[Flag, ...]
    request_ns: tuple[int, ...] | None
    queue_ns: tuple[int, ...] | None
    busy_ns: tuple[int, ...] = ()
    """This process's own time in each steady block; the block's is the slowest process's."""
    contention: Contention | None = None
    """What the host did beside the steady blocks, on devices whose work the host does."""
    stopped: str = ""
    """How long the process or the machine stood still in them; empty if neither did."""


@dataclass(eq=False)
class Engine:
    """Measures one job on one device."""

    job: Steps
    device: Device
    settings: Settings
    clock: Callable[[], int] = time.perf_counter_ns
    """Monotonic ns."""
    usage: Usage | None = None
    """Counters of the process."""
    host: Callable[[], Counters] | None = None
    """Counters of the host, for devices whose work it does."""
    threads: int = 1
    """How many the job computes with on this host."""
    suspended: Callable[[], int] = lambda: 0
    """ns that the machine was suspended, from any moment on."""
    watch: Callable[[int], None] = lambda step: None
    """Called after each of the first three steps with their number, outside any block and before
    the peak of memory is reset."""
    edges: Edges = SINGLE
    """Where several processes do the step."""
    before: Callable[[int, bool], None] = lambda steps, last: None
    """Called before each block but the first with its steps, and whether it may be the last one."""
    burst: Burst | None = None
    """Of a device that rests, by `sleep`, between short blocks."""
    calls_operators: bool = False
    """Whether the host calls each of torch's operators in each step."""
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not (self.device.synchronous or self.device.queues_on_host):
            self.host = None
        self.calls_operators &= self.edges is SINGLE
        timing = (self.settings, self.clock)
        self._timer = BlockTimer(self.job, self.device, *timing, self.usage, self.edges)
        most = getattr(self.job, "most_steps", None)
        self._size = BlockSize(self.device, *timing, self.edges, most, self.burst)
        self._marks: list[Counters] = []
        """Before each block but the first."""
        self._ends: list[Counters] = []
        """After each of a device that rests before the next."""
        self._cpu_ns: list[int] = []
        """Of each block but the first, where the host can say."""
        self._suspended: list[int] = []
        """Before each block but the first."""

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
        with collected():
            return self._measure(samples, latency, progress)

    def _measure(self, samples: int, latency: bool, progress: Listener) -> Series:
        blocks = [self.block(1)]
        first_witness = self.job.witness()
        warm = self._warm_up(blocks, samples, progress)
        steady = blocks[warm.steady_from :]
        if self.burst is not None:
            samples = self.burst.blocks
        self._take(steady, samples, self._size.steps(blocks), progress)
        beside = self._contention(warm.steady_from, steady)
        requests = self._requests() if latency and not self.device.synchronous else None
        queueing = None if self.device.synchronous else self._queueing()
        memory = peak(self.device)  # of the steps: a witness may take some of its own
        busy = tuple(self._timer.busy_ns[warm.steady_from :][: len(steady)])
        return Series(
            started_ns=self._timer.started_ns or 0,
            first_step_ns=blocks[0].wall_ns,
            warmup=tuple(blocks[: warm.steady_from]),
            steady=tuple(steady),
            step_clock=self._timer.step_clock,
            witness=(first_witness, self.job.witness()),
            memory=memory,
            flags=self._flags(warm, steady, busy),
            request_ns=requests,
            queue_ns=queueing,
            busy_ns=busy,
            contention=beside,
            stopped=self._stopped(
                warm.steady_from, standstill.own(steady, busy), beside, requests or ()
            ),
        )

    def _warm_up(self, blocks: list[Block], samples: int, progress: Listener) -> WarmedUp:
        """Runs until the job is steady, or a limit is reached.

        The first three blocks are single steps: from the second on they size the block.
        """
        while True:
            progress("warm-up", blocks)
            if len(blocks) <= stats.WARMUP_MINIMUM:
                self.watch(len(blocks))
            if len(blocks) == stats.WARMUP_MINIMUM:
                # From here on: what the first steps alone allocate (algorithm search) is not it.
                self.device.reset_peak_memory()
            sized = len(blocks) >= stats.WARMUP_MINIMUM
            last = self._may_end(blocks[stats.WARMUP_MINIMUM :], samples)
            self._append(blocks, self._size.steps(blocks) if sized else 1, last)
            if self.burst is not None and sized:  # warm from the code's first runs, and not by load
                return WarmedUp(len(blocks), steady=True)
            warm = warmed_up(blocks, self.settings, self.device.needs_warmup_under_load)
            if warm is not None:
                return warm

    def _take(self, steady: list[Block], samples: int, steps: int, progress: Listener) -> None:
        """Runs blocks of that many steps until there are so many samples, or time is up."""
        limit_ns = self.settings.steady_limit_seconds * 1e9
        if len(steady) >= samples:  # nothing is left to take, but witnesses and requests
            progress("measure", steady)
        while len(steady) < samples:
            if len(steady) >= stats.MINIMUM_SAMPLES and sum(b.wall_ns for b in steady) >= limit_ns:
                break
            progress("measure", steady)
            if self.burst is not None:
                self.sleep(self.burst.rest_seconds)
            self._append(steady, steps, self._may_end(steady, samples))

    def _may_end(self, steady: Sequence[Block], samples: int) -> bool:
        """Whether a launch may end with the block after these, if they are its steady ones."""
        if not steady:
            return False
        spent = sum(b.wall_ns for b in steady) + steady[-1].wall_ns
        late = spent >= self.settings.steady_limit_seconds * 1e9
        count = len(steady) + 1
        return count >= samples or (late and count >= stats.MINIMUM_SAMPLES)

    def _append(self, blocks: list[Block], steps: int, last: bool) -> None:
        gc.collect()
        self.before(steps, last)
        if self.host is not None:
            self._marks.append(self.host())
        self._suspended.append(self.suspended())
        before = self.usage() if self.usage is not None else None
        blocks.append(self.block(steps))
        if self.host is not None and self.burst is not None:
            self._ends.append(self.host())
        if self.usage is not None and before is not None:
            self._cpu_ns.append(round((self.usage()[0] - before[0]) * 1e9))

    def block(self, steps: int) -> Block:
        """Runs `steps` steps between two synchronizations."""
        return self._timer.block(steps)

    def _contention(self, first: int, steady: list[Block]) -> Contention | None:
        """What the host's counters rose by since before that block; the launch's first has none."""
        if self.host is None:
            return None
        index = max(first - 1, 0)
        if self._ends:
            marks = zip(self._marks[index:], self._ends[index:], strict=True)
            before, after = contention.without_rests([*marks])
        else:
            before, after = self._marks[index], self.host()
        alone = self.edges is SINGLE
        return contention.over(before, after, steady, self.threads, affinity_cores(), alone)

    def _stopped(
        self,
        first: int,
        steady: list[Block],
        beside: Contention | None,
        requests: tuple[int, ...],
    ) -> str:
        """What stood still since before that block, in words."""
        index = max(first - 1, 0)
        cpu = self._cpu_ns[index : index + len(steady)] if first else []
        suspended = self.suspended() - self._suspended[index]
        known = cpu if len(cpu) == len(steady) else None
        return standstill.seen(steady, beside, known, requests, suspended)

    def _requests(self) -> tuple[int, ...]:
        limit_seconds = self.settings.steady_limit_seconds
        return single_steps.requests(self.job, self.device, self.clock, limit_seconds, self.edges)

    def _queueing(self) -> tuple[int, ...]:
        seen = self.calls_operators
        return single_steps.queueing(self.job, self.device, self.clock, calls_operators=seen)

    def _flags(self, warm: WarmedUp, steady: list[Block], busy: Sequence[int]) -> tuple[Flag, ...]:
        flags: list[Flag] = []
        if not warm.steady:
            flags.append("NO_STEADY_STATE")
        if stats.drifts([b.sample_seconds for b in steady]):
            flags.append("DRIFT")
        if self._size.cut:
            flags.append("SHORT_BLOCKS")
        if self._timer.step_clock == "device event":
            wall = sum(busy)  # a block's own is the slowest rank's, and events are this one's
            events = sum(sum(b.step_ns) for b in steady)
            if abs(wall - events) > HOST_GAP_LIMIT * wall:
                flags.append("HOST_GAP")
        return tuple(flags)
