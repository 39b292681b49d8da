"""The verdict on a ratio: how sure, how large, over all cases of a comparison together.

Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
Statistics 6 (1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from bench import stats
from bench.errors import ComparisonError
from bench.judging.comparing.comparison import CaseComparison, CompareVerdict, Comparison
from bench.judging.comparing.reasons import Code, Reason
from bench.judging.row import Row, Verdict
from bench.judging.served import rate_given

COMPARE_LAUNCHES = 5
"""Fewer launches on either side give a ratio without an interval, and no verdict."""
SIGNIFICANCE = 0.05
"""Family-wise error rate over the cases of a comparison."""
LEAST_DIFFERENCE = 0.01
"""A smaller difference is nobody's reason to choose, however sure it is. Of the faster over the
slower: which of the two is called base must not change a verdict."""
EQUIVALENCE = 0.02
"""An interval of the ratio from 1/1.02 to 1.02 says that the two are equivalent."""

ITS_THROUGHPUT = (
    "both keep up with requests at a given rate, which is then their throughput: see TTFT, TPOT, "
    "goodput, or ask with --tpot-ms"
)
"""Of two loads whose figures are of what was asked, not of who answers."""


def enough(base: Row, other: Row) -> bool:
    """Whether both sides have the launches that an interval and a verdict need."""
    return min(base.launches, other.launches) >= COMPARE_LAUNCHES


def preliminary(
    base: Row, other: Row, tested: bool, at_given_rate: str = ITS_THROUGHPUT
) -> tuple[CompareVerdict, tuple[Reason, ...]]:
    """Why two rows have no verdict; UNDECIDED, and no reason, where it is the test that decides.

    at_given_rate: what is said of two loads that keep up with the same rate, however many launches.
    """
    found = (*disturbed("base", base), *disturbed("other", other))
    if rate_given(base, other):
        found = (Reason(Code.RATE_GIVEN, at_given_rate), *found)
    elif not tested:
        return "NO_INTERVAL", (too_few(base, other), *found)
    return ("UNRANKED", found) if found else ("UNDECIDED", ())


def too_few(base: Row, other: Row) -> Reason:
    """Why two rows that are not `enough` have no verdict."""
    return Reason(
        Code.FEW_LAUNCHES,
        f"{base.launches} and {other.launches} launches: a verdict needs {COMPARE_LAUNCHES} of "
        "each (--launches 10)",
    )


DISTURBED: dict[Verdict | None, Code] = {
    "NO_STEADY_STATE": Code.UNSTEADY,
    "THROTTLED": Code.THROTTLED,
    "INVALID": Code.INVALID,
}
"""Verdicts of a side with which it is not ranked. A wide interval is part of the test, and no such
verdict; a launch that was disturbed is not."""


def disturbed(who: str, row: Row) -> Iterator[Reason]:
    """Why a side is not ranked, though it has a number; nothing where it is."""
    if row.verdict in DISTURBED:
        yield Reason(DISTURBED[row.verdict], f"{who} is {row.verdict}: {row.reason}")


def with_verdicts(cases: Sequence[CaseComparison], looks: float = 1.0) -> Iterator[CaseComparison]:
    """Holm over the ranked cases, then each one's verdict.

    looks: what each p counts for, where launches ended when they looked alike.
    """
    ranked = [c.p_value * looks for c in cases if c.p_value is not None]
    adjusted = iter(stats.holm(ranked))
    for case in cases:
        if case.p_value is None:
            yield case
        else:
            p_value = next(adjusted)
            verdict = _verdict(case, p_value)
            remark = ""
            if verdict in ("FASTER", "SLOWER") and case.per_cycle and case.ratio:
                remark = case.per_cycle.remark(case.ratio, LEAST_DIFFERENCE)
            yield msgspec.structs.replace(
                case, p_value=p_value, verdict=verdict, clock_remark=remark
            )


def _verdict(case: CaseComparison, p_value: float) -> CompareVerdict:
    ratio, interval = case.ratio, case.interval
    assert ratio is not None
    assert interval is not None
    if p_value < SIGNIFICANCE and max(ratio, 1 / ratio) >= 1 + LEAST_DIFFERENCE:
        return "FASTER" if ratio > 1 else "SLOWER"
    if interval.low > 0 and max(interval.high, 1 / interval.low) <= 1 + EQUIVALENCE:
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
    """Cases about which nothing can be said: a CI that let them pass would test nothing. Beside
    others nothing is to be said of loads at a given rate, nor of what neither side can do."""
    found = [
        c for c in comparison.cases if c.verdict in ("NO_INTERVAL", "UNRANKED", "INCOMPARABLE")
    ]
    owed = [c for c in found if not (Code.RATE_GIVEN in c.codes or all(_limits(c)))]
    return owed or (found if len(found) == len(comparison.cases) else [])


def unanswered(comparison: Comparison) -> list[CaseComparison]:
    """Cases without a ratio that should have one: none is owed of what a side's device cannot do,
    or where its memory ran out at the end of a sweep."""
    return [c for c in comparison.cases if c.ratio is None and not _cannot(c)]


def _cannot(case: CaseComparison) -> bool:
    rows = [row for row in (case.base, case.other) if row is not None]
    faults = [row for row in rows if row.status in ("void", "failed") and not row.sweep_end]
    return any(_limits(case)) and not faults


def _limits(case: CaseComparison) -> list[bool]:
    """Of each side whether its device cannot do it."""
    return [
        row is not None and (row.sweep_end or (row.status == "skipped" and row.reached))
        for row in (case.base, case.other)
    ]
