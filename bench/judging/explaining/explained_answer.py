"""Which account of a step is the answer, where both a replay and a profiler gave one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec

from bench import stats
from bench.judging.interval import Interval
from bench.records.explained import Explained

LEAST_COVERAGE = 0.85
"""Below it a step is not explained."""
MOST_COVERAGE = 1.05
"""Above it the operators took longer by themselves than in the step: nothing of it is believed."""


def answers(accounts: Sequence[Explained]) -> list[Explained]:
    """The accounts by whichever has the better coverage over all of them: what was replayed, or
    what the profiler saw. It is the profiler's where in their mean that explains the step and the
    replay does not, and each has it. Never the one of one launch and the other of another: those
    left out would be chosen by what they say."""
    profiled = [
        msgspec.structs.replace(
            account,
            how="profiler",
            step_ns=(round(account.profile.step_ns),),
            freeing_ns=0.0,
            operators=account.profiled_operators,
            causes={name: seen for name, seen in account.causes.items() if name != "HOT"},
            order=(),
            call_ns=(),
        )
        for account in accounts
        if account.profiled_operators and account.profile is not None
    ]
    if len(profiled) < len(accounts) or _explains(accounts) or not _explains(profiled):
        return list(accounts)
    return profiled


def _explains(accounts: Sequence[Explained]) -> bool:
    return coverage_verdict(accounts)[0] == "EXPLAINED"


def coverage_verdict(
    accounts: Sequence[Explained], calls: str = ""
) -> tuple[Literal["EXPLAINED", "NOT-EXPLAINED", "VOID"], str]:
    """Whether the operators explain the step, over all launches, and why not.

    calls: what is said of the host's calls, where they are most of the rest. Where half of the
    launches miss it, some to each side, their mean is no answer.
    """
    coverage = coverage_of(accounts).value
    if coverage < LEAST_COVERAGE:
        return "NOT-EXPLAINED", (
            f"its operators make up {coverage:.0%} of the step, and less than {LEAST_COVERAGE:.0%} "
            f"explains nothing: the rest is the host, {calls or 'or work that was not seen'}"
        )
    if coverage > MOST_COVERAGE:
        return "VOID", (
            f"its operators took {coverage:.0%} of the step by themselves: what was measured is "
            "not what the step does. Try again on an idle machine"
        )
    each = [working / step for working, step in map(_working, accounts)]
    below, above = (
        sum(one < LEAST_COVERAGE for one in each),
        sum(one > MOST_COVERAGE for one in each),
    )
    if below and above and 2 * (below + above) >= len(each):
        return "VOID", (
            f"its operators took {min(each):.0%} to {max(each):.0%} of the step over "
            f"{len(each)} launches: they disagree. Try again on an idle machine"
        )
    return "EXPLAINED", ""


def coverage_of(accounts: Sequence[Explained]) -> Interval:
    """Operators and freeing, over the step: the quotient of their means over launches, which stand
    beside it. Its interval is that of a ratio of means, linearized."""
    found = [_working(account) for account in accounts]
    mean = statistics.fmean(step for _, step in found)
    value = statistics.fmean(working for working, _ in found) / mean
    each = [value + (working - value * step) / mean for working, step in found]
    return Interval.over(each, stats.FIXED_LEVEL)


def _working(account: Explained) -> tuple[float, float]:
    """Of a launch, ns of operators and freeing, and of the step."""
    working = sum(op.ns or 0.0 for op in account.operators) + account.freeing_ns
    return working, statistics.median(account.step_ns)
