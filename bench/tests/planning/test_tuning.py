"""The tuned track: what may be left open, the search, the figure, and that nothing mixes it up."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.commands.live import describe
from bench.errors import SuiteError
from bench.exchange import benchmark_json
from bench.judging.compare import compare
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.judging.tracks import tuned
from bench.measuring.worker import Report, Request
from bench.planning import plan
from bench.planning.suite_file import Suite
from bench.planning.tuning import candidates, in_words, settled
from bench.records.case import Case, Choice
from bench.records.outcome import Cold, Failed, Measured, Outcome, Skipped, Void
from bench.records.run import End, Launch, RunFile, Settings
from bench.records.runfile import Writer, read
from bench.report import Canvas
from bench.reports import markdown, table
from bench.reports._comparison import flat, render
from bench.reports._flat import flat as flat_row
from bench.running.launcher import Finished
from bench.running.session import CaseState, Session, alternate
from bench.tests.fakes import (
    BAD_NUMERICS,
    FakeBackend,
    failed,
    make_case,
    make_file,
    make_launch,
    make_measured,
    make_run,
)
from bench.tests.scripts.regenerate import command

OOM = Failed(kind="oom", phase="warm-up", message="out of memory")
CRASH = failed()
VOID = Void(reason="numerics: logits is off", numerics=BAD_NUMERICS)
NO_COMPILER = Skipped(reason="no C++ compiler")


def tuned_case(**space: Sequence[int | str]) -> Case:
    """ResNet-50's inference with something left open."""
    chosen = space or {"batch_size": (1, 2, 4), "execution": ("compile", "eager")}
    return make_case(
        workload="resnet50",
        mode="infer",
        execution="tuned" if "execution" in chosen else "eager",
        parameters={"image_size": 64} | ({} if "batch_size" in chosen else {"batch_size": 8}),
        tuned={name: tuple(values) for name, values in chosen.items()},
    )


def fixed_case(batch: int, execution: str = "eager") -> Case:
    """The same, of the fixed track."""
    return make_case(
        workload="resnet50",
        mode="infer",
        execution=execution,
        parameters={"batch_size": batch, "image_size": 64},
    )


def rated(images_per_second: float, batch: int = 1) -> Outcome:
    """A launch of that throughput."""
    return make_measured(batch / images_per_second, items=batch)


# --- The suite ------------------------------------------------------------------------------------


def planned(**entry: Any) -> tuple[Case, ...]:
    entry = {"workload": "resnet50", "mode": "infer", **entry}
    suite = Suite(name="s", source="s.toml", description="", settings=Settings(), entries=(entry,))
    return plan.plan(suite)


def test_a_tuned_entry_is_one_case_whatever_it_leaves_open() -> None:
    (case,) = planned(
        tuned={
            "memory_format": ["contiguous", "channels_last"],
            "batch_size": {"from": 2, "doubling_to": 8},
            "execution": ["eager", "compile"],
        }
    )
    assert case.space == {
        "batch_size": (2, 4, 8),
        "execution": ("compile", "eager"),
        "memory_format": ("channels_last", "contiguous"),
    }
    assert case.track == "tuned"
    assert "batch_size" not in case.parameters
    assert case.parameters["image_size"] == 224
    assert case.label == (
        "resnet50-infer bf16 tuned (image 224, batch 2 to 8, compile or eager, "
        "channels_last or contiguous)"
    )


def test_lists_outside_the_table_are_sweeps_of_tuned_cases() -> None:
    cases = planned(precision=["bf16", "fp32"], tuned={"batch_size": [1, 2]})
    assert [case.precision for case in cases] == ["bf16", "fp32"]
    assert [case.execution for case in cases] == ["eager", "eager"]


def test_the_order_in_which_values_are_written_does_not_make_another_case() -> None:
    (one,) = planned(tuned={"batch_size": [1, 2], "execution": ["eager", "compile"]})
    (other,) = planned(tuned={"execution": ["compile", "eager"], "batch_size": [2, 1]})
    assert one.fingerprint == other.fingerprint


def test_what_is_left_open_is_part_of_the_fingerprint() -> None:
    prints = {
        tuned_case().fingerprint,
        tuned_case(batch_size=(1, 2)).fingerprint,
        tuned_case(batch_size=(1, 2, 4)).fingerprint,
        fixed_case(1).fingerprint,
    }
    assert len(prints) == 4


