"""A run as its file has it: what was planned, each launch, and how it ended.

The file that holds them is `bench.records.runfile`'s; what came of a launch, and the rules by which
nonsense cannot be constructed, are `bench.records.outcome`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from bench.records.case import Case, Choice, within
from bench.records.endpoint import Endpoint
from bench.records.explained import Explanation
from bench.records.observed import Telemetry
from bench.records.outcome import Cold, Outcome
from bench.records.value import Value, positive_and_finite

MOST_LAUNCHES = 1000
RESTORE = "Copy the record again from where it was made, or take back what was changed in it."
"""What to do about a record that is damaged, and nobody knows by what."""
SCHEMA_VERSION = 1
"""Raised when a reader of the old schema could misread a new record."""
BLOCK_STEPS = 100_000
"""Most steps of a block: bounds the memory of a launch whose step takes next to nothing."""


class Settings(Value, frozen=True, kw_only=True):
    """How a case is measured. Not part of the case: it changes the interval, not the work."""

    launches: int | Literal["auto"] = "auto"
    """A fixed number (one look, 95 %), or `auto`: looks at 5, 10 and 20 launches (98 %)."""
    target_half_width: float = 0.02
    """Half-width of log throughput at which `auto` stops, and above which a case is NOISY."""
    timing: Literal["block", "step"] = "block"
    """Where the device is synchronized: at the edges of a block of steps, as a job that keeps its
    device busy; or after every step, as one that waits for each result. Other rates, never
    compared with each other."""
    block_seconds: float = 0.05
    """Least wall time of a block, where blocks are timed."""
    warmup_seconds: float = 10.0
    """Least time under load before the steady state, on devices that need it (accelerators)."""
    warmup_limit_seconds: float = 120.0
    """Time after its first step after which a job that is not steady is measured all the same, and
    flagged, if 60 blocks are not sooner; of long steps once ten were judged, if that takes no
    third of a launch's limit."""
    steady_limit_seconds: float = 60.0
    """Time after which no further steady sample is taken, once there are ten."""
    launch_limit_seconds: float = 1800.0
    """A worker that takes longer is ended: Failed, timeout. A run with a smaller time budget takes
    that, or two minutes; each phase has a share (`bench.records.limits.SHARES`)."""
    seed: int = 0
    """Launch k of a figure draws weights and inputs from seed + k, on every device; the trials of a
    tuned case from seed."""

    def __post_init__(self) -> None:
        if self.launches != "auto" and not 1 <= self.launches <= MOST_LAUNCHES:
            raise ValueError(f'launches: a number from 1 to {MOST_LAUNCHES}, or "auto"')
        for name in ("target_half_width", "block_seconds", "steady_limit_seconds"):
            positive_and_finite(**{name: getattr(self, name)})
        positive_and_finite(
            warmup_limit_seconds=self.warmup_limit_seconds,
            launch_limit_seconds=self.launch_limit_seconds,
        )
        if not 0 <= self.warmup_seconds < math.inf:
            raise ValueError("warmup_seconds must be finite and 0 or more")


class Run(Value, frozen=True, kw_only=True, omit_defaults=True, tag="run", tag_field="line"):
    """First line of a run's file: what was planned, by what, on which host."""

    schema: int
    run_id: str
    suite: str
    plan: tuple[Case, ...]
    left_out: dict[str, str] = msgspec.field(default_factory=dict)
    """Planned cases that the run does not try, by fingerprint: why. Points of a sweep over devices
    beyond those that it takes, and what has not the precision that all are to have. Absent from
    the JSON of a run that tries all."""
    instead: dict[str, str] = msgspec.field(default_factory=dict)
    """Planned cases in another precision than their suite says, by fingerprint: why. Absent from
    the JSON of a run that has none."""
    settings: Settings
    budget_minutes: float | None = None
    """Its suite's own; what goes on with it has as much."""
    explanations: int = 0
    """How often each case is explained, after all its launches."""
    only_explained: bool = False
    """Whether it has no other launches."""
    framework: str = "torch"
    """What computed the steps; see `bench.framework`."""
    command: tuple[str, ...]
    started_at: str
    """UTC, ISO 8601."""
    host: dict[str, Any]
    """Machine, system, interpreter and package versions; see `bench.records.environment`."""
    device: dict[str, Any]
    """The chosen device as its backend described it before the run."""

    @property
    def on(self) -> str:
        """Its device, and the backend: `Acme X100 (acme)`."""
        return f"{self.device.get('name')} ({self.device.get('backend')})"


