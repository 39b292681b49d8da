"""Two runs, case by case: who is faster, by how much, how surely; or why that cannot be said.

A ratio is other / base throughput. Nothing here prints and nothing is stored: two run files give
the same verdicts whoever reads them.

Source of the test: Welch, "The generalization of Student's problem when several different
population variances are involved", Biometrika 34 (1947), on logarithms of launches' throughputs.

Runs with `launches = "auto"` have intervals of 98 % instead of 95 %. They stop when their spread
looks small, at 5, 10 or 20 launches, so that spread is too small on average, and the smaller a p,
the more: it counts tenfold. At p < 0.02 instead of 0.005 two equal runs were told apart in 4 % of
single cases, and in 8 % of suites of eight (simulated; `python -m bench.tests.scripts.truth`). Of
two such runs that stopped at different numbers, a drift of the machines over the session counts as
a difference; `accelmark ab` stops both sides together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence, Set

import msgspec

from bench import stats
from bench.errors import ComparisonError, RecordError
from bench.judging.comparing.comparability import incomparable
from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.comparing.configured import configured, in_turns
from bench.judging.comparing.cycles import BY_ITS_CLOCK, per_cycle
from bench.judging.comparing.differences import Difference, differences
from bench.judging.comparing.equal_work import equal_work
from bench.judging.comparing.implementations import experts_differ, operators_differ
from bench.judging.comparing.pairing import pairs
from bench.judging.comparing.reasons import Code, Reason
from bench.judging.comparing.side import Side
from bench.judging.comparing.split import split
from bench.judging.comparing.suites import command_for_the_base, command_for_the_rest, suite_of
from bench.judging.comparing.verdicts import ITS_THROUGHPUT, enough, preliminary, with_verdicts
from bench.judging.row import UNDISTURBED, Row
from bench.judging.tracks import by_choice
from bench.planning.shapes import is_matmul_ceiling
from bench.records.run import RunFile

Paired = Sequence[tuple[Row | None, Row | None]]
APART, IN_TURNS = 10.0, 2.5
"""What p counts for, where launches ended at a look: of two runs, and of the sides of one `ab`."""
WITNESS_TOLERANCE = 0.10
"""Of `witness_gap`, above which a remark is made."""


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """What an hour of each side's device costs, in one currency."""

    base: float
    other: float

    def __post_init__(self) -> None:
        for price in (self.base, self.other):
            if not isinstance(price, int | float) or not 0 < price < math.inf:
                raise ComparisonError(f"a price must be a number above 0, not {price!r}.")


def compare(base: RunFile, other: RunFile, prices: Prices | None = None) -> Comparison:
    """Judges every case of both runs.

    Raises `ComparisonError` if they are one run, or have no kind of work in common.
    """
    sides = sides_of(base, other)
    paired = [pair for pair in pairs(*(side.rows for side in sides)) if _tried(*pair)]
    if not any(a is not None and b is not None for a, b in paired):
        raise ComparisonError(
            f"{base.path} and {other.path} have nothing in common: {_works(sides[0])} against "
            f"{_works(sides[1])}. Compare runs of the same suite.",
            code=Code.NOTHING_IN_COMMON,
        )
    level = level_of(sides)
    found = concluded(
        sides, level, paired, [_judge(sides, *rows, level, prices) for rows in paired]
    )
    return msgspec.structs.replace(
        found,
        command_for_the_rest=command_for_the_rest(base.run, other.run, found.cases),
        command_for_the_base=command_for_the_base(other.run, found.cases),
    )


def whole(file: RunFile) -> RunFile:
    """The run; raises `RecordError` where its record is damaged: a ratio of half a run would pass
    for the whole."""
    if file.damage:
        raise RecordError(
            f"{file.damage}. An incomplete run is not compared. `accelmark report` shows what is "
            f"left of it. {file.remedy}"
        )
    return file


def two_runs(base: RunFile, other: RunFile) -> None:
    """Raises `ComparisonError` where they are one."""
    if base.run.run_id == other.run.run_id:
        raise ComparisonError(
            f"{base.path} and {other.path} are the same run, or a copy of it ({base.run.run_id}). "
            "Compared with itself, any run is EQUIVALENT. Give two runs. For the noise of one "
            "machine: `accelmark ab`, the same --device twice.",
            code=Code.SAME_RUN,
        )


