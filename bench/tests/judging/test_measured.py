"""The figures of measured launches: throughput, interval, verdict, latency, all by arithmetic."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from bench import catalogue, stats
from bench.judging.measured import PASSED_OVER
from bench.judging.row import Verdict
from bench.judging.summary import summarize
from bench.records.execution import NOT_ITS_POOL, RESERVED
from bench.records.outcome import Block, Cold, Flag, Memory, Outcome, Work
from bench.records.run import Settings
from bench.report import Canvas
from bench.tests.judging.rows import CASE, FINE, row
from bench.tests.values import (
    failed,
    make_block,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)

# --- Throughput and interval ---------------------------------------------------------------------


def test_throughput_is_items_over_steady_wall_seconds() -> None:
    """Blocks of 2 steps in 1 s, 4 in 1 s, 2 in 2 s, of 5 items: 40 items in 4 s, not a mean of
    rates (5 * (2 + 4 + 1) / 3 = 11.7) and not one of samples.
    """
    steady = (make_block(0.5, 2), make_block(0.25, 4), make_block(1.0, 2))
    found = row([make_measured(items=5, steady=steady)])
    assert found.throughput == pytest.approx(10.0, rel=1e-12)
    assert found.unit == "image/s"
    assert found.steps == 8
    assert found.median_sample == 0.5
    assert found.least_sample == 0.25


def test_the_wall_of_a_block_counts_and_not_its_steps() -> None:
    """Where steps overlap on a device, or wait between, only the wall is the job's time."""
    block = Block(wall_ns=10**9, step_ns=(10**8, 10**8))
    found = row([make_measured(items=5, steady=(block,) * 10, step_clock="device event")])
    assert found.throughput == pytest.approx(10.0)


def test_bytes_and_experts_are_a_mean_of_launches_whose_tokens_went_elsewhere() -> None:
    """At 100 steps a second, of 600 and 1,000 bytes; of launches that counted and others, none."""
    works = [Work(items=1, unit="token", moved_bytes=b, experts_hit=b / 100) for b in (600, 1000)]
    found = row([make_measured(0.01, work=work) for work in works])
    assert found.bytes_per_second == pytest.approx(80_000) and found.experts_hit == 8
    old = Work(items=1, unit="token", moved_bytes=600)
    mixed = row([make_measured(0.01, work=work) for work in (*works, old)])
    assert mixed.experts_hit is None


def test_launches_are_combined_by_their_geometric_mean() -> None:
    """Rates 50, 100, 200: geometric mean 100; the arithmetic one would be 117."""
    found = row([make_measured(s) for s in (0.02, 0.01, 0.005)])
    assert found.throughput == pytest.approx(100)
    assert found.interval is not None
    # SD of the logs is log 2; t(97.5 %, 2) = 4.302653.
    assert found.interval.half_width == pytest.approx(4.302653 * math.log(2) / math.sqrt(3))
    assert found.interval.low == pytest.approx(100 * math.exp(-found.interval.half_width))
    assert found.interval.high == pytest.approx(100 * math.exp(found.interval.half_width))
    assert found.between_sd == pytest.approx(76.376 / 116.667, rel=1e-4)


def test_many_samples_of_one_launch_are_no_interval() -> None:
    """The launch is the unit: 200 samples of two launches say nothing of the next launch."""
    found = row([make_measured([0.01] * 200)] * 2)
    assert found.interval is None
    assert found.launches == 2 and found.steps == 400
    assert found.verdict == "FEW_LAUNCHES"
    assert found.reason == "no interval: 2 of at least 3 launches"


@pytest.mark.parametrize(("launches", "level"), [(3, 0.95), ("auto", 0.98)], ids=["fixed", "looks"])
def test_the_level_is_that_of_the_plan(launches: Any, level: float) -> None:
    found = row([make_measured(0.01)] * 5, settings=Settings(launches=launches))
    assert found.interval is not None
    assert found.interval.level == level


def test_warm_up_and_cold_figures_are_not_in_the_throughput() -> None:
    slow = make_measured(0.01, warmup=tuple(make_block(5.0) for _ in range(60)))
    assert row([slow]).throughput == pytest.approx(100)


