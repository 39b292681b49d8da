"""A step explained: its operators, what each took, what it must do, and what this box can do.

Raw as the rest of a record is: shares, bounds, coverage and most flags are computed from these
values (`bench.judging.explaining.explained`) and never stored.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from bench.records.case import Case, Choice
from bench.records.value import Value, positive_and_finite

VERSION = 1
"""Raised where a reader of the older meaning could misread a newer explanation."""

Kind = Literal[
    "matmul",
    "convolution",
    "attention",
    "normalization",
    "elementwise",
    "reduction",
    "gather and scatter",
    "optimizer",
    "copy",
    "communication",
    "other",
]
"""What an operator does."""
How = Literal["tape in order", "operands rotated", "profiler"]
"""`tape in order`: the step's operators, recorded below autograd, were called again in their order
on the job's own tensors; `operands rotated`: each by itself, on operands that change with every
call, so that none is found in a cache; `profiler`: as the device's own profiler saw the step."""
Traffic = Literal["read", "copy", "write"]
"""What bandwidth is of: bytes that are only read; as many read as written; only written."""
Seen = Literal["CONTENDED", "QUOTA", "HOT"]
"""What was seen while it was measured: other work on the host; a quota of its container; operands
that a cache held."""


class Operator(Value, frozen=True, kw_only=True, omit_defaults=True):
    """All calls in one step of one operator with operands of the same shapes and dtypes."""

    name: str
    """As torch's dispatcher has it (`aten::mm`), or a kernel's as the profiler has it."""
    kind: Kind
    calls: int
    operands: str = ""
    """Shapes and dtypes, in the order of the arguments: `bf16[64,128] bf16[128,256]`; empty where
    only the profiler saw it."""
    precision: str = ""
    """Of its arithmetic, where that is what its kind is bounded by: `bf16`."""
    ns: float | None = None
    """Of all calls; None where they could not be measured."""
    absent: str = ""
    """Why they could not be; exactly one of the two is given."""
    flop: int = 0
    """Of all calls; 0 where it is no arithmetic to speak of."""
    read_bytes: int | None = None
    """The least that all calls must read; None where the operands are not known."""
    written_bytes: int | None = None
    """The least that they must write."""
    alone_flop_per_second: float | None = None
    """What this shape reaches by itself, its operands hot: the shape's own ceiling."""
    fuses: tuple[str, ...] = ()
    """Operators that a compiler's kernel holds, by the name that it gave it."""

    def __post_init__(self) -> None:
        if (self.ns is None) == (not self.absent):
            raise ValueError(f"{self.name}: either a time or the reason there is none")
        if self.ns is not None and not 0 <= self.ns < math.inf:
            raise ValueError(f"{self.name}: a time must be finite and 0 or more")
        if self.calls < 1:
            raise ValueError(f"{self.name}: an operator that nobody called")
        if min(self.flop, self.read_bytes or 0, self.written_bytes or 0) < 0:
            raise ValueError(f"{self.name}: work must be 0 or more")
        if (self.read_bytes is None) != (self.written_bytes is None):
            raise ValueError(f"{self.name}: bytes read and written are known together")


class Ceilings(Value, frozen=True, kw_only=True):
    """What this box was seen to reach, in turns with the operators."""

    bytes_per_second: dict[Traffic, float]
    flop_per_second: dict[str, float] = msgspec.field(default_factory=dict)
    """By kind and precision (`matmul bf16`): the best of a list of shapes and of the step's own."""
    launch_ns: float | None
    """The least that a call takes that does next to nothing, in the place where operators are;
    None where that is a graph and it could not be recorded."""

    def __post_init__(self) -> None:
        positive_and_finite(launch_ns=1.0 if self.launch_ns is None else self.launch_ns)
        for name, value in (*self.bytes_per_second.items(), *self.flop_per_second.items()):
            positive_and_finite(**{name: value})


class Profile(Value, frozen=True, kw_only=True):
    """What torch's profiler saw of a step that nobody recorded."""

    step_ns: float
    """Of a step while it was profiled, which is slower."""
    kinds: dict[Kind, float]
    """ns of each kind in a step."""
    calls: dict[str, float]
    """Of each operator of the tape, in a step."""