def sides_of(base: RunFile, other: RunFile) -> tuple[Side, Side]:
    """Both runs; raises `ComparisonError` where they are one."""
    two_runs(base, other)
    return Side(base), Side(other)


def level_of(sides: tuple[Side, Side]) -> float:
    """Of the intervals: that of a look, where a run stopped when its spread looked small."""
    return max(stats.level(side.file.run.settings.launches) for side in sides)


def concluded(
    sides: tuple[Side, Side], level: float, paired: Paired, judged: Sequence[CaseComparison]
) -> Comparison:
    """Gives ranked cases their verdicts, over all together, and says in what the runs differ."""
    base, other = _files(sides)
    differing = (*differences(base, other), *operators_differ(paired), *_versions(paired))
    looks = IN_TURNS if in_turns(base.run, other.run) else APART
    cases = tuple(with_verdicts(judged, looks if level > stats.FIXED_LEVEL else 1.0))
    clocks = [
        c.label for c in cases if c.clock_remark == BY_ITS_CLOCK and is_matmul_ceiling(c.case)
    ]
    return Comparison(
        base=base,
        other=other,
        level=level,
        cases=cases,
        differences=differing,
        configured=msgspec.structs.replace(
            configured(base, other, differing), clocks=tuple(clocks)
        ),
        suite=suite_of(base.run) or base.run.suite,
    )


def _tried(base: Row | None, other: Row | None) -> bool:
    """Whether at least one run meant to measure it: not so of devices that neither takes."""
    return any(row is not None and not row.untried_point for row in (base, other))


def _versions(paired: Paired) -> Iterator[Difference]:
    """Versions by which one work is called: that they are the same is a declaration to be known."""
    called = {
        (base.case.workload, base.case.version, other.case.version): None
        for base, other in paired
        if base is not None and other is not None and base.work.alone == other.work.alone
    }
    for workload, mine, theirs in called:
        if mine != theirs:
            name = f"{workload} version (declared to be the same work)"
            yield Difference(name=name, base=str(mine), other=str(theirs))


def _works(side: Side) -> str:
    return ", ".join(sorted({row.case.name for row in side.rows.values()})) or "no case"


def _judge(
    sides: tuple[Side, Side],
    base: Row | None,
    other: Row | None,
    level: float,
    prices: Prices | None,
) -> CaseComparison:
    """All but the verdict of ranked cases, which depends on the whole comparison (Holm)."""
    present = base or other
    assert present is not None
    found = CaseComparison(case=present.case, base=base, other=other, verdict="INCOMPARABLE")
    change = msgspec.structs.replace
    if base is None or other is None:
        return change(found, because=(no_counterpart(other is None),))
    same_work = equal_work(sides, base, other)
    found = change(found, same_work=same_work)
    if because := tuple(incomparable(sides, base, other)):
        return change(found, because=because)
    return change(
        with_ratio(found, sides, level, prices),
        split=split(sides, *in_equal_rounds(_files(sides), base, other)),
        experts_remark=experts_differ(sides, base, other),
        # Other batches have other inputs: their outputs differ by rights.
        witness_gap=witness_gap(found, sides) if base.choice == other.choice else None,
    )


def with_ratio(
    found: CaseComparison,
    sides: tuple[Side, Side],
    level: float,
    prices: Prices | None,
    at_given_rate: str = ITS_THROUGHPUT,
) -> CaseComparison:
    """Two rows that may be compared, with all that their figures say of each other.

    prices: of an hour of one device; at_given_rate: see `preliminary`.
    """
    assert found.base is not None
    assert found.other is not None
    base, other = in_equal_rounds(_files(sides), found.base, found.other)
    assert base.throughput is not None
    assert other.throughput is not None
    welch = stats.welch(base.rates, other.rates, level) if enough(base, other) else None
    verdict, because = preliminary(base, other, welch is not None, at_given_rate)
    ratio, count = other.throughput / base.throughput, other.case.devices / base.case.devices
    chance = by_choice(*((base, other) if ratio > 1 else (other, base))) if welch else 0.0
    joule_ratio, joule_interval = _per_joule(base, other, level)
    return msgspec.structs.replace(
        found,
        verdict=verdict,
        because=because,
        ratio=ratio,
        interval=welch.ratio if welch else None,
        p_value=max(welch.p_value, chance) if welch and verdict == "UNDECIDED" else None,
        per_cycle=per_cycle(sides, base, other, level) if welch else None,
        joule_ratio=joule_ratio,
        joule_interval=joule_interval,
        price_ratio=None if prices is None else ratio / count * prices.base / prices.other,
    )


