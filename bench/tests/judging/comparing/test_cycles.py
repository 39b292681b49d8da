"""FASTER and SLOWER must hold per cycle too, where a clock was observable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bench import api, catalogue
from bench.judging.comparing.at_tpot import compare_at_tpot
from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import CaseComparison
from bench.judging.comparing.cycles import BY_ITS_CLOCK, UNSURE, PerCycle
from bench.judging.comparing.systems import compare_systems
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.observed import Reading, Watched
from bench.records.outcome import Memory, Share
from bench.records.run import Launch, RunFile
from bench.report import Canvas
from bench.stats import Estimate
from bench.tests.judging.two_runs import FIXED, TEN, only
from bench.tests.served_runs import SPEEDS, measured, serve_case, served
from bench.tests.telemetry.launches import FIRST_STEP, seen, steady
from bench.tests.values import make_case, make_file, make_launch

CASE = make_case(workload="bert", mode="train", parameters={"batch_size": 8})
COPY = make_case(workload="memory", mode="copy", precision="fp32", parameters={})
QUIET = [1 + 0.001 * z for z in TEN]
"""Ten launches' steps, spread by a tenth of a per cent."""


def clocked(
    clocks: Sequence[float | None],
    seconds: Sequence[float],
    case: Case = CASE,
    **telemetry: Any,
) -> list[Any]:
    """A launch for each clock, in MHz, with steps of so many seconds."""
    return [
        make_launch(
            steady(seconds=step),
            case,
            launch=k,
            order=k,
            telemetry=seen(
                **{
                    "readings": tuple(
                        Reading(at_seconds=16.0 + n, clock_mhz=mhz, reasons=()) for n in range(5)
                    ),
                    **telemetry,
                }
            ),
        )
        for k, (mhz, step) in enumerate(zip(clocks, seconds, strict=True))
    ]


def run(mhz: float | None, seconds: float, **changes: Any) -> RunFile:
    launches = clocked([mhz] * 10, [seconds * q for q in QUIET])
    return make_file([CASE], launches, settings=FIXED, **changes)


BASE = run(1980.0, 2.0)
"""A step of 2 s at 1980 MHz."""


def against(other: RunFile, base: RunFile = BASE) -> CaseComparison:
    return only(compare(base, other))


def two_ranks(second: float | None, seconds: float) -> RunFile:
    """Rank 0 at 1980 MHz, and the other rank's device at another clock."""
    case = make_case(workload="bert", mode="train", devices=2, parallelism="dp2")
    launches = []
    for launch in clocked([1980.0] * 10, [seconds * q for q in QUIET], case):
        busy = tuple(block.wall_ns for block in launch.outcome.steady)
        ranks = tuple(
            Share(
                rank=rank,
                device=rank,
                busy_ns=busy,
                memory=Memory(peak_bytes=1, scope="device allocator", host_rss_bytes=1),
                watched=Watched(source="NVML", readings=50, clock_mhz=mhz, clocks=50),
            )
            for rank, mhz in enumerate((1980.0, second))
        )
        outcome = msgspec.structs.replace(launch.outcome, ranks=ranks)
        launches.append(msgspec.structs.replace(launch, outcome=outcome))
    return make_file([case], launches, settings=FIXED)


def test_of_several_devices_it_is_the_slowest_ones_clock() -> None:
    """Which the step waits for: rank 0's own stands as it was."""
    found = against(two_ranks(1410.0, 2.0 * 1980 / 1410), two_ranks(1980.0, 2.0))
    assert (found.verdict, found.clock_remark) == ("SLOWER", BY_ITS_CLOCK)
    unknown = against(two_ranks(None, 2.0 * 1980 / 1410), two_ranks(1980.0, 2.0))
    assert (unknown.verdict, unknown.clock_remark) == ("SLOWER", ""), "as rank 0's has it"
    assert unknown.per_cycle is not None and unknown.per_cycle.clock == pytest.approx(1.0)


