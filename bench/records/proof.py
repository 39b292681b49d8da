"""What a launch keeps of the work that it did: enough to tell other work, small enough for a file.

Of each quantity (the outputs of a step, say) 64 sums of its values with random signs, and their
norm. Such sums keep distances: the norm of the difference of two quantities, over their norm, is
that of their sums, within about a tenth.
Source: Achlioptas, "Database-friendly random projections", J. Comput. Syst. Sci. 66 (2003).
"""

from __future__ import annotations

import math

import msgspec

from bench.records.value import Value, finite

PROJECTIONS = 64
"""Sums of a quantity."""
WEIGHTS = "weights"
WIDE_WEIGHTS = "wide_weights"
OUTPUT = "output"
GRADIENTS = "gradients"
LOSS = "loss"
UPDATE = "update"
"""The quantities by name; of the update, how far the weights are from those before step 1, there
is the norm only."""
EACH_GRADIENT = "each gradient"
EACH_GRADIENT_OVER_KINKS = "each gradient, over kinks"
RUNNING = "running means"
BY_ROW = (EACH_GRADIENT, EACH_GRADIENT_OVER_KINKS, RUNNING)
"""What the numerics gate compares weight by weight, a row of sums of each: the worst counts."""
OTHER_INPUTS = "logits of other inputs"
"""What the gate compares of a step that is given other inputs than those before it."""


class Vector(Value, frozen=True, kw_only=True):
    """One quantity, at one moment."""

    size: int
    """Elements of the whole quantity: half a batch has half of them."""
    norm: float
    """Euclidean; of a single number, the number with its sign."""
    projections: tuple[float, ...] = ()
    """Empty where the norm is all there is."""
    rests_on: float | None = None
    """How many values the norm comes of: all that were looked at if they are alike, 1 if one
    outweighs the others; see `resting`. None of a single number, of zeros, and in older records."""

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise ValueError("a quantity without elements")
        if not all(map(math.isfinite, (self.norm, *self.projections))):
            raise ValueError("a quantity that is not finite")
        if self.rests_on is not None and not 1 <= self.rests_on < math.inf:
            raise ValueError(f"a norm comes of 1 value or more, not of {self.rests_on}")
        if len(self.projections) not in (0, PROJECTIONS):
            raise ValueError(f"{len(self.projections)} projections; there are {PROJECTIONS} or 0")

    def error(self, other: Vector) -> float:
        """Norm of the difference over the larger norm: 0 the same, 1.4 unrelated, 2 the opposite.

        Infinite where there are other elements, or more of them: that is another quantity.
        """
        if self.size != other.size or len(self.projections) != len(other.projections):
            return math.inf
        mine = self.projections or (self.norm,)
        theirs = other.projections or (other.norm,)
        difference = math.dist(mine, theirs)
        return difference / max(math.hypot(*mine), math.hypot(*theirs)) if difference else 0.0

    def norm_error(self, other: Vector) -> float:
        """Of the norms alone: what the direction does not matter for."""
        if self.size != other.size:
            return math.inf
        difference = abs(self.norm - other.norm)
        return difference / max(abs(self.norm), abs(other.norm)) if difference else 0.0


class StepReading(Value, frozen=True, kw_only=True):
    """The quantities after one step."""

    step: int
    """Counted from 1."""
    quantities: dict[str, Vector]

    def __post_init__(self) -> None:
        if self.step < 1 or not self.quantities:
            raise ValueError("a reading is of step 1 or a later one, and of one quantity at least")


class Noise(Value, frozen=True, kw_only=True):
    """How far rounding alone moves a quantity of this job: each weight moved by one rounding."""

    error: float
    norm_error: float

    def __post_init__(self) -> None:
        finite(**msgspec.structs.asdict(self))


class Proof(Value, frozen=True, kw_only=True):
    """The work of one launch, read outside the clock."""

    absent: str = ""
    """Why there is none that may be used; empty where there is."""
    weights: Vector | None = None
    """Before the first step; None where the work has none."""
    wide_weights: Vector | None = None
    """Those of 16 bits or more of a job that has narrower ones, whose integers drown them."""
    readings: tuple[StepReading, ...] = ()
    noise: dict[str, Noise] = msgspec.field(default_factory=dict)
    """By quantity; one launch of a case takes it."""
    no_noise: str = ""
    """Why the launch that should have taken it did not; empty where it did, and of the others."""
    written: dict[str, float] = msgspec.field(default_factory=dict)
    """Of a step that is not eager, by quantity its error against the same step as it is written, at
    the sizes that are timed; one launch of a case takes it."""
    not_written: str = ""
    """Why the launch that should have looked at that did not, or not at all of it; empty where it
    did, of the others, and in older records."""
    recomputed: float | None = None
    """Error of the last output against the same, computed another time; None where each
    step builds on the one before."""
    kinks: bool = True
    """Whether a rounding may turn what training decides; False where it is known that none may."""
    law: tuple[float, ...] = ()
    """Error of an optimizer's step against its formula, at the start and after the timing."""
    not_over: str = ""
    """Why steps back to back were not held to it by the launch that should have; as above."""
    no_time: str = ""
    """What was not looked at after the timing, as steps take too long; as above."""

    def __post_init__(self) -> None:
        if not self.absent and not self.readings:
            raise ValueError("no reading, and no reason why there is none")
