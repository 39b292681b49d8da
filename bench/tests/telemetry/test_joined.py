"""Telemetry of several devices joined: flags by rank, energy summed and counted once a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from bench.judging.summary import summarize
from bench.records.encoding import encoded
from bench.records.observed import Reading, Telemetry, Watched
from bench.records.outcome import Measured
from bench.reports.flat.row import flat
from bench.telemetry.joined import Sight, observed, of_ranks
from bench.tests.scripts import packages
from bench.tests.telemetry.launches import seen
from bench.tests.telemetry.sights import CASE, dies, hot, joined, launches, of, sight
from bench.tests.values import make_file

SECONDS = 22.0
"""Of the steady blocks of `steady()`."""


def joules(*sights: Sight, hosts: Sequence[int] = ()) -> tuple[float | None, str | None]:
    """In seconds of the steady blocks at its power; or why there is none."""
    found, _ = joined(*sights, hosts=hosts)
    energy = found.energy_joules
    return None if energy is None else round(energy / SECONDS, 6), found.energy_absent


# --- Energy ---------------------------------------------------------------------------------------


def test_energy_is_summed_over_devices() -> None:
    assert joules(sight(0, 100), sight(1, 120), sight(2, 80)) == (300, None)


def test_dies_of_one_package_are_counted_once() -> None:
    assert joules(*dies(143.4)) == (143.4, None)
    assert joules(*dies(143.4, 153.4)) == (296.8, None)
    assert joules(*dies(100, 120)[:3]) == (220, None), "a package of which one die took part"


def test_cards_of_two_hosts_are_not_one_whatever_they_are_called() -> None:
    assert joules(sight(0, 100), sight(0, 70), hosts=(0, 1)) == (170, None)


def test_hosts_that_are_one_machine_count_no_card_twice() -> None:
    """Nor two cards once, which their containers call by one name."""

    def on(machine: str, *sights: Sight) -> list[Sight]:
        return [msgspec.structs.replace(one, machine=machine) for one in sights]

    alike = sight(0, 100, "0"), sight(0, 100, "0")
    assert joules(*on("m", *alike), hosts=(0, 1))[1] == (
        "not observable: two hosts are one machine, and each calls a card so; it may be the same"
    )
    assert joules(*on("m", sight(0, 100, "a"), sight(0, 70, "b")), hosts=(0, 1)) == (170, None)
    assert joules(*on("m", alike[0]), *on("n", alike[1]), hosts=(0, 1)) == (200, None)
    assert joules(*on("m", *dies(140)), hosts=(0, 0)) == (140, None)


def test_ranks_of_one_device_have_its_energy() -> None:
    outcome = of((0, 0), (0, 0))
    found, _ = observed(outcome, {(0, 0): sight(0, 50)})
    assert found.energy_joules == pytest.approx(50 * SECONDS)
    assert [share.watched for share in found.ranks] == [None, None], "the launch's is theirs"


def test_a_flag_of_the_launch_is_no_device_s() -> None:
    outcome = msgspec.structs.replace(of((0, 0), (0, 1)), flags=("SHORT_BLOCKS",))
    found, _ = observed(outcome, {(0, 0): sight(0), (0, 1): sight(1)})
    assert found.flags == ("SHORT_BLOCKS",) and [one.flags for one in found.ranks] == [(), ()]


MUTE = "not observable: it does not say"


@pytest.mark.parametrize(
    ("sights", "why"),
    [
        ([sight(0), sight(1, None)], f"rank 1: {MUTE}"),
        ([sight(0, None), sight(1, None)], MUTE),
        ([sight(0), Sight(index=1, telemetry="no tool")], "rank 1: not observable: no tool"),
        (
            [sight(0), sight(1, card="")],
            "rank 1: not observable: NVML does not say which card its power is of",
        ),
        (
            [sight(0), sight(1, scope="shared")],
            "rank 0: not observable: the power is of several scopes: board, shared",
        ),
        (
            [sight(0), sight(1, 100, "a", 2), sight(2, 130, "a", 2)],
            "rank 1: neither is believed: the ranks of its card read 2200 to 2860 J",
        ),
    ],
)
def test_where_one_device_has_no_energy_there_is_none(sights: list[Sight], why: str) -> None:
    """And its rank is named, unless all say the same."""
    assert joules(*sights) == (None, why)


def test_a_chips_own_figure_needs_no_card() -> None:
    assert joules(sight(0, 90, "", scope="chip"), sight(1, 60, "", scope="chip")) == (150, None)


def test_a_device_that_nobody_looked_at_is_named() -> None:
    found, _ = observed(of((0, 0), (0, 1)), {(0, 0): sight(0)})
    assert found.energy_absent == "rank 1: not observable: nobody looked"


def test_one_figure_for_a_card_is_enough() -> None:
    """Where the second die's look failed at its power."""
    first, second = dies(143.4)
    mute = msgspec.structs.replace(second, telemetry=sight(1, None, scope="package").telemetry)
    assert joules(first, mute) == (143.4, None)


