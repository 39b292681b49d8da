"""Two sides' items per joule: a ratio with its interval, or nothing where a side was disturbed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bench import stats
from bench.judging.comparing.at_tpot import compare_at_tpot
from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import CaseComparison
from bench.judging.comparing.systems import compare_systems
from bench.judging.summary import summarize
from bench.records.outcome import Flag, Outcome
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.flat.comparison import flat, rows
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import CASE, only, runs
from bench.tests.judging.two_systems import system
from bench.tests.served_runs import SPEEDS, measured, serve_case, served
from bench.tests.values import make_file, make_launches, make_measured

MINE, THEIRS = (2.0, 2.1, 1.9, 2.05, 1.95), (1.0, 1.02, 0.98, 1.03, 0.97)
"""Joules of each launch, of ten items."""


def drawing(joules: Sequence[float], *flags: Flag, seconds: float = 0.01) -> list[Outcome]:
    told: dict[str, Any] = {"energy_absent": None, "flags": flags}
    told["causes"] = dict.fromkeys(flags, "hot")
    return [make_measured(seconds, energy_joules=joule, **told) for joule in joules]


def drew(joules: Sequence[float], *flags: Flag) -> RunFile:
    return runs((CASE, drawing(joules, *flags)))


def said(case: CaseComparison) -> tuple[float | None, float | None]:
    found = case.joule_interval
    return (found.low, found.high) if found else (None, None)


def test_its_interval_is_that_of_the_launches() -> None:
    comparison = compare(drew(MINE), drew(THEIRS))
    found = only(comparison)
    wanted = stats.welch([10 / j for j in MINE], [10 / j for j in THEIRS], 0.95)
    assert wanted is not None and found.joule_interval == wanted.ratio
    assert found.joule_ratio == pytest.approx(wanted.ratio.value)
    assert 1.8 < wanted.ratio.low < 2.0 < wanted.ratio.high < 2.2
    shown = f"2.00 ±{wanted.ratio.half_width:.1%}"
    assert "per joule" in (card := render([comparison], Canvas(width=200))) and shown in card
    assert f"per joule {shown}" in render([comparison], Canvas(width=200, wide=True))
    (case,), (row,) = flat(comparison)["cases"], rows([comparison])
    for one in (case, row):
        assert (one["per_joule_low"], one["per_joule_high"]) == said(found)


def test_without_launches_enough_it_says_that_it_has_none() -> None:
    comparison = compare(drew(MINE[:1]), drew(THEIRS[:1]))
    found = only(comparison)
    assert found.joule_ratio == pytest.approx(2.0) and found.joule_interval is None
    for wide in (False, True):
        card = " ".join(render([comparison], Canvas(width=200, wide=wide)).split())
        assert "2.00 no interval" in card
    assert only(compare(drew(MINE[:4]), drew(THEIRS))).joule_interval is None, "as of throughput"


@pytest.mark.parametrize("count", [1, 5])
def test_of_a_disturbed_side_there_is_none(count: int) -> None:
    """The device was held back: what it draws then is not what its work takes."""
    for pair in (
        (drew(MINE[:count]), drew(THEIRS[:count], "THROTTLED")),
        (drew(MINE[:count], "NO_STEADY_STATE"), drew(THEIRS[:count])),
    ):
        comparison = compare(*pair)
        found = only(comparison)
        assert found.ratio is not None
        assert (found.joule_ratio, found.joule_interval) == (None, None)
        assert "per joule" not in render([comparison], Canvas(width=200, wide=True))


def test_systems_and_served_loads_have_it_too() -> None:
    base, other = (system({"dp8": drawing(joules)}) for joules in (MINE, THEIRS))
    whole = only(compare_systems(base, other))
    case = serve_case()
    change, loads = msgspec.structs.replace, [measured(served(1, speed)) for speed in SPEEDS]
    first, second = (
        make_file(
            [case],
            make_launches(
                case, [change(load, energy_joules=j, energy_absent=None) for load in loads]
            ),
        )
        for j in (2.0, 1.0)
    )
    for found in (whole, only(compare_at_tpot(first, second, 1.0))):
        assert found.joule_ratio == pytest.approx(2.0, rel=1e-3)
        assert found.joule_interval is not None


def test_a_value_lies_in_its_interval_however_long_its_launches_were() -> None:
    """Seven launches of 10 steps and three of 200, in which the device was hotter."""
    joules = [(10, 1.0), (10, 1.002), (10, 1.004)] * 2 + [(10, 1.0), *[(200, 1.03)] * 3]
    told: dict[str, Any] = {"energy_absent": None, "energy_method": "counter"}
    made = [make_measured([0.01] * n, energy_joules=n * each, **told) for n, each in joules]
    (row,) = summarize(runs((CASE, made)))
    assert row.items_per_joule and row.joule_interval
    assert row.joule_interval.low < row.items_per_joule < row.joule_interval.high
