"""When a job is warm: at a steady state, or at a limit, and not before its time under load."""

from __future__ import annotations

import pytest

from bench.measuring.timing.warm_up import WARMUP_SAMPLES
from bench.records.run import Settings
from bench.tests.fakes import MS
from bench.tests.measuring.timing.scripted_engine import both_kinds, engine, milliseconds


@both_kinds
def test_warm_up_ends_where_two_windows_agree(synchronous: bool) -> None:
    """Eight steps of 20 ms, then 10 ms: see the same series in test_stats, steady from index 8."""
    measuring, _ = engine([20 * MS] * 8 + [10 * MS], synchronous=synchronous)
    series = measuring.measure()
    assert milliseconds(series.warmup) == [20] * 8
    assert milliseconds(series.steady) == [10] * 10


def test_a_job_that_is_never_steady_is_measured_after_sixty_samples_and_flagged() -> None:
    """Every step 10 % longer than the last."""
    growing = [round(MS * 1.1**k) for k in range(80)]
    measuring, _ = engine(growing)
    series = measuring.measure()
    assert len(series.warmup) == WARMUP_SAMPLES == 60
    assert len(series.steady) == 10
    assert [b.wall_ns for b in series.steady] == growing[60:70]
    assert series.flags == ("NO_STEADY_STATE", "DRIFT")


@pytest.mark.parametrize(("load_seconds", "last"), [(0.0, 25), (0.05, 29)])
def test_a_job_that_is_never_steady_is_measured_after_the_time_limit_and_flagged(
    load_seconds: float, last: int
) -> None:
    settings = Settings(block_seconds=0.001, warmup_seconds=load_seconds, warmup_limit_seconds=0.1)
    growing = [round(MS * 1.1**k) for k in range(80)]
    measuring, _ = engine(growing, settings=settings, warmup_under_load=True)
    series = measuring.measure()
    # After the first: 1.1^1 + ... + 1.1^n = 11 (1.1^n - 1) reaches 100 at n = 24.3, 150 at 28.1.
    assert len(series.warmup) == 1 + last
    assert "NO_STEADY_STATE" in series.flags


def test_a_first_step_that_outlasts_the_limit_is_no_lack_of_steadiness() -> None:
    """One that compiles may: it is a cold figure, and the limits count after it."""
    settings = Settings(block_seconds=0.001, warmup_seconds=0.0, warmup_limit_seconds=1.0)
    measuring, _ = engine([60_000 * MS, 10 * MS], settings=settings)
    series = measuring.measure()
    assert series.first_step_ns == 60_000 * MS
    assert series.flags == ()


TEN_SECONDS = Settings(block_seconds=0.001, warmup_seconds=0.0, warmup_limit_seconds=10.0)


@both_kinds
@pytest.mark.parametrize("step_ms", [1500, 6000, 40_000])
def test_a_steady_job_is_seen_to_be_steady_however_long_its_step_is(
    synchronous: bool, step_ms: int
) -> None:
    """Of a step of 1.5 s a limit of 10 s ends before there are two windows to hold together. It
    costs no step: those that were judged are the samples."""
    measuring, _ = engine([step_ms * MS], synchronous=synchronous, settings=TEN_SECONDS)
    told: list[int] = []
    measuring.watch = told.append
    series = measuring.measure()
    assert series.flags == ()
    assert (len(series.warmup), len(series.steady)) == (3, 10)
    assert told == [1, 2, 3]


def test_an_unsteady_job_of_long_steps_is_waited_for_as_long_as_is_needed_to_say_so() -> None:
    measuring, _ = engine([round(1500 * MS * 1.1**k) for k in range(30)], settings=TEN_SECONDS)
    series = measuring.measure()
    assert (len(series.warmup), len(series.steady)) == (13, 10)
    assert "NO_STEADY_STATE" in series.flags


