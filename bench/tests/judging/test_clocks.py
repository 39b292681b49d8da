"""Clocks that somebody set: named as a setting and on the card, and no chip is judged by them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.judging.clocks import clocks_set
from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import Comparison
from bench.judging.comparing.reasons import Code
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.observed import Reading, Watched
from bench.records.outcome import Measured, Memory, Share
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.table import REPORT
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import FIXED, GEMM
from bench.tests.telemetry.launches import seen, steady
from bench.tests.values import make_case, make_file, make_launch, make_measured

COPY = make_case(workload="memory", mode="copy", precision="fp32", parameters={})
DEVICE = {"backend": "cuda", "index": 0, "name": "Fake GPU", "facts": {"sm_clock_max_mhz": "1980"}}
LOCKED: dict[str, Any] = {"reasons": ("user clocks",), "clock_mhz": 1200.0}


def looks(count: int = 5, first: float = 16.0, **fields: Any) -> tuple[Reading, ...]:
    held = {"clock_mhz": 1980.0, "memory_clock_mhz": 3201.0, "reasons": (), **fields}
    return tuple(Reading(at_seconds=first + k, **held) for k in range(count))


def run(
    *readings: Reading,
    step: float = 2.0,
    name: str = "Fake GPU",
    ranks: Any = (),
    case: Case = COPY,
) -> RunFile:
    told = {"variables": {}, "variables_looked_for": ["OMP_*"]}
    launches = [
        make_launch(
            msgspec.structs.replace(
                steady(seconds=step * (1 + 1e-4 * k)),
                ranks=ranks,
                work=make_measured(flop=100).work,
            ),
            case,
            launch=k,
            order=k,
            environment=told,
            telemetry=seen(readings=readings),
        )
        for k in range(5)
    ]
    return make_file([case], launches, settings=FIXED, device={**DEVICE, "name": name})


def named(comparison: Comparison) -> list[tuple[str, str, str]]:
    return [(one.name, one.base, one.other) for one in comparison.configured.settings]


def test_locked_clocks_are_a_setting_and_no_chip_is_judged() -> None:
    """Once `chip 0.50 x software 1.00`, and "the runs differ in nothing else"."""
    free, locked = run(*looks()), run(*looks(memory_clock_mhz=1593.0, **LOCKED), step=4.0)
    found = compare(free, locked)
    assert named(found) == [
        ("locked clocks", "no", "at 1200 MHz"),
        ("memory clock", "3201 MHz", "1593 MHz"),
    ]
    assert found.configured.doubt_code == Code.SETTINGS_DIFFER
    text = " ".join(render([found], Canvas(width=200, wide=True)).split())
    assert "chip 0.5" not in text and "SETTINGS DIFFER locked clocks: no | at 1200 MHz" in text
    assert named(compare(run(*looks(**LOCKED)), run(*looks(**LOCKED)))) == []


def test_two_locks_differ_by_their_clocks_on_one_kind_of_device() -> None:
    fast, slow = looks(**{**LOCKED, "clock_mhz": 1500.0}), looks(**LOCKED)
    assert named(compare(run(*fast), run(*slow))) == [
        ("locked clocks", "at 1500 MHz", "at 1200 MHz")
    ]
    assert named(compare(run(*fast), run(*slow, name="Other GPU"))) == []
    assert named(compare(run(*looks()), run(*slow, name="Other GPU"))) != []


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        (looks(3, **LOCKED) + looks(2, 19.0), True),
        (looks(2, **LOCKED) + looks(3, 18.0), False),
        (looks(**{**LOCKED, "reasons": ("user clocks", "idle")}), None),
        (looks(reasons=None), None),
        (looks(reasons=("power cap",)), False),
        (looks(1, 16.0) + looks(50, 100.0, **LOCKED), False),
    ],
    ids=["most", "few", "idle", "not observable", "power", "after the steady blocks"],
)
def test_most_steady_readings_decide(readings: tuple[Reading, ...], said: bool | None) -> None:
    assert clocks_set(run(*readings).launches[0]) is said


@pytest.mark.parametrize("reasons", [("thermal",), ("power cap",), ("idle",)])
def test_a_memory_clock_that_heat_or_power_lowers_is_no_setting(reasons: Any) -> None:
    low = looks(memory_clock_mhz=1593.0, reasons=reasons)
    assert named(compare(run(*looks()), run(*low))) == []


def test_a_device_that_lowers_its_memory_clock_by_itself_has_no_setting() -> None:
    some = looks(1) + looks(4, 17.0, memory_clock_mhz=800.0)
    assert named(compare(run(*looks()), run(*some))) == []


@pytest.mark.parametrize(("looks_held", "said"), [(4, True), (2, False)])
def test_a_rank_whose_clocks_are_held_slows_all(looks_held: int, said: bool) -> None:
    held = Watched(
        source="NVML", readings=5, reasons={"user clocks": looks_held}, clock_mhz=1200, clocks=5
    )
    memory = Memory(peak_bytes=1, scope="x", host_rss_bytes=1)
    busy = tuple(block.wall_ns for block in steady().steady)
    ranks = tuple(
        Share(rank=rank, host=0, device=rank, busy_ns=busy, memory=memory, watched=watched)
        for rank, watched in enumerate((None, held))
    )
    told = named(compare(run(*looks()), run(*looks(), ranks=ranks)))
    assert told == [("locked clocks", "no", "at 1200 MHz")] * said
    outcome = run(*looks(), ranks=ranks).launches[0].outcome
    assert isinstance(outcome, Measured) and len(outcome.ranks) == 2
    assert clocks_set(run(*looks(), ranks=ranks).launches[0]) is said


def test_the_card_says_it_and_its_head_gives_a_highest_clock() -> None:
    locked, free = run(*looks(**LOCKED)), run(*looks())
    assert [row.flags for row in summarize(locked)] == [("CLOCKS_SET",)]
    assert [row.flags for row in summarize(free)] == [()]
    text = " ".join(REPORT.render([locked], Canvas(width=200)).split())
    assert "SM clock up to 1980 MHz" in text and "CLOCKS_SET a setting held the device's" in text
    assert "CLOCKS_SET" not in REPORT.render([free], Canvas(width=200))


@pytest.mark.parametrize(("clock", "said"), [(1200.0, "at 1200 MHz"), (None, "yes")])
def test_a_lock_at_the_power_limit_is_one_too(clock: float | None, said: str) -> None:
    both = looks(reasons=("user clocks", "power cap"), clock_mhz=clock)
    assert named(compare(run(*looks()), run(*both))) == [("locked clocks", "no", said)]


def test_a_narrow_product_by_its_clock_leaves_the_chip_its_verdict() -> None:
    narrow = msgspec.structs.replace(GEMM, parameters={"shape": "1x14336x4096"})
    found = compare(run(*looks(), case=narrow), run(*looks(clock_mhz=990.0), case=narrow, step=4.0))
    assert found.cases[0].clock_remark and not found.configured.clocks


def test_a_ceiling_that_differs_by_its_clock_is_no_chips() -> None:
    """Who lowered it nobody says: it is one kind of device, and no setting is recorded."""
    fast, slow = run(*looks(), case=GEMM), run(*looks(clock_mhz=990.0), case=GEMM, step=4.0)
    found = compare(fast, slow)
    assert found.cases[0].clock_remark and named(found) == []
    assert found.configured.doubt_code == Code.CLOCKS_DIFFER
    assert "at other clocks: gemm" in found.configured.chip_doubt
    same_clock = compare(fast, run(*looks(), case=GEMM, step=4.0))
    assert same_clock.cases[0].verdict == "SLOWER" and not same_clock.configured.chip_doubt
