"""Which launches something outside the job slowed, and what becomes of those."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bench.judging.comparing.compare import compare
from bench.judging.summary import summarize
from bench.records.observed import Reading, Reason, Telemetry
from bench.records.outcome import Block, Flag, Measured
from bench.records.run import Launch, Settings
from bench.running.case_state import CaseState
from bench.telemetry import flags
from bench.telemetry.flags import clocks_of, observed_clock, with_flags
from bench.tests.telemetry.launches import seen, steady
from bench.tests.values import (
    failed,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)

CASE = make_case()


# --- What the device's own figures say -----------------------------------------------------------


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


def test_heat_and_watts_are_of_the_readings_that_have_the_reason() -> None:
    """A device that is capped now and then, and hotter and idler between."""
    looks: list[tuple[tuple[Reason, ...], float, float]] = [
        (("power cap",), 60, 690),
        (("thermal",), 88, 300),
        (("thermal",), 84, 300),
        ((), 91, 125),
    ]
    readings = tuple(
        Reading(at_seconds=16.0 + k, reasons=why, temperature_celsius=heat, power_watts=watts)
        for k, (why, heat, watts) in enumerate(looks)
    )
    assert with_flags(steady(), seen(readings=readings)).causes == {
        "THROTTLED": "thermal in 2 of 4 readings, up to 88 °C",
        "POWER_CAPPED": "power cap in 1 of 4 readings, at 690 W",
    }


def test_a_slowdown_seen_once_may_be_a_change_of_clocks() -> None:
    assert hindered(("hardware slowdown",), ()).flags == ()
    assert hindered(("hardware slowdown",), ("hardware slowdown",)).flags == ("THROTTLED",)
    assert hindered(("hardware slowdown", "thermal"), ()).flags == ("THROTTLED",)


def test_what_cannot_be_read_flags_nothing_and_is_not_called_good() -> None:
    assert hindered(None, None).flags == ()
    assert with_flags(steady(), "no tool").flags == ()
    assert hindered(("thermal",), first_step_seconds=None).flags == (), "when is not known"


@pytest.mark.parametrize(("at", "told"), [(9.0, ()), (14.9, ("THROTTLED",)), (37.3, ())])
def test_heat_before_the_steady_blocks_does_not_count(at: float, told: tuple[Flag, ...]) -> None:
    """But for the last reading before them."""
    early = Reading(at_seconds=at, reasons=("thermal",))
    assert with_flags(steady(), seen(readings=(early,))).flags == told


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


def slow_clocks(launches: Sequence[Launch]) -> dict[int, str]:
    return flags.slow_clocks({launch.launch: clocks_of(launch) for launch in launches})


def test_a_clock_below_the_fastest_tenth_of_its_case_is_slow() -> None:
    fast = [clocked(k, 1400, 1410, 1400, 1405) for k in range(3)]
    assert slow_clocks([*fast, clocked(3, 1300, 1310, 1290)]) == {
        3: "clock 1300 MHz, 92% of the case's 1410 MHz"
    }
    assert slow_clocks([*fast, clocked(3, 1345, 1345)]) == {}
    assert slow_clocks([clocked(0, 1400), clocked(1, 1000)]) == {}, "too few to know"


def jittering(
    seed: int, jitter: float, slow: Sequence[int] = (), *, ranks: int = 1, warm: int = 0
) -> dict[int, flags.Clocks]:
    """Ten launches of 50 readings about 1500 MHz; about 1300 in the slow ones, but for the first
    `warm` readings of each."""
    draw = random.Random(seed)

    def launch(low: bool) -> Counter[float]:
        mean = [1300.0 if low and k >= warm else 1500.0 for k in range(50)]
        return Counter(float(round(m * draw.gauss(1, jitter))) for m in mean)

    found: dict[int, flags.Clocks] = {}
    for number in range(10):
        own = {rank: launch(number in slow) for rank in range(ranks)}
        for rank in range(1, ranks):
            own[rank] = Counter({statistics.median(own[rank].elements()): 50})
        found[number] = own
    return found


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("jitter", [0.0, 0.02, 0.05, 0.07])
def test_a_clock_that_jitters_in_all_launches_alike_throttles_none(
    jitter: float, ranks: int
) -> None:
    for seed in range(5):
        assert flags.slow_clocks(jittering(seed, jitter, ranks=ranks)) == {}


@pytest.mark.parametrize("jitter", [0.0, 0.02, 0.05, 0.06])
def test_a_clock_that_falls_by_more_than_it_jitters_is_slow(jitter: float) -> None:
    few, many, late = (3, 7), tuple(range(7)), tuple(range(3, 10))
    for slow in (few, many, late):
        assert tuple(sorted(flags.slow_clocks(jittering(1, jitter, slow)))) == slow


@pytest.mark.parametrize("jitter", [0.0, 0.02])
@pytest.mark.parametrize("warm", [8, 15])
def test_a_device_that_throttles_in_every_launch_after_its_first_seconds_is_found(
    jitter: float, warm: int
) -> None:
    every = range(10)
    assert sorted(flags.slow_clocks(jittering(1, jitter, every, warm=warm))) == list(every)


@pytest.mark.parametrize("warm", [0, 15])
def test_short_launches_of_a_cool_device_do_not_condemn_the_long_ones(warm: int) -> None:
    short, long = {1980.0: 5}, {1980.0: warm, 1755.0: 300 - warm}
    clocks = {k: {0: Counter(short if k < 2 else long)} for k in range(10)}
    assert flags.slow_clocks(clocks) == {}
    assert list(flags.slow_clocks({**clocks, 9: {0: Counter({1500.0: 300})}})) == [9]


def test_nor_do_those_whose_few_readings_jitter() -> None:
    draw = random.Random(1)
    for _ in range(20):
        counts = (5, 5, *[100] * 8)
        mhz = ([float(round(1500 * draw.gauss(1, 0.08))) for _ in range(n)] for n in counts)
        assert flags.slow_clocks({k: {0: Counter(some)} for k, some in enumerate(mhz)}) == {}


@pytest.mark.parametrize(("readings", "slow"), [(1, {}), (2, {}), (3, {3: "rank 1"})])
def test_one_look_at_a_clock_throttles_no_launch(readings: int, slow: dict[int, str]) -> None:
    """Of a device held to its power limit few readings are left, of whichever rank."""
    fast = {k: {0: Counter({1400.0: 4}), 1: Counter({1400.0: 4})} for k in range(3)}
    third = {0: fast[0][0], 1: Counter({1300.0: readings})}
    found = flags.slow_clocks({**fast, 3: third, 4: {}})  # of one that failed there are none
    assert {number: words.partition(":")[0] for number, words in found.items()} == slow
    launches = [clocked(k, 1400, 1410, 1400, 1405) for k in range(3)]
    assert list(slow_clocks([*launches, clocked(3, *[1300] * readings)])) == list(slow)


def test_a_clock_held_to_the_power_limit_or_not_of_this_device_is_not_slow() -> None:
    fast = [clocked(k, 1400, 1410, 1400, 1405) for k in range(3)]
    assert slow_clocks([*fast, clocked(3, 1000, 1000, reasons=("power cap",))]) == {}
    hosts = make_launch(
        steady(),
        launch=3,
        telemetry=seen(readings=(Reading(at_seconds=16.0, clock_mhz=900),) * 3, scope="shared"),
    )
    assert slow_clocks([*fast, hosts]) == {}


def test_the_clock_of_a_device_that_rests_between_blocks_is_not_the_works() -> None:
    """Bursts of 30 ms, two seconds apart: in the fourth launch it was read at rest."""
    mostly = [(1400, 1410, 1400, 1405)] * 3 + [(600, 610, 600, 605)]
    bursts = [
        msgspec.structs.replace(clocked(k, *mhz), outcome=steady(blocks=11, seconds=0.03, gap=2.0))
        for k, mhz in enumerate(mostly)
    ]
    assert slow_clocks(bursts) == {}
    assert {observed_clock(launch) for launch in bursts} == {None}


def test_every_reason_that_throttles_is_one_that_there_is() -> None:
    assert set(flags.THROTTLING) < set(Reason.__args__)  # type: ignore[attr-defined]


# --- What becomes of a slowed launch -------------------------------------------------------------


def slowed(seconds: float, flag: Flag = "CONTENDED", cause: str = "it waited 30%") -> Measured:
    return make_measured(seconds, flags=(flag,), causes={flag: cause})


def row_of(*outcomes: Any, launches: int | str = 10) -> Any:
    settings = Settings(launches=launches)  # type: ignore[arg-type]
    file = make_file([CASE], make_launches(CASE, outcomes), settings=settings)
    return summarize(file)[0]


def test_a_slowed_launch_is_counted_and_left_out() -> None:
    clean = [make_measured(0.01 + k * 1e-6) for k in range(9)]
    row = row_of(*clean[:4], slowed(0.02), *clean[4:])
    assert row.verdict == "OK"
    assert (row.launches, row.hindered, len(row.rates)) == (9, 1, 9)
    assert row.throughput == pytest.approx(100, rel=1e-3)
    assert row.left_out == "1 of 10 launches slowed from outside: it waited 30%"
    assert "CONTENDED" in row.flags


def test_a_slow_launch_without_a_cause_stays_in_the_figure() -> None:
    row = row_of(*[make_measured(0.01)] * 9, make_measured(0.02))
    assert (row.launches, row.hindered, row.verdict) == (10, 0, "NOISY")


def test_more_than_a_third_slowed_is_invalid() -> None:
    row = row_of(*[make_measured(0.01)] * 6, *[slowed(0.02)] * 4)
    assert row.verdict == "INVALID"
    assert row.reason == "4 of 10 launches were slowed from outside"
    assert row.throughput == pytest.approx(100), "of the six that nothing slowed"
    with_failures = row_of(*[make_measured(0.01)] * 6, *[slowed(0.02)] * 3, failed())
    assert with_failures.verdict == "INVALID"
    assert with_failures.reason == (
        "1 of 10 launches failed, 3 of 10 launches were slowed from outside"
    )


def test_where_all_are_slowed_the_figure_is_of_all_and_invalid() -> None:
    row = row_of(*[slowed(0.01)] * 3)
    assert (row.verdict, row.launches, row.hindered) == ("INVALID", 3, 0)
    assert row.left_out == "all launches slowed from outside: it waited 30%"


def test_a_loaded_machine_is_never_ranked_slower() -> None:
    """Five launches a side, one side beside a hog: without the flags it would be SLOWER."""
    settings = Settings(launches=5)
    quiet = [make_measured(0.01 + k * 1e-6) for k in range(5)]

    def verdict(outcomes: list[Measured]) -> str:
        base, other = (
            make_file([CASE], make_launches(CASE, o), settings=settings) for o in (quiet, outcomes)
        )
        return compare(base, other).cases[0].verdict

    loaded = [0.013 + k * 1e-6 for k in range(5)]
    assert verdict([make_measured(s) for s in loaded]) == "SLOWER"
    assert verdict([slowed(s) for s in loaded]) == "UNRANKED"


def test_throttled_launches_are_left_out_and_many_are_the_verdict() -> None:
    hot = slowed(0.02, "THROTTLED", "thermal in 3 of 20 readings")
    row = row_of(*[make_measured(0.01)] * 9, hot)
    assert (row.verdict, row.hindered) == ("OK", 1)
    row = row_of(*[make_measured(0.01)] * 3, *[hot] * 2, launches=5)
    assert (row.verdict, row.reason) == ("THROTTLED", "2 of 5 launches throttled")
    assert row.left_out == "2 of 5 launches slowed from outside: thermal in 3 of 20 readings"


def test_a_power_cap_is_ranked_and_shown() -> None:
    row = row_of(*[slowed(0.01, "POWER_CAPPED", "power cap")] * 10)
    assert (row.verdict, row.hindered, row.flags) == ("OK", 0, ("POWER_CAPPED",))


def test_a_launch_whose_clock_fell_is_throttled_though_no_reason_is_given() -> None:
    def clocked(number: int, clock: float) -> Any:
        start = [Block(start_ns=k * 10**9, wall_ns=10**9, step_ns=(10**9,)) for k in range(4)]
        readings = tuple(Reading(at_seconds=k + 0.5, clock_mhz=clock) for k in range(4))
        telemetry = Telemetry(
            source="x",
            scope="board",
            interval_seconds=0.2,
            first_step_seconds=0.0,
            readings=readings,
        )
        outcome = make_measured(steady=tuple(start))
        return make_launch(outcome, CASE, launch=number, order=number, telemetry=telemetry)

    launches = [clocked(k, 1400) for k in range(9)]
    (row,) = summarize(make_file([CASE], [*launches, clocked(9, 1200)]))
    assert (row.launches, row.hindered) == (9, 1)
    assert row.hindrance == "clock 1200 MHz, 86% of the case's 1400 MHz"
    assert "THROTTLED" in row.flags


# --- How long a run goes on ----------------------------------------------------------------------


def state_of(settings: Settings, *outcomes: Any) -> CaseState:
    state = CaseState(CASE, settings)
    for launch in make_launches(CASE, outcomes):
        state.keep(launch)
    return state


def test_a_fixed_number_of_launches_is_that_number_slowed_or_not() -> None:
    settings = Settings(launches=3)
    assert not state_of(settings, slowed(0.02), make_measured(0.01)).finished
    assert state_of(settings, *[slowed(0.02)] * 3).finished
    assert state_of(settings, slowed(0.02)).launches_left() == 2
    assert not state_of(settings, *[slowed(0.02)] * 2).hopeless, "they are no failures"


def test_auto_looks_at_launches_that_nothing_slowed() -> None:
    clean = [make_measured(0.01 + k * 1e-6) for k in range(5)]
    assert state_of(Settings(), *clean).finished
    assert not state_of(Settings(), *clean[:4], slowed(0.02)).finished
    assert state_of(Settings(), slowed(0.02), *clean).finished
    noisy = [make_measured(0.01 + k * 1e-3) for k in range(6)]
    assert state_of(Settings(), *noisy, *[slowed(0.02)] * 4).finished, "it is in vain"
    assert not state_of(Settings(), *noisy, *[slowed(0.02)] * 3).finished
