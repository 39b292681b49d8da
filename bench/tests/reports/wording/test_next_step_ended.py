"""The next step of a run that has a figure of each case: what it lacks, by how it was made."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest

from bench.judging.summary import summarize
from bench.records.outcome import Outcome
from bench.records.run import End, RunFile, Settings
from bench.reports.wording.rows import next_step, unfinished
from bench.running.case_state import CaseState
from bench.tests.values import (
    COMPLETE,
    failed,
    make_case,
    make_file,
    make_launches,
    make_measured,
)

CASE, OTHER = make_case(), make_case(precision="fp32")
FINE = make_measured(0.01)
SLOWED = make_measured(0.01, flags=("CONTENDED",), causes={"CONTENDED": "another process"})
TEN, AUTO = Settings(launches=10), Settings(launches="auto")
GO_ON = "Next: not every launch was made; go on with it, where it was made: accelmark run --resume"
LONGER = GO_ON.replace("made:", "made and with a longer budget or none:")
"""A launch that the whole of a budget is too short for is never made by going on with the same."""
EXPLAIN_ON = LONGER.replace("not every launch was made", "not everything was explained")


def wild(count: int) -> list[Outcome]:
    """Launches that make no narrow interval."""
    return [make_measured(0.01 * (1 + k % 2)) for k in range(count)]


def file(*outcomes: Outcome, **changes: Any) -> RunFile:
    return make_file([CASE], make_launches(CASE, outcomes), **changes)


def ended(reason: Literal["budget", "interrupted"]) -> End:
    return End(reason=reason, finished_at="x")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (file(FINE, FINE, settings=TEN, end=ended("budget")), f"{LONGER} fake.jsonl"),
        (file(FINE, FINE, settings=TEN, end=ended("interrupted")), f"{GO_ON} fake.jsonl"),
        (file(FINE, FINE, settings=TEN, end=None), f"{GO_ON} fake.jsonl"),
        (file(FINE, SLOWED, FINE, FINE, settings=TEN, end=None), f"{GO_ON} fake.jsonl"),
        (file(FINE, FINE, settings=AUTO, end=ended("budget")), f"{LONGER} fake.jsonl"),
        (file(*wild(10), settings=AUTO, end=ended("budget")), f"{LONGER} fake.jsonl"),
        (file(*wild(30), settings=Settings(launches=40), end=ended("budget")), LONGER),
        (
            file(FINE, settings=TEN, end=None, command=("accelmark", "ab", "quick")),
            "Next: not every launch was made; run again: accelmark run quick",
        ),
        (
            file(FINE, settings=TEN, end=ended("budget"), command=("accelmark", "ab", "quick")),
            "Next: not every launch was made; run again with more time: accelmark run quick",
        ),
        (
            file(FINE, FINE, settings=Settings(launches=2), end=ended("budget"), explanations=1),
            f"{EXPLAIN_ON} fake.jsonl",
        ),
        (file(FINE, settings=TEN, end=ended("budget"), explanations=1), LONGER),
        (
            file(FINE, settings=Settings(launches=2), command=("accelmark", "run"), explanations=1),
            "--launches auto",
        ),
        # Of two cases the one has all that was planned, and is not sure.
        (
            make_file(
                [CASE, OTHER],
                [*make_launches(CASE, wild(10)), *make_launches(OTHER, [FINE] * 9)],
                settings=TEN,
                end=ended("budget"),
            ),
            "--launches auto",
        ),
        (file(*[FINE] * 6, settings=TEN, end=ended("interrupted")), f"{GO_ON} fake.jsonl"),
        (file(*[FINE] * 6, settings=AUTO, end=ended("interrupted")), "hand fake.jsonl to whoever"),
        (file(FINE, FINE, settings=Settings(launches=2)), "--launches auto"),
        (file(*wild(10), settings=TEN), "--launches auto"),
        (file(*[FINE] * 6, settings=TEN, end=ended("budget")), "hand fake.jsonl to whoever"),
    ],
)
def test_a_run_that_ended_early_goes_on_where_it_is_not_sure(run: RunFile, said: str) -> None:
    step = next_step(run, summarize(run))
    assert said in step and "\n" not in step


STEADY = make_measured(0.01, flags=("NO_STEADY_STATE",))
HOT = make_measured(0.01, flags=("THROTTLED",))
HELD = make_measured(0.01, flags=("QUOTA",))
STOOD = make_measured(0.01, flags=("STOPPED",))
STATES: dict[str, tuple[list[Outcome], str, str]] = {
    "fine": ([FINE] * 3, "", "--launches auto"),
    "failed": ([failed(), failed()], "see why gemm-matmul has no number", "has no number. See why"),
    "hot": ([HOT] * 3, "cool the device", "and run again: it throttled"),
    "slowed": ([SLOWED] * 3, "end other work", "and run again: it slowed"),
    "stood": ([STOOD] * 3, "find what stops this process", "and run again without it"),
    "lost": (
        [FINE, failed(), failed()],
        "see why launches of gemm-matmul failed",
        "too many launches failed. See why, then try it alone",
    ),
    "never steady": ([STEADY] * 3, "end other work", "and run again: a case never"),
}
"""What came of a case; what is said of it before a run goes on, and where nothing is left."""


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("end", [COMPLETE, None, ended("interrupted"), ended("budget")])
@pytest.mark.parametrize("reached", [1, 0])
def test_a_run_that_is_not_whole_goes_on_whatever_is_wrong_with_a_case(
    state: str, end: End | None, reached: int
) -> None:
    """First what would slow or end the rest too is put right; the same run is never begun anew."""
    outcomes, mend, whole = STATES[state]
    count = 3 if end == COMPLETE else reached
    launches = make_launches(CASE, outcomes) + make_launches(OTHER, [FINE] * count)
    run = make_file([CASE, OTHER], launches, settings=Settings(launches=3), end=end)
    step = next_step(run, summarize(run))
    if end == COMPLETE:
        assert whole in step and "--resume" not in step
        return
    on = LONGER if end is not None and end.reason == "budget" else GO_ON
    said, on = on.removeprefix("Next: ").split("; ")
    lacking = said if reached else "not every case was reached"
    assert step.startswith(f"Next: {lacking}; {mend}") and whole not in step
    assert step.endswith(f"{', then ' if mend else '; '}{on} fake.jsonl")


@pytest.mark.parametrize("end", [COMPLETE, ended("interrupted")])
def test_what_is_only_explained_is_explained_by_the_same_command(end: End) -> None:
    run = file(only_explained=True, explanations=1, command=("accelmark", "explain"), end=end)
    step = next_step(run, summarize(run))
    assert ("the same command again" in step) == (end != COMPLETE) and "--resume" not in step
    assert step.endswith("see where its time goes: accelmark explain fake.jsonl")


def test_under_another_quota_no_run_goes_on() -> None:
    step = next_step(run := file(HELD, settings=TEN, end=None), summarize(run))
    assert "a new run with no more threads" in step and "--resume" not in step


@pytest.mark.parametrize(
    "outcomes", [[FINE, FINE, failed(), failed()], [SLOWED] * 10], ids=["lost", "slowed"]
)
def test_a_case_that_is_given_up_has_no_launches_left(outcomes: list[Outcome]) -> None:
    run = file(*outcomes, settings=AUTO, end=ended("interrupted"))
    assert "--resume" not in next_step(run, summarize(run))


@pytest.mark.parametrize("seed", range(100))
def test_auto_has_launches_left_where_the_run_itself_would_make_them(seed: int) -> None:
    """But for a case that is sure already, which none is needed of."""
    draw = random.Random(seed)
    share = draw.choice([0.0, 0.3, 0.5, 0.8])
    bad: list[Outcome] = [failed(), SLOWED, SLOWED]
    good: list[Outcome] = wild(2) if draw.random() < 0.5 else [FINE]
    outcomes = [
        draw.choice(bad if draw.random() < share else good) for _ in range(draw.randint(1, 22))
    ]
    run = file(*outcomes, settings=AUTO, end=ended("interrupted"))
    state = CaseState(CASE, AUTO)
    for launch in run.launches:
        state.keep(launch)
    (row,) = rows = summarize(run)
    if row.measured:
        left = row.verdict != "OK" and not state.finished
        assert bool(unfinished(run, rows)) is left, (row.verdict, row.why)


@pytest.mark.parametrize(("slowed", "left"), [(3, True), (4, False)])
@pytest.mark.parametrize("fine", [1, 0])
def test_a_fixed_number_goes_on_while_enough_may_be_undisturbed(
    slowed: int, left: bool, fine: int
) -> None:
    run = file(*[SLOWED] * slowed, *[FINE] * fine, settings=TEN, end=ended("interrupted"))
    assert bool(unfinished(run, summarize(run))) is left


def test_a_quota_forbids_to_go_on_whatever_else_is_wrong() -> None:
    launches = make_launches(CASE, [failed(), failed()]) + make_launches(OTHER, [HELD] * 3)
    plan = [CASE, OTHER, make_case(precision="fp16")]
    run = make_file(plan, launches, settings=TEN, end=ended("interrupted"))
    step = next_step(run, summarize(run))
    assert "see why gemm-matmul" not in step and "has no number. See why" in step
    assert "--resume" not in step


@pytest.mark.parametrize(
    "run",
    [
        file(*wild(20), settings=AUTO),
        file(*wild(20), settings=AUTO, end=ended("budget")),
        file(*wild(20), failed(), settings=AUTO),
        file(*wild(20), settings=Settings(launches=20)),
        file(*wild(30), settings=Settings(launches=30)),
    ],
)
def test_what_had_all_launches_is_not_told_to_be_made_again(run: RunFile) -> None:
    (row,) = summarize(run)
    assert row.verdict == "NOISY"
    step = next_step(run, [row])
    assert "auto" not in step and "hand fake.jsonl to whoever compares" in step
    assert "a quieter machine" in step