def test_a_fixed_case_says_nothing_of_tuning_so_its_fingerprint_is_what_it_was() -> None:
    assert b"tuned" not in msgspec.json.encode(make_case())
    assert make_case().fingerprint == "2f4be6dc7bc17f46"


def test_a_tuned_case_survives_its_json() -> None:
    case = tuned_case()
    assert msgspec.json.decode(msgspec.json.encode(case), type=Case) == case


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"tuned": {}}, "must be a table of what is left open. For example: tuned ="),
        ({"tuned": True}, "must be a table"),
        ({"tuned": [{"batch_size": [1, 2]}]}, "must be a table"),
        ({"tuned": {"image_size": [32, 64]}}, "`image_size` cannot be tuned; batch_size, exec"),
        ({"tuned": {"batch": [1, 2]}}, "`batch` cannot be tuned"),
        ({"tuned": {"batch_size": [1, 2]}, "batch_size": 4}, "is fixed and in `tuned`"),
        ({"tuned": {"batch_size": 4}}, "leaves 1 to choose from; from 2"),
        ({"tuned": {"batch_size": []}}, r"s.toml, case 1, tuned: `batch_size` is an empty list"),
        ({"tune": {"batch_size": [1, 2]}}, "unknown key|Only `batch_size`"),
        ({"memory_format": "channels_last"}, "Only a table `tuned` may name it"),
        ({"tuned": {"batch_size": [1, 1]}}, "names a value of `batch_size` twice"),
        ({"tuned": {"batch_size": [0, 1]}}, "batch_size must be from 1 to 65536, not 0"),
        ({"tuned": {"batch_size": [1, "2"]}}, "Expected `int`, got `str`"),
        ({"tuned": {"batch_size": [1, True]}}, "names a value|Expected `int`, got `bool`"),
        ({"tuned": {"batch_size": {"from": 4, "doubling_to": 1}}}, "no smaller"),
        ({"tuned": {"execution": ["eager", "compiled"]}}, "unknown execution `compiled`.*compile"),
        ({"tuned": {"execution": ["eager", "graph"]}}, "unknown execution `graph`"),
        ({"tuned": {"execution": ["eager", ["compile"]]}}, "unknown execution"),
        ({"tuned": {"memory_format": ["channels", "contiguous"]}}, "unknown memory_format `chan"),
        (
            {
                "workload": "bert",
                "tuned": {"memory_format": ["contiguous", "channels_last"]},
            },
            "unknown memory_format `channels_last` for bert-infer. Allowed: contiguous",
        ),
        (
            {"workload": "gemm", "mode": "matmul", "tuned": {"batch_size": [1, 2]}},
            "gemm-matmul has no `batch_size` to tune",
        ),
        ({"tuned": {"batch_size": list(range(1, 1002))}}, "leaves 1001 to choose from"),
    ],
)
def test_what_cannot_be_left_open_is_refused_before_anything_runs(
    entry: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SuiteError, match=complaint) as caught:
        planned(**entry)
    assert str(caught.value).startswith("s.toml, case 1")


