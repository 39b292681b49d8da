"""Served cases over their launches, their curves, and the comparison of two."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import bench
from bench.errors import ComparisonError
from bench.judging.comparing.at_tpot import compare_at_tpot
from bench.judging.comparing.compare import Prices, compare
from bench.judging.served import best_within, serving_curves
from bench.judging.summary import summarize
from bench.records.outcome import Measured
from bench.tests import served_runs
from bench.tests.scripts import serving_check
from bench.tests.served_runs import SPEEDS, serve_case, served, served_run, usual_run
from bench.tests.values import failed, make_launch


def test_a_row_has_its_launches_figures_and_their_intervals() -> None:
    """Two at a time in steps of 14 ms: 10 tokens in six of them."""
    rows = {row.case.parameters["concurrency"]: row for row in summarize(usual_run())}
    found = rows[2].serving
    assert found is not None and found.tpot_p50 is not None and found.ttft_p50 is not None
    assert rows[2].throughput == pytest.approx(10 / (6 * 0.014), rel=0.01)
    assert found.tpot_p50.value == pytest.approx(0.014, rel=0.01)
    assert found.ttft_p50.value == pytest.approx(0.028, rel=0.01)
    assert found.tpot_p50.low is not None and found.tpot_p50.low < 0.014 < (
        found.tpot_p50.high or 0
    )
    assert found.occupancy is not None and found.occupancy.value == pytest.approx(0.5)
    assert found.overhead is not None and found.overhead.value == pytest.approx(0.02, rel=0.01)
    assert found.tpot_p99 is None and found.requests < 36
    assert found.limits.ttft_seconds == 0.1 and found.loads == ("abc",)


def test_curves_are_of_one_engine_and_the_thinnest_load_is_first() -> None:
    """Another chunk is another engine; how requests come, and how many, is not."""
    run = served_run(
        [
            (serve_case(4), [served(4)]),
            (serve_case(1), [served(1)]),
            (serve_case(2, requests=32), [served(2)]),
            (serve_case(2, chunk=16), [served(2)]),
            (serve_case(rate=2.5), [served(1)]),
        ]
    )
    curves = list(serving_curves(summarize(run)))
    points = [[row.case.parameters["concurrency"] for row in curve.points] for curve in curves]
    assert points == [[1, 2, 4, 0], [2]]
    assert "concurrency" not in curves[0].case.parameters


@pytest.mark.parametrize(("limit", "best"), [(0.013, 1), (0.015, 2), (1.0, 4), (0.001, None)])
def test_the_best_within_a_limit(limit: float, best: int | None) -> None:
    """TPOT is 12, 14 and 18 ms at one, two and four at a time."""
    (curve,) = serving_curves(summarize(usual_run()))
    found = best_within(curve.points, limit)
    assert (found and found.case.parameters["concurrency"]) == best


def test_at_equal_concurrency_the_ratio_is_that_of_the_throughputs() -> None:
    """As of any two equal cases, with interval and verdict."""
    found = compare(usual_run(), usual_run(1.5))
    assert [case.verdict for case in found.cases] == ["FASTER"] * 3
    assert all(case.ratio == pytest.approx(1.5) for case in found.cases)
    assert all(case.same_work is None for case in found.cases), "each has read its answers again"


def test_at_a_limit_each_side_takes_its_best_load() -> None:
    """At 13 ms the base keeps one at a time; half as fast again, the other keeps four."""
    (case,) = compare_at_tpot(usual_run(), usual_run(1.5), 0.013, Prices(base=2.0, other=1.0)).cases
    assert case.ratio is not None and case.price_ratio == pytest.approx(2 * case.ratio)
    assert case.base is not None and case.other is not None
    chosen = [row.case.parameters["concurrency"] for row in (case.base, case.other)]
    assert chosen == [1, 4]
    assert case.verdict == "FASTER" and case.interval is not None
    assert case.ratio == pytest.approx(4 * 1.2 / 1.8 * 1.5)
    assert case.tpot_limit_seconds == 0.013


def test_a_side_that_never_keeps_the_limit_has_no_ratio() -> None:
    """And it is said which side that is."""
    (case,) = compare_at_tpot(usual_run(), usual_run(1.5), 0.010).cases
    assert case.ratio is None and case.verdict == "INCOMPARABLE"
    assert case.reasons == ("no load of the base keeps a median TPOT of 10 ms",)


def test_a_denser_load_that_one_side_never_had_is_no_advantage() -> None:
    """Equal engines, one of which was not measured at 4: not 1.8 times as fast."""
    short, whole = (
        served_run([(serve_case(n), [served(n, ms) for ms in SPEEDS]) for n in lanes])
        for lanes in ((1, 2), (1, 2, 4))
    )
    for pair, who in (((short, whole), "base"), ((whole, short), "other")):
        (case,) = compare_at_tpot(*pair, 0.1).cases
        assert case.ratio is None and case.verdict == "INCOMPARABLE"
        assert case.reasons == (
            f"the {who} gave most at its densest load, concurrency 2, and was not measured at "
            "concurrency 4, as the other side was: measure both at both",
        )
    fast = served_run([(serve_case(n), [served(n, ms / 5) for ms in SPEEDS]) for n in (1, 2)])
    (case,) = compare_at_tpot(fast, whole, 0.1).cases
    assert case.verdict == "SLOWER", "a denser load could only help the faster"


@pytest.mark.parametrize(
    "change",
    [{"slots": 8}, {"chunk": 16}, {"ttft_limit_ms": 50}, {"output_tokens": 6}, {"model": "x"}],
)
def test_unlike_loads_are_refused(change: dict[str, Any]) -> None:
    """Model, lengths, slots, limits: equal case only, in either question."""
    other = served_run([(serve_case(1, **change), [served(1) for _ in SPEEDS])])
    (case, *_) = [c for c in compare(usual_run(), other).cases if c.other is not None]
    assert case.ratio is None and case.verdict == "INCOMPARABLE"
    with pytest.raises(ComparisonError, match="no served load in common"):
        compare_at_tpot(usual_run(), other, 1.0)


def test_other_requests_of_an_equal_case_are_refused() -> None:
    """A program that draws its lengths otherwise: the digests of the loads tell."""
    one, two = (
        served_run([(serve_case(1), [served(1, load=load) for _ in SPEEDS])])
        for load in ("abc", "abd")
    )
    (case,) = compare(one, two).cases
    assert case.ratio is None and "requests differ" in case.reasons[0]


@pytest.mark.parametrize("limit", [0.0, float("nan"), float("inf"), "5"])
def test_a_limit_is_a_number(limit: Any) -> None:
    """Else nothing, or everything, would keep it."""
    with pytest.raises(ComparisonError, match=f"number of ms above 0, not {limit!r}"):
        bench.compare_runs(usual_run(), usual_run(1.5), tpot_ms=limit)


def test_an_outcome_cannot_contradict_its_requests() -> None:
    """Its items and its one block are those of the steady window."""
    outcome = served_runs.measured(served(2))
    block = outcome.steady[0]
    wrong: list[dict[str, Any]] = [
        {"work": msgspec.structs.replace(outcome.work, items=outcome.work.items + 1)},
        {"steady": (msgspec.structs.replace(block, wall_ns=block.wall_ns + 1),)},
        {"steady": (block, block)},
        {"served": served(4)},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match="window"):
            msgspec.structs.replace(outcome, **change)
    old = msgspec.to_builtins(outcome)
    del old["served"]
    assert msgspec.convert(old, Measured).served is None, "an old record has none"


def test_the_acceptance_script_s_judgement() -> None:
    """Overhead over 3 % in one launch, two schedules, or a launch without a figure: not so."""
    good = served(1)
    assert [right for _, right in serving_check.judged(usual_run())] == [True] * 6
    assert good.steps is not None
    slow = msgspec.structs.replace(
        good.steps, forward_ns=tuple(ns * 96 // 100 for ns in good.steps.wall_ns)
    )
    other = [
        msgspec.structs.replace(good, steps=slow),
        msgspec.structs.replace(good, schedule="another"),
    ]
    for wrong, expected in zip(other, ([False, True], [True, False]), strict=True):
        run = served_run([(serve_case(1), [good, wrong])])
        assert [right for _, right in serving_check.judged(run)] == expected
    run = served_run([(serve_case(1), [good])])
    broken = make_launch(case=serve_case(1), launch=1, outcome=failed())
    found = serving_check.judged(msgspec.structs.replace(run, launches=(*run.launches, broken)))
    assert [right for _, right in found] == [False, True, True]