def test_two_systems_are_asked_too() -> None:
    base = two_ranks(1410.0, 2.0 * 1980 / 1410)
    found = only(compare_systems(base, two_ranks(1980.0, 2.0)))
    assert (found.verdict, found.clock_remark) == ("FASTER", BY_ITS_CLOCK)
    faster = only(compare_systems(base, two_ranks(1980.0, 1.0)))
    assert (faster.verdict, faster.clock_remark) == ("FASTER", "")


def test_loads_at_a_limit_on_tpot_are_asked_too() -> None:
    def at(mhz: float, lanes: int, faster: float) -> RunFile:
        case = serve_case(lanes)
        launches: list[Launch] = []
        for ms in SPEEDS:
            outcome = measured(served(lanes, ms / faster))
            moment = FIRST_STEP + (outcome.steady[0].start_ns or 0) / 1e9
            told = seen(readings=(Reading(at_seconds=moment, clock_mhz=mhz, reasons=()),) * 3)
            launches.append(make_launch(outcome, case, launch=len(launches), telemetry=told))
        return make_file([case], launches)

    (found,) = compare_at_tpot(at(1410.0, 2, 1.0), at(1980.0, 2, 1980 / 1410), 1.0).cases
    assert (found.verdict, found.clock_remark) == ("FASTER", BY_ITS_CLOCK)
    (found,) = compare_at_tpot(at(1410.0, 4, 1.0), at(1980.0, 4, 2.4), 1.0).cases
    assert (found.verdict, found.clock_remark) == ("FASTER", "")


def test_a_difference_that_is_the_clocks_says_so() -> None:
    hotter = run(1800.0, 2.0 * 1.1)
    found = against(hotter)
    assert (found.verdict, found.clock_remark) == ("SLOWER", BY_ITS_CLOCK)
    assert found.per_cycle is not None
    assert found.per_cycle.ratio.value == pytest.approx(1.0, rel=1e-3)
    assert found.per_cycle.clock == pytest.approx(1800 / 1980)
    back = against(BASE, hotter)
    assert (back.verdict, back.clock_remark) == ("FASTER", BY_ITS_CLOCK), "whoever is the base"
    comparison = compare(BASE, hotter)
    for width in (60, 100):
        assert "by its clock" in api.render(comparison, width=width)
    for format_name in ("markdown", "html"):
        runs = catalogue.load("reports", format_name).render([BASE, hotter], Canvas())
        assert BY_ITS_CLOCK in runs, format_name
    (only_one,) = json.loads(api.render(comparison, "json"))
    (flat,) = only_one["cases"]
    assert (flat["verdict"], flat["clock_remark"]) == ("SLOWER", BY_ITS_CLOCK)
    assert flat["per_cycle_low"] < 1 < flat["per_cycle_high"]


@pytest.mark.parametrize(
    ("mhz", "seconds", "verdict", "remark"),
    [
        (1980.0, 2.2, "SLOWER", ""),  # other work at the same clock
        (1980.0, 1.8, "FASTER", ""),
        (1800.0, 2.5, "SLOWER", ""),  # by its clock and by its work: it holds per cycle
        (1800.0, 1.9, "FASTER", ""),  # though its clock is lower
        (2178.0, 1.9, "FASTER", BY_ITS_CLOCK),  # faster by less than its clock is
        (1900.0, 2.0 * 1980 / 1900 * 1.005, "SLOWER", BY_ITS_CLOCK),  # half a per cent of its own
        (1800.0, 2.0, "EQUIVALENT", ""),
    ],
)
def test_what_holds_per_cycle(mhz: float, seconds: float, verdict: str, remark: str) -> None:
    found = against(run(mhz, seconds))
    assert (found.verdict, found.clock_remark) == (verdict, remark)


