"""The cases of a suite as items: what is collected, and what is refused before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.pytest_plugin.keys import CASE, CLOCK, COMPARED, PLAN, SAVED
from bench.pytest_plugin.options import XDIST, distributed
from bench.pytest_plugin.replay import ItemClock
from bench.pytest_plugin.saved import Surely, comparable, judges

if TYPE_CHECKING:
    from bench.records.case import Case

FUNCTION = "accelmark_workload"
"""A module's function of this name becomes one item for every case of the suite."""


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[pytest.Item] | None:
    """One item for every case of the suite."""
    if name != FUNCTION:
        return None
    items: list[pytest.Item] = []
    for case_name, case in collector.config.stash[PLAN].names.items():
        item = pytest.Function.from_parent(collector, name=case_name, callobj=obj)
        item.stash[CASE] = case
        item.stash[CLOCK] = ItemClock()
        if collector.config.pluginmanager.hasplugin("benchmark"):
            item.add_marker(pytest.mark.benchmark(timer=item.stash[CLOCK]))
        items.append(item)
    return items


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuses what would end in a number that means something else."""
    config = session.config
    cases = cases_of(session)
    if not cases or runs_nothing(config) or hasattr(config, "workerinput"):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(
            "bench.suite needs pytest-benchmark, which is not installed or is switched off "
            "(-p no:benchmark). Install it, leave that option out, or use `accelmark run`."
        )
    if distributed(config):
        raise pytest.UsageError(XDIST)
    if judges(config) and COMPARED not in config.stash:
        raise pytest.UsageError(
            "--benchmark-compare-fail: there is no saved run to compare with. Save one with "
            "--benchmark-autosave, then give --benchmark-compare too."
        )
    if judges(config):
        from bench.judging.comparing.verdicts import COMPARE_LAUNCHES

        launches = config.stash[PLAN].settings.launches
        if launches != "auto" and launches < COMPARE_LAUNCHES:
            raise pytest.UsageError(
                f"--benchmark-compare-fail: {launches} launches of a case: a verdict needs "
                f"{COMPARE_LAUNCHES}, here and in the saved run. Give --accelmark-launches 10."
            )
        limits = config.getoption("benchmark_compare_fail")
        limits[:] = [Surely(config, limit) for limit in limits]  # pytest-benchmark's own list
    config.stash[SAVED] = [
        comparable(config, cases, document) for document in config.stash.get(COMPARED, ())
    ]


def runs_nothing(config: pytest.Config) -> bool:
    """Whether items are only shown (`--setup-plan` is `--setup-only` too)."""
    return bool(config.getoption("collectonly") or config.getoption("setuponly", False))


def cases_of(session: pytest.Session) -> list[Case]:
    """The cases of the items that will run."""
    return [
        item.stash[CASE]
        for item in session.items
        if CASE in item.stash and item.get_closest_marker("skip") is None
    ]