def test_cold_figures_are_medians_of_what_is_known() -> None:
    launches = make_launches(CASE, [make_measured()] * 3)
    colds = [
        Cold(import_seconds=1.0, build_seconds=4.0),
        Cold(import_seconds=9.0),
        Cold(import_seconds=2.0, build_seconds=6.0),
    ]
    changed = [
        make_launch(x.outcome, CASE, launch=x.launch, order=x.order, cold=cold)
        for x, cold in zip(launches, colds, strict=True)
    ]
    (found,) = summarize(make_file([CASE], changed))
    assert found.cold == Cold(import_seconds=2.0, build_seconds=5.0)


def test_spread_within_launches() -> None:
    """Samples 9 and 11 ms by turns, ten: variance 10/9, relative to the mean of 10."""
    found = row([make_measured([0.009, 0.011] * 5)] * 3)
    assert found.within_sd == pytest.approx(math.sqrt(10 / 9) / 10)
    assert found.between_sd == pytest.approx(0)
    calm = row([make_measured([0.009, 0.011] * 5), make_measured(0.01)])
    assert calm.within_sd == pytest.approx(math.sqrt(10 / 9) / 10 / 2), "a mean of launches"


def test_quartile_and_least() -> None:
    found = row([make_measured([0.001 * k for k in range(1, 12)])])
    assert found.least_sample == 0.001
    assert found.p25_sample == pytest.approx(0.0035)
    assert found.median_sample == pytest.approx(0.006)


@pytest.mark.parametrize(
    ("samples", "quartile"), [([0.84], 0.84), ([0.84, 1.0], 0.88), ([0.8, 0.9, 1.0], 0.85)]
)
def test_a_quartile_of_few_lies_among_them(samples: list[float], quartile: float) -> None:
    """Of a served load a launch has one sample."""
    assert row([make_measured(samples)]).p25_sample == pytest.approx(quartile)


def test_outliers_are_counted_and_stay_in() -> None:
    samples = [0.009, 0.010, 0.011] * 5 + [0.1]
    found = row([make_measured(samples)])
    assert found.outliers == 1
    assert found.throughput == pytest.approx(16 / sum(samples))
    slower = make_measured([0.018, 0.020, 0.022] * 5)
    assert row([make_measured(samples), slower]).outliers == 1, "beside those of its own launch"


def test_shares_of_a_step_that_the_host_and_the_input_take() -> None:
    """Two steps of 0.5 s a block, of which 0.25 s wait for a batch; 0.1 s to queue one."""
    block = Block(wall_ns=10**9, step_ns=(5 * 10**8,) * 2, input_wait_ns=25 * 10**7)
    waits = make_measured(steady=(block,) * 10, step_clock="device event", queue_ns=(10**8,))
    found = row([waits] * 3)
    assert found.input_fraction == pytest.approx(0.25)
    assert found.input_wait_seconds == pytest.approx(0.125)
    assert found.host_fraction == pytest.approx(0.2)
    mixed = row([waits, FINE])
    assert (mixed.input_fraction, mixed.input_wait_seconds, mixed.host_fraction) == (None,) * 3


def test_peak_memory_is_the_largest_of_the_launches() -> None:
    memories = [Memory(peak_bytes=n, scope="process RSS", host_rss_bytes=1) for n in (5, 9, 7)]
    found = row([make_measured(memory=memory) for memory in memories])
    assert found.peak_memory_bytes == 9
    assert found.memory_scope == "process RSS"


def test_peak_memory_that_counts_something_else_is_not_the_largest() -> None:
    counted = (("device allocator", 5), ("process RSS", 9), ("device allocator", 7))
    memories = [Memory(peak_bytes=n, scope=scope, host_rss_bytes=1) for scope, n in counted]
    found = row([make_measured(memory=memory) for memory in memories])
    assert (found.peak_memory_bytes, found.memory_scope) == (7, "device allocator")


@pytest.mark.parametrize("execution", ["eager", "compile", "graph", "compile-graph"])
def test_what_tensors_had_is_no_peak_of_what_is_recorded(execution: str) -> None:
    """So it stands in older records: a replay allocates nothing."""
    case = make_case(execution=execution)
    for scope, older in (("device allocator", True), (f"device allocator, {RESERVED}", False)):
        memory = Memory(peak_bytes=5, scope=scope, host_rss_bytes=1)
        launches = make_launches(case, [make_measured(memory=memory)])
        (found,) = summarize(make_file([case], launches))
        said = f"{scope}, {NOT_ITS_POOL}" if older and "graph" in execution else scope
        assert found.memory_scope == said