def test_clocks_that_wander_make_it_unsure_and_are_not_blamed() -> None:
    """Slower by 1 %, at clocks that are the same on average and spread by more."""
    clocks = [1980.0 * (1 + 0.0165 * z) for z in TEN]
    launches = clocked(clocks, [2.0 * 1.0102 * q for q in QUIET])
    found = against(make_file([CASE], launches, settings=FIXED))
    assert (found.verdict, found.clock_remark) == ("SLOWER", UNSURE)
    higher = PerCycle(ratio=Estimate(0.97, 0.94, 1.001, 0.95, 0.031), clock=1.02)
    assert higher.remark(0.99, 0.01) == UNSURE, "a clock that rose slowed nothing"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (run(None, 2.2), "nobody could see it"),
        (run(0.0, 2.2), "no clock"),
        (run(65535.0, 2.2), "all ones of a register"),
        (run(1800.0, 2.2, device={**BASE.run.device, "name": "Another"}), "another's cycles"),
    ],
)
def test_where_no_clock_can_tell_nothing_is_said(other: RunFile, why: str) -> None:
    found = against(other)
    assert (found.verdict, found.per_cycle, found.clock_remark) == ("SLOWER", None, ""), why


def test_what_memory_limits_is_not_counted_in_cycles() -> None:
    def copying(mhz: float, seconds: float) -> RunFile:
        launches = clocked([mhz] * 10, [seconds * q for q in QUIET], COPY)
        moving = [msgspec.structs.replace(x, outcome=with_bytes(x.outcome)) for x in launches]
        return make_file([COPY], moving, settings=FIXED)

    found = against(copying(1800.0, 2.2), copying(1980.0, 2.0))
    assert found.base is not None and found.base.limit == ("memory", 1.0)
    assert (found.verdict, found.per_cycle) == ("SLOWER", None)


def test_nor_is_what_the_host_limits() -> None:
    """Steps that take as long to queue as to run: it is the host that became faster."""

    def queued(mhz: float, seconds: float) -> RunFile:
        each = [seconds * q for q in QUIET]
        launches = [
            msgspec.structs.replace(one, outcome=by_host(one.outcome, step))
            for one, step in zip(clocked([mhz] * 10, each), each, strict=True)
        ]
        return make_file([CASE], launches, settings=FIXED)

    found = against(queued(1980.0, 2.0 / 1.3), queued(1410.0, 2.0))
    assert found.base is not None and found.base.limit is not None
    assert found.base.limit[0] == "host"
    assert (found.verdict, found.per_cycle, found.clock_remark) == ("FASTER", None, "")


def by_host(outcome: Any, seconds: float) -> Any:
    queued = (round(seconds * 1e9),) * outcome.steady_steps
    return msgspec.structs.replace(outcome, step_clock="device event", queue_ns=queued)


def with_bytes(outcome: Any) -> Any:
    work = msgspec.structs.replace(outcome.work, moved_bytes=10**9, unit="B")
    return msgspec.structs.replace(outcome, work=work)


def test_each_launch_of_the_figure_has_its_clock() -> None:
    """Those that were left out have none in the row; nor has what was seen while it idled."""
    launches = clocked([1980.0, 1970.0, 1200.0], [2.0, 2.0, 3.0])
    mixed = (Reading(at_seconds=16.0, clock_mhz=345.0, reasons=("idle",)),)
    capped = tuple(
        Reading(at_seconds=17.0 + k, clock_mhz=1700.0, reasons=("power cap",)) for k in range(3)
    )
    launches += clocked([None], [2.0], readings=(*mixed, *capped))
    launches += clocked([None], [2.0], readings=capped[:2])
    launches += clocked([1980.0], [2.0], scope="shared")
    numbered = [msgspec.structs.replace(x, launch=k, order=k) for k, x in enumerate(launches)]
    (row,) = summarize(make_file([CASE], numbered, settings=FIXED))
    assert row.hindered == 1, "the one of 1200 MHz throttled"
    assert row.clocks_mhz == (1980.0, 1970.0, 1700.0, None, None)
    assert len(row.clocks_mhz) == len(row.rates)
