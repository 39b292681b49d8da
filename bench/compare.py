"""Two runs, case by case: who is faster, by how much, how surely; or why that cannot be said.

A ratio is other / base throughput. Nothing here prints and nothing is stored: two run files give
the same verdicts whoever reads them.

Source of the test: Welch, "The generalization of Student's problem when several different
population variances are involved", Biometrika 34 (1947), on logarithms of launches' throughputs;
Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from bench import stats
from bench.case import Case
from bench.errors import ComparisonError
from bench.precision import PRECISIONS
from bench.record import Launch, Measured, RunFile
from bench.summary import Row, summarize

CompareVerdict = Literal[
    "FASTER", "SLOWER", "EQUIVALENT", "UNDECIDED", "NO_INTERVAL", "UNRANKED", "INCOMPARABLE"
]
COMPARE_LAUNCHES = 5
"""Fewer launches on either side give a ratio without an interval, and no verdict."""
LEAST_DIFFERENCE = 0.01
"""A smaller difference is nobody's reason to choose, however sure it is."""
EQUIVALENCE = 0.02
"""An interval of the ratio within this of 1 says that the two are equivalent."""
SIGNIFICANCE = 0.05
"""Family-wise error rate over the cases of one comparison (Holm)."""
WITNESS_TOLERANCE = 0.10
"""Relative difference of first-step outputs, equal seeds, above which a remark is made."""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio as the product of two: what the chips can do, and what software makes of it."""

    ceiling: Literal["matmul", "memory bandwidth"]
    """The one of which the base reaches the larger share: what limits the case there."""
    chip: float
    """Other / base measured ceiling."""
    software: float
    """Other / base share of it."""
    shares: tuple[float, float]
    """Of base and other."""


class CaseComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One case of the base beside the same of the other, or what stands nearest to it."""

    case: Case
    base: Row | None
    """None where the base has no such case."""
    other: Row | None
    verdict: CompareVerdict
    reasons: tuple[str, ...] = ()
    """Why there is no verdict; empty where there is one."""
    ratio: float | None = None
    """Other / base throughput; None where the two are not comparable."""
    interval: stats.Estimate | None = None
    """Welch-Satterthwaite interval of the ratio."""
    p_value: float | None = None
    """Two-sided, of equal throughput; adjusted over the comparison by Holm's method."""
    split: Split | None = None
    """The ratio, split into chip and software; None where a run did not measure the ceiling."""
    joule_ratio: float | None = None
    """Other / base items per joule."""
    price_ratio: float | None = None
    """Other / base items per currency unit, at the prices given."""
    witness_gap: float | None = None
    """Largest relative difference of the output after the first step, over launches of equal seed
    (weights and inputs are then the same); None where no seed is in both."""

    @property
    def not_excluded(self) -> float | None:
        """Largest relative difference, either way, that the interval does not exclude."""
        if self.interval is None:
            return None
        return max(abs(self.interval.low - 1), abs(self.interval.high - 1))


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something in which the two runs differ, and may."""

    name: str
    base: str
    other: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One other run against the base."""

    base: RunFile
    other: RunFile
    cases: tuple[CaseComparison, ...]
    differences: tuple[Difference, ...]

    @property
    def ratios(self) -> list[float]:
        """Of the cases that both measured and that are the same work."""
        return [c.ratio for c in self.cases if c.ratio is not None]

    @property
    def geometric_mean(self) -> float | None:
        """Of `ratios`, a figure beside the table and never instead of it."""
        return stats.geometric_mean(self.ratios) if self.ratios else None


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """What an hour of each side's device costs, in one currency."""

    base: float
    other: float

    def __post_init__(self) -> None:
        for price in (self.base, self.other):
            if not math.isfinite(price) or price <= 0:
                raise ValueError(f"a price must be finite and above zero, not {price}")