# --- Verdicts ------------------------------------------------------------------------------------

UNSTEADY: tuple[Flag, ...] = ("NO_STEADY_STATE",)
WIDE = make_measured(0.013)


@pytest.mark.parametrize(
    ("outcomes", "verdict", "reason"),
    [
        ([FINE] * 3, "OK", ""),
        ([FINE, FINE], "FEW_LAUNCHES", "no interval: 2 of at least 3 launches"),
        (
            # logs 0 0 -log 1.3: SD 0.15148, error 0.08746, times 4.302653
            [FINE, FINE, WIDE],
            "NOISY",
            "interval of -31% +46% after 3 launches, target ±2%",
        ),
        (
            [FINE, make_measured(flags=UNSTEADY), make_measured(flags=UNSTEADY)],
            "NO_STEADY_STATE",
            "2 of 3 launches never became steady",
        ),
        ([FINE, FINE, make_measured(flags=UNSTEADY)], "OK", ""),
        ([FINE, failed(), FINE, FINE], "OK", ""),
        ([FINE, failed(), failed()], "INVALID", "2 of 3 launches failed"),
        ([FINE, FINE, failed()], "FEW_LAUNCHES", "no interval: 2 of at least 3 launches"),
        # The gravest comes first.
        ([make_measured(flags=UNSTEADY), failed()], "INVALID", "1 of 2 launches failed"),
    ],
)
def test_verdicts(outcomes: list[Outcome], verdict: str, reason: str) -> None:
    found = row(outcomes)
    assert (found.status, found.verdict, found.reason) == ("measured", verdict, reason)
    assert found.excluded == sum(o == failed() for o in outcomes)
    assert verdict in get_args(Verdict)


def test_the_target_is_the_suites() -> None:
    assert row(
        [FINE, FINE, WIDE], settings=Settings(launches=3, target_half_width=0.4)
    ).verdict == ("OK")


@pytest.mark.parametrize("target", [0.005, 0.015, 0.025, 0.1])
def test_a_target_is_said_as_it_was_set(target: float) -> None:
    settings = Settings(launches=3, target_half_width=target)
    said = row([FINE, FINE, WIDE], settings=settings).reason.rpartition("target ±")[2]
    assert float(said.removesuffix("%")) == pytest.approx(100 * target)


@pytest.mark.parametrize(
    ("half", "said"), [(0.0204, "2.04"), (0.020004, "2.0004"), (0.023, "2.3"), (0.0199, "")]
)
def test_an_interval_that_is_too_wide_looks_wider_than_the_target(half: float, said: str) -> None:
    """Logs 0 0 -x: their error is x / 3, times 4.302653."""
    slow = FINE.samples[0] * math.exp(3 * half / 4.302652729911275)
    found = row([FINE, FINE, make_measured([slow] * 10)])
    words = f"interval of ±{said}% after 3 launches, target ±2%"
    assert found.reason == (words if said else "")


def test_flags_of_any_launch_are_shown_once() -> None:
    drift = make_measured(flags=("DRIFT",))
    both = make_measured(flags=("HOST_GAP", "DRIFT"))
    assert row([FINE, drift, both]).flags == ("DRIFT", "HOST_GAP")


@pytest.mark.parametrize(
    ("milliseconds", "far"),
    [
        ((10.0, 10.1, 10.2, 4.2), {3: 10.05 / 4.2}),
        ((10.0, 10.1, 24.0, 10.2, 9.9), {2: 10.1 / 24}),
        ((10.0, 10.1, 12.0, 10.2, 9.9), {}),  # less than a fifth
        ((10.0, 13.0, 8.0, 15.0, 24.0), {}),  # as they vary, no wonder
        ((10.0, 24.0), {}),
    ],
)
def test_a_launch_far_from_the_others_stays_in_and_is_flagged(
    milliseconds: tuple[float, ...], far: dict[int, float]
) -> None:
    found = row([make_measured(ms / 1e3) for ms in milliseconds])
    assert found.far_out == pytest.approx(far, rel=1e-2)
    assert found.flags == (("FAR_OUT",) if far else ())
    assert len(found.rates) == len(milliseconds)


