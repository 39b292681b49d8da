"""Saved files of pytest-benchmark: the whole run goes in, and what is not comparable is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from bench.pytest_plugin.keys import COMPARED, KEY, PLAN, RUN, SAVED
from bench.pytest_plugin.options import benchmarks_disabled, translated

if TYPE_CHECKING:
    from pytest_benchmark.stats import Metadata
    from pytest_benchmark.utils import RegressionCheck

    from bench.judging.comparing.side import Side
    from bench.judging.row import Row
    from bench.records.case import Case
    from bench.records.run import RunFile


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: object, output_json: dict[str, Any]
) -> None:
    """Adds to a saved document what its benchmarks do not carry: the whole run is then in it."""
    if RUN not in config.stash:
        return
    from bench.exchange import benchmark_json

    parts = [b["extra_info"].get(KEY) for b in output_json["benchmarks"]]
    elsewhere = {part["launches"][0]["fingerprint"] for part in parts if part is not None}
    output_json[KEY] = benchmark_json.envelope(config.stash[RUN], elsewhere)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, compared_benchmark: dict[str, Any]
) -> None:
    """Remembers a run to compare with; judged when it is known what will be run."""
    config.stash.setdefault(COMPARED, []).append(compared_benchmark)


def judges(config: pytest.Config) -> bool:
    """Whether a change of speed fails the run."""
    limited = bool(config.getoption("benchmark_compare_fail", None))
    return limited and not benchmarks_disabled(config)


class Surely:
    """A limit of pytest-benchmark's: a time beyond it fails a case only where `accelmark compare`
    says SLOWER, for noise alone passes any."""

    def __init__(self, config: pytest.Config, limit: RegressionCheck) -> None:
        self._config, self._limit = config, limit

    def fails(self, current: Metadata, saved: dict[str, Any]) -> str | None:
        """What is said of a case that fails, `current` against `saved`."""
        from bench.judging.comparing.compare import compare

        found: str | None = self._limit.fails(current, saved)
        side = saved.get(KEY)
        if found is None or side is None or self._limit.field in ("stddev", "iqr"):
            return found
        mine = current.extra_info[KEY]["launches"][0]["fingerprint"]
        cases = compare(side.file, self._config.stash[RUN]).cases
        (verdict,) = (c.verdict for c in cases if c.other and c.other.case.fingerprint == mine)
        return found if verdict == "SLOWER" else None


def unseen(config: pytest.Config, cases: Sequence[Case]) -> list[str]:
    """Names of the cases of which no saved run has a figure; none where there is no such run."""
    sides, names = config.stash.get(SAVED, ()), config.stash[PLAN].names
    there = {row.work.fingerprint for side in sides for row in side.rows.values() if row.measured}
    planned = {case.fingerprint for case in cases}
    lacking = [name for name, case in names.items() if case.fingerprint in planned - there]
    return lacking if sides else []


def unjudged(config: pytest.Config, run: RunFile, row: Row) -> str:
    """Why what was measured may not be held against the saved runs, as `accelmark compare` has it;
    empty where it may."""
    from bench.judging.comparing.comparability import incomparable
    from bench.judging.comparing.side import Side
    from bench.judging.comparing.verdicts import enough, too_few
    from bench.judging.row import UNDISTURBED

    if judges(config) and row.verdict not in UNDISTURBED:
        return f"not judged: {row.verdict}: {row.reason}"
    for saved in config.stash.get(SAVED, ()):
        other = saved.rows.get(row.case.fingerprint)
        if other is not None and other.status == "measured":
            reasons = incomparable((saved, Side(run)), other, row)
            if words := "; ".join(reason.words for reason in reasons):
                return f"not comparable: {words}"
            if judges(config) and not enough(other, row):
                return translated(f"not judged: {too_few(other, row).words}")
    return ""


def comparable(config: pytest.Config, cases: Sequence[Case], document: dict[str, Any]) -> Side:
    """A saved run, read; `pytest.UsageError` where its numbers are not of the same work, or may not
    be compared with any.

    What it says of each of the cases is made again from its launches: whoever saved it may have had
    other rules of which of them count, or times of another unit.
    """
    from bench.errors import RecordError
    from bench.exchange import benchmark_json
    from bench.judging.comparing.comparability import disqualified, unequal
    from bench.judging.comparing.side import Side
    from bench.judging.comparing.verdicts import COMPARE_LAUNCHES
    from bench.judging.row import UNDISTURBED
    from bench.planning.versions import today
    from bench.records import runfile

    plan = config.stash[PLAN]
    place = f"--benchmark-compare, run of {document.get('datetime', 'an unknown time')}"
    try:
        saved = benchmark_json.from_document(place, document)
    except RecordError as error:
        raise pytest.UsageError(f"not comparable: {error}") from None
    side = Side(saved)
    rows = {row.case.fingerprint: row for row in side.rows.values()}
    reasons = [saved.damage] if saved.damage else []
    if saved.run.settings.timing != plan.settings.timing:
        reasons.append(f"timing mode differs ({saved.run.settings.timing}, {plan.settings.timing})")
    numbered = runfile.by_case(saved.launches)
    names = {case.fingerprint: name for name, case in plan.names.items()}
    entries = {
        benchmark["fullname"]: (benchmark, numbered[part["launches"][0]["fingerprint"]])
        for benchmark in document["benchmarks"]
        if (part := benchmark["extra_info"].get(KEY)) is not None
    }
    met = False
    for case in cases:
        name = names[case.fingerprint]
        benchmark, launches = entries.get(benchmark_json.full_name(name), ({}, []))
        if not launches:
            continue
        met, other = True, today(launches[0].case)
        if other.fingerprint != case.fingerprint:
            reasons.append(f"{name}: " + "; ".join(one.words for one in unequal(other, case)))
            continue
        row = rows[launches[0].fingerprint]
        found = [reason.words for reason in disqualified(side, row)]
        if row.status != "measured":
            found.append(f"it is {row.status}: {row.reason}")
        elif judges(config) and row.verdict not in UNDISTURBED:
            found.append(f"it is {row.verdict}: {row.reason}")
        elif judges(config) and row.launches < COMPARE_LAUNCHES:
            found.append(
                f"{row.launches} launches: a verdict needs {COMPARE_LAUNCHES}: save a run with "
                "--accelmark-launches 10"
            )
        else:
            rounds = [benchmark_json.round_seconds(o) for o in benchmark_json.outcomes_of(launches)]
            benchmark["stats"] = {**benchmark_json.statistics_of(rounds), "iterations": 1}
            benchmark["stats"][KEY] = side  # for `Surely`
        reasons += [f"{name}: {reason}" for reason in found]
    if not met:
        reasons.append("it measured none of these cases")
    if reasons:
        raise pytest.UsageError(
            f"not comparable: {place}: {'. '.join(reasons)}. Compare with a run of the same suite "
            "and version, or leave out --benchmark-compare."
        )
    return side