def compare(base: RunFile, other: RunFile, prices: Prices | None = None) -> Comparison:
    """Judges every case of both runs; `ComparisonError` if they have no kind of work in common."""
    sides = _Side(base), _Side(other)
    pairs = list(_pairs(*sides))
    if not any(a is not None and b is not None for a, b in pairs):
        raise ComparisonError(
            f"{base.path} and {other.path} have nothing in common: {_works(sides[0])} against "
            f"{_works(sides[1])}. Compare runs of the same suite."
        )
    cases = [_judge(sides, a, b, prices) for a, b in pairs]
    return Comparison(
        base=base,
        other=other,
        cases=tuple(_with_verdicts(cases)),
        differences=tuple(_differences(*sides)),
    )


class _Side:
    """One run, summarized once."""

    def __init__(self, file: RunFile) -> None:
        self.file = file
        self.rows = {row.case.fingerprint: row for row in summarize(file)}
        self.launches: dict[str, list[Launch]] = {}
        for launch in file.launches:
            self.launches.setdefault(launch.fingerprint, []).append(launch)

    def environments(self, row: Row) -> list[dict[str, Any]]:
        return [x.environment for x in self.launches.get(row.case.fingerprint, ())]

    def measured(self, row: Row) -> list[tuple[int, Measured]]:
        """Seed and outcome of each measured launch."""
        launches = self.launches.get(row.case.fingerprint, ())
        return [(x.seed, x.outcome) for x in launches if isinstance(x.outcome, Measured)]


def _works(side: _Side) -> str:
    return ", ".join(sorted({row.case.name for row in side.rows.values()})) or "no case"


def _pairs(base: _Side, other: _Side) -> Iterator[tuple[Row | None, Row | None]]:
    """Equal fingerprints; then, of the same workload and mode, the nearest; then what is left."""
    left = dict(other.rows)
    alone: list[Row] = []
    for fingerprint, row in base.rows.items():
        if fingerprint in left:
            yield row, left.pop(fingerprint)
        else:
            alone.append(row)
    for row in alone:
        near = [r for r in left.values() if r.case.name == row.case.name]
        if near:
            chosen = min(near, key=lambda r: len(list(unequal(row.case, r.case))))
            yield row, left.pop(chosen.case.fingerprint)
        else:
            yield row, None
    for row in left.values():
        yield None, row


def unequal(base: Case, other: Case) -> Iterator[str]:
    """Every way in which two cases are not the same work, in words."""
    fields: list[tuple[str, Any, Any]] = [
        ("workload", base.workload, other.workload),
        ("workload version", base.version, other.version),
        ("mode", base.mode, other.mode),
        ("precision", base.precision, other.precision),
        ("execution", base.execution, other.execution),
        ("device count", base.devices, other.devices),
        ("parallelism", base.parallelism, other.parallelism),
    ]
    names = dict.fromkeys((*base.parameters, *other.parameters))
    fields += [(n, base.parameters.get(n, "none"), other.parameters.get(n, "none")) for n in names]
    for name, mine, theirs in fields:
        # 1 == True == 1.0 for Python, and not for the fingerprint.
        if mine != theirs or type(mine) is not type(theirs):
            yield f"{name} differs ({mine}, {theirs})"


def _incomparable(sides: tuple[_Side, _Side], base: Row, other: Row) -> Iterator[str]:
    """Every reason why two rows may not be compared; nothing where they may."""
    yield from unequal(base.case, other.case)
    mine, theirs = (side.file.run for side in sides)
    if mine.schema != theirs.schema:
        yield f"record schema differs ({mine.schema}, {theirs.schema})"
    if mine.settings.timing != theirs.settings.timing:
        yield f"timing mode differs ({mine.settings.timing}, {theirs.settings.timing})"
    for who, side, row in zip(("base", "other"), sides, (base, other), strict=True):
        if row.status != "measured":
            yield f"{who} is {row.status}: {row.reason}"
        yield from (f"{who}: {reason}" for reason in _disqualified(side, row))


def _disqualified(side: _Side, row: Row) -> Iterator[str]:
    """What makes a row unfit for any comparison although it has a number."""
    environments = side.environments(row)
    devices = [side.file.run.device, *(e.get("device") for e in environments)]
    if any(isinstance(d, dict) and d.get("simulated") for d in devices):
        yield "a simulated device"
    if _arithmetic(row.case) == "fp32" and any(e.get("float32_reduced") for e in environments):
        yield "float32 products were allowed a shorter mantissa (TF32 or its like)"


