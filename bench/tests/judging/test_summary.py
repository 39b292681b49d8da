"""A row per case, in the plan's order, and what is said of those that are not measured."""

from __future__ import annotations

import pytest

from bench.judging.summary import summarize
from bench.records.outcome import Skipped, Void
from bench.records.run import End
from bench.tests.judging.rows import CASE, FINE, row
from bench.tests.values import COMPLETE, failed, make_case, make_file, make_launches, make_measured


def test_one_void_launch_voids_the_case() -> None:
    found = row([FINE, FINE, Void(reason="numerics: logits off"), FINE])
    assert found.status == "void" and found.reason == "numerics: logits off"
    assert found.throughput is None and found.interval is None and found.verdict is None
    assert found.flop_per_second is None and found.peak_memory_bytes is None


def test_launches_that_did_unlike_work_are_no_one_figure() -> None:
    """As where a package's workload was changed while its run was resumed."""
    few, many = (make_measured(items=n, flop=8, moved_bytes=n) for n in (1, 2))
    found = row([few, many, few])
    assert (found.status, found.throughput) == ("void", None)
    assert found.reason == (
        "its launches did unlike work: 1 image and 8 FLOP a step or 2 images and 8 FLOP a step. "
        "Measure it again"
    )
    assert row([many, make_measured(items=2, flop=9)]).status == "void"
    assert row([many, make_measured(items=2, flop=8, moved_bytes=9)]).status == "measured"


def test_failed_and_skipped_rows_say_why() -> None:
    broken = row([failed("oom", "no memory")])
    assert (broken.status, broken.reason) == ("failed", "oom in measure: no memory")
    absent = row([Skipped(reason="no bf16")])
    assert (absent.status, absent.reason) == ("skipped", "no bf16")
    assert absent.reached and absent.verdict is None


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (None, "not reached: the run's record ends before it"),
        (
            End(reason="budget", finished_at="x"),
            "not reached: too long for what the time budget left",
        ),
        (End(reason="interrupted", finished_at="x"), "not reached: the run was interrupted"),
        (COMPLETE, "not run"),
    ],
)
def test_a_case_that_was_not_reached_has_its_row(end: End | None, reason: str) -> None:
    late = make_case(workload="bert", mode="infer")
    found = summarize(make_file([CASE, late], make_launches(CASE, [FINE]), end=end))
    assert [r.case for r in found] == [CASE, late]
    assert not found[1].reached and found[1].reason == reason
    assert found[1].throughput is None


def test_rows_are_in_the_order_of_the_plan_and_nothing_is_dropped() -> None:
    """Launches of a case that was not planned come last."""
    a, b, c = (make_case(parameters={"shape": f"{n}x1x1"}) for n in (1, 2, 3))
    launches = [
        *make_launches(c, [FINE]),
        *make_launches(b, [failed()], first_order=1),
        *make_launches(a, [Void(reason="wrong")], first_order=2),
    ]
    found = summarize(make_file([a, b], launches))
    assert [(r.case, r.status) for r in found] == [(a, "void"), (b, "failed"), (c, "measured")]
