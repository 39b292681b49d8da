"""Records that are valid and of no machine: zeros, the smallest and the largest numbers.

Every report and comparison of them is made, or refused with a reason. None ends in a traceback.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import catalogue, stats
from bench.errors import AccelmarkError
from bench.exchange.benchmark_json import from_document, to_document
from bench.judging.comparing.compare import Prices, compare
from bench.judging.comparing.comparison import CaseComparison
from bench.judging.comparing.systems import compare_systems
from bench.judging.comparing.verdicts import with_verdicts
from bench.records.observed import Contention
from bench.records.outcome import Block, Cold, Measured, Memory, Work
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.flat.comparison import flat
from bench.reports.terminal.comparison import render
from bench.telemetry import energy
from bench.telemetry.energy import with_energy
from bench.tests.telemetry.launches import seen, steady
from bench.tests.values import NUMERICS, make_case, make_file, make_launch, make_measured

NANOSECONDS = st.sampled_from([0, 1, 2, 1_000, 10**6, 10**9, 10**12, 2**53, 2**63 - 1])
COUNTS = st.sampled_from([1, 2, 1000, 10**12, 2**53, 2**63 - 1])
AMOUNTS = st.sampled_from([5e-324, 1e-308, 1e-9, 1.0, 1e9, 1e154, 1e300, 1.7e308])
SECONDS = st.sampled_from([0.0, 5e-324, 1e-9, 1.0, 1e9, 1e300, 1.7e308])
WITNESSES = st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1.0, -1.0, 1.7e308, -1.7e308])
FORMATS = ("table", "markdown", "csv", "json", "pytest-benchmark", "html")


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    count = draw(st.integers(1, 4))
    series = st.lists(NANOSECONDS, min_size=count, max_size=count).map(tuple)
    return Block(
        start_ns=draw(optional(NANOSECONDS)),
        wall_ns=max(draw(NANOSECONDS), 1),
        step_ns=draw(series),
        step_cpu_ns=draw(optional(series)),
        input_wait_ns=draw(optional(NANOSECONDS)),
    )


@st.composite
def outcomes(draw: st.DrawFn, named: bool, powered: bool) -> Measured:
    joules = draw(AMOUNTS) if powered else None
    requests = st.lists(NANOSECONDS.filter(bool), min_size=1, max_size=3).map(tuple)
    return Measured(
        work=Work(
            items=draw(COUNTS),
            unit=draw(st.sampled_from(["FLOP", "B", "image"])),
            flop=draw(optional(COUNTS)),
            moved_bytes=draw(optional(COUNTS)),
            transferred_bytes=draw(optional(COUNTS)),
        ),
        numerics=NUMERICS,
        warmup=tuple(draw(st.lists(blocks(), max_size=3))),
        steady=tuple(draw(st.lists(blocks(), min_size=1, max_size=6))),
        step_clock=draw(st.sampled_from(["host", "device event"])),
        memory=Memory(peak_bytes=draw(COUNTS), scope="process RSS", host_rss_bytes=draw(COUNTS)),
        latency_name="latency" if named else None,
        request_ns=draw(optional(requests)) if named else None,
        queue_ns=draw(optional(st.lists(NANOSECONDS, min_size=1, max_size=3).map(tuple))),
        witness=(draw(WITNESSES), draw(WITNESSES)),
        contention=draw(
            optional(
                st.builds(
                    Contention,
                    elapsed_seconds=AMOUNTS,
                    threads=st.sampled_from([1, 2]),
                    cores=st.just(2),
                    idle_share=optional(WITNESSES),
                    waiting_seconds=optional(SECONDS),
                    steal_seconds=optional(SECONDS),
                )
            )
        ),
        energy_joules=joules,
        energy_method=None if joules is None else "counter",
        energy_absent="not looked at" if joules is None else None,
    )


@st.composite
def runs(draw: st.DrawFn) -> RunFile:
    """Some launches each of a product, of copies and of an inference, on one device or on eight."""
    decode = make_case(workload="llama", mode="decode", precision="fp32", execution="graph")
    devices, parallelism = draw(st.sampled_from([(1, "none"), (8, "replicas8")]))
    cases = [
        make_case(precision="fp32"),
        make_case(workload="memory", mode="copy", precision="fp32"),
        msgspec.structs.replace(decode, devices=devices, parallelism=parallelism),
    ]
    launches: list[Any] = []
    for case in cases:
        kinds = outcomes(draw(st.booleans()), draw(st.booleans()))
        for number in range(draw(st.integers(1, 6))):
            cold = Cold(first_step_seconds=draw(optional(SECONDS)))
            launches.append(
                make_launch(
                    draw(kinds),
                    case,
                    launch=number,
                    order=len(launches),
                    seconds=draw(AMOUNTS),
                    cold=cold,
                )
            )
    return make_file(cases, launches)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(runs(), runs())
def test_every_report_of_any_valid_record_is_made(base: RunFile, other: RunFile) -> None:
    for name in FORMATS:
        assert catalogue.load("reports", name).render([base], Canvas(width=80))
    assert from_document("there", to_document(base)).launches == base.launches
    prices = Prices(base=5e-324, other=1e308)
    try:
        found = [compare(base, other, prices)]
        if any(run.run.plan[-1].devices > 1 for run in (base, other)):
            found.append(compare_systems(base, other, prices))
    except AccelmarkError:
        return
    assert render(found, Canvas(width=80)) and list(map(flat, found))
    assert catalogue.load("reports", "html").render([base, other], Canvas(width=80))


def card(
    *outcomes: Measured, cold: Cold | None = None, execution: str = "eager", wide: bool = False
) -> str:
    case = make_case(workload="llama", mode="decode", precision="fp32", execution=execution)
    launches = [
        make_launch(outcome, case, launch=k, order=k, cold=cold or Cold())
        for k, outcome in enumerate(outcomes)
    ]
    run = make_file([case], launches)
    made = [
        catalogue.load("reports", n).render([run], Canvas(width=120, wide=wide)) for n in FORMATS
    ]
    return str(made[0])


def test_steps_too_short_for_the_clock_have_no_latency() -> None:
    still = tuple(Block(wall_ns=1000, step_ns=(0,) * 100) for _ in range(10))
    outcome = make_measured(0.001, steady=still, latency_name="TPOT")
    assert "llama-decode" in card(outcome, outcome, outcome)
    mixed = tuple(Block(wall_ns=1000, step_ns=(0,) * 10 + (5,) * 90) for _ in range(10))
    outcome = make_measured(0.001, steady=mixed, latency_name="TPOT")
    assert "TPOT" in card(outcome, outcome, outcome)


@pytest.mark.parametrize("joules", [5e-324, 1.7e308])
def test_an_energy_of_no_device_gives_no_figure(joules: float) -> None:
    outcome = make_measured(0.1, energy_joules=joules, energy_absent=None, energy_method="counter")
    assert energy.items_per_joule([outcome] * 5) is None
    assert "energy" not in card(*[outcome] * 5)


def test_energies_that_differ_beyond_all_numbers() -> None:
    series = [
        make_measured(0.1, energy_joules=j, energy_absent=None, energy_method="counter")
        for j in (1e-290, 1.0, 1e290)
    ]
    found = energy.interval(series, 0.95)
    assert found is not None and found.high == math.inf
    assert "orders of magnitude" in card(*series, wide=True)


def test_powers_that_add_up_to_no_number() -> None:
    said = with_energy(steady(), seen(power=lambda at: 1.7e308)).energy_absent
    assert said == "not observable: the readings add up to no number"


def test_first_steps_whose_mean_is_no_number() -> None:
    outcome = make_measured(0.1)
    assert "first step" in card(
        *[outcome] * 4, cold=Cold(first_step_seconds=1.7e308), execution="graph"
    )


def test_an_interval_that_reaches_to_zero_has_a_verdict() -> None:
    """1 / low would be a division by zero."""
    huge = stats.welch([1e-290, 1.0, 1e290] * 2, [1e290, 1.0, 1e-290] * 2, 0.95)
    assert huge is not None and huge.ratio.low == 0 and huge.ratio.high == math.inf
    case = CaseComparison(
        case=make_case(),
        base=None,
        other=None,
        verdict="UNDECIDED",
        ratio=1.0,
        interval=huge.ratio,
        p_value=1.0,
    )
    assert [c.verdict for c in with_verdicts([case])] == ["UNDECIDED"]
