"""Energy over the steady blocks, and the flags that the device's own figures raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from bench import units
from bench.judging.compare import compare
from bench.judging.summary import summarize
from bench.records.observed import Reading, Reason, Telemetry
from bench.records.outcome import Block, Measured
from bench.records.run import Launch
from bench.report import Canvas
from bench.reports._flat import flat as as_flat
from bench.reports.table import TableReport
from bench.telemetry import energy, flags
from bench.telemetry.energy import with_energy
from bench.telemetry.flags import slow_clocks, with_flags
from bench.tests.values import make_case, make_file, make_launch, make_measured

CASE = make_case()

FIRST_STEP = 5.0
"""Seconds after the worker was let go."""


def steady(blocks: int = 11, seconds: float = 2.0, gap: float = 0.0) -> Measured:
    """Blocks of one step each, with a gap after each; the first steady one is the launch's fourth,
    10 s after the first step."""
    made = []
    for k in range(blocks):
        start = 10.0 + k * (seconds + gap)
        wall = round(seconds * 1e9)
        made.append(Block(start_ns=round(start * 1e9), wall_ns=wall, step_ns=(wall,)))
    return make_measured(steady=tuple(made), work=make_measured().work)


def seen(
    power: Callable[[float], float | None] = lambda at: None,
    counter: Callable[[float], float | None] = lambda at: None,
    until: float = 60.0,
    **changes: Any,
) -> Telemetry:
    """Five readings a second from the first moment on."""
    times = [k / 5 for k in range(round(until * 5) + 1)]
    readings = tuple(
        Reading(at_seconds=at, power_watts=power(at), energy_joules=counter(at)) for at in times
    )
    fields: dict[str, Any] = {
        "source": "NVML",
        "scope": "board",
        "interval_seconds": 0.2,
        "first_step_seconds": FIRST_STEP,
        "readings": readings,
    }
    return Telemetry(**{**fields, **changes})


def test_a_counters_rise_over_the_blocks_and_not_over_the_gaps() -> None:
    """300 W in the blocks; the gaps draw 1000 W and belong to nobody."""
    outcome = steady(blocks=11, seconds=2.0, gap=1.0)

    def joules(at: float) -> float:
        since = at - FIRST_STEP - 10.0
        if since <= 0:
            return 0.0
        blocks, rest = divmod(since, 3.0)
        return blocks * (2 * 300 + 1000) + min(rest, 2.0) * 300 + max(rest - 2.0, 0.0) * 1000

    found = with_energy(outcome, seen(counter=joules))
    assert found.energy_joules == pytest.approx(22 * 300, rel=1e-9)
    assert (found.energy_method, found.energy_absent) == ("counter", None)


def test_power_is_integrated_over_the_blocks_where_nothing_counts() -> None:
    found = with_energy(steady(), seen(power=lambda at: 100.0 + at))
    middle = FIRST_STEP + 10.0 + 11.0
    assert found.energy_joules == pytest.approx(22 * (100 + middle), rel=1e-9)
    assert found.energy_method == "power"


def test_less_than_twenty_seconds_is_too_short_and_says_what_is_enough() -> None:
    outcome = steady(blocks=10, seconds=0.05)
    found = with_energy(outcome, seen(power=lambda at: 300.0, counter=lambda at: 300.0 * at))
    assert found.energy_joules is None
    assert found.energy_absent == (
        "too short: 0.5 s of steady blocks, 20 s are needed; "
        "block_seconds = 2 in the suite's settings gives them"
    )


@pytest.mark.parametrize(
    "telemetry, why",
    [
        ("npu-smi is not on PATH", "not observable: npu-smi is not on PATH"),
        (seen(absent={"energy": "no RAPL here"}), "not observable: no RAPL here"),
        (seen(first_step_seconds=None), "does not say when its blocks began"),
        (seen(power=lambda at: 1.0, until=30.0), "do not reach over the steady blocks"),
        (seen(power=lambda at: 1.0 if at < 20 or at > 28 else None), "was silent for 8 s"),
        (seen(power=lambda at: 1.0 if at % 5 == 0 else None), "5 readings of power in 22 s"),
        (seen(counter=lambda at: 7.0), "the counter does not move"),
    ],
)
def test_no_figure_is_a_reason(telemetry: Telemetry | str, why: str) -> None:
    found = with_energy(steady(), telemetry)
    assert found.energy_joules is None and found.energy_absent is not None
    assert why in found.energy_absent


def test_a_counter_that_is_silent_gives_way_to_the_power() -> None:
    found = with_energy(
        steady(), seen(power=lambda at: 10.0, counter=lambda at: at if at < 20 else None)
    )
    assert found.energy_method == "power" and found.energy_joules == pytest.approx(220)


@pytest.mark.parametrize("factor, flagged", [(1.04, False), (1.06, True), (0.93, True)])
def test_counter_and_power_that_disagree_are_flagged(factor: float, flagged: bool) -> None:
    found = with_energy(
        steady(), seen(power=lambda at: 300.0 * factor, counter=lambda at: 300.0 * at)
    )
    assert found.energy_joules == pytest.approx(6600)
    assert ("ENERGY_DISAGREES" in found.flags) == flagged
    assert ("ENERGY_DISAGREES" in found.causes) == flagged


def test_idle_power_is_a_median_or_a_counters_rise() -> None:
    def readings(**columns: Sequence[float]) -> list[Reading]:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [Reading(**row) for row in rows]

    times = (0.0, 0.6, 1.2)
    assert energy.idle_watts(readings(at_seconds=times, power_watts=(70.0, 500.0, 71.0))) == 71
    assert energy.idle_watts(readings(at_seconds=times[:2], power_watts=(70.0, 71.0))) is None
    counted = readings(at_seconds=times, energy_joules=(100.0, 130.0, 160.0))
    assert energy.idle_watts(counted) == pytest.approx(50)
    assert energy.idle_watts(readings(at_seconds=times)) is None


# --- flags


def hindered(*reasons: tuple[Reason, ...] | None, **changes: Any) -> Measured:
    """A launch whose readings, a second apart amid its steady blocks, gave these reasons."""
    readings = tuple(
        Reading(at_seconds=16.0 + k, reasons=r, temperature_celsius=88, power_watts=700)
        for k, r in enumerate(reasons)
    )
    return with_flags(steady(), seen(**{"readings": readings, **changes}))


def test_heat_and_the_power_brake_throttle_and_a_power_cap_is_a_word_of_its_own() -> None:
    hot = hindered(("thermal",), (), ("thermal", "power cap"))
    assert hot.flags == ("THROTTLED", "POWER_CAPPED")
    assert hot.causes["THROTTLED"] == "thermal in 2 of 3 readings, up to 88 °C"
    assert hot.causes["POWER_CAPPED"] == "power cap in 1 of 3 readings, at 700 W"
    assert hindered(("power brake",)).flags == ("THROTTLED",)
    assert hindered(("power cap",)).flags == ("POWER_CAPPED",)
    assert hindered(("idle",), ("sync boost",), ("user clocks",), ()).flags == ()


def test_a_slowdown_seen_once_may_be_a_change_of_clocks() -> None:
    assert hindered(("hardware slowdown",), ()).flags == ()
    assert hindered(("hardware slowdown",), ("hardware slowdown",)).flags == ("THROTTLED",)
    assert hindered(("hardware slowdown", "thermal"), ()).flags == ("THROTTLED",)


def test_what_cannot_be_read_flags_nothing_and_is_not_called_good() -> None:
    assert hindered(None, None).flags == ()
    assert with_flags(steady(), "no tool").flags == ()


def test_heat_before_the_steady_blocks_does_not_count() -> None:
    early = Reading(at_seconds=9.0, reasons=("thermal",))
    assert with_flags(steady(), seen(readings=(early,))).flags == ()


def test_others_on_the_device_are_flagged_with_their_number_and_memory() -> None:
    shared = with_flags(steady(), seen(others=2, others_bytes=3 * 2**30))
    assert shared.flags == ("SHARED_DEVICE",)
    assert shared.causes["SHARED_DEVICE"] == "other processes on the device: 2 with 3.0 GiB"
    assert with_flags(steady(), seen(others=0)).flags == ()
    assert with_flags(steady(), seen(others=None)).flags == ()


def clocked(number: int, *clocks: float, reasons: tuple[Reason, ...] | None = None) -> Launch:
    readings = tuple(
        Reading(at_seconds=16.0 + k, clock_mhz=c, reasons=reasons) for k, c in enumerate(clocks)
    )
    return make_launch(steady(), launch=number, telemetry=seen(readings=readings))


def test_a_clock_below_the_fastest_tenth_of_its_case_is_slow() -> None:
    fast = [clocked(k, 1400, 1410, 1400, 1405) for k in range(3)]
    assert slow_clocks([*fast, clocked(3, 1300, 1310, 1290)]) == {
        3: "clock 1300 MHz, 92% of the case's 1410 MHz"
    }
    assert slow_clocks([*fast, clocked(3, 1345, 1345)]) == {}
    assert slow_clocks([clocked(0, 1400), clocked(1, 1000)]) == {}, "too few to know"


def test_a_clock_held_to_the_power_limit_or_not_of_this_device_is_not_slow() -> None:
    fast = [clocked(k, 1400, 1410, 1400, 1405) for k in range(3)]
    assert slow_clocks([*fast, clocked(3, 1000, 1000, reasons=("power cap",))]) == {}
    hosts = make_launch(
        steady(),
        launch=3,
        telemetry=seen(readings=(Reading(at_seconds=16.0, clock_mhz=900),) * 3, scope="shared"),
    )
    assert slow_clocks([*fast, hosts]) == {}


def test_every_reason_that_throttles_is_one_that_there_is() -> None:
    assert set(flags.THROTTLING) < set(Reason.__args__)  # type: ignore[attr-defined]


# --- in the summary, on the card, in a comparison


def launches_with_energy(*joules: float | None, scope: str = "board") -> list[Launch]:
    launches = []
    for number, amount in enumerate(joules):
        outcome = steady()
        if amount is not None:
            outcome = msgspec.structs.replace(
                outcome, energy_joules=amount, energy_absent=None, energy_method="counter"
            )
        seen_then = seen(scope=scope, idle_watts=71.5, absent={"reasons": "it does not say"})
        launches.append(make_launch(outcome, CASE, number, number, telemetry=seen_then))
    return launches


def test_joules_an_item_have_an_interval_over_launches_a_source_and_a_scope() -> None:
    file = make_file([CASE], launches_with_energy(110, 111, 109))
    (row,) = summarize(file)
    assert row.items_per_joule == pytest.approx(11 / 110)
    assert row.joule_interval is not None
    assert row.joule_interval.low < 0.1 < row.joule_interval.high
    assert (row.energy_source, row.energy_scope) == ("NVML, counter", "board")
    card = " ".join(TableReport().render([file], Canvas(width=200, colour=False)).split())
    assert "energy of gemm-matmul bf16: 10.0 J/image ±2.3% (board; NVML, counter; idle 71.5 W)" in (
        card
    )
    assert "not observable: reasons (it does not say)" in card
    flat = as_flat(file, row)
    assert flat["items_per_joule_low"] == row.joule_interval.low
    assert flat["idle_watts"] == 71.5 and flat["energy_absent"] is None


def test_a_launch_without_energy_leaves_no_figure_but_a_reason() -> None:
    (row,) = summarize(make_file([CASE], launches_with_energy(110, None, 109)))
    assert (row.items_per_joule, row.joule_interval) == (None, None)
    assert row.energy_absent == "not measured"


def test_a_board_is_not_compared_with_a_package_by_the_joule() -> None:
    board = make_file([CASE], launches_with_energy(*[110] * 5))
    other = make_file([CASE], launches_with_energy(*[55] * 5))
    package = make_file([CASE], launches_with_energy(*[55] * 5, scope="package"))
    assert compare(board, other).cases[0].joule_ratio == pytest.approx(2)
    assert compare(board, package).cases[0].joule_ratio is None


def test_a_launch_that_nobody_looked_at_says_so_on_the_card() -> None:
    launch = make_launch(steady(), CASE, telemetry_absent="npu-smi is not on PATH")
    card = TableReport().render([make_file([CASE], [launch])], Canvas(width=200, colour=False))
    assert "not observable: telemetry (npu-smi is not on PATH)" in card


@pytest.mark.parametrize(
    "each, item, words",
    [
        (12.3, "image", "12.3 J/image"),
        (0.0123, "token", "12.3 mJ/token"),
        (1.5e-6, "token", "1.50 uJ/token"),
        (1e-12, "FLOP", "1.00 TFLOP/J"),
    ],
)
def test_energy_in_words(each: float, item: str, words: str) -> None:
    assert units.joules(each, item) == words
