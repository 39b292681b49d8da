"""Which suite a run is of, and what would have to be measured so that all of it can be compared.

What was released as `quick@1` does not change, so two runs of other numbers share the cases that
both numbers have; the rest of the one is measured on the other's device by its name and number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from bench import catalogue
from bench.errors import AccelmarkError
from bench.judging.comparing.comparability import unequal
from bench.judging.comparing.comparison import CaseComparison
from bench.judging.comparing.verdicts import COMPARE_LAUNCHES
from bench.judging.row import Row
from bench.planning import plan, suite_file
from bench.planning.instead import OPTION
from bench.planning.spread import FEWEST
from bench.planning.suite_file import Suite
from bench.planning.versions import today
from bench.records.case import Case
from bench.records.run import Run


def suite_of(run: Run) -> str | None:
    """The shipped suite, `quick@2`, that a run planned all of, or a part; None if it is none.

    By its cases, not by its word: a record from before suites had numbers says a name alone, and
    an edited file says more than it may. Of several numbers the one that it says, else the newest.
    """
    return _planned(run)[0]


def _planned(run: Run) -> tuple[str | None, int | None]:
    """That suite, and the devices that the run took of those that it leaves open; None of none."""
    planned = {today(case).fingerprint for case in run.plan}
    name = run.suite.partition("@")[0]
    titles = [title for title in catalogue.releases() if title.partition("@")[0] == name]
    titles.sort(key=lambda title: title == run.suite)
    tried = (case.devices for case in run.plan if case.fingerprint not in run.left_out)
    taken = sorted({count for count in tried if count > 1}, reverse=True)
    for title in reversed(titles):
        for devices in taken if taken and _is_open(title) else (None,):
            if planned <= _works(title, devices):
                return title, devices
    return None, None


def command_for_the_rest(base: Run, other: Run, cases: Sequence[CaseComparison]) -> str:
    """What measures, on the other's device, those of the base's cases that have no counterpart.

    Empty where all have one, and where the base is of no shipped suite. Not of a precision that
    the other's device lacks, as it measures another one `instead`: see `command_for_the_base`.
    """
    found = [case.base.work for case in cases if case.base and _lacks(case.base, case.other)]
    elsewhere = {case.name for case in other.plan if case.fingerprint in other.instead}
    works = [case.base.work for case in cases if case.base]
    lacked = {work.precision for work in works if work.name in elsewhere}
    lacked -= {case.precision for case in other.plan}
    return _command(
        base,
        [w for w in found if w.name not in elsewhere and w.precision not in lacked],
    )


def command_for_the_base(other: Run, cases: Sequence[CaseComparison]) -> str:
    """What measures, on the base's device, what the other has in another precision, for want of
    its suite's. Empty where there is no such case."""
    found = [case.other for case in cases if case.other and _lacks(case.other, case.base)]
    return _command(other, [row.work for row in found if row.instead])


def _command(run: Run, lacking: Sequence[Case]) -> str:
    """What measures those cases of a run elsewhere; several commands, if need be."""
    title, devices = _planned(run)
    if title is None or not lacking:
        return ""
    cases = _read(title, plan.plan, devices)
    written = {case.fingerprint for case in cases}
    others = {work.fingerprint for work in lacking}
    beside = [case for case in cases if case.fingerprint not in others]
    most = max(work.devices for work in lacking)
    over = f" --devices {most}" if devices and most > 1 else ""
    launches = run.settings.launches
    few = launches != "auto" and launches < COMPARE_LAUNCHES
    if launches != _suite(title).settings.launches and not few:
        over += f" --launches {launches}"
    by_option: dict[str, dict[str, None]] = {}
    for work in lacking:
        option = "" if work.fingerprint in written else f" {OPTION} {work.precision}"
        glob = work.name if option else _glob(work, beside)
        by_option.setdefault(option, {})[glob] = None
    return " && ".join(
        f"accelmark run {title}{over}{option} --only '{','.join(globs)}'"
        for option, globs in by_option.items()
    )


def _lacks(row: Row, other: Row | None) -> bool:
    """Whether the other run has no figure of a row's work because it was not asked for."""
    if not row.measured:
        return False
    return other is None or not other.reached or any(True for _ in unequal(row.work, other.work))


def _glob(work: Case, beside: Sequence[Case]) -> str:
    """The name of a case; with its precision where others of the suite share the name."""
    shared = any(case.name == work.name for case in beside)
    return f"{work.name}-{work.precision}" if shared else work.name


def _works(title: str, devices: int | None) -> frozenset[str]:
    """What a run of it may measure, on whatever device."""
    return frozenset(case.fingerprint for case in _read(title, plan.any_way, devices))


def _is_open(title: str) -> bool:
    try:
        return plan.leaves_devices_open(_suite(title))
    except AccelmarkError:
        return False


@functools.cache
def _read(
    title: str, planned: Callable[[Suite, int], tuple[Case, ...]], devices: int | None
) -> tuple[Case, ...]:
    """None of one that cannot be planned, as somebody has edited it, or not over so many."""
    try:
        return planned(_suite(title), devices or FEWEST)
    except AccelmarkError:
        return ()


@functools.cache
def _suite(title: str) -> Suite:
    return suite_file.read_suite(suite_file.find_suite(title))
