"""What came of one launch: its samples, or why there are none.

Raw samples only: throughput, intervals and verdicts are computed by `bench.judging.summary` and
are never stored, so they cannot contradict the samples.

msgspec validates against these types on reading, in both senses: the JSON types, and the rules in
`__post_init__` by which nonsense cannot be constructed.
"""

from __future__ import annotations

import math
import operator
from typing import Literal

import msgspec

from bench.records.executed import Executed
from bench.records.observed import Contention, Watched
from bench.records.proof import Proof
from bench.records.served import Served
from bench.records.silent import Silent
from bench.records.value import Value, finite, positive_and_finite, whole

DOES_NOT_FIT = "does not fit"
"""Begins the reason of a case that is skipped because the device has too little memory for it."""

Phase = Literal[
    "start", "import", "open", "numerics", "build", "warm-up", "measure", "report", "explain"
]
"""Where a worker is; a failure names the phase in which it happened."""
BEFORE: tuple[Phase, ...] = ("start", "import", "open")
"""Phases in which nothing of a case is made: who runs out of memory there has met others' work."""
FailureKind = Literal["oom", "timeout", "crash", "device_lost", "error"]
Flag = Literal[
    "NO_STEADY_STATE",
    "DRIFT",
    "HOST_GAP",
    "SHORT_BLOCKS",
    "CONTENDED",
    "QUOTA",
    "STOPPED",
    "THROTTLED",
    "POWER_CAPPED",
    "SHARED_DEVICE",
    "ENERGY_DISAGREES",
]
"""What was seen wrong with a launch that was measured all the same."""


def _said(**texts: str) -> None:
    for name, text in texts.items():
        if not text.strip():
            raise ValueError(f"an outcome without a number must say why: {name} is empty")


class Block(Value, frozen=True, kw_only=True):
    """Consecutive steps between two synchronizations."""

    start_ns: int | None = None
    """When it began, since the launch's first step did; None in old records."""
    wall_ns: int
    """Host time from the first synchronization to the second."""
    step_ns: tuple[int, ...]
    """Each step by the launch's step clock (`Measured.step_clock`)."""
    step_cpu_ns: tuple[int, ...] | None = None
    """CPU time of the process in each step, all threads; None where the host cannot say."""
    step_switches: tuple[int, ...] | None = None
    """Involuntary context switches of the process in each step; None likewise."""
    input_wait_ns: int | None = None
    """Time in which the device had nothing to do because the steps waited for an input pipeline: by
    its events, else (and in old records) of the host; None where their inputs lie ready."""

    def __post_init__(self) -> None:
        if not self.step_ns:
            raise ValueError("a block without steps")
        if self.wall_ns <= 0 or min(self.step_ns) < 0:
            raise ValueError("a block's times must be above zero")
        if self.input_wait_ns is not None and self.input_wait_ns < 0:
            raise ValueError("a wait must be 0 or more")
        for series in (self.step_cpu_ns, self.step_switches):
            if series is not None and (len(series) != len(self.step_ns) or min(series) < 0):
                raise ValueError("a block's per-step series must have one value >= 0 a step")

    @property
    def sample_seconds(self) -> float:
        """The timing sample: mean seconds of a step in this block."""
        return self.wall_ns / 1e9 / len(self.step_ns)


class Check(Value, frozen=True, kw_only=True):
    """One quantity of the numerics gate: relative error against the reference, and its limit."""

    quantity: str
    error: float | None
    """None where what the device computed is not finite. Given as infinity, which JSON lacks."""
    tolerance: float

    def __post_init__(self) -> None:
        positive_and_finite(tolerance=self.tolerance)
        if self.error is None:
            return
        if math.isnan(self.error) or self.error < 0:
            raise ValueError(f"error of {self.quantity} must be a number >= 0, not {self.error}")
        if math.isinf(self.error):
            msgspec.structs.force_setattr(self, "error", None)

    @property
    def passed(self) -> bool:
        """Whether the error lies within the tolerance."""
        return self.error is not None and self.error <= self.tolerance

    @property
    def finding(self) -> str:
        """The quantity, its error and its tolerance in words."""
        what = "is not finite" if self.error is None else f"off by {self.error:.2g}"
        return f"{self.quantity} {what} (tolerance {self.tolerance:.2g})"


class Numerics(Value, frozen=True, kw_only=True):
    """The gate's verdict: the timed configuration against a CPU reference of the same weights."""

    reference: str
    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        if not self.checks:
            raise ValueError("a numerics verdict without a check")

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def complaint(self) -> str:
        """What failed, with its figures; empty if nothing did."""
        return "; ".join(check.finding for check in self.checks if not check.passed)


class Memory(Value, frozen=True, kw_only=True):
    """Peak memory around the steady state."""

    peak_bytes: int
    scope: str
    """What `peak_bytes` counts: `device allocator` or `process RSS`, and what is said beside it.
    Figures of unlike scopes are never set against each other."""
    host_rss_bytes: int
    device_used_bytes: int | None = None
    """Device memory in use, all processes; None where the device cannot say."""

    def __post_init__(self) -> None:
        if self.peak_bytes <= 0 or self.host_rss_bytes <= 0:
            raise ValueError("peak memory must be above zero")