@pytest.mark.parametrize(
    ("launch_seconds", "limit_seconds", "step_seconds", "warmup"),
    [(600, 120, 25, 6), (1800, 10, 100, 4), (1800, 10, 700, 4), (1800, 120, 90, 4)],
)
def test_windows_that_cannot_come_within_a_third_of_the_launch_are_not_waited_for(
    launch_seconds: int, limit_seconds: int, step_seconds: int, warmup: int
) -> None:
    """Blocks of 25 s: the thirteenth ends 300 s after the first, and the third is 200 s. So the
    limit of 120 s ends it. However long a step is, three are watched."""
    settings = Settings(
        block_seconds=0.001,
        warmup_seconds=0.0,
        warmup_limit_seconds=limit_seconds,
        launch_limit_seconds=launch_seconds,
    )
    measuring, _ = engine([step_seconds * 1000 * MS], settings=settings)
    told: list[int] = []
    measuring.watch = told.append
    series = measuring.measure()
    assert (len(series.warmup), len(series.steady)) == (warmup, 10)
    assert series.flags == ("NO_STEADY_STATE",)
    assert told == [1, 2, 3]


def test_one_slow_step_does_not_end_the_wait_for_those_that_follow() -> None:
    """The second compiles for 150 s, the others take 1 s: their windows are close."""
    settings = Settings(block_seconds=0.001, warmup_seconds=0.0, launch_limit_seconds=600)
    measuring, _ = engine([1000 * MS, 150_000 * MS, 1000 * MS], settings=settings)
    assert settings.warmup_limit_seconds < 150
    assert measuring.measure().flags == ()


# --- Under load -----------------------------------------------------------------------------------

UNDER_LOAD = Settings(block_seconds=0.001, warmup_seconds=10.0)


def test_a_first_step_is_no_time_under_load() -> None:
    measuring, _ = engine(
        [60_000 * MS, 500 * MS], settings=UNDER_LOAD, warmup_under_load=True, synchronous=False
    )
    assert milliseconds(measuring.measure().warmup) == [60_000, *[500] * 20]


@both_kinds
def test_a_device_that_needs_load_is_not_steady_before_its_time(synchronous: bool) -> None:
    """Steps of 0.5 s: the first, and the twenty that begin within 10 s after it, are warm-up."""
    measuring, _ = engine(
        [500 * MS], synchronous=synchronous, settings=UNDER_LOAD, warmup_under_load=True
    )
    series = measuring.measure()
    assert milliseconds(series.warmup) == [500] * 21
    assert milliseconds(series.steady) == [500] * 10
    assert series.flags == ()


def test_clocks_that_drop_under_load_are_warm_up() -> None:
    """Steady-looking at once, slower after 8 s: none of the fast steps is counted."""
    measuring, _ = engine([100 * MS] * 80 + [150 * MS], settings=UNDER_LOAD, warmup_under_load=True)
    assert set(milliseconds(measuring.measure().steady)) == {150}


def test_a_device_that_needs_no_load_is_steady_at_once() -> None:
    measuring, _ = engine([500 * MS], settings=UNDER_LOAD)
    assert len(measuring.measure().warmup) == 3


def test_the_time_limit_of_warm_up_counts_after_the_time_under_load() -> None:
    """10 s under load and ten blocks of 0.5 s to see a steady state, under a limit of 6 s."""
    settings = Settings(block_seconds=0.001, warmup_seconds=10.0, warmup_limit_seconds=6.0)
    measuring, _ = engine([500 * MS], settings=settings, warmup_under_load=True)
    assert measuring.measure().flags == ()


def test_the_limits_of_warm_up_count_after_the_time_under_load() -> None:
    """Blocks of 0.125 s for 10 s are 80 samples and the first, more than 60, and no failure."""
    measuring, _ = engine([125 * MS], settings=UNDER_LOAD, warmup_under_load=True)
    series = measuring.measure()
    assert len(series.warmup) == 81
    assert series.flags == ()
