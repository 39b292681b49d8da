"""Two runs, case by case: who is faster, by how much, how surely; or why that cannot be said.

A ratio is other / base throughput. Nothing here prints and nothing is stored: two run files give
the same verdicts whoever reads them.

Source of the test: Welch, "The generalization of Student's problem when several different
population variances are involved", Biometrika 34 (1947), on logarithms of launches' throughputs;
Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).

Runs with `launches = "auto"` are judged at 98 % instead of 95 %. They stop when their spread looks
small, at 5, 10 or 20 launches, so that spread is too small on average: at 95 %, two runs of equal
speed were told apart in up to 8.9 % of cases, at 98 % in up to 4.6 % (simulated;
`python -m bench.tests.scripts.truth`). Of two such runs that stopped at different numbers, a drift
of the machines over the session counts as a difference; `accelmark ab` stops both sides together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from typing import Any, Literal

import msgspec

from bench import stats
from bench.errors import ComparisonError
from bench.judging.summary import BANDWIDTH_WORKLOAD, CEILING_WORKLOAD, Row, summarize
from bench.planning.tuning import figures
from bench.precision import PRECISIONS
from bench.records.case import Case, Setting
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.records.runfile import by_case

CompareVerdict = Literal[
    "FASTER", "SLOWER", "EQUIVALENT", "UNDECIDED", "NO_INTERVAL", "UNRANKED", "INCOMPARABLE"
]
COMPARE_LAUNCHES = 5
"""Fewer launches on either side give a ratio without an interval, and no verdict."""
LEAST_DIFFERENCE = 0.01
"""A smaller difference is nobody's reason to choose, however sure it is. Of the faster over the
slower: which of the two is called base must not change a verdict."""
EQUIVALENCE = 0.02
"""An interval of the ratio from 1/1.02 to 1.02 says that the two are equivalent."""
WITNESS_TOLERANCE = 0.10
"""Relative difference of first-step outputs, equal seeds, above which a remark is made."""


Ceiling = Literal["matmul", "memory bandwidth"]


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio as the product of two: what the chips can do, and what software makes of it."""

    ceiling: Ceiling
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
    """The ratio, split into chip and software; None where the runs share no measured ceiling."""
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
    level: float
    """Of the intervals; 1 - level is the family-wise error rate over the cases (Holm)."""
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
                raise ComparisonError(f"a price must be finite and above zero, not {price}.")


def compare(base: RunFile, other: RunFile, prices: Prices | None = None) -> Comparison:
    """Judges every case of both runs; `ComparisonError` if they have no kind of work in common."""
    sides = _Side(base), _Side(other)
    pairs = list(_pairs(*sides))
    if not any(a is not None and b is not None for a, b in pairs):
        raise ComparisonError(
            f"{base.path} and {other.path} have nothing in common: {_works(sides[0])} against "
            f"{_works(sides[1])}. Compare runs of the same suite."
        )
    adaptive = "auto" in (base.run.settings.launches, other.run.settings.launches)
    level = stats.LOOK_LEVEL if adaptive else stats.FIXED_LEVEL
    cases = [_judge(sides, a, b, level, prices) for a, b in pairs]
    return Comparison(
        base=base,
        other=other,
        level=level,
        cases=tuple(_with_verdicts(cases, 1 - level)),
        differences=tuple(_differences(*sides)),
    )


class _Side:
    """One run, summarized once."""

    def __init__(self, file: RunFile) -> None:
        self.file = file
        self.rows = {row.case.fingerprint: row for row in summarize(file)}
        self.launches = by_case(file.launches)

    def environments(self, row: Row) -> list[dict[str, Any]]:
        """Of each measured launch of the figure."""
        launches = figures(self.launches.get(row.case.fingerprint, ()))
        return [x.environment for x in launches if isinstance(x.outcome, Measured)]

    def measured(self, row: Row) -> list[tuple[int, Measured]]:
        """Seed and outcome of each measured launch of the figure."""
        launches = figures(self.launches.get(row.case.fingerprint, ()))
        return [(x.seed, x.outcome) for x in launches if isinstance(x.outcome, Measured)]

    @functools.cached_property
    def ceilings(self) -> dict[tuple[Ceiling, str], dict[str, float]]:
        """Rates (FLOP/s, bytes/s) by fingerprint that a ceiling may be the best of.

        Matmul ceilings are apart by arithmetic; of memory bandwidth there is one, "".
        """
        found: dict[tuple[Ceiling, str], dict[str, float]] = {}
        for fingerprint, row in self.rows.items():
            if row.verdict not in ("OK", "NOISY"):
                continue
            if row.case.workload == CEILING_WORKLOAD and row.flop_per_second is not None:
                key: tuple[Ceiling, str] = ("matmul", _arithmetic(row.case))
                found.setdefault(key, {})[fingerprint] = row.flop_per_second
            if row.case.workload == BANDWIDTH_WORKLOAD and row.bytes_per_second is not None:
                found.setdefault(("memory bandwidth", ""), {})[fingerprint] = row.bytes_per_second
        return found


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
    near: dict[str, dict[str, set[Hashable]]] = {}
    for fingerprint, row in left.items():
        near.setdefault(row.case.name, {})[fingerprint] = _fields(row.case)
    for row in alone:
        candidates = near.get(row.case.name)
        if candidates:
            mine = _fields(row.case)
            chosen = min(candidates, key=lambda f: len(mine ^ candidates[f]))
            del candidates[chosen]
            yield row, left.pop(chosen)
        else:
            yield row, None
    for row in left.values():
        yield None, row