class Share(Value, frozen=True, kw_only=True):
    """One rank's part in a launch of several."""

    rank: int
    device: int
    """Index of its device, on its host."""
    host: int = 0
    """0-based; hosts have no names here."""
    busy_ns: tuple[int, ...]
    """Of each steady block, until its own work was done; the rest of the block it waited for the
    slowest. (What it waited for within collectives is its work's.)"""
    memory: Memory
    silent_ns: tuple[int, ...] = ()
    """Of each silent block (`Measured.silent`) its own time, which is its computing; none where
    none was taken."""
    watched: Watched | None = None
    """What was seen of its device meanwhile; None in old records, and where ranks share a device,
    of which the launch's telemetry is."""
    flags: tuple[Flag, ...] = ()
    causes: dict[str, str] = msgspec.field(default_factory=dict)
    """Its own, of those that the launch has; none in old records."""
    peer_ns: tuple[int, ...] = ()
    """Of an exchange with each rank, both ways at once, as this one saw it; 0 with itself. Empty
    where ranks do not meet in pairs."""

    def __post_init__(self) -> None:
        if min((0, *self.peer_ns)) < 0:
            raise ValueError("an exchange takes no less than no time")
        if min(self.rank, self.device, self.host) < 0:
            raise ValueError("ranks, devices and hosts count from 0")
        if not self.busy_ns or min((*self.busy_ns, *self.silent_ns)) <= 0:
            raise ValueError("a rank's times must be above zero")


class Work(Value, frozen=True, kw_only=True):
    """How much one step does, counted from shapes, never from time."""

    items: int
    unit: str
    """The item that throughput counts: `image`, `sequence`, `token`, `FLOP`, `OP`, `B`."""
    flop: int | None = None
    """FLOP of one step, or OP where they are of integers; None where it is not arithmetic."""
    least_flop: int | None = None
    """Of those what a causal attention cannot leave out; None where that is all, or of old."""
    again_flop: int | None = None
    """Least FLOP beside them that checkpointing does a second time; None without, or of old."""
    moved_bytes: int | None = None
    """Bytes that one step must move; None where they are not counted."""
    experts_hit: float | None = None
    """Experts of a layer that got a token, a mean of layers and steps, where the bytes count those;
    None in old records, whose bytes are of even loads, and of work without experts."""
    transferred_bytes: int | None = None
    """Bytes that one step brings from the host to the device; None where its inputs lie there."""
    bus_bytes: int | None = None
    """Of a collective: bytes of a step that cross each device's link, as nccl-tests has it."""
    operations: int | None = None
    """Of a collective: how many operations one step does, one after the other."""

    def __post_init__(self) -> None:
        whole(items=self.items)
        counts = (self.flop, self.least_flop, self.again_flop, self.operations, self.moved_bytes)
        for value in (*counts, self.transferred_bytes, self.bus_bytes):
            if value is not None:
                whole(flop_or_bytes=value)
        positive_and_finite(experts_hit=1.0 if self.experts_hit is None else self.experts_hit)
        if (self.least_flop or 0) > (self.flop or 0):
            raise ValueError(f"least_flop = {self.least_flop} is above flop = {self.flop}")
        if not self.unit:
            raise ValueError("an item without a name")