def test_each_ranks_blocks_are_found_by_its_own_clock() -> None:
    """A device of another host: its readings begin elsewhere, and so does its first step."""
    late = seen(power=lambda at: 100.0 if 1015 <= at <= 1037 else 0.1, until=1060)
    other = msgspec.structs.replace(late, first_step_seconds=1005.0)
    found, _ = joined(
        sight(0, 100), Sight(index=0, telemetry=other, card="x", card_devices=1), hosts=(0, 1)
    )
    assert found.energy_joules == pytest.approx(200 * SECONDS, rel=0.01)


# --- Flags ----------------------------------------------------------------------------------------


def test_flags_are_each_ranks_and_their_causes_name_it() -> None:
    found, first = joined(hot(0), hot(1, "thermal"), hot(2, "power cap"), hot(3, "thermal"))
    assert found.flags == ("THROTTLED", "POWER_CAPPED")
    cause = found.causes["THROTTLED"]
    assert cause == "rank 1: thermal in 113 of 113 readings, up to 93 °C; rank 3 too"
    assert found.causes["POWER_CAPPED"] == "rank 2: power cap in 113 of 113 readings"
    assert [share.flags for share in found.ranks] == [
        *((), ("THROTTLED",), ("POWER_CAPPED",), ("THROTTLED",))
    ]
    assert found.ranks[3].causes == {"THROTTLED": "thermal in 113 of 113 readings, up to 93 °C"}
    assert isinstance(first, Telemetry) and len(first.readings) == 300, "rank 0's are kept"


def test_others_on_one_of_the_devices_are_its_ranks() -> None:
    found, _ = joined(sight(0), sight(1, others=2, others_bytes=2**30))
    cause = "rank 1: other processes on the device: 2 with 1.0 GiB"
    assert found.causes == {"SHARED_DEVICE": cause}


def test_what_the_ranks_had_said_themselves_stays() -> None:
    outcome = of((0, 0), (0, 1))
    stopped = msgspec.structs.replace(
        outcome.ranks[1], flags=("STOPPED",), causes={"STOPPED": "it stood still"}
    )
    outcome = msgspec.structs.replace(
        outcome,
        ranks=(outcome.ranks[0], stopped),
        flags=("DRIFT", "STOPPED"),
        causes={"STOPPED": "rank 1: it stood still"},
    )
    found, _ = observed(outcome, {(0, 0): sight(0), (0, 1): hot(1, "thermal")})
    assert found.flags == ("DRIFT", "STOPPED", "THROTTLED")
    assert set(found.causes) == {"STOPPED", "THROTTLED"}
    assert found.ranks[1].flags == ("STOPPED", "THROTTLED")


def test_many_ranks_of_one_cause_are_told_briefly() -> None:
    def said(*ranks: int, of: int = 16) -> str:
        return of_ranks(dict.fromkeys(ranks, "hot"), of)

    assert said(3) == "rank 3: hot"
    assert said(3, 5, 6) == "rank 3: hot; ranks 5, 6 too"
    assert said(*range(16)) == "rank 0: hot; all other ranks too"
    assert said(*range(12)) == "rank 0: hot; ranks 1, 2, 3, 4, 5, 6, 7, 8 and 3 more too"


# --- The record -----------------------------------------------------------------------------------


def test_a_rank_has_figures_in_place_of_readings() -> None:
    """Those of 16 devices that were read 300 times each take less than rank 0's readings."""
    found, first = joined(*(sight(k, 100 + k, idle_watts=60.0) for k in range(16)))
    watched = found.ranks[3].watched
    assert watched is not None and watched.energy_joules == pytest.approx(103 * SECONDS)
    assert watched == Watched(
        source="NVML",
        card=3,
        card_devices=1,
        energy_joules=watched.energy_joules,
        energy_method="power",
        readings=113,
        power_watts=103.0,
        idle_watts=60.0,
    )
    assert len(encoded(found.ranks)) < len(encoded(first)) < 20_000
    assert msgspec.json.decode(encoded(found), type=Measured) == found


def test_a_sight_goes_over_a_wire() -> None:
    for one in (sight(1), Sight(index=2, telemetry="no tool")):
        assert msgspec.json.decode(encoded(one), type=Sight) == one