def _arithmetic(case: Case) -> str:
    precision = PRECISIONS.get(case.precision)
    return case.precision if precision is None else precision.arithmetic


def _judge(
    sides: tuple[_Side, _Side], base: Row | None, other: Row | None, prices: Prices | None
) -> CaseComparison:
    """All but the verdict of ranked cases, which depends on the whole comparison (Holm)."""
    if base is None or other is None:
        present = base or other
        assert present is not None
        missing = "other" if other is None else "base"
        return CaseComparison(
            case=present.case,
            base=base,
            other=other,
            verdict="INCOMPARABLE",
            reasons=(f"no such case in the {missing} run",),
        )
    reasons = tuple(_incomparable(sides, base, other))
    if reasons:
        return CaseComparison(
            case=base.case, base=base, other=other, verdict="INCOMPARABLE", reasons=reasons
        )
    welch = stats.welch(base.rates, other.rates, stats.FIXED_LEVEL)
    enough = min(base.launches, other.launches) >= COMPARE_LAUNCHES
    assert base.throughput is not None
    assert other.throughput is not None
    ratio = other.throughput / base.throughput
    verdict: CompareVerdict = "UNDECIDED"
    if not enough or welch is None:
        verdict, reasons = "NO_INTERVAL", (_too_few(base, other),)
    elif unranked := tuple(_unranked(base, other)):
        verdict, reasons = "UNRANKED", unranked
    return CaseComparison(
        case=base.case,
        base=base,
        other=other,
        verdict=verdict,
        reasons=reasons,
        ratio=ratio,
        interval=welch.ratio if welch and enough else None,
        p_value=welch.p_value if welch and verdict == "UNDECIDED" else None,
        split=_split(base, other),
        joule_ratio=_quotient(other.items_per_joule, base.items_per_joule),
        price_ratio=None if prices is None else ratio * prices.base / prices.other,
        witness_gap=_witness_gap(sides[0].measured(base), sides[1].measured(other)),
    )


def _too_few(base: Row, other: Row) -> str:
    return (
        f"{base.launches} and {other.launches} launches: a verdict needs {COMPARE_LAUNCHES} of "
        "each (--launches 10)"
    )


def _unranked(base: Row, other: Row) -> Iterator[str]:
    """A wide interval is part of the test; a launch that was disturbed is not."""
    for who, row in (("base", base), ("other", other)):
        if row.verdict not in ("OK", "NOISY"):
            yield f"{who} is {row.verdict}: {row.reason}"


def _split(base: Row, other: Row) -> Split | None:
    """By the ceiling that the base is nearer to."""
    splits = [
        _split_by("matmul", base.ceiling_fraction, other.ceiling_fraction, base, other),
        _split_by(
            "memory bandwidth", base.bandwidth_fraction, other.bandwidth_fraction, base, other
        ),
    ]
    return max((s for s in splits if s is not None), key=lambda s: s.shares[0], default=None)


def _split_by(
    ceiling: Literal["matmul", "memory bandwidth"],
    mine: float | None,
    theirs: float | None,
    base: Row,
    other: Row,
) -> Split | None:
    if mine is None or theirs is None:
        return None
    assert base.throughput is not None
    assert other.throughput is not None
    software = theirs / mine
    chip = other.throughput / base.throughput / software
    return Split(ceiling=ceiling, chip=chip, software=software, shares=(mine, theirs))


def _quotient(other: float | None, base: float | None) -> float | None:
    return None if other is None or base is None else other / base


def _witness_gap(
    base: Sequence[tuple[int, Measured]], other: Sequence[tuple[int, Measured]]
) -> float | None:
    theirs = {seed: outcome.witness[0] for seed, outcome in other}
    gaps = [
        abs(theirs[seed] - mine.witness[0]) / max(abs(mine.witness[0]), abs(theirs[seed]))
        if mine.witness[0] != theirs[seed]
        else 0.0
        for seed, mine in base
        if seed in theirs
    ]
    return max(gaps, default=None)


