"""The search of a tuned case: what is tried in which order, what is measured again, and the row."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.judging.summary import summarize
from bench.judging.tracks import tuned
from bench.planning.tuning import Search, candidates
from bench.records.case import Choice
from bench.records.outcome import Failed, FailureKind, Outcome, Skipped
from bench.records.run import Settings
from bench.records.runfile import Writer, read
from bench.running.case_state import CaseState
from bench.running.session import Session
from bench.running.turns import alternate
from bench.tests.fakes import FakeBackend
from bench.tests.planning.tuned_runs import (
    CRASH,
    KEYS,
    NO_COMPILER,
    OOM,
    SCRIPT,
    VOID,
    Stage,
    only_row,
    play,
    rated,
    tuned_case,
)
from bench.tests.values import make_case, make_file, make_launch, make_measured, make_run


def test_every_choice_is_tried_once_and_the_best_is_measured_again(tmp_path: Path) -> None:
    stage, file = play(tmp_path, SCRIPT)
    assert [stage.key(request) for request in stage.requests] == [*KEYS, *[(2, "eager")] * 3]
    assert [launch.search for launch in file.launches] == [True] * 6 + [False] * 3
    assert [launch.launch for launch in file.launches] == list(range(9))
    assert [launch.seed for launch in file.launches] == [0] * 6 + [0, 1, 2]
    assert {launch.fingerprint for launch in file.launches} == {tuned_case().fingerprint}
    assert file.launches[-1].choice == {"batch_size": 2, "execution": "eager"}


def test_the_figure_is_of_the_launches_after_the_search(tmp_path: Path) -> None:
    row = only_row(play(tmp_path, SCRIPT)[1])
    assert row.status == "measured"
    assert row.rates == pytest.approx([20, 21, 22])  # not the 30 by which it was found
    assert row.launches == 3
    assert row.choice == {"batch_size": 2, "execution": "eager"}
    assert [trial.rate for trial in row.trials] == pytest.approx([10, 18, 16, 9, 30, 19])


def test_each_trial_looks_first_whether_its_memory_fits(tmp_path: Path) -> None:
    stage, _ = play(tmp_path, SCRIPT)
    assert [request.rehearse for request in stage.requests] == [True] * 6 + [False] * 3


def test_a_batch_beyond_memory_ends_its_own_curve_and_no_other(tmp_path: Path) -> None:
    fits = Skipped(reason="does not fit: needs about 17.2 GiB, the device has 13.7 GiB")
    script = {**SCRIPT, (2, "compile"): OOM, (4, "eager"): fits}
    stage, file = play(tmp_path, script)
    tried = [stage.key(request) for request in stage.requests[:5]]
    assert tried == [(1, "compile"), (2, "compile"), (1, "eager"), (2, "eager"), (4, "eager")]
    row = only_row(file)
    assert row.status == "measured"
    assert row.untried == 1
    (found,) = tuned([row])
    words = found.words
    assert "; compile, image/s at batch 1: 10.0, 2: does not fit;" in words
    assert "4: does not fit" in words.partition("eager, image/s at batch")[2]


def test_what_failed_is_not_the_best_and_says_why(tmp_path: Path) -> None:
    script = {**SCRIPT, (2, "eager"): VOID, (1, "compile"): CRASH}
    row = only_row(play(tmp_path, script)[1])
    assert row.choice == {"batch_size": 4, "execution": "eager"}
    (found,) = tuned([row])
    words = found.words
    assert "VOID 1 choice, first batch 2, eager: numerics: logits is off" in words
    assert "FAILED 1 choice, first batch 1, compile: crash in measure: it broke" in words
    assert "compile, image/s at batch 1: FAILED, 2: 18.0" in words


@pytest.mark.parametrize("failure", [OOM, VOID])
def test_where_the_best_fails_after_all_the_next_one_follows(
    tmp_path: Path, failure: Outcome
) -> None:
    script = {**SCRIPT, (2, "eager"): [rated(30, 2), rated(20, 2), failure]}
    stage, file = play(tmp_path, script)
    after = [stage.key(request) for request in stage.requests[6:]]
    assert after == [(2, "eager")] * 2 + [(4, "eager")] * 3
    row = only_row(file)
    assert row.status == "measured"
    assert row.rates == pytest.approx([19] * 3)
    assert row.choice == {"batch_size": 4, "execution": "eager"}
    (found,) = tuned([row])
    assert failure.reason in found.words if failure is VOID else "2: does not fit" in found.words
    assert "30.0" not in found.words, "the reading by which it was the best is not told as good"


def test_where_none_works_in_the_end_the_row_has_the_last_reason(tmp_path: Path) -> None:
    script = dict.fromkeys(KEYS, CRASH) | {(1, "eager"): [rated(9), VOID]}
    row = only_row(play(tmp_path, script)[1])
    assert (row.status, row.reason) == ("void", VOID.reason)


def test_an_accident_of_the_best_is_tried_again_as_of_any_case(tmp_path: Path) -> None:
    script = {**SCRIPT, (2, "eager"): [rated(30, 2), CRASH, rated(20, 2)]}
    stage, file = play(tmp_path, script)
    assert len(stage.requests) == 6 + 4
    row = only_row(file)
    assert (row.launches, row.excluded) == (3, 1)


def test_where_no_choice_runs_the_case_has_failed(tmp_path: Path) -> None:
    stage, file = play(tmp_path, dict.fromkeys(KEYS, CRASH) | {(1, "compile"): NO_COMPILER})
    assert len(stage.requests) == 6
    row = only_row(file)
    assert row.status == "failed"
    assert row.reached
    assert row.reason == "none of 6 choices ran; batch 2, compile: crash in measure: it broke"


def test_what_the_device_cannot_do_at_all_is_skipped(tmp_path: Path) -> None:
    row = only_row(play(tmp_path, dict.fromkeys(KEYS, NO_COMPILER))[1])
    assert row.status == "skipped"
    assert row.reached
    assert "none of 6 choices ran; batch 1, compile: no C++ compiler" in row.reason


def test_what_fits_at_no_choice_is_skipped_as_a_case_that_does_not_fit(tmp_path: Path) -> None:
    stage, file = play(tmp_path, dict.fromkeys(KEYS, OOM))
    assert len(stage.requests) == 2, "the smallest batch of each execution"
    row = only_row(file)
    assert (row.status, row.reached) == ("skipped", True)
    assert row.reason.startswith("does not fit: none of 2 choices ran; batch 1, compile: oom in")


def test_a_batch_that_takes_too_long_ends_its_curve(tmp_path: Path) -> None:
    late = Failed(kind="timeout", phase="warm-up", message="no report within 300 s")
    stage, _ = play(tmp_path, {**SCRIPT, (2, "compile"): late})
    assert (4, "compile") not in [stage.key(request) for request in stage.requests]


def test_a_best_that_keeps_crashing_is_given_up_for_the_next(tmp_path: Path) -> None:
    script = {**SCRIPT, (2, "eager"): [rated(30, 2), CRASH]}
    stage, file = play(tmp_path, script)
    after = [stage.key(request) for request in stage.requests[6:]]
    assert after == [(2, "eager")] * 2 + [(4, "eager")] * 3
    assert only_row(file).rates == pytest.approx([19] * 3)


def test_a_trial_that_other_work_slowed_is_made_again(tmp_path: Path) -> None:
    slowed = make_measured(2 / 5, items=2, flags=("CONTENDED",), causes={"CONTENDED": "a hog"})
    script = {**SCRIPT, (2, "eager"): [slowed, rated(30, 2), rated(20, 2)]}
    stage, file = play(tmp_path, script)
    assert [stage.key(request) for request in stage.requests[5:]] == [
        *((4, "eager"), (2, "eager")),
        *[(2, "eager")] * 3,
    ]
    row = only_row(file)
    assert row.choice == {"batch_size": 2, "execution": "eager"}
    assert len(row.trials) == 6


@pytest.mark.parametrize("kind", ["crash", "timeout"])
def test_an_accident_of_a_trial_made_again_does_not_undo_the_first(
    tmp_path: Path, kind: FailureKind
) -> None:
    """Slowed, and the fastest all the same. Nor does it end the curve."""
    slowed = make_measured(2 / 50, items=2, flags=("CONTENDED",), causes={"CONTENDED": "a hog"})
    accident = Failed(kind=kind, phase="warm-up", message="once")
    script = {**SCRIPT, (2, "eager"): [slowed, accident, rated(48, 2)], (4, "eager"): rated(45, 4)}
    _, file = play(tmp_path, script)
    row = only_row(file)
    assert row.choice == {"batch_size": 2, "execution": "eager"}
    assert row.rates == pytest.approx([48] * 3)
    (found,) = tuned([row])
    assert "2: 50.0 (slowed from outside)" in found.words and "FAILED" not in found.words


def test_an_accident_of_a_trial_made_again_ends_no_curve() -> None:
    case = tuned_case(batch_size=(1, 2, 4))
    one, two, four = candidates(case)
    slowed = make_measured(2 / 50, items=2, flags=("CONTENDED",), causes={"CONTENDED": "a hog"})
    late = Failed(kind="timeout", phase="warm-up", message="no report within 300 s")
    tried = [(one, rated(30)), (two, slowed), (two, late)]
    launches = [
        make_launch(outcome, case, launch=k, choice=choice, search=True)
        for k, (choice, outcome) in enumerate(tried)
    ]
    search = Search(case, launches)
    assert (search.best, search.next) == (two, four)


@pytest.mark.parametrize("answer", [VOID, OOM, NO_COMPILER])
def test_what_would_go_wrong_again_does_undo_it(tmp_path: Path, answer: Outcome) -> None:
    slowed = make_measured(2 / 50, items=2, flags=("CONTENDED",), causes={"CONTENDED": "a hog"})
    _, file = play(tmp_path, {**SCRIPT, (2, "eager"): [slowed, answer]})
    assert only_row(file).choice == {"batch_size": 4, "execution": "eager"}


def test_a_choice_that_was_slowed_twice_is_marked(tmp_path: Path) -> None:
    slowed = make_measured(2 / 5, items=2, flags=("CONTENDED",), causes={"CONTENDED": "a hog"})
    stage, file = play(tmp_path, {**SCRIPT, (2, "eager"): slowed})
    assert len(stage.requests) == 6 + 1 + 3
    (found,) = tuned(summarize(file))
    assert "2: 5.00 (slowed from outside)" in found.words


def test_the_next_launch_is_expected_to_last_as_its_choice_did() -> None:
    state = CaseState(tuned_case(batch_size=(1, 2)), Settings(launches=3))
    one, two = candidates(state.case)
    assert state.expected_seconds is None
    fast, slow = rated(20), rated(10)
    state.keep(make_launch(fast, state.case, seconds=3.0, choice=one, search=True))
    assert state.expected_seconds == 3.0
    state.keep(make_launch(slow, state.case, launch=1, seconds=90.0, choice=two, search=True))
    assert state.choice == one
    assert state.expected_seconds == 3.0


def test_tuned_cases_of_several_batches_do_not_end_each_other(tmp_path: Path) -> None:
    """Out of memory in a trial is one choice's, and no sweep's."""
    small, large = (
        make_case(
            workload="resnet50",
            mode="infer",
            execution="tuned",
            parameters={"batch_size": batch},
            tuned={"execution": ("compile", "eager")},
        )
        for batch in (1, 2)
    )
    choices = list(candidates(small))
    launches = [
        make_launch(OOM, small, launch=0, choice=choices[0], search=True),
        make_launch(rated(9), small, launch=1, choice=choices[1], search=True),
        make_launch(rated(9), small, launch=2, choice=choices[1]),
        make_launch(rated(8), large, launch=0, choice=choices[0], search=True),
    ]
    first, second = summarize(make_file([small, large], launches))
    assert first.status == "measured"
    assert not second.reached
    assert "1 choices tried, 1 left" in second.reason


def test_a_record_that_tries_a_choice_twice_is_read(tmp_path: Path) -> None:
    case = tuned_case(execution=("compile", "eager"))
    choices = list(candidates(case))
    launches = [
        make_launch(rated(9), case, launch=k, choice=choices[k % 2], search=True) for k in range(4)
    ]
    row = only_row(make_file([case], launches))
    assert len(row.trials) == 2
    assert [found.title for found in tuned([row])] == ["resnet50-infer bf16 (image 64, batch 8)"]


def test_memory_formats_are_asked_of_the_worker(tmp_path: Path) -> None:
    case = tuned_case(memory_format=("channels_last", "contiguous"))
    script = {(8, "channels_last"): rated(5, 8), (8, "contiguous"): rated(4, 8)}
    stage, file = play(tmp_path, script, case)
    assert [request.memory_format for request in stage.requests] == [
        *("channels_last", "contiguous"),
        *["channels_last"] * 3,
    ]
    (found,) = tuned(summarize(file))
    words = found.words
    assert "image/s when tried: channels_last 5.00, contiguous 4.00" in words


def test_the_time_left_counts_the_choices_that_are_left(tmp_path: Path) -> None:
    stage, _ = play(tmp_path, SCRIPT)
    assert [span.least for span in stage.left[1:]] == [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert all(span.most == span.least for span in stage.left[1:]), "there is no other case"
    assert stage.said[:2] == [
        "choice 1 of 6 (batch 1, compile)",
        "choice 2 of 6 (batch 2, compile)",
    ]
    assert stage.said[-1] == "launch 3 of 3 (batch 2, eager)"


def test_a_budget_that_ends_in_the_search_says_how_far_it_got(tmp_path: Path) -> None:
    row = only_row(play(tmp_path, SCRIPT, budget_seconds=4)[1])
    assert not row.reached
    left = "too long for what the time budget left"
    assert row.reason == f"not reached: {left}; 4 choices tried, 2 left"
    (found,) = tuned([row])
    words = found.words
    assert words.startswith("no best choice of 6 yet, of which 4 ran")


def test_a_budget_that_ends_before_the_best_is_measured_names_no_figure(tmp_path: Path) -> None:
    row = only_row(play(tmp_path, SCRIPT, budget_seconds=6)[1])
    assert not row.reached
    assert row.throughput is None
    assert row.reason.endswith("6 choices tried, 0 left")


@pytest.mark.parametrize("cut", range(9))
def test_a_search_goes_on_where_it_ended(tmp_path: Path, cut: int) -> None:
    _, whole = play(tmp_path / "whole", SCRIPT)
    script = dict(SCRIPT)
    if cut > 6:  # the script counts anew
        script[2, "eager"] = [rated(r, 2) for r in (20, 21, 22)[cut - 6 :]]
    elif cut > 4:
        script[2, "eager"] = [rated(r, 2) for r in (20, 21, 22)]
    stage, file = play(tmp_path / "again", script, done=whole.launches[:cut])
    assert len(stage.requests) == 9 - cut
    again, before = (
        [(x.choice, x.search, x.launch, x.outcome) for x in one.launches] for one in (file, whole)
    )
    assert again == before


@pytest.mark.parametrize("tried", [0, 1, 6])
def test_a_case_that_is_left_out_is_not_searched(tmp_path: Path, tried: int) -> None:
    """Nor does a record of which that was done say that it was not reached."""
    _, whole = play(tmp_path / "whole", SCRIPT)
    stage, file = play(tmp_path, {}, done=whole.launches[:tried], why="it has no fp8")
    assert not stage.requests
    row = only_row(file)
    assert (row.status, row.reached, row.reason) == ("skipped", True, "it has no fp8")


def test_auto_stops_by_the_launches_of_the_best() -> None:
    state = CaseState(tuned_case(batch_size=(1, 2)), Settings(launches="auto"))
    choices: list[Choice] = [{"batch_size": 1}, {"batch_size": 2}]
    case = state.case
    assert state.launches_left() == 2 + 5
    for k, choice in enumerate(choices):
        state.keep(make_launch(rated(10 + k), case, launch=k, choice=choice, search=True))
    for k in range(5):
        assert not state.finished
        assert state.launches_left() == 5 - k
        assert state.choice == {"batch_size": 2}
        state.keep(make_launch(rated(10 + 0.001 * k), case, launch=2 + k, choice=choices[1]))
    assert state.finished


def test_two_sides_measure_in_turns_although_their_searches_differ_in_length(
    tmp_path: Path,
) -> None:
    """One side runs out of memory, so it has less to try: it waits for the other."""
    settings, order = Settings(launches=3), list[str]()

    class Turn(Stage):
        def turn(self, side: str) -> None:
            order.append(side)

    sessions = []
    for name, script in (("a", SCRIPT), ("b", {**SCRIPT, (2, "compile"): OOM})):
        stage, backend = Turn(script), FakeBackend()
        writer = Writer(tmp_path / f"{name}.jsonl")
        writer.append(make_run([tuned_case()], settings=settings))
        device = backend.devices()[0]
        sessions.append(
            Session([tuned_case()], settings, device, backend, writer, stage, stage.launch)
        )
    assert alternate(*sessions) == "complete"
    for session in sessions:
        session.writer.close()
    first, second = (read(tmp_path / f"{name}.jsonl") for name in "ab")
    trials = [sum(launch.search for launch in file.launches) for file in (first, second)]
    assert trials == [6, 5]
    assert [len(file.launches) for file in (first, second)] == [9, 8]
    assert "".join(order[:2]) == "AB", "each says its plan"
    assert "".join(order[2:13]) == "ABBAABBAABA"
    pairs = {"".join(order[k : k + 2]) for k in (11, 13, 15)}
    assert pairs == {"AB", "BA"}, "each round has both, in changing order"