class Tried(Value, frozen=True, kw_only=True):
    """A known remedy, measured in turns with the step as it was."""

    remedy: str
    """What was changed: `memory format channels_last`."""
    before_ns: tuple[int, ...] = ()
    """Steps of the job as it is; as many as of the other."""
    after_ns: tuple[int, ...] = ()
    """Of as many items: of another batch its steps, over how many times as many they have."""
    absent: str = ""
    """Why it could not be tried, or what the gate found wrong with it."""

    def __post_init__(self) -> None:
        if bool(self.absent) == bool(self.before_ns):
            raise ValueError(f"{self.remedy}: either times or the reason there are none")
        if len(self.before_ns) != len(self.after_ns):
            raise ValueError(f"{self.remedy}: as many steps with it as without")
        if min((1, *self.before_ns, *self.after_ns)) <= 0:
            raise ValueError(f"{self.remedy}: times must be above zero")


class Explained(Value, frozen=True, kw_only=True, tag="explained", tag_field="status"):
    """One process's account of a step."""

    version: int = VERSION
    how: How
    step_ns: tuple[int, ...]
    """Whole steps, in turns with the operators."""
    freeing_ns: float = 0.0
    """What giving memory back took in a step, beside the operators."""
    call_floor_ns: float = 0.0
    """What a call costs as the operators were called; taken off each."""
    operators: tuple[Operator, ...]
    ceilings: Ceilings
    profile: Profile | None = None
    profile_absent: str = ""
    """Why there is none; exactly one of the two is given."""
    profiled_operators: tuple[Operator, ...] = ()
    """The step as the profiler alone explains it, where that is not the answer."""
    causes: dict[Seen, str] = msgspec.field(default_factory=dict)
    """What was seen, with its figure."""
    notes: tuple[str, ...] = ()
    """What may make a second time differ: operators that draw random numbers, or ask the device."""
    tried: tuple[Tried, ...] = ()
    order: tuple[int, ...] = ()
    """Of each call, in the step's order, which of the operators it is; none of a long step."""
    call_ns: tuple[int, ...] = ()
    """Of each of those calls."""

    def __post_init__(self) -> None:
        if self.version > VERSION:
            raise ValueError(
                f"an explanation of version {self.version}; this accelmark reads {VERSION}"
            )
        if not self.step_ns or min(self.step_ns) <= 0:
            raise ValueError("steps must be above zero, and there must be some")
        if not self.operators:
            raise ValueError("a step without operators is not explained")
        if (self.profile is None) == (not self.profile_absent):
            raise ValueError("either what the profiler saw or the reason there is nothing")
        if min(self.freeing_ns, self.call_floor_ns) < 0:
            raise ValueError("freeing and calling take 0 or more")
        if len(self.order) != len(self.call_ns):
            raise ValueError("one time of each call")
        if self.order and not 0 <= min(self.order) <= max(self.order) < len(self.operators):
            raise ValueError("a call of an operator that is not there")


class Unexplained(
    Value, frozen=True, kw_only=True, omit_defaults=True, tag="unexplained", tag_field="status"
):
    """It could not be explained."""

    reason: str
    tried: tuple[Tried, ...] = ()

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("what is not explained must say why")


Account = Explained | Unexplained


class Explanation(Value, frozen=True, kw_only=True, tag="explanation", tag_field="line"):
    """A worker process that explained a case. No launch: none of its times makes a figure."""

    case: Case
    fingerprint: str
    number: int
    """0-based index among the explanations of this case."""
    seed: int
    started_at: str
    seconds: float
    """Its share of the run's wall time."""
    environment: dict[str, Any]
    """The stack and device as the worker saw them; see `bench.records.environment`."""
    account: Account
    choice: Choice | None = None
    """Of a tuned case: what was chosen."""
    stderr_tail: str = ""

    def __post_init__(self) -> None:
        self.case.require(self.fingerprint)
        if self.number < 0:
            raise ValueError("explanations count from 0")
        positive_and_finite(seconds=self.seconds)