def _with_verdicts(cases: Sequence[CaseComparison]) -> Iterator[CaseComparison]:
    """Holm over the ranked cases, then each one's verdict."""
    ranked = [c.p_value for c in cases if c.p_value is not None]
    adjusted = iter(stats.holm(ranked))
    for case in cases:
        if case.p_value is None:
            yield case
        else:
            p_value = next(adjusted)
            verdict = _verdict(case, p_value)
            yield msgspec.structs.replace(case, p_value=p_value, verdict=verdict)


def _verdict(case: CaseComparison, p_value: float) -> CompareVerdict:
    ratio, interval = case.ratio, case.interval
    assert ratio is not None
    assert interval is not None
    if p_value < SIGNIFICANCE and abs(ratio - 1) >= LEAST_DIFFERENCE:
        return "FASTER" if ratio > 1 else "SLOWER"
    if interval.low >= 1 - EQUIVALENCE and interval.high <= 1 + EQUIVALENCE:
        return "EQUIVALENT"
    return "UNDECIDED"


def slower_than(comparison: Comparison, percent: float) -> list[CaseComparison]:
    """Cases that are surely slower, and by at least `percent`: the test of a CI."""
    limit = 1 - percent / 100
    return [
        c
        for c in comparison.cases
        if c.verdict == "SLOWER" and c.ratio is not None and c.ratio <= limit
    ]


def undecidable(comparison: Comparison) -> list[CaseComparison]:
    """Cases about which nothing can be said: a CI that let them pass would test nothing."""
    return [c for c in comparison.cases if c.verdict in ("NO_INTERVAL", "UNRANKED", "INCOMPARABLE")]


NOT_COMPARED = ("load_1min", "memory_bytes", "git", "packages", "sm_clock_mhz", "memory_clock_mhz")
"""Facts that differ between any two runs, or are listed in another form."""
MOST_VALUES = 3
"""A fact that took more values than this within one run is given by its first ones."""


def _differences(base: _Side, other: _Side) -> Iterator[Difference]:
    mine, theirs = (_facts(side.file) for side in (base, other))
    for name in dict.fromkeys((*mine, *theirs)):
        values = mine.get(name, "not recorded"), theirs.get(name, "not recorded")
        if values[0] != values[1]:
            yield Difference(name=name, base=values[0], other=values[1])


def _facts(file: RunFile) -> dict[str, str]:
    """What a run was made on and with, flat; a fact with several values names them all."""
    found: dict[str, list[str]] = {}

    def add(prefix: str, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict):
                inner = "" if key in FLATTENED else f"{key} "
                add(inner, value)
            elif key not in NOT_COMPARED and value is not None:
                values = found.setdefault(name, [])
                if str(value) not in values:
                    values.append(str(value))

    add("", {"device": file.run.device.get("name"), "backend": file.run.device.get("backend")})
    commit = file.run.host.get("git")
    if isinstance(commit, dict):
        changed = " with changes" if commit.get("changed") else ""
        add("", {"accelmark commit": f"{str(commit.get('commit'))[:12]}{changed}"})
    add("host ", {k: v for k, v in file.run.host.items() if not isinstance(v, dict)})
    for launch in file.launches:
        environment = {k: v for k, v in launch.environment.items() if k not in ("device", "job")}
        add("", environment)
        packages = launch.environment.get("packages")
        if isinstance(packages, dict):
            add("", packages)
        device = launch.environment.get("device")
        if isinstance(device, dict) and isinstance(device.get("facts"), dict):
            add("", device["facts"])
        job = launch.environment.get("job")
        if isinstance(job, dict):
            add(f"{launch.case.name} ", job)
    return {
        name: ", ".join(values[:MOST_VALUES]) + (", ..." if len(values) > MOST_VALUES else "")
        for name, values in found.items()
    }


FLATTENED = ("device_state", "variables")
"""Sections whose keys are clear without the section's name."""
