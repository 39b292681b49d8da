"""How long the rest takes: the suite's times first, then what the cases took, and how they vary."""

from __future__ import annotations

import pytest

from bench.records.run import Settings
from bench.running.case_state import CaseState
from bench.running.time_left import Span, TimeLeft
from bench.tests.values import make_case, make_launch, make_measured

CASES = [make_case(parameters={"shape": f"{n}x{n}x{n}"}) for n in range(1, 6)]


def states(settings: Settings, *seconds: float) -> list[CaseState]:
    """Five cases, of which the first have had a launch of so many seconds each."""
    found = [CaseState(case, settings) for case in CASES]
    for state, each in zip(found, seconds, strict=False):
        state.keep(make_launch(make_measured(), state.case, seconds=each))
    return found


def test_before_the_first_launch_the_suite_says_the_least() -> None:
    assert TimeLeft(states(Settings(launches=4)), floor=0.5).total() == Span(10.0, None)
    assert TimeLeft(states(Settings(launches=4))).total() == Span(0.0, None)


def test_one_case_says_nothing_of_the_others() -> None:
    """Three launches of its 7 s, and 16 of the others' half a second or more."""
    assert TimeLeft(states(Settings(launches=4), 7.0), floor=0.5).total() == Span(29.0, None)


def test_cases_that_are_alike_leave_no_doubt() -> None:
    assert TimeLeft(states(Settings(launches=2), 3.0, 3.0)).total() == Span(24.0, 24.0)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_cases_that_have_not_run_are_like_those_that_have(one_by_one: bool) -> None:
    """Seen: 4, 5 and 6 s, of each one launch left: 15 s. Not seen: four launches of two cases.

    Mean 5, variance 1; margin 2 * sqrt(1 * (2^2 + 2^2 + 4^2 / 3)) = 7.30, but none is faster than
    4 s or slower than 6 s: 16 to 24 s.
    """
    settings = Settings(launches=2)
    if one_by_one:
        found = states(settings)
        left = TimeLeft(found)
        for state, each in zip(found, (4.0, 5.0, 6.0), strict=False):
            state.keep(make_launch(make_measured(), state.case, seconds=each))
            left.update(state)
    else:
        left = TimeLeft(states(settings, 4.0, 5.0, 6.0))
    assert left.total() == pytest.approx((31.0, 39.0))
    assert (left.launches, left.more) == (7, False)


def test_the_more_cases_have_run_the_sharper_it_is() -> None:
    """Of one launch of one case, after 1, 9, 5 and 5 s: variance 32 / 3, so 5 give or take 7.3."""
    assert TimeLeft(states(Settings(launches=1), 1.0, 9.0, 5.0, 5.0)).total() == Span(1.0, 9.0)
    # 4.8, 5.2, 5, 5: variance 0.08 / 3; margin 2 * sqrt(0.0267 * 1.25) = 0.365, cut at 0.2.
    found = TimeLeft(states(Settings(launches=1), 4.8, 5.2, 5.0, 5.0)).total()
    assert found == pytest.approx((4.8, 5.2))
    # 3, 3, 3, 7: variance 4; margin 2 * sqrt(4 * 1.25) = 4.47: 4 less that is cut, 4 more too.
    assert TimeLeft(states(Settings(launches=1), 3.0, 3.0, 3.0, 7.0)).total() == Span(3.0, 7.0)


def test_many_cases_even_out() -> None:
    """Of 100 cases 50 have run, 1 s and 3 s: 50 more take 100 s, give or take 20.2 s."""
    cases = [make_case(parameters={"shape": f"{n}x1x1"}) for n in range(1, 101)]
    found = [CaseState(case, Settings(launches=1)) for case in cases]
    for k, state in enumerate(found[:50]):
        state.keep(make_launch(make_measured(), state.case, seconds=1.0 + 2 * (k % 2)))
    # Variance 50 / 49; 2 * sqrt(50 / 49 * (50 + 50^2 / 50)) = 20.203
    assert TimeLeft(found).total() == pytest.approx((79.797, 120.203), abs=0.001)


def test_auto_may_end_at_the_next_look_or_at_the_last() -> None:
    settings = Settings(launches="auto")
    (state, *_) = states(settings, 2.0)
    left = TimeLeft([state])
    assert left.total() == Span(8.0, 38.0)
    assert (left.launches, left.more) == (4, True)


def test_what_is_beyond_a_batch_that_does_not_fit_takes_no_time() -> None:
    found = states(Settings(launches=2), 3.0, 3.0)
    for state in found[2:]:
        state.beyond = True
    left = TimeLeft(found)
    assert left.total() == Span(6.0, 6.0) and left.launches == 2