def test_a_launch_with_a_cause_is_not_far_out() -> None:
    slow = make_measured(0.024, flags=("THROTTLED",), causes={"THROTTLED": "hot"})
    found = row([FINE, FINE, FINE, slow])
    assert (found.far_out, found.flags, found.hindered) == ({}, ("THROTTLED",), 1)
    assert row([*[FINE] * 4, slow, slow]).verdict == "OK", "a third of all, and no more"


# --- Latency -------------------------------------------------------------------------------------


def requests(count: int, milliseconds: float) -> Outcome:
    """Requests of m, 2 m, ..., count m: percentile p of launch n is 1 + (n - 1) p / 100 of them."""
    ns = tuple(round(k * milliseconds * 1e6) for k in range(1, count + 1))
    return make_measured(latency_name="TTFT", step_clock="device event", request_ns=ns)


@pytest.mark.parametrize(
    ("count", "p90", "p99"),
    [(35, False, False), (36, True, False), (367, True, False), (368, True, True)],
)
def test_percentiles_need_their_samples(count: int, p90: bool, p99: bool) -> None:
    found = row([requests(count, 1.0)] * 3).latency
    assert found is not None
    assert found.requests == count
    assert found.p50 == pytest.approx((1 + (count - 1) * 0.5) / 1e3)
    assert found.p90 == (pytest.approx((1 + (count - 1) * 0.9) / 1e3) if p90 else None)
    assert found.p99 == (pytest.approx((1 + (count - 1) * 0.99) / 1e3) if p99 else None)


def test_latency_is_combined_over_launches_on_the_log_scale() -> None:
    """Medians 5, 10 and 20 ms: 10 ms, with the same interval as such throughputs have."""
    found = row([requests(9, m) for m in (1.0, 2.0, 4.0)]).latency
    assert found is not None and found.name == "TTFT"
    assert found.p50 == pytest.approx(0.010)
    half = 4.302653 * math.log(2) / math.sqrt(3)
    assert found.p50_low == pytest.approx(0.010 * math.exp(-half))
    assert found.p50_high == pytest.approx(0.010 * math.exp(half))


def test_the_launch_with_the_fewest_requests_decides() -> None:
    found = row([requests(400, 1.0), requests(400, 1.0), requests(40, 1.0)]).latency
    assert found is not None
    assert found.requests == 40
    assert found.p90 is not None and found.p99 is None


def test_latency_without_an_interval() -> None:
    found = row([requests(9, 1.0)]).latency
    assert found is not None
    assert found.p50 == pytest.approx(0.005) and found.p50_low is None and found.p50_high is None


def test_no_latency_where_a_launch_has_none() -> None:
    assert row([FINE] * 3).latency is None
    assert row([requests(9, 1.0), FINE]).latency is None
    instant = (Block(wall_ns=1, step_ns=(0,)),) * 3
    assert row([make_measured(latency_name="latency", steady=instant)]).latency is None


def test_the_statistics_of_a_row_are_those_of_the_module() -> None:
    outcomes = [make_measured(s) for s in (0.0100, 0.0103, 0.0098, 0.0101)]
    found = row(outcomes)
    assert found.interval == stats.log_estimate([o.throughput for o in outcomes], 0.95)


# --- What ran -------------------------------------------------------------------------------------


def test_an_optimizer_that_was_passed_over_is_in_the_row_the_card_and_the_json() -> None:
    said = "fused SGD is wrong here in bfloat16: weights off by 2.4; foreach is used"
    environments: list[Any] = [{}, {"job": "of another version"}, {"job": {PASSED_OVER: said}}]
    launches = [
        make_launch(case=CASE, launch=k, order=k, environment=environment)
        for k, environment in enumerate(environments)
    ]
    (found,) = summarize(make_file([CASE], launches))
    assert found.optimizer_passed_over == said
    file = make_file([CASE], launches)
    for format_name in ("table", "json"):
        text = catalogue.load("reports", format_name).render([file], Canvas(width=200))
        assert said in text, format_name
    (none,) = summarize(make_file([CASE], launches[:2]))
    assert none.optimizer_passed_over == ""