class Launch(Value, frozen=True, kw_only=True, tag="launch", tag_field="line"):
    """One worker process: one case, once."""

    case: Case
    fingerprint: str
    launch: int
    """0-based index among the launches of this case."""
    order: int
    """0-based position in the run."""
    seed: int
    started_at: str
    seconds: float
    """Its share of the run's wall time: of workers that import side by side, the first has the
    imports of all."""
    cold: Cold
    environment: dict[str, Any]
    """The stack and device as the worker saw them; see `bench.records.environment`."""
    outcome: Outcome
    telemetry: Telemetry | None = None
    """The device's power, clocks, heat and other users meanwhile."""
    telemetry_absent: str | None = None
    """Why there is none; None in records from before telemetry."""
    stderr_tail: str = ""
    """End of what the worker wrote to stderr, C libraries included."""
    estimated_peak_bytes: int | None = None
    """Device memory that the case's tensors need, from shapes; a case's first launch counts it."""
    choice: Choice | None = None
    """Of a tuned case: what was chosen, of all that it leaves open, for this launch."""
    endpoint: Endpoint | None = None
    """Of a server that was measured from outside: what it is, and what the client did."""
    search: bool = False
    """Whether it was made to find the best choice: then no figure of the case is made of it."""

    def __post_init__(self) -> None:
        self.case.require(self.fingerprint)
        if self.launch < 0 or self.order < 0:
            raise ValueError("launch and order count from 0")
        if not within(self.case.space, self.choice or {}) or (self.search and not self.choice):
            raise ValueError(f"the choice {self.choice} is none of {self.case.label}")
        if self.estimated_peak_bytes is not None and self.estimated_peak_bytes < 0:
            raise ValueError("no tensors need less than no memory")
        positive_and_finite(seconds=self.seconds)


class End(Value, frozen=True, kw_only=True, tag="end", tag_field="line"):
    """Last line: the run ended by itself, by its budget, or by the user."""

    reason: Literal["complete", "budget", "interrupted"]
    finished_at: str


class Resumed(Value, frozen=True, kw_only=True, tag="resumed", tag_field="line"):
    """The run went on here, after it had ended early: what follows was measured later."""

    started_at: str
    command: tuple[str, ...]
    host: dict[str, Any]
    """As in `Run`; what decides whether launches belong together is the same there."""
    device: dict[str, Any]


Line = Run | Launch | Explanation | End | Resumed


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """A run as read back: what was planned and what came of it."""

    path: str
    run: Run
    launches: Sequence[Launch]
    """In the order they ran; of a large file each is read when it is asked for."""
    end: End | None
    """None where the run has not ended, or has gone on since."""
    resumed: tuple[Resumed, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    """In the order they ran."""
    damage: str | None = None
    """What is wrong with the rest of the file; None if every line was read."""
    flaw: Literal["damaged", "cut short", "newer", "two runs"] = "damaged"
    """Of which kind the damage is; what is cut short is whole up to its last line."""
    remedy: str = RESTORE
    """What to do about the damage."""
    passing: bool = False
    """Whether it lies in no plain .jsonl file: nothing can be appended to it."""
    whole_bytes: int = 0
    """Length of the lines that were read."""

    @property
    def cut_short(self) -> bool:
        """Whether the damage is a last line that was being written: all before it is whole."""
        return self.damage is not None and self.flaw == "cut short"

    @property
    def complete(self) -> bool:
        """Whether it ended because nothing was left to measure."""
        return self.end is not None and self.end.reason == "complete"
