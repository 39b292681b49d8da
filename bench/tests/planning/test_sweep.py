"""Batch sweeps: doubled at plan time, ended by memory, told as a curve with its best point."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.errors import SuiteError
from bench.judging.curves import curves
from bench.judging.summary import summarize
from bench.measuring.messages import Report, Request
from bench.planning import plan
from bench.planning.suite_file import Suite
from bench.planning.sweep import Limits
from bench.planning.tuning import Trial, hopeless
from bench.records.case import Case
from bench.records.outcome import Cold, Failed, Outcome, Phase, Skipped
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import Writer, read
from bench.report import Canvas
from bench.reports.table import REPORT
from bench.reports.wording.rows import next_step
from bench.running.launcher import Finished
from bench.running.session import Session
from bench.tests.fakes import FakeBackend
from bench.tests.running.test_session import Stage
from bench.tests.values import make_case, make_file, make_launches, make_measured, make_run

OOM = Failed(kind="oom", phase="warm-up", message="out of memory")
TOO_LARGE = Skipped(reason="does not fit: needs about 17.2 GiB, the device has 13.7 GiB")
BEYOND = "beyond the largest batch that fits: 4"


def point(batch: int, **changes: Any) -> Case:
    parameters = {"model": "toy", "batch_size": batch}
    return make_case(**{"workload": "llama", "mode": "train", "parameters": parameters, **changes})


# --- The suite ------------------------------------------------------------------------------------


def planned(value: Any, key: str = "batch_size") -> list[int]:
    entry = {"workload": "resnet50", "mode": "infer", key: value}
    suite = Suite(name="s", source="s.toml", description="", settings=Settings(), entries=(entry,))
    return [int(case.parameters[key]) for case in plan.plan(suite)]


@pytest.mark.parametrize(
    ("low", "high", "batches"),
    [(1, 8, [1, 2, 4, 8]), (1, 7, [1, 2, 4]), (3, 24, [3, 6, 12, 24]), (5, 5, [5])],
)
def test_a_batch_doubles_as_far_as_it_may(low: int, high: int, batches: list[int]) -> None:
    assert planned({"from": low, "doubling_to": high}) == batches


def test_so_does_the_size_of_a_collective() -> None:
    entry = {
        "workload": "collective",
        "mode": "all-gather",
        "size_bytes": {"from": 8, "doubling_to": 2**30},
    }
    suite = Suite(name="s", source="s.toml", description="", settings=Settings(), entries=(entry,))
    sizes = [case.parameters["size_bytes"] for case in plan.plan(suite)]
    assert sizes == [8 << k for k in range(28)]


@pytest.mark.parametrize(
    ("value", "key", "complaint"),
    [
        ({"from": 1}, "batch_size", "whole numbers from 1 up"),
        ({"from": 8, "doubling_to": 4}, "batch_size", "no smaller"),
        ({"from": True, "doubling_to": 4}, "batch_size", "whole numbers"),
        ({"from": 1, "doubling_too": 4}, "batch_size", "Did you mean `doubling_to`"),
        (
            {"from": 32, "doubling_to": 64},
            "image_size",
            "Only `batch_size`, `devices`, `s",
        ),
        ({"from": 1, "doubling_to": 10**6}, "batch_size", "must be from 1 to 65536"),
    ],
)
def test_a_doubling_that_is_none_is_refused(value: Any, key: str, complaint: str) -> None:
    with pytest.raises(SuiteError, match=complaint):
        planned(value, key)


# --- The run --------------------------------------------------------------------------------------


class Doubling(Stage):
    """A stage whose script goes by the batch."""

    def __init__(self, outcomes: Mapping[int, Outcome]) -> None:
        super().__init__({})
        self.outcomes = outcomes
        self.tried: list[list[int]] = []

    def launch(
        self, requests: Sequence[Request], variables: dict[str, str], listen: Any
    ) -> Generator[Finished, None, None]:
        batches = [int(r.case.parameters["batch_size"]) for r in requests]
        self.tried.append(batches)
        for batch in batches:
            report = Report(outcome=self.outcomes[batch], cold=Cold(), environment={})
            yield Finished(report=report, seconds=1.0, stderr_tail="")

    def ends(self, launch: Launch, rates: Sequence[float], finished: bool) -> None:
        """Nothing to note."""


def double(
    folder: Path, outcomes: Mapping[int, Outcome], done: Sequence[Launch] = ()
) -> tuple[list[list[int]], RunFile]:
    """Runs a sweep of two launches a point with two workers side by side."""
    cases = [point(batch) for batch in outcomes]
    settings = Settings(launches=2)
    stage, backend = Doubling(outcomes), FakeBackend()
    writer = Writer(folder / "run.jsonl")
    writer.append(make_run(cases, settings=settings))
    for launch in done:
        writer.append(launch)
    session = Session(
        cases,
        settings,
        backend.devices()[0],
        backend,
        writer,
        stage,
        stage.launch,
        together=2,
        clock=stage.clock,
        done=done,
    )
    assert session.run() == "complete"
    writer.close()
    return stage.tried, read(folder / "run.jsonl")


FINE = {1: make_measured(0.01), 2: make_measured(0.01, items=2), 4: make_measured(0.01, items=4)}


@pytest.mark.parametrize("end", [OOM, TOO_LARGE])
def test_a_sweep_ends_where_memory_does(tmp_path: Path, end: Outcome) -> None:
    tried, file = double(tmp_path, {**FINE, 8: end, 16: end, 32: end})
    # Nothing is started beside a point that may not fit; later rounds go two by two.
    assert tried == [[1], [2], [4], [8], [1, 2], [4]]
    rows = summarize(file)
    assert [row.status for row in rows[:3]] == ["measured"] * 3
    assert [(row.status, row.reason) for row in rows[4:]] == [("skipped", BEYOND)] * 2
    assert all(row.reached for row in rows)
    assert rows[3].sweep_end == (end is OOM)
    assert "no number" not in next_step(file, rows)


def test_a_sweep_that_is_resumed_stays_ended(tmp_path: Path) -> None:
    done = [*make_launches(point(4), [FINE[4], FINE[4]]), *make_launches(point(8), [OOM], 2)]
    tried, _ = double(tmp_path, {4: FINE[4], 8: OOM, 16: OOM}, done)
    assert tried == []


def test_a_first_batch_that_does_not_fit_says_so(tmp_path: Path) -> None:
    tried, file = double(tmp_path, {8: OOM, 16: FINE[1]})
    assert tried == [[8]]
    first, second = summarize(file)
    assert first.status == "failed" and not first.sweep_end
    assert second.reason == "beyond a batch that does not fit: 8"


def test_other_work_is_no_point_of_the_sweep() -> None:
    limits = Limits()
    limits.note(point(8), OOM)
    assert limits.beyond(point(16)) is not None
    assert limits.beyond(point(4)) is None
    assert limits.beyond(point(16, precision="fp32")) is None
    assert limits.beyond(make_case()) is None
    crash = Failed(kind="crash", phase="warm-up", message="signal 11")
    limits.note(point(2), crash)
    assert limits.beyond(point(4)) is None


def test_memory_that_the_gate_lacked_says_nothing_of_a_batch(tmp_path: Path) -> None:
    """Its twin is as small at any: the next one is tried, and the failure is no end of a sweep."""
    short = Failed(kind="oom", phase="numerics", message="the host has no memory")
    tried, file = double(tmp_path, {4: FINE[4], 8: short, 16: FINE[4]})
    assert [16] in tried
    rows = summarize(file)
    assert [row.status for row in rows] == ["measured", "failed", "measured"]
    assert not rows[1].sweep_end


@pytest.mark.parametrize("phase", ["start", "import", "open"])
def test_who_finds_no_memory_before_the_case_has_any_has_met_others(phase: Phase) -> None:
    """It is tried again, and neither sweep nor curve ends there."""
    full = Failed(kind="oom", phase=phase, message="out of memory")
    limits = Limits()
    limits.note(point(4), full)
    assert limits.beyond(point(8)) is None
    trial = Trial.of({"batch_size": 4}, full)
    assert trial.accident and not trial.ends_curve
    assert not hopeless(full) and hopeless(OOM)


def test_a_batch_at_the_brim_that_fitted_once_does_not_undo_the_end_of_its_sweep() -> None:
    """It says so itself, by the launches in which it failed."""
    limits = Limits()
    for batch, outcome in ((4, FINE[4]), (8, make_measured(0.02, items=8)), (16, OOM), (8, OOM)):
        limits.note(point(batch), outcome)
    assert limits.ends(point(16)) and not limits.ends(point(8))
    assert limits.beyond(point(32)) == "beyond the largest batch that fits: 8"


# --- The reports ----------------------------------------------------------------------------------


def test_the_card_gives_the_curve_and_its_best_point() -> None:
    outcomes: dict[int, Outcome] = {**FINE, 8: OOM}
    cases = [point(batch) for batch in (*outcomes, 16, 32, 64)]
    launches = [x for b, o in outcomes.items() for x in make_launches(point(b), [o] * 3)]
    file = make_file(cases, launches)
    (curve,) = curves(summarize(file))
    assert curve.words == (
        "batch 1: 100 image/s; batch 2: 200 image/s; batch 4: 400 image/s; batch 8: does not fit; "
        "best of 3: 400 image/s at batch 4, which reads high where points are nearly level"
    )
    wide = REPORT.render([file], Canvas(width=400, wide=True))
    assert f"SWEEP {curve.title}: {curve.words}\n" in wide
    card = REPORT.render([file], Canvas(width=400))
    best = "llama-train bf16 (batch 4) (best of 3: 400 image/s)"
    assert f"SWEEP the fastest batch, which reads high: {best}\n" in card
    (line,) = [text for text in card.splitlines() if text.endswith("  SKIPPED")]
    assert line.startswith("llama-train bf16, batch 16 to 64, toy "), "one line for all"
    assert "SKIPPED llama-train bf16 (batch 16), llama-train bf16 (batch 32), " in card
    assert f"llama-train bf16 (batch 64): {BEYOND}\n" in card


def test_the_best_point_is_one_whose_figure_may_be_used() -> None:
    unsteady = make_measured(0.001, items=8, flags=("NO_STEADY_STATE",))
    outcomes: dict[int, Outcome] = {1: make_measured(0.01, latency_name="latency"), 8: unsteady}
    launches = [x for b, o in outcomes.items() for x in make_launches(point(b), [o] * 3)]
    (curve,) = curves(summarize(make_file([point(1), point(8)], launches)))
    assert curve.best is not None and curve.best.case == point(1)
    assert "latency 10.0 ms" in curve.words


def test_one_point_is_no_sweep() -> None:
    rows = summarize(make_file([point(1)], make_launches(point(1), [FINE[1]])))
    assert list(curves(rows)) == []
