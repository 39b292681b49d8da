"""What is known of a case says how many launches it still needs."""

from __future__ import annotations

from bench.records.run import Settings
from bench.running.case_state import CaseState
from bench.tests.values import make_case, make_launch, make_measured


def test_auto_counts_the_time_to_the_next_look() -> None:
    case = make_case()
    state = CaseState(case, Settings(launches="auto"))
    expected = [5, 4, 3, 2, 1, 5, 4, 3, 2, 1, 10]
    noisy = [make_measured(s) for s in [0.01, 0.02] * 10]
    found = []
    for k, outcome in enumerate(noisy[:11]):
        found.append(state.launches_left())
        state.keep(make_launch(outcome, case, launch=k))
    assert found == expected
