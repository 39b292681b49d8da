"""Two explained runs of one case: which classes and operators make the difference of the steps."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence

import msgspec

from bench import stats
from bench.errors import ComparisonError
from bench.judging.comparing.compare import two_runs, whole
from bench.judging.comparing.configured import configured
from bench.judging.comparing.differences import differences
from bench.judging.explaining.bounds import of_several, priced
from bench.judging.explaining.explained import ClassRow, ExplainedCase, OperatorRow, explain_run
from bench.judging.interval import Interval
from bench.planning.tuning import in_words
from bench.records.case import Case
from bench.records.environment import section
from bench.records.explained import Ceilings, How
from bench.records.outcome import Cold, Skipped
from bench.records.run import Launch, RunFile

TOP = 10
"""Operators that are named."""
STRIDES = re.compile(r"/[\d,]+(?=\])")
"""In an operand's word: another memory format is no other operator."""
PROFILER: How = "profiler"
BOUNDED = 0.98
"""Of the time of a class, whose operators have a bound, at the least, if it is split."""
REST = ("freeing", "host")
"""Parts of a step that are no class."""
SAME_WORK = 0.01
"""Relative difference of the FLOP of a class that is split; of more, operators of one side stand in
another class on the other."""
DISTURBED = ("CONTENDED", "QUOTA", "HOT", "CHANGED-BY-RECORDING")
"""Flags of an account that speak against its times, whatever they are held against."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """What something takes on both sides."""

    base_ms: float | None
    """None where only the other side has it."""
    other_ms: float | None

    @property
    def difference_ms(self) -> float:
        """Other less base, of which those of all parts of a step add up to that of the steps; of
        what one side lacks, all of it."""
        return (self.other_ms or 0.0) - (self.base_ms or 0.0)


class ClassPair(Times, frozen=True, kw_only=True):
    """A part of the step on both sides."""

    name: str
    """A class of operators, `freeing` or `host`."""
    base_ms: float
    other_ms: float
    chip: float | None
    """How many times as fast other's own ceilings would do the same: base's operators and other's,
    each by the ceilings of both, and the geometric mean. None where a side has operators without a
    bound, or does not calculate as much in this class."""
    software: float | None
    """Base's time over other's, over `chip`: how near each comes to what its ceilings allow, and by
    which operators."""


class OperatorPair(Times, frozen=True, kw_only=True):
    """An operator with operands of the same shapes, whatever their layout."""

    name: str
    operands: str


class ExplainedPair(Times, frozen=True, kw_only=True):
    """A case on both sides."""

    case: Case
    reason: str = ""
    """Why the two are not held together; empty where they are."""
    base_ms: float = 0.0
    other_ms: float = 0.0
    """Of the steps."""
    launches: tuple[int, int] = (0, 0)
    """Processes that explained it, of base and of other."""
    ratio: Interval | None = None
    """Other's step over base's, by geometric means; without an interval where either side has too
    few launches. None where the two are not held together."""
    disturbed: tuple[str, ...] = ()
    """What was seen that speaks against the times of a side: `base CONTENDED its threads ...`."""
    chip_doubt: str = ""
    """Why a ratio of ceilings is not one of chips; empty where nothing speaks against it."""
    parts: tuple[ClassPair, ...] = ()
    """The largest difference first."""
    operators: tuple[OperatorPair, ...] = ()
    """Those that make the most of the difference."""


def explained_pairs(base: RunFile, other: RunFile) -> list[ExplainedPair]:
    """Each case that both runs explain, and those that one does not, with the reason.

    Raises `ComparisonError` where a run explains nothing, the two have no case in common, or are
    one; `RecordError` where a record is damaged.
    """
    two_runs(whole(base), whole(other))
    sides = []
    for file in (base, other):
        found = {case.case.fingerprint: case for case in explain_run(file)}
        if not found:
            raise ComparisonError(
                f"{file.path}: this run explains nothing. Make it with `accelmark explain`, or "
                "with `accelmark run --explain`."
            )
        sides.append(found)
    mine, theirs = sides
    common = [fingerprint for fingerprint in mine if fingerprint in theirs]
    if not common:
        raise ComparisonError(
            f"{base.path} and {other.path} explain no case in common. Explain the same suite on "
            "both sides."
        )
    doubt = _chip_doubt(base, other)
    paired = [pair(mine[fingerprint], theirs[fingerprint]) for fingerprint in common]
    for who, file in (("base", base), ("other", other)):
        if _simulated(file):
            reason = f"{who}: a simulated device"
            return [ExplainedPair(case=one.case, reason=one.reason or reason) for one in paired]
    return [msgspec.structs.replace(one, chip_doubt=doubt) for one in paired]


def _simulated(file: RunFile) -> bool:
    devices = [file.run.device, *(section(x.environment, "device") for x in file.explanations)]
    return any(device.get("simulated") for device in devices)


def _chip_doubt(base: RunFile, other: RunFile) -> str:
    """As `compare` finds it, by what the processes that explained say of their settings."""
    mine, theirs = _as_launched(base), _as_launched(other)
    return configured(mine, theirs, tuple(differences(mine, theirs))).chip_doubt


def _as_launched(file: RunFile) -> RunFile:
    """The run, its explanations in the place of its launches."""
    return msgspec.structs.replace(
        file,
        launches=tuple(
            Launch(
                case=one.case,
                fingerprint=one.fingerprint,
                launch=number,
                order=number,
                seed=one.seed,
                started_at=one.started_at,
                seconds=one.seconds,
                cold=Cold(),
                environment=one.environment,
                outcome=Skipped(reason="explained"),
            )
            for number, one in enumerate(file.explanations)
        ),
    )


def pair(base: ExplainedCase, other: ExplainedCase) -> ExplainedPair:
    """One case on both sides; only what is explained on both is held together."""
    for side, one in (("base", base), ("other", other)):
        if one.verdict != "EXPLAINED":
            return ExplainedPair(case=base.case, reason=f"{side} {one.verdict}: {one.reason}")
    if apart := _apart(base, other):
        return ExplainedPair(case=base.case, reason=apart)
    return ExplainedPair(
        case=base.case,
        base_ms=_value(base.step_ms),
        other_ms=_value(other.step_ms),
        launches=(base.launches, other.launches),
        ratio=_ratio(base, other),
        disturbed=tuple(
            f"{side} {flag} {one.flags[flag]}"
            for side, one in (("base", base), ("other", other))
            for flag in DISTURBED
            if flag in one.flags
        ),
        parts=_parts(base, other),
        operators=_operators(base.operators, other.operators),
    )


def _apart(base: ExplainedCase, other: ExplainedCase) -> str:
    """Why two explained cases are not held together; empty where they are."""
    if base.choice != other.choice:
        mine, theirs = (in_words(one.choice or {}) or "none" for one in (base, other))
        return f"each side was tuned to settings of its own: {mine}; {theirs}"
    # Operators may be replayed in two ways: their steps are timed alike, and nobody looks at them.
    if (base.how == PROFILER) != (other.how == PROFILER):
        return (
            f"base is explained by {base.how}, other by {other.how}: under a profiler a step is "
            "slower. Explain both again, on idle machines"
        )
    return ""


def _ratio(base: ExplainedCase, other: ExplainedCase) -> Interval:
    """Of the steps, each launch's median."""
    mine, theirs = (
        [statistics.median(account.step_ns) for account in one.accounts] for one in (base, other)
    )
    if found := stats.welch(mine, theirs, stats.FIXED_LEVEL):
        ratio = found.ratio
        return Interval(value=ratio.value, low=ratio.low, high=ratio.high)
    return Interval(value=stats.geometric_mean(theirs) / stats.geometric_mean(mine))