def row_of(make: Callable[[int], Sequence[Sight]], count: int = 3) -> tuple[Any, Mapping[str, Any]]:
    run = make_file([CASE], launches(make, count))
    (row,) = summarize(run)
    return row, flat(run, row)


def test_a_row_has_its_packages_and_what_each_does_and_draws() -> None:
    row, told = row_of(lambda k: dies(140, 160))
    assert (row.packages, row.energy_scope) == (2, "package")
    assert row.throughput_per_device == pytest.approx(0.5 / 4)
    assert row.throughput_per_package == pytest.approx(0.5 / 2)
    assert row.items_per_joule == pytest.approx(0.5 / 300)
    assert (row.watts, row.watts_per_package) == (pytest.approx(300), pytest.approx(150))
    assert (told["packages"], told["watts_per_package"]) == (2, pytest.approx(150))
    assert told["throughput_per_package"] == pytest.approx(0.25)


def test_the_script_that_runs_four_dies_tells_right_from_wrong() -> None:
    right = dies(*packages.WATTS)
    assert packages.complaints(make_file([CASE], launches(lambda k: right))) == []
    twice = [msgspec.structs.replace(one, card=str(one.index)) for one in right]
    (count, joules, *ranks) = packages.complaints(make_file([CASE], launches(lambda k: twice, 1)))
    assert count == "None packages" and joules == "6750 J (None), not 3375 J"
    assert [words.partition(":")[0] for words in ranks] == ["rank 1", "rank 2", "rank 3"]


def test_packages_are_not_counted_where_one_has_a_die_beside_the_launch() -> None:
    row, told = row_of(lambda k: [*dies(140), *(dies(140, 1, 2)[n] for n in (2, 4))])
    assert row.packages is None and told["watts_per_package"] is None
    assert row_of(lambda k: dies(140, 140, package=0))[0].packages is None
    silent = [sight(k, card_devices=None) for k in range(4)]
    assert row_of(lambda k: silent)[0].packages is None
    assert row_of(lambda k: [sight(n) for n in range(4)])[0].packages == 4


def test_idle_power_is_of_all_cards_once() -> None:
    def idle(*watts: float | None) -> list[Sight]:
        found = dies(140, 160)
        return [
            msgspec.structs.replace(
                one, telemetry=msgspec.structs.replace(one.telemetry, idle_watts=w)
            )
            for one, w in zip(found, watts, strict=True)
            if isinstance(one.telemetry, Telemetry)
        ]

    assert row_of(lambda k: idle(50, 50, 60, 60))[0].idle_watts == 110
    assert row_of(lambda k: idle(50, 50, 60, None))[0].idle_watts == 110, "one die's look is enough"
    nameless = [msgspec.structs.replace(one, card="") for one in idle(50, 50, 60, 60)]
    assert row_of(lambda k: nameless)[0].idle_watts is None, "whose they are is not said"
    assert row_of(lambda k: idle(50, 50, None, None))[0].idle_watts is None


def test_whose_a_flag_is_stands_in_the_row_where_not_all_have_it() -> None:
    row, _ = row_of(lambda k: [hot(0), hot(1, "power cap"), hot(2), hot(3, "power cap")])
    assert row.flag_ranks == {"POWER_CAPPED": (1, 3)}
    assert row_of(lambda k: [hot(n, "power cap") for n in range(4)])[0].flag_ranks == {}


def test_a_device_that_was_not_seen_is_said_with_its_rank() -> None:
    row, _ = row_of(lambda k: [*(sight(n) for n in range(3)), Sight(index=3, telemetry="lost")])
    assert row.not_observable == {"telemetry of rank 3": "lost"}
    unseen = [Sight(index=n, telemetry="no tool") for n in range(4)]
    assert row_of(lambda k: [*unseen[:3], sight(3)])[0].not_observable == {
        "telemetry of ranks 0, 1, 2": "no tool"
    }, "which is not of all, though the first has none"
    assert row_of(lambda k: unseen)[0].not_observable == {"telemetry": "no tool"}


def test_a_rank_whose_clock_is_slow_in_one_launch_is_found_and_named() -> None:
    """Of the ranks beyond the first there are medians alone; each is held against itself."""

    def clocked(index: int, mhz: float) -> Sight:
        at = [Reading(at_seconds=k / 5, clock_mhz=mhz, power_watts=100.0) for k in range(300)]
        return sight(index, readings=tuple(at))

    def make(k: int) -> list[Sight]:
        slow = 1200.0 if k == 2 else 1400.0
        return [clocked(0, 1300), clocked(1, 1400), clocked(2, slow), clocked(3, 1900)]

    row, _ = row_of(make, 5)
    assert row.hindered == 1
    assert row.hindrance == "rank 2: clock 1200 MHz, 86% of the case's 1400 MHz"