class Measured(Value, frozen=True, kw_only=True, tag="measured", tag_field="status"):
    """It ran, its numerics passed, and these are its samples."""

    work: Work
    numerics: Numerics
    warmup: tuple[Block, ...]
    steady: tuple[Block, ...]
    step_clock: Literal["host", "device event", "block"]
    """`host` on synchronous devices, where a step is over when its call returns; `block` of a
    device that queues and has no events: a step has its block's mean."""
    memory: Memory
    latency_name: str | None = None
    """What the time of one request is called (`latency`, `TTFT`, `TPOT`); None if it has none."""
    request_ns: tuple[int, ...] | None = None
    """Latency pass of asynchronous devices: one synchronized request each."""
    queue_ns: tuple[int, ...] | None = None
    """Asynchronous devices: host time to queue one step while the device is idle, repeated; but
    for an eager step on one device, with its waiting for room in the queue."""
    witness: tuple[float, float]
    """Loss, or a checksum of the output, after the first and after the last step."""
    proof: Proof | None = None
    """What was read of the work itself; None in old records: not proved."""
    ranks: tuple[Share, ...] = ()
    """Of each rank its part, in their order, where several devices did the step; the blocks and
    the requests are the slowest's (in old records of a synchronous device rank 0's), the rest
    rank 0's."""
    silent: Silent | None = None
    """The step without its communication; None where there is none, or nobody looked."""
    executed: Executed | None = None
    """Which implementations a step ran through; one launch of a case looks."""
    served: Served | None = None
    """Of a load that was served: its requests. Its one steady block is the load's steady window,
    and its items are the output tokens of that; None of work that is a step."""
    flags: tuple[Flag, ...] = ()
    causes: dict[str, str] = msgspec.field(default_factory=dict)
    """Of flags that name something outside the job: what it was, with its figure."""
    contention: Contention | None = None
    """What the host did meanwhile; of devices on which the host computes."""
    energy_joules: float | None = None
    energy_method: Literal["counter", "power"] | None = None
    """A hardware counter's rise over the steady blocks, or sampled power integrated over them."""
    energy_absent: str | None = None
    """Why there is no energy figure; exactly one of the two is given."""

    def __post_init__(self) -> None:
        if not self.steady:
            raise ValueError("measured without a steady sample")
        if not self.numerics.passed:
            raise ValueError(f"measured, but numerics failed: {self.numerics.complaint}")
        if not all(math.isfinite(w) for w in self.witness):
            raise ValueError(f"measured, but the output is not finite: {self.witness}")
        if (self.energy_joules is None) == (self.energy_absent is None):
            raise ValueError("either an energy or the reason there is none")
        if self.energy_joules is not None:
            positive_and_finite(energy_joules=self.energy_joules)
        self._check_ranks()
        self._check_served()
        if self.queue_ns is not None and (not self.queue_ns or min(self.queue_ns) < 0):
            raise ValueError("queueing times must be 0 or more")
        if self.request_ns is not None and self.latency_name is None:
            raise ValueError("latencies without a name")
        if self.request_ns is not None and (not self.request_ns or min(self.request_ns) <= 0):
            raise ValueError("latencies must be above zero")

    def _check_ranks(self) -> None:
        if [share.rank for share in self.ranks] != list(range(len(self.ranks))):
            raise ValueError("ranks must be all there, in their order")
        for share in self.ranks:
            if len(share.busy_ns) != len(self.steady) or any(
                busy > block.wall_ns for busy, block in zip(share.busy_ns, self.steady, strict=True)
            ):
                raise ValueError(f"rank {share.rank}: one time a steady block, no longer than it")
            slowest = () if self.silent is None else self.silent.silent_ns
            if len(share.silent_ns) not in (0, len(slowest)) or any(
                map(operator.gt, share.silent_ns, slowest)
            ):
                raise ValueError(f"rank {share.rank}: one time a silent block, no longer than it")
            if len(share.peer_ns) not in (0, len(self.ranks)):
                raise ValueError(f"rank {share.rank}: one time with each rank, 0 with itself")

    def _check_served(self) -> None:
        if self.served is None:
            return
        window, blocks = self.served.window, self.steady
        if window is None or (window.end_ns - window.start_ns, 1) != (
            sum(block.wall_ns for block in blocks),
            sum(len(block.step_ns) for block in blocks),
        ):
            raise ValueError("of a served load, the one steady step is its steady window")
        if window.tokens != self.work.items:
            raise ValueError(f"{self.work.items} items, but {window.tokens} tokens in the window")

    @property
    def steady_steps(self) -> int:
        """Steps in the steady blocks."""
        return sum(len(block.step_ns) for block in self.steady)

    @property
    def steady_seconds(self) -> float:
        """Wall seconds of the steady blocks."""
        return sum(block.wall_ns for block in self.steady) / 1e9

    @property
    def throughput(self) -> float:
        """Items per second of steady wall time, of this launch."""
        return self.work.items * self.steady_steps / self.steady_seconds

    @property
    def samples(self) -> list[float]:
        """Steady timing samples, seconds a step."""
        return [block.sample_seconds for block in self.steady]

    @property
    def latencies(self) -> list[float] | None:
        """Seconds of each request; a synchronous device's steps are its requests."""
        if self.latency_name is None:
            return None
        if self.request_ns is not None:
            return [ns / 1e9 for ns in self.request_ns]
        if self.step_clock == "host":
            return [ns / 1e9 for block in self.steady for ns in block.step_ns]
        return None


class Void(Value, frozen=True, kw_only=True, tag="void", tag_field="status"):
    """It ran, and its number must not be used."""

    reason: str
    numerics: Numerics | None = None

    def __post_init__(self) -> None:
        _said(reason=self.reason)


class Skipped(Value, frozen=True, kw_only=True, tag="skipped", tag_field="status"):
    """It cannot run here, and that is no fault."""

    reason: str

    def __post_init__(self) -> None:
        _said(reason=self.reason)


class Failed(Value, frozen=True, kw_only=True, tag="failed", tag_field="status"):
    """It should have run and did not."""

    kind: FailureKind
    phase: Phase
    message: str

    def __post_init__(self) -> None:
        _said(message=self.message)

    @property
    def reason(self) -> str:
        """Why there is no number, as the others without one say it."""
        return f"{self.kind} in {self.phase}: {self.message}"


Outcome = Measured | Void | Skipped | Failed


class Cold(Value, frozen=True, kw_only=True):
    """Seconds before the steady state; None for what a launch did not reach."""

    import_seconds: float | None = None
    numerics_seconds: float | None = None
    build_seconds: float | None = None
    first_step_seconds: float | None = None

    def __post_init__(self) -> None:
        finite(**msgspec.structs.asdict(self))
