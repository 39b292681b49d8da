"""An item's launches, replayed to pytest-benchmark on a clock that only they move."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import pytest

from bench.pytest_plugin.keys import CASE, CLOCK, KEY, RUN
from bench.pytest_plugin.options import XDIST
from bench.pytest_plugin.saved import judges, unjudged, unseen

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


class ItemClock:
    """Seconds that pass only by what a launch took for one unit of its work."""

    __name__ = "seconds per item"

    def __init__(self) -> None:
        self.now = 0.0
        self._rounds: Iterator[float] = iter(())

    def __call__(self) -> float:
        """Seconds since the round began."""
        return self.now

    def load(self, rounds: Sequence[float]) -> None:
        """What the next rounds will last; a profiler that calls once more starts them again."""
        self._rounds = itertools.cycle(rounds)

    def start(self) -> None:
        """Back to zero before each round, so that no sum rounds its time."""
        self.now = 0.0

    def replay(self) -> None:
        """One launch passes."""
        self.now += next(self._rounds)


def replay(item: pytest.Item, benchmark: BenchmarkFixture) -> None:
    """Gives the launches of an item's case to pytest-benchmark, or says why there is no number."""
    from bench.exchange import benchmark_json
    from bench.judging.summary import summarize

    if RUN not in item.config.stash:
        _fail(benchmark, XDIST)
    run, case, clock = item.config.stash[RUN], item.stash[CASE], item.stash[CLOCK]
    row = next(r for r in summarize(run) if r.case.fingerprint == case.fingerprint)
    if (row.status == "skipped" and row.reached) or row.sweep_end:
        if judges(item.config) and not unseen(item.config, [case]):
            _fail(benchmark, f"not judged: a saved run measured it: {row.reason}")
        pytest.skip(row.reason)
    if row.status != "measured":
        _fail(benchmark, row.why)
    if reason := unjudged(item.config, run, row):
        _fail(benchmark, reason)
    launches = [x for x in run.launches if x.fingerprint == case.fingerprint]
    outcomes = benchmark_json.outcomes_of(launches)
    clock.load([benchmark_json.round_seconds(outcome) for outcome in outcomes])
    benchmark.fullname = benchmark_json.full_name(item.name)
    benchmark.group = benchmark_json.group(case, outcomes[0].work.unit)
    benchmark.param, benchmark.params = case.detail, dict(case.parameters)
    benchmark.extra_info[KEY] = benchmark_json.extra_info(launches)
    benchmark.pedantic(clock.replay, setup=clock.start, rounds=len(outcomes), iterations=1)


class _NoNumber(Exception):
    """Raised through pytest-benchmark, so that it knows that the fixture was used, and in vain."""


def _fail(benchmark: BenchmarkFixture, reason: str) -> NoReturn:
    def refuse() -> None:
        raise _NoNumber

    with contextlib.suppress(_NoNumber):
        benchmark.pedantic(refuse)
    pytest.fail(reason, pytrace=False)