def _fields(case: Case) -> set[Hashable]:
    """What a case says, as a set: the fewer elements two do not share, the nearer they are."""
    fields = {**msgspec.structs.asdict(case), **case.parameters, **case.space}
    del fields["parameters"], fields["tuned"]
    return {(name, type(value), value) for name, value in fields.items()}


def unequal(base: Case, other: Case) -> Iterator[str]:
    """Every way in which two cases are not the same work, in words."""
    fields: list[tuple[str, Any, Any]] = [
        ("workload", base.workload, other.workload),
        ("workload version", base.version, other.version),
        ("mode", base.mode, other.mode),
        ("precision", base.precision, other.precision),
        ("execution", base.execution, other.execution),
        ("track", base.track, other.track),
        ("device count", base.devices, other.devices),
        ("parallelism", base.parallelism, other.parallelism),
    ]
    names = dict.fromkeys((*base.parameters, *other.parameters))
    fields += [(n, base.parameters.get(n, "none"), other.parameters.get(n, "none")) for n in names]
    opened = dict.fromkeys((*base.space, *other.space)) if base.track == other.track else ()
    fields += [(f"tuned {n}", _listed(base.space, n), _listed(other.space, n)) for n in opened]
    for name, mine, theirs in fields:
        # 1 == True == 1.0 for Python, and not for the fingerprint.
        if mine != theirs or type(mine) is not type(theirs):
            yield f"{name} differs ({mine}, {theirs})"


def _listed(space: Mapping[str, Sequence[Setting]], name: str) -> str:
    return " ".join(str(value) for value in space.get(name, ())) or "fixed"


def _incomparable(sides: tuple[_Side, _Side], base: Row, other: Row) -> Iterator[str]:
    """Every reason why two rows may not be compared; nothing where they may."""
    yield from unequal(base.case, other.case)
    mine, theirs = (side.file.run for side in sides)
    if mine.schema != theirs.schema:
        yield f"record schema differs ({mine.schema}, {theirs.schema})"
    if mine.settings.timing != theirs.settings.timing:
        yield f"timing mode differs ({mine.settings.timing}, {theirs.settings.timing})"
    if base.unit and other.unit and base.unit != other.unit:
        yield f"unit of throughput differs ({base.unit}, {other.unit})"
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
    arithmetic = _arithmetic(row.case)
    reduced = [e.get("float32_reduced") for e in environments]
    if arithmetic == "fp32" and any(reduced):
        yield "float32 products were allowed a shorter mantissa (TF32 or its like)"
    if arithmetic == "tf32" and not all(reduced):
        yield "float32 products were not allowed the shorter mantissa that the precision asks for"


def _arithmetic(case: Case) -> str:
    precision = PRECISIONS.get(case.precision)
    return case.precision if precision is None else precision.arithmetic