@pytest.mark.parametrize(
    "space",
    [
        {"precision": ("bf16", "fp32")},
        {"batch_size": (2, 1)},
        {"batch_size": (1, 1)},
        {"batch_size": (1, "2")},
        {"batch_size": ("1", "2")},
        {"execution": (1, 2)},
        {"batch_size": (1,)},
        {"batch_size": ()},
        {"image_size": (32, 64)},
        {"batch_size": tuple(range(1, 1002))},
        {},
    ],
)
def test_a_case_that_leaves_open_what_it_cannot_is_not_constructed(space: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tuned case|ascending"):
        make_case(tuned=space)


def test_only_finds_the_tuned_ones() -> None:
    (one,) = planned(tuned={"batch_size": [1, 2]})
    cases = (fixed_case(1), one)
    assert plan.select(cases, "*-tuned") == (one,)
    assert plan.select(cases, "resnet50-infer-bf16-tuned") == (one,)
    assert plan.select(cases, "resnet50-infer") == cases


def test_choices_double_the_batch_within_all_else() -> None:
    assert [in_words(choice) for choice in candidates(tuned_case())] == [
        "batch 1, compile",
        "batch 2, compile",
        "batch 4, compile",
        "batch 1, eager",
        "batch 2, eager",
        "batch 4, eager",
    ]


def test_a_fixed_case_has_nothing_to_choose() -> None:
    assert list(candidates(fixed_case(1))) == []


def test_a_choice_makes_the_fixed_case_that_runs() -> None:
    assert settled(tuned_case(), {"batch_size": 2, "execution": "compile"}) == fixed_case(
        2, "compile"
    )
    formats = tuned_case(memory_format=("channels_last", "contiguous"))
    assert settled(formats, {"memory_format": "channels_last"}) == fixed_case(8)


@pytest.mark.parametrize(
    ("choice", "search"),
    [
        ({"batch_size": 3, "execution": "eager"}, False),
        ({"batch_size": 2}, False),
        ({"batch_size": 2, "execution": "eager", "memory_format": "contiguous"}, False),
        (None, False),
        (None, True),
    ],
)
def test_a_launch_of_a_choice_that_was_not_open_is_no_launch(
    choice: Choice | None, search: bool
) -> None:
    with pytest.raises(ValueError, match="is none of resnet50-infer"):
        make_launch(case=tuned_case(), choice=choice, search=search)


def test_a_launch_of_a_fixed_case_has_no_choice() -> None:
    with pytest.raises(ValueError, match="is none of"):
        make_launch(choice={"batch_size": 2})
    with pytest.raises(ValueError, match="is none of"):
        make_launch(search=True)


# --- The run --------------------------------------------------------------------------------------

Script = Mapping[tuple[int, str], Outcome | Sequence[Outcome]]
"""Outcomes of the launches by batch and execution, or memory format; the last one repeats."""


class Stage:
    """A launcher and a face that follow a script."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.left: list[float | None] = []

    def launch(
        self, requests: Sequence[Request], variables: dict[str, str], listen: Callable[..., None]
    ) -> Generator[Finished, None, None]:
        for request in requests:
            key = self.key(request)
            done = sum(self.key(one) == key for one in self.requests)
            self.requests.append(request)
            outcomes = self.script[key]
            series = [outcomes] if isinstance(outcomes, Outcome) else outcomes
            outcome = series[min(done, len(series) - 1)]
            report = Report(outcome=outcome, cold=Cold(), environment={})
            yield Finished(report=report, seconds=1.0, stderr_tail="")

    @staticmethod
    def key(request: Request) -> tuple[int, str]:
        batch = request.case.parameters["batch_size"]
        assert isinstance(batch, int)
        return batch, request.memory_format or request.case.execution

    def turn(self, side: str) -> None:
        """There is one."""

    def starts(self, case: Case, launch: int, seconds_left: float | None) -> None:
        self.left.append(seconds_left)

    def progress(self, progress: Any) -> None:
        """Says nothing."""

    def ends(self, launch: Launch, rates: Sequence[float]) -> None:
        assert describe(launch, rates, Settings(launches=3))


def play(
    folder: Path,
    script: Script,
    case: Case | None = None,
    launches: int = 3,
    done: Sequence[Launch] = (),
    budget_seconds: float | None = None,
) -> tuple[Stage, RunFile]:
    """Runs one tuned case, and reads the record."""
    cases = [case or tuned_case()]
    settings = Settings(launches=launches)
    stage, backend = Stage(script), FakeBackend()
    writer = Writer(folder / "run.jsonl")
    writer.append(make_run(cases, settings=settings))
    for launch in done:
        writer.append(launch)
    Session(
        cases,
        settings,
        backend.devices()[0],
        backend,
        writer,
        stage,
        stage.launch,
        budget_seconds,
        clock=lambda: float(len(stage.requests)),
        done=done,
    ).run()
    writer.close()
    return stage, read(folder / "run.jsonl")


SCRIPT: Script = {
    (1, "compile"): rated(10),
    (2, "compile"): rated(18, 2),
    (4, "compile"): rated(16, 4),
    (1, "eager"): rated(9),
    (2, "eager"): [rated(30, 2), rated(20, 2), rated(21, 2), rated(22, 2)],
    (4, "eager"): rated(19, 4),
}
"""The best by its trial is batch 2, eager; measured again it gives 21."""
KEYS = list(SCRIPT)


def only_row(file: RunFile) -> Row:
    (row,) = summarize(file)
    return row


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
    assert stage.left == [None, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def test_a_budget_that_ends_in_the_search_says_how_far_it_got(tmp_path: Path) -> None:
    row = only_row(play(tmp_path, SCRIPT, budget_seconds=4)[1])
    assert not row.reached
    assert row.reason == ("not reached: the time budget was spent; 4 choices tried, 2 left")
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
    assert "".join(order[:11]) == "ABBAABBAABA"
    pairs = {"".join(order[k : k + 2]) for k in (11, 13, 15)}
    assert pairs == {"AB", "BA"}, "each round has both, in changing order"


# --- What is said ---------------------------------------------------------------------------------


def side(tmp_path: Path, name: str, script: Script, case: Case | None = None) -> RunFile:
    (tmp_path / name).mkdir()
    return play(tmp_path / name, script, case, launches=5)[1]


def steady(winner: tuple[int, str], rate: float) -> Script:
    return {key: rated(rate if key == winner else rate / 2, key[0]) for key in KEYS}


def test_tuned_and_fixed_are_never_compared(tmp_path: Path) -> None:
    fast = side(tmp_path, "tuned", steady((2, "eager"), 20))
    launches = [make_launch(rated(10, 2), fixed_case(2), launch=k, order=k) for k in range(5)]
    plain = make_file([fixed_case(2)], launches, settings=Settings(launches=5))
    (found,) = compare(plain, fast).cases
    assert found.verdict == "INCOMPARABLE"
    assert found.ratio is None
    assert "track differs (fixed, tuned)" in found.reasons


def test_the_same_choices_compare_each_at_its_best(tmp_path: Path) -> None:
    base = side(tmp_path, "base", steady((2, "eager"), 20))
    other = side(tmp_path, "other", steady((4, "compile"), 30))
    comparison = compare(base, other)
    (found,) = comparison.cases
    assert found.verdict == "FASTER"
    assert found.ratio == pytest.approx(1.5)
    assert found.witness_gap is None  # other inputs have other outputs
    card = " ".join(render([comparison], Canvas(width=100)).split())
    assert "each side at its best, base batch 2, eager; other batch 4, compile" in card
    (case,) = flat(comparison)["cases"]
    assert case["track"] == "tuned"
    assert case["base"]["choice"] == {"batch_size": 2, "execution": "eager"}


def test_bytes_an_item_of_two_batches_are_not_split_into_chip_and_software(tmp_path: Path) -> None:
    """A larger batch moves fewer bytes an item, so shares of bandwidth make no product."""
    stream = make_case(workload="memory", mode="copy", parameters={"size_bytes": 1})

    def run_of(winner: tuple[int, str]) -> RunFile:
        moved = {
            key: make_measured(0.1 if key == winner else 0.2, items=key[0], moved_bytes=10**9)
            for key in KEYS
        }
        (tmp_path / f"{winner}").mkdir()
        file = play(tmp_path / f"{winner}", moved, launches=5)[1]
        ceiling = make_measured(0.1, items=10**10, unit="B", moved_bytes=10**10)
        box = [make_launch(ceiling, stream, launch=k, order=50 + k) for k in range(5)]
        cases, launches = [stream, tuned_case()], [*file.launches, *box]
        return make_file(cases, launches, settings=Settings(launches=5))

    one, other = run_of((2, "eager")), run_of((4, "eager"))
    splits = {c.case.workload: c.split for c in compare(one, other).cases}
    assert splits["resnet50"] is None
    same = {c.case.workload: c.split for c in compare(one, one).cases}
    assert same["resnet50"] is not None


def test_other_choices_are_other_work(tmp_path: Path) -> None:
    base = side(tmp_path, "base", steady((2, "eager"), 20))
    fewer = tuned_case(batch_size=(1, 2), execution=("compile", "eager"))
    other = side(tmp_path, "other", steady((2, "eager"), 20), fewer)
    (found,) = compare(base, other).cases
    assert found.verdict == "INCOMPARABLE"
    assert found.reasons == ("tuned batch_size differs (1 2 4, 1 2)",)


def both_tracks(tmp_path: Path) -> RunFile:
    file = side(tmp_path, "one", SCRIPT)
    fixed = [make_launch(rated(9, 1), fixed_case(1), launch=k, order=20 + k) for k in range(5)]
    cases = [fixed_case(1), tuned_case()]
    launches = [*file.launches, *fixed]
    return make_file(cases, launches, settings=Settings(launches=5))


def test_the_card_shows_both_tracks_side_by_side_and_no_ratio(tmp_path: Path) -> None:
    file = both_tracks(tmp_path)
    for width in (80, 120):
        card = table.REPORT.render([file], Canvas(width=width))
        assert "resnet50-infer bf16 tuned" in card
        assert "best: batch 2, eager" in " ".join(card.split())
        words = " ".join(card.split())
        assert "batch 2, eager is the best of 6 choices, of which 6 ran" in words
        assert "eager, image/s at batch 1: 9.00, 2: 30.0, 4: 19.0" in words
        assert "fixed, beside it: 9.00 image/s at batch 1, eager" in words


def test_fixed_figures_of_other_work_are_not_beside_it(tmp_path: Path) -> None:
    file = both_tracks(tmp_path)
    other = make_case(
        workload="resnet50", mode="infer", parameters={"batch_size": 1, "image_size": 128}
    )
    moved = [
        make_launch(x.outcome, other, launch=x.launch, order=x.order) if not x.case.space else x
        for x in file.launches
    ]
    rows = summarize(make_file([other, tuned_case()], moved))
    (found,) = tuned(rows)
    assert "beside it" not in found.words


def test_the_other_formats_say_what_was_chosen(tmp_path: Path) -> None:
    file = both_tracks(tmp_path)
    assert "**Tuned** resnet50-infer" in markdown.REPORT.render([file], Canvas(width=80))
    rows = [flat_row(file, row) for row in summarize(file)]
    assert [row["track"] for row in rows] == ["fixed", "tuned"]
    assert [row["choice"] for row in rows] == [None, {"batch_size": 2, "execution": "eager"}]
    assert rows[1]["tuned"] == {"batch_size": [1, 2, 4], "execution": ["compile", "eager"]}


def test_the_page_says_what_was_chosen(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from bench.reports import html

    page = html.REPORT.render([both_tracks(tmp_path)], Canvas(width=80))
    assert "batch 2, eager is the best of 6 choices" in page


def test_a_document_of_pytest_benchmark_has_the_best_choice_as_rounds(tmp_path: Path) -> None:
    file = both_tracks(tmp_path)
    document = msgspec.to_builtins(benchmark_json.to_document(file))
    found = {one["name"]: one["stats"]["rounds"] for one in document["benchmarks"]}
    assert found == {
        "resnet50-infer-bf16[batch_1-image_64]": 5,
        "resnet50-infer-bf16-tuned[image_64-batch_1_to_4-compile_or_eager]": 5,
    }
    back = benchmark_json.from_document("x.json", document)
    assert [x.choice for x in back.launches] == [x.choice for x in file.launches]
    assert summarize(back) == summarize(file)


def test_an_interrupted_search_is_told_by_its_record(tmp_path: Path) -> None:
    file = side(tmp_path, "one", SCRIPT)
    end = End(reason="interrupted", finished_at="2026-01-01T00:01:00.000+00:00")
    row = only_row(make_file([tuned_case()], file.launches[:2], end=end))
    assert row.reason == "not reached: the run was interrupted; 2 choices tried, 4 left"


# --- On the command line --------------------------------------------------------------------------

SUITE = """
[settings]
launches = 1
block_seconds = 0.001
warmup_limit_seconds = 5.0
steady_limit_seconds = 1.0

[[case]]
workload = "resnet50"
mode = "infer"
precision = "fp32"
image_size = 32
tuned = { batch_size = [1, 2], memory_format = ["contiguous", "channels_last"] }
"""


def test_a_tuned_case_is_measured_by_real_processes(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SUITE)
    typed = ("run", "mine.toml", "--device", "cpu", "--out", "out")
    done = command(*typed, folder=tmp_path, OMP_NUM_THREADS="1")
    (path,) = (tmp_path / "out").glob("*.jsonl")
    file = read(path)
    trials, (final,) = file.launches[:-1], file.launches[-1:]
    assert all(launch.search for launch in trials)
    assert not final.search
    # On a machine that is at work for others too, a slowed trial is made again.
    assert len({str(launch.choice) for launch in trials}) == 4 <= len(trials) <= 8
    for launch in file.launches:
        assert isinstance(launch.outcome, Measured), launch.outcome
        assert launch.choice is not None
        assert launch.environment["job"]["memory_format"] == launch.choice["memory_format"]
        assert launch.outcome.work.items == launch.choice["batch_size"]
    row = only_row(file)
    assert row.choice == file.launches[-1].choice
    fastest = max(row.trials, key=lambda trial: trial.rate or 0)
    assert row.choice == fastest.choice
    assert "is the best of 4 choices, of which 4 ran" in " ".join(done.stdout.split())
    assert "tries batch 1, contiguous: " in done.stderr