def _value(interval: Interval | None) -> float:
    return interval.value if interval else 0.0


def _parts(base: ExplainedCase, other: ExplainedCase) -> tuple[ClassPair, ...]:
    mine, theirs = ({row.kind: row for row in one.classes} for one in (base, other))
    boxes = [of_several([a.ceilings for a in one.accounts]) for one in (base, other)]
    found = []
    for kind in {**mine, **theirs}:
        rows = mine.get(kind), theirs.get(kind)
        bounded = all(row is not None and _bounded(row) for row in rows)
        chip = _chip(kind, base, other, boxes) if bounded else None
        first, second = (row.ms if row else None for row in rows)
        found.append(_part(kind, first, second, chip))
    for name in REST:
        found.append(_part(name, *(getattr(one, f"{name}_ms") for one in (base, other))))
    return tuple(sorted(found, key=lambda part: -abs(part.difference_ms)))


def _chip(
    kind: str, base: ExplainedCase, other: ExplainedCase, boxes: Sequence[Ceilings]
) -> float | None:
    """How many times as fast other's ceilings would do the same; see `ClassPair`."""
    mine, theirs = (
        [[op for op in account.operators if op.kind == kind] for account in one.accounts]
        for one in (base, other)
    )
    work = [
        statistics.fmean(sum(op.flop for op in operators) for operators in each)
        for each in (mine, theirs)
    ]
    if abs(work[0] - work[1]) > SAME_WORK * max(work):
        return None
    ratios = []
    for operators in (*mine, *theirs):
        if (found := priced(operators, boxes)) is None:
            return None
        ratios.append(found[0] / found[1])
    of_base, of_other = ratios[: len(mine)], ratios[len(mine) :]
    return math.sqrt(stats.geometric_mean(of_base) * stats.geometric_mean(of_other))


def _part(
    name: str, base: Interval | None, other: Interval | None, chip: float | None = None
) -> ClassPair:
    mine, theirs = _value(base), _value(other)
    software = None if chip is None else mine / theirs / chip
    return ClassPair(name=name, base_ms=mine, other_ms=theirs, chip=chip, software=software)


def _bounded(row: ClassRow) -> bool:
    """Whether as good as all of it has a bound: only then is the bound that of the class."""
    return bool(row.bound_ms) and row.bounded_ms >= BOUNDED * row.ms.value > 0


def _operators(
    base: Sequence[OperatorRow], other: Sequence[OperatorRow]
) -> tuple[OperatorPair, ...]:
    mine, theirs = _by_shapes(base), _by_shapes(other)
    found = [
        OperatorPair(name=key[0], operands=key[1], base_ms=mine.get(key), other_ms=theirs.get(key))
        for key in {**mine, **theirs}
    ]
    return tuple(sorted(found, key=lambda one: -abs(one.difference_ms))[:TOP])


def _by_shapes(rows: Sequence[OperatorRow]) -> dict[tuple[str, str], float]:
    """ms by name and shapes; what a compiler fused by its kernel's operators."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.ms is not None:
            name = f"fused {' '.join(row.fuses)}" if row.fuses else row.name
            key = name, STRIDES.sub("", row.operands)
            found[key] = found.get(key, 0.0) + row.ms.value
    return found