def _judge(
    sides: tuple[_Side, _Side],
    base: Row | None,
    other: Row | None,
    level: float,
    prices: Prices | None,
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
    welch = stats.welch(base.rates, other.rates, level)
    enough = min(base.launches, other.launches) >= COMPARE_LAUNCHES
    assert base.throughput is not None
    assert other.throughput is not None
    ratio = other.throughput / base.throughput
    verdict: CompareVerdict = "UNDECIDED"
    unranked = tuple(_unranked(base, other))
    if not enough or welch is None:
        verdict, reasons = "NO_INTERVAL", (_too_few(base, other), *unranked)
    elif unranked:
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
        split=_split(sides, base, other),
        joule_ratio=_joule_ratio(base, other),
        price_ratio=None if prices is None else ratio * prices.base / prices.other,
        # Other batches have other inputs: their outputs differ by rights.
        witness_gap=None
        if base.choice != other.choice
        else _witness_gap(sides[0].measured(base), sides[1].measured(other)),
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


def _split(sides: tuple[_Side, _Side], base: Row, other: Row) -> Split | None:
    """By the ceiling that the base is nearer to; None where the two runs share none."""
    matmul = _split_by(
        _common_ceilings(sides, ("matmul", _arithmetic(base.case))),
        "matmul",
        (base.flop_per_second, other.flop_per_second),
    )
    bandwidth = _split_by(
        _common_ceilings(sides, ("memory bandwidth", "")),
        "memory bandwidth",
        (base.bytes_per_second, other.bytes_per_second),
    )
    if base.choice != other.choice:  # a larger batch moves fewer bytes an item: no product
        bandwidth = None
    splits = [s for s in (matmul, bandwidth) if s is not None]
    return max(splits, key=lambda s: s.shares[0], default=None)


def _common_ceilings(
    sides: tuple[_Side, _Side], key: tuple[Ceiling, str]
) -> tuple[float, float] | None:
    """The best of the cases that both measured: the best of other shapes is another ceiling."""
    mine, theirs = (side.ceilings.get(key, {}) for side in sides)
    common = mine.keys() & theirs.keys()
    if not common:
        return None
    return max(mine[f] for f in common), max(theirs[f] for f in common)


def _split_by(
    ceilings: tuple[float, float] | None,
    ceiling: Ceiling,
    rates: tuple[float | None, float | None],
) -> Split | None:
    mine, theirs = rates
    if ceilings is None or mine is None or theirs is None:
        return None
    shares = mine / ceilings[0], theirs / ceilings[1]
    return Split(
        ceiling=ceiling,
        chip=ceilings[1] / ceilings[0],
        software=shares[1] / shares[0],
        shares=shares,
    )


def _joule_ratio(base: Row, other: Row) -> float | None:
    """Items per joule; None unless both are of a chip, or both of a board, and so on."""
    if base.energy_scope != other.energy_scope:
        return None
    return _quotient(other.items_per_joule, base.items_per_joule)


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


def _with_verdicts(
    cases: Sequence[CaseComparison], significance: float
) -> Iterator[CaseComparison]:
    """Holm over the ranked cases, then each one's verdict."""
    ranked = [c.p_value for c in cases if c.p_value is not None]
    adjusted = iter(stats.holm(ranked))
    for case in cases:
        if case.p_value is None:
            yield case
        else:
            p_value = next(adjusted)
            verdict = _verdict(case, p_value, significance)
            yield msgspec.structs.replace(case, p_value=p_value, verdict=verdict)


def _verdict(case: CaseComparison, p_value: float, significance: float) -> CompareVerdict:
    ratio, interval = case.ratio, case.interval
    assert ratio is not None
    assert interval is not None
    if p_value < significance and max(ratio, 1 / ratio) >= 1 + LEAST_DIFFERENCE:
        return "FASTER" if ratio > 1 else "SLOWER"
    if max(interval.high, 1 / interval.low) <= 1 + EQUIVALENCE:
        return "EQUIVALENT"
    return "UNDECIDED"


def slower_than(comparison: Comparison, percent: float) -> list[CaseComparison]:
    """Cases that are surely slower, and by at least `percent`: the test of a CI."""
    if not 0 <= percent <= 100:  # not a number is neither
        raise ComparisonError(f"--fail-if-slower {percent}: a percentage from 0 to 100.")
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
FLATTENED = ("device_state", "variables")
"""Sections whose keys are clear without the section's name."""
MOST_VALUES = 3
"""A fact that took more values than this within one run is given by its first ones."""


def _differences(base: _Side, other: _Side) -> Iterator[Difference]:
    names = {x.case.name for x in base.file.launches} & {x.case.name for x in other.file.launches}
    mine, theirs = (_facts(side.file, names) for side in (base, other))
    for name in dict.fromkeys((*mine, *theirs)):
        values = mine.get(name, []), theirs.get(name, [])
        if set(values[0]) != set(values[1]):
            yield Difference(name=name, base=_in_words(values[0]), other=_in_words(values[1]))


def _in_words(values: Sequence[str]) -> str:
    more = ", ..." if len(values) > MOST_VALUES else ""
    return ", ".join(values[:MOST_VALUES]) + more if values else "absent"


def _facts(file: RunFile, names: Set[str]) -> dict[str, list[str]]:
    """What a run was made on and with, flat: every value that a fact took, in order.

    names: the kinds of work of which it is told how they were run, as both runs have them.
    """
    found: dict[str, list[str]] = {}

    def add(prefix: str, facts: Mapping[str, Any]) -> None:
        for key, value in facts.items():
            name = f"{prefix}{key}"
            if key in NOT_COMPARED:
                continue
            if isinstance(value, dict):
                inner = "" if key in FLATTENED else f"{key} "
                add(inner, value)
            elif value is not None:
                values = found.setdefault(name, [])
                if str(value) not in values:
                    values.append(str(value))

    add("", {"device": file.run.device.get("name"), "backend": file.run.device.get("backend")})
    commit = file.run.host.get("git")
    if isinstance(commit, dict):
        changed = " with changes" if commit.get("changed") else ""
        add("", {"accelmark commit": f"{str(commit.get('commit'))[:12]}{changed}"})
    settings: dict[str, Any] = msgspec.to_builtins(file.run.settings)
    add("setting ", {k: v for k, v in settings.items() if k != "timing"})
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
        if isinstance(job, dict) and launch.case.name in names and not launch.case.space:
            add(f"{launch.case.name} ", job)
    return found
