"""The search of a tuned case that is gone on with: a trial that a small budget cut off is again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.judging.comparing.side import Side
from bench.planning.tuning import candidates
from bench.records.case import Choice
from bench.records.outcome import Failed, Outcome
from bench.tests.planning.tuned_runs import OOM, SCRIPT, only_row, play, rated, tuned_case
from bench.tests.values import make_launch

LATE = Failed(kind="timeout", phase="warm-up", message="took more than 120 s")


@pytest.mark.parametrize(
    ("seconds", "budget_seconds", "again"),
    [(130.0, None, True), (1300.0, None, False), (130.0, 180.0, False)],
)
def test_a_trial_that_a_short_budget_cut_off_is_tried_again_by_a_run_that_has_more_time(
    tmp_path: Path, seconds: float, budget_seconds: float | None, again: bool
) -> None:
    """Of a budget of 180 s a phase has two minutes; without one a warm-up has 1,200 s."""
    case = tuned_case()
    one, two, *_ = candidates(case)
    done = [
        make_launch(rated(10), case, choice=one, search=True),
        make_launch(LATE, case, 1, 1, choice=two, search=True, seconds=seconds),
    ]
    stage, file = play(tmp_path, SCRIPT, done=done, budget_seconds=budget_seconds)
    asked = [stage.key(request) for request in stage.requests]
    assert (asked[:2] == [(2, "compile"), (4, "compile")]) == again
    assert ((4, "compile") in asked) == again
    assert [launch.launch for launch in file.launches] == list(range(2 + len(asked)))
    if again:
        assert [trial.rate for trial in only_row(file).trials][1] == pytest.approx(18)


def test_what_was_measured_of_the_best_stays_when_a_trial_is_made_again(tmp_path: Path) -> None:
    """Two of its three launches were on disk, and it is the best still."""
    case = tuned_case()
    best: Choice = {"batch_size": 2, "execution": "eager"}
    tried: dict[tuple[int, str], Outcome] = {
        (1, "compile"): rated(10),
        (2, "compile"): LATE,  # and 4 beyond it
        (1, "eager"): rated(9),
        (2, "eager"): rated(30, 2),
        (4, "eager"): rated(19, 4),
    }
    done = [
        make_launch(
            *(outcome, case, k, k),
            choice={"batch_size": batch, "execution": execution},
            search=True,
            seconds=130.0,
        )
        for k, ((batch, execution), outcome) in enumerate(tried.items())
    ]
    done += [make_launch(rated(20 + k, 2), case, 5 + k, 5 + k, choice=best) for k in range(2)]
    script = {**SCRIPT, (2, "eager"): rated(22, 2)}
    stage, file = play(tmp_path, script, done=done)
    asked = [(*stage.key(request), request.seed) for request in stage.requests]
    assert asked == [(2, "compile", 0), (4, "compile", 0), (2, "eager", 2)]
    row = only_row(file)
    assert (row.launches, row.choice) == (3, best)
    assert row.rates == pytest.approx([20, 21, 22])


@pytest.mark.parametrize("finals", [2, 3])
def test_nor_are_they_lost_where_another_is_the_best_for_a_while(
    tmp_path: Path, finals: int
) -> None:
    """The other runs out of memory after all: three of the first are three, and not five, and the
    figure also where none of them is behind the other's."""
    case = tuned_case(batch_size=(1, 2))
    one, two = candidates(case)
    done = [
        make_launch(rated(10), case, 0, 0, choice=one, search=True),
        make_launch(LATE, case, 1, 1, choice=two, search=True, seconds=130.0),
        *(make_launch(rated(9), case, 2 + k, 2 + k, choice=one, seed=k) for k in range(finals)),
    ]
    script = {(1, "eager"): rated(9), (2, "eager"): [rated(30, 2), OOM]}
    stage, file = play(tmp_path, script, case, done=done)
    asked = [(stage.key(request)[0], request.seed) for request in stage.requests]
    assert asked == [(2, 0), (2, 0), (1, 2)][: 5 - finals]
    row = only_row(file)
    assert (row.status, row.launches, row.choice) == ("measured", 3, one)
    assert [seed for seed, _ in Side(file).measured(row)] == [0, 1, 2]