def _files(sides: tuple[Side, Side]) -> tuple[RunFile, RunFile]:
    return sides[0].file, sides[1].file


def in_equal_rounds(files: tuple[RunFile, RunFile], base: Row, other: Row) -> tuple[Row, Row]:
    """Of the sides of one `ab` each by its launches of the rounds that are in both sides' figures:
    where a launch of one is left out, what drifts on the host would count as a difference.

    Others as they are, and so are tuned cases, whose rounds each side begins after its own trials.
    """
    both = {*base.rounds} & {*other.rounds}
    if base.case.space or not both or not in_turns(*(file.run for file in files)):
        return base, other
    return _of_rounds(base, both), _of_rounds(other, both)


def _of_rounds(row: Row, rounds: Set[int]) -> Row:
    """What a ratio is made of, by some of the row's launches."""
    kept = [number in rounds for number in row.rounds]
    if all(kept):
        return row
    assert row.throughput is not None
    rates = tuple(itertools.compress(row.rates, kept))
    joule_rates = tuple(itertools.compress(row.joule_rates, kept))
    throughput = stats.geometric_mean(rates)
    times = throughput / row.throughput
    return msgspec.structs.replace(
        row,
        launches=len(rates),
        throughput=throughput,
        rates=rates,
        rounds=tuple(itertools.compress(row.rounds, kept)),
        slowest_clocks_mhz=tuple(itertools.compress(row.slowest_clocks_mhz, kept)),
        joule_rates=joule_rates,
        items_per_joule=stats.geometric_mean(joule_rates) if row.items_per_joule else None,
        least_flop_per_second=row.least_flop_per_second and times * row.least_flop_per_second,
        bytes_per_second=row.bytes_per_second and times * row.bytes_per_second,
    )


def no_counterpart(in_other: bool) -> Reason:
    """Why a case of one run alone has no verdict."""
    if in_other:
        return Reason(Code.NOT_IN_OTHER, "no such case in the other run")
    return Reason(Code.NOT_IN_BASE, "no such case in the base run")


def _per_joule(base: Row, other: Row, level: float) -> tuple[float | None, stats.Estimate | None]:
    """The ratio of items per joule, with an interval where throughput has one; None unless both are
    of a chip, or both of a board, and so on, and where something disturbed a side."""
    undisturbed = all(row.verdict in UNDISTURBED for row in (base, other))
    mine, theirs = base.items_per_joule, other.items_per_joule
    if base.energy_scope != other.energy_scope or not (undisturbed and mine and theirs):
        return None, None
    found = stats.welch(base.joule_rates, other.joule_rates, level) if enough(base, other) else None
    return theirs / mine, found.ratio if found else None


def witness_gap(found: CaseComparison, sides: tuple[Side, Side]) -> float | None:
    """How far loss, or mean output, after the first step differ: root mean squares of equal seeds.

    A mean output lies about zero: one seed's is no scale. None of fewer than three, of work that is
    proved, and of what reads the tokens that it generates: a rounding turns one, and all that
    follow.
    """
    mine, theirs = (
        {seed: outcome.witness[0] for seed, outcome in side.measured(row)} if row else {}
        for side, row in zip(sides, (found.base, found.other), strict=True)
    )
    both = [(mine[seed], theirs[seed]) for seed in mine if seed in theirs]
    proved = found.same_work is not None and found.same_work.proved
    if proved or len(both) < stats.MINIMUM_LAUNCHES or "new_tokens" in found.case.parameters:
        return None
    scale = max(math.hypot(*values) for values in zip(*both, strict=True))
    return math.hypot(*(b - a for a, b in both)) / scale if scale else 0.0
