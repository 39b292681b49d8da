"""Which suite a run is of, and what would have to be measured so that all of it can be compared.

What was released as `quick@1` does not change, so two runs of other numbers share the cases that
both numbers have; the rest of the one is measured on the other's device by its name and number.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from bench import catalogue
from bench.errors import AccelmarkError
from bench.judging.comparability import unequal
from bench.judging.comparison import CaseComparison
from bench.judging.row import Row
from bench.planning import plan, suite_file
from bench.planning.versions import today
from bench.records.case import Case
from bench.records.run import Run


def suite_of(run: Run) -> str | None:
    """The shipped suite, `quick@2`, that a run planned all of, or a part; None if it is none.

    By its cases, not by its word: a record from before suites had numbers says a name alone, and
    an edited file says more than it may. Of several numbers the one that it says, else the newest.
    """
    planned = {today(case).fingerprint for case in run.plan}
    name = run.suite.partition("@")[0]
    titles = [title for title in catalogue.releases() if title.partition("@")[0] == name]
    titles.sort(key=lambda title: title == run.suite)
    fitting = (title for title in reversed(titles) if planned <= _works(title))
    return next(fitting, None)


def command_for_the_rest(base: Run, cases: Sequence[CaseComparison]) -> str:
    """What measures, on the other's device, those of the base's cases that have no counterpart.

    Empty where all have one, or where the base is of no shipped suite.
    """
    title = suite_of(base)
    lacking = [case.base.work for case in cases if case.base is not None and _lacks(case)]
    if title is None or not lacking:
        return ""
    others = {work.fingerprint for work in lacking}
    beside = [case for case in _cases(title) if case.fingerprint not in others]
    globs = dict.fromkeys(_glob(work, beside) for work in lacking)
    return f"accelmark run {title} --only '{','.join(globs)}'"


def _lacks(case: CaseComparison) -> bool:
    """Whether the other run has no figure of a case's work because it was not asked for."""
    base, other = case.base, case.other
    if base is None or base.status != "measured":
        return False
    return other is None or _unreached(other) or any(True for _ in unequal(base.work, other.work))


def _unreached(row: Row) -> bool:
    return row.status != "measured" and not row.reached


def _glob(work: Case, beside: Sequence[Case]) -> str:
    """The name of a case; with its precision where others of the suite share the name."""
    shared = any(case.name == work.name for case in beside)
    return f"{work.name}-{work.precision}" if shared else work.name


def _works(title: str) -> frozenset[str]:
    return frozenset(case.fingerprint for case in _cases(title))


@functools.cache
def _cases(title: str) -> tuple[Case, ...]:
    """Of a shipped suite; none of one that cannot be planned, as somebody has edited it."""
    try:
        return plan.plan(suite_file.read_suite(suite_file.find_suite(title)))
    except AccelmarkError:
        return ()
