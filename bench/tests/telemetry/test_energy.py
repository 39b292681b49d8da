"""The energy of a launch over its steady blocks; in the summary, on the card, in a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from bench.records.observed import Reading, Telemetry
from bench.records.outcome import Flag
from bench.records.run import BLOCK_STEPS
from bench.telemetry import energy
from bench.telemetry.energy import with_energy
from bench.tests.telemetry.launches import FIRST_STEP, seen, steady
from bench.tests.values import make_case

CASE = make_case()


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
        "block_seconds = 2.2 in the suite's settings gives them"
    )


def test_what_is_too_short_never_reads_as_long_as_is_needed() -> None:
    for seconds, needed, had, wanted in ((2.002, 22.04, "22.0", 23), (1.816, 20.0, "19.9", 20)):
        said = energy.too_short(steady(blocks=11, seconds=seconds), needed)
        assert f": {had} s of steady blocks, {wanted} s are needed" in said


@pytest.mark.parametrize(
    ("steps", "flags", "why"),
    [
        (6_250, (), "no block has more than 100,000 steps, which take 800 ms"),
        (100_000, (), "no block has more than 100,000 steps, which take 12.5 ms"),
        (16, ("SHORT_BLOCKS",), "no block has more than 16 steps, which take 50.0 ms"),
        (16, (), "block_seconds = 2.2 in the suite's settings gives them"),
    ],
)
def test_blocks_that_cannot_last_so_long_are_not_asked_for(
    steps: int, flags: tuple[Flag, ...], why: str
) -> None:
    """Steps of 8 us in blocks of 50 ms; and blocks that are as long as they can be."""
    outcome = steady(blocks=10, seconds=0.05 if steps < BLOCK_STEPS else 0.0125)
    blocks = tuple(
        msgspec.structs.replace(block, step_ns=(1,) * steps, step_cpu_ns=None, step_switches=None)
        for block in outcome.steady
    )
    outcome = msgspec.structs.replace(outcome, steady=blocks, flags=flags)
    found = with_energy(outcome, seen(power=lambda at: 300.0))
    assert (found.energy_absent or "").endswith(f" s of steady blocks, 20 s are needed; {why}")


def test_a_burst_is_too_short_whatever_a_suite_asks_for() -> None:
    found = with_energy(steady(blocks=20, seconds=0.03, gap=2.0), seen(power=lambda at: 300.0))
    assert found.energy_absent == "too short: of a burst the device rests for most of the time"


@pytest.mark.parametrize(
    "telemetry, why",
    [
        ("npu-smi is not on PATH", "not observable: npu-smi is not on PATH"),
        (seen(absent={"energy": "no RAPL here"}), "not observable: no RAPL here"),
        (seen(first_step_seconds=None), "does not say when its blocks began"),
        (seen(power=lambda at: 1.0, until=30.0), "do not reach over the steady blocks"),
        (seen(power=lambda at: 1.0 if at < 20 or at > 28 else None), "was silent for 8 s"),
        (seen(power=lambda at: 1.0 if at < 16 else None), "5 readings of power in 22 s"),
        (seen(counter=lambda at: 7.0), "the counter stood still at 7 J for"),
        (seen(power=lambda at: 0.0), "no power is drawn"),
    ],
)
def test_no_figure_is_a_reason(telemetry: Telemetry | str, why: str) -> None:
    found = with_energy(steady(), telemetry)
    assert found.energy_joules is None and found.energy_absent is not None
    assert why in found.energy_absent


@pytest.mark.parametrize("first", [0.0, 1.0, 2.5, 4.8])
def test_a_source_that_is_read_every_five_seconds_gets_blocks_long_enough(first: float) -> None:
    """As one whose looks cost the host: what the reason asks for, from short blocks or from those
    of 20 s, gives the energy, wherever the readings lie."""

    def power(at: float) -> float | None:
        return 300.0 if round(at * 5) % 25 == round(first * 5) else None

    for seconds in (0.05, 2.2):
        found = with_energy(steady(blocks=10, seconds=seconds), seen(power=power, until=90.0))
        assert found.energy_absent == (
            f"too short: {10 * seconds:.1f} s of steady blocks, 50 s are needed for 10 readings of "
            "power; block_seconds = 5.5 in the suite's settings gives them"
        )
    long = seen(power=power, until=FIRST_STEP + 10 + 55)
    assert with_energy(steady(blocks=10, seconds=5.5), long).energy_joules == pytest.approx(16500)


def test_ten_readings_of_power_that_begin_with_the_blocks_are_enough() -> None:
    """Every 2.4 s, which would have asked for 24 s of blocks had they been fewer."""
    readings = tuple(Reading(at_seconds=15.2 + 2.4 * k, power_watts=300.0) for k in range(10))
    found = with_energy(steady(), seen(readings=readings))
    assert found.energy_joules == pytest.approx(6600)


@pytest.mark.parametrize("first", [0.0, 1.0, 4.8])
def test_a_counter_that_is_read_every_five_seconds_reaches_over_the_blocks(first: float) -> None:
    def joules(at: float) -> float | None:
        return 300.0 * at if round(at * 5) % 25 == round(first * 5) else None

    found = with_energy(steady(), seen(counter=joules, until=FIRST_STEP + 10 + 22))
    assert found.energy_joules == pytest.approx(6600)
    assert found.energy_method == "counter"


def test_a_counter_that_is_silent_gives_way_to_the_power() -> None:
    found = with_energy(
        steady(), seen(power=lambda at: 10.0, counter=lambda at: at if at < 20 else None)
    )
    assert found.energy_method == "power" and found.energy_joules == pytest.approx(220)


@pytest.mark.parametrize("factor, disagree", [(1.04, False), (1.06, True), (0.93, True)])
def test_of_counter_and_power_that_disagree_neither_is_a_figure(
    factor: float, disagree: bool
) -> None:
    found = with_energy(
        steady(), seen(power=lambda at: 300.0 * factor, counter=lambda at: 300.0 * at)
    )
    assert ("ENERGY_DISAGREES" in found.flags) == disagree
    assert ("ENERGY_DISAGREES" in found.causes) == disagree
    if not disagree:
        assert found.energy_joules == pytest.approx(6600)
        return
    assert found.energy_joules is None and found.energy_method is None
    assert found.energy_absent == f"neither is believed: {found.causes['ENERGY_DISAGREES']}"


def counter(at: float, fault: str) -> float:
    """300 W, and what may become of a counter of them; the blocks are from 15 to 37 s."""
    true = 300.0 * at
    return {
        "reset": true if at < 20 else true - 6000,
        "reset early": true if at < 15.1 else true - 4530,
        "wrap": true % 7500,
        "stuck": 300.0 * min(at, 20.0),
        "stuck for a while": true if not 20 < at < 25 else 6000.0,
        "jump": true if at < 20 else true + 1e6,
        "before": true if at > 10 else true + 1e6,
        "after": true if at < 40 else 0.0,
        "steps of a second": 300.0 * int(at),
    }[fault]


@pytest.mark.parametrize(
    "fault, why",
    [
        ("reset", "NVML: the counter fell from 5940 to 0 J at 20.0 s: it was reset, or wrapped"),
        ("reset early", "NVML: the counter fell from"),
        ("wrap", "NVML: the counter fell from"),
        ("stuck", "NVML: the counter stood still at 6000 J for"),
        ("stuck for a while", "NVML: the counter stood still at 6000 J for"),
        ("jump", "NVML: the counter rose by"),
        ("before", None),
        ("after", None),
        ("steps of a second", None),
    ],
)
def test_a_counter_that_cannot_be_believed_gives_way_to_the_power(
    fault: str, why: str | None
) -> None:
    both = seen(power=lambda at: 300.0, counter=lambda at: counter(at, fault))
    found = with_energy(steady(), both)
    assert found.energy_joules == pytest.approx(6600, rel=0.02)
    assert found.energy_method == ("counter" if why is None else "power")
    assert found.flags == ()
    said = energy.with_fault(steady(), both).absent.get(energy.COUNTER)
    assert said is None if why is None else said is not None and said.startswith(why)
    alone = with_energy(steady(), seen(counter=lambda at: counter(at, fault)))
    assert (alone.energy_joules is None) == (why is not None)
    if why is not None:
        assert str(alone.energy_absent).startswith(why.replace("NVML", "not observable"))


def test_idle_power_is_a_median_or_a_counters_rise() -> None:
    def readings(**columns: Sequence[float]) -> list[Reading]:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [Reading(**row) for row in rows]

    times = (0.0, 0.6, 1.2)
    assert energy.idle_watts(readings(at_seconds=times, power_watts=(70.0, 500.0, 71.0))) == 71
    assert energy.idle_watts(readings(at_seconds=times[:2], power_watts=(70.0, 71.0))) is None
    assert energy.idle_watts(readings(at_seconds=times)) is None
    brief, rises, fell = (9.0, 9.3, 9.6), (100.0, 100.0, 160.0), (100.0, 130.0, 0.0)
    for at, joules, found in ((times, rises, 50), (brief, rises, None), (times, fell, None)):
        assert energy.idle_watts(readings(at_seconds=at, energy_joules=joules)) == pytest.approx(
            found
        )


# --- In the summary, on the card, in a comparison ------------------------------------------------
