"""Burst and sustained: for a moment and for good, which no ratio mixes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.errors import ComparisonError
from bench.judging.ceilings import ceilings
from bench.judging.comparing.compare import compare
from bench.judging.comparing.reasons import Code
from bench.judging.load import BURST, TWO_ANSWERS, Load
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.observed import Reading
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.flat.row import flat
from bench.reports.table import REPORT
from bench.tests.small_workloads import WORKLOADS
from bench.tests.telemetry.launches import FIRST_STEP, seen, steady
from bench.tests.values import another, make_block, make_case, make_file, make_launch, make_measured

MATMUL = make_case()
TRAINING = make_case(workload="llama", mode="train", precision="bf16-amp")


def loaded(seconds: float, step: float = 0.01, **changes: Any) -> Measured:
    """So many seconds of load before its ten steady samples; its first step took a minute."""
    warmup = (make_block(60.0), *(make_block(seconds / 5) for _ in range(5)))
    fields: dict[str, Any] = {"step_clock": "device event", "flop": 10**9, "warmup": warmup}
    return make_measured(step, **fields | changes)


def run_of(*given: tuple[Case, Measured], count: int = 5, **changes: Any) -> RunFile:
    launches = [
        make_launch(outcome, case, launch=k, **changes)
        for case, outcome in given
        for k in range(count)
    ]
    return make_file([case for case, _ in given], launches)


def load_in(run: RunFile) -> Load | None:
    return summarize(run)[0].load


@pytest.mark.parametrize(("seconds", "sustained"), [(9.9, False), (10.0, True), (25.0, True)])
def test_sustained_is_from_ten_seconds_of_load_on(seconds: float, sustained: bool) -> None:
    found = load_in(run_of((MATMUL, loaded(seconds))))
    assert found is not None and found.sustained is sustained
    assert found.seconds == pytest.approx(seconds), "without the first step, which may compile"


def test_the_least_of_the_launches_counts() -> None:
    launches = [make_launch(loaded(s), MATMUL, launch=k) for k, s in enumerate((12.0, 3.0, 12.0))]
    found = load_in(make_file([MATMUL], launches))
    assert found is not None and found.seconds == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (make_case(mode=BURST), loaded(0.1)),
        (TRAINING, loaded(0.1)),
        (MATMUL, loaded(0.1, step_clock="host")),  # a CPU's figure
    ],
)
def test_of_other_work_nothing_is_said(case: Case, outcome: Measured) -> None:
    assert load_in(run_of((case, outcome))) is None


def test_what_has_two_answers_has_a_mode_of_bursts() -> None:
    bursts = {n for n, w in WORKLOADS.items() if any(m.burst for m in w.modes.values())}
    assert bursts == set(TWO_ANSWERS)
    for name in bursts:
        assert [mode for mode, m in WORKLOADS[name].modes.items() if m.burst] == [BURST]


def test_clock_power_and_temperature_are_those_of_the_steady_blocks() -> None:
    """Read at 1,400 MHz, 690 W and 71 C in them, and at other figures before and after."""
    hot: dict[str, Any] = {"clock_mhz": 1400.0, "power_watts": 690.0, "temperature_celsius": 71.0}
    cool: dict[str, Any] = {"clock_mhz": 1900.0, "power_watts": 90.0, "temperature_celsius": 31.0}
    outcome = msgspec.structs.replace(
        steady(), warmup=loaded(12.0).warmup, step_clock="device event"
    )
    first = FIRST_STEP + 10.0
    readings = tuple(
        Reading(at_seconds=at, **(hot if first - 0.5 <= at <= first + 22.5 else cool))
        for at in range(60)
    )
    found = load_in(run_of((MATMUL, outcome), telemetry=seen(readings=readings)))
    assert found is not None and found.seconds == pytest.approx(12.0)
    assert (found.clock_mhz, found.watts, found.celsius) == (1400.0, 690.0, 71.0)


def test_no_ratio_of_one_against_the_other() -> None:
    brief, kept = run_of((MATMUL, loaded(2.0))), run_of((MATMUL, loaded(10.0, 0.012)))
    (case,) = compare(brief, kept).cases
    assert (case.verdict, case.ratio) == ("INCOMPARABLE", None)
    (reason,) = case.because
    assert reason.code is Code.LOAD
    assert reason.words.startswith("time under load differs (2.00 s, 10.0 s): sustained is from 10")
    for run in (brief, kept):
        (alike,) = compare(run, another(run)).cases
        assert alike.verdict == "EQUIVALENT"
    # A CPU's is as it is: nobody can say which of the two it would be.
    (cpu,) = compare(brief, run_of((MATMUL, loaded(0.1, step_clock="host")))).cases
    assert cpu.ratio is not None
    training = run_of((TRAINING, loaded(2.0))), run_of((TRAINING, loaded(10.0)))
    assert compare(*training).cases[0].ratio is not None


def test_no_ratio_of_a_burst_against_what_goes_on() -> None:
    burst = run_of((make_case(mode=BURST), loaded(0.1)))
    with pytest.raises(ComparisonError, match="nothing in common"):
        compare(burst, run_of((MATMUL, loaded(10.0))))


def test_a_ratio_is_split_by_ceilings_of_one_kind_only() -> None:
    """Of the same matrix product, but on one side after two seconds of load."""
    runs = [
        run_of((MATMUL, loaded(s)), (make_case(mode="train", workload="bert"), loaded(s)))
        for s in (10.0, 2.0, 10.0)
    ]
    assert [len(ceilings(summarize(run)).matmul["bf16"]) for run in runs] == [1, 1, 1]
    split = [
        next(c for c in compare(runs[0], other).cases if c.case.workload == "bert").split
        for other in runs[1:]
    ]
    assert split[0] is None
    assert split[1] is not None and split[1].ceiling == "matmul"


def test_card_and_json_say_which_it_is() -> None:
    telemetry = seen(readings=(), absent={"clock": "no"})
    brief = make_case(precision="fp16")
    burst = make_case(mode=BURST)
    run = run_of(
        *((brief, loaded(2.0)), (MATMUL, loaded(10.5)), (burst, loaded(0.1))), telemetry=telemetry
    )
    lines = REPORT.render([run], Canvas(width=300)).splitlines()
    unseen = "clock, power, temperature not observable"
    assert f"NOT SUSTAINED under 10 s of load: gemm-matmul fp16 (after 2.00 s, {unseen})" in lines
    assert f"sustained: under load: gemm-matmul bf16 (after 10.5 s, {unseen})" in lines
    assert "burst: of a device that has rested, and no ceiling: gemm-burst bf16" in lines
    rows = [flat(run, row) for row in summarize(run)]
    assert [row["sustained"] for row in rows] == [False, True, None]
    assert [row["load_seconds"] for row in rows] == [pytest.approx(2.0), pytest.approx(10.5), None]
