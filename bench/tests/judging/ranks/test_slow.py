"""Who is slow of many ranks; how often that is right says `bench.tests.scripts.slow`."""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from bench.judging.ranks.slow import RankTimes, SlowRank, slow_ranks
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.records.outcome import Measured, Share
from bench.records.run import RunFile
from bench.records.silent import Silent
from bench.report import Canvas
from bench.reports.csv import REPORT as CSV
from bench.reports.flat.row import flat
from bench.reports.table import REPORT as TABLE
from bench.tests.scripts import slow as script
from bench.tests.values import make_case, make_file, make_launch, make_measured

STEPS = 4


def outcome(own_ms: Sequence[float], hosts: int = 1, silent: bool = True) -> Measured:
    """A launch whose ranks compute for so long a step, and all wait for the slowest."""
    wall = round(1e6 * max(own_ms))
    blank = make_measured([wall / 1e9] * 10)
    each = len(own_ms) // hosts
    ranks = tuple(
        Share(
            rank=rank,
            device=rank % each,
            host=rank // each,
            busy_ns=(round(1e6 * ms),) * 10,
            memory=blank.memory,
            silent_ns=(round(1e6 * ms) * STEPS,) * 3 if silent else (),
        )
        for rank, ms in enumerate(own_ms)
    )
    pairs = Silent(steps=STEPS, real_ns=(STEPS * wall + 10,) * 3, silent_ns=(STEPS * wall,) * 3)
    changes: dict[str, Any] = {"ranks": ranks, "silent": pairs if silent else None}
    return make_measured([wall / 1e9] * 10, **changes)


def run_of(
    of_launches: Sequence[Sequence[float]],
    scheme: str = "dp",
    *,
    hosts: int = 1,
    silent: bool = True,
    **world: Any,
) -> RunFile:
    devices = len(of_launches[0])
    case = make_case(
        workload="llama", mode="train", devices=devices, parallelism=f"{scheme}{devices}"
    )
    environment = {"world": {"devices": devices, "shared_host": False, **world}}
    found = [
        make_launch(outcome(own, hosts, silent), case, launch=k, order=k, environment=environment)
        for k, own in enumerate(of_launches)
    ]
    return make_file([case], found)


def times(*given: Any, **changes: Any) -> RankTimes:
    found = summarize(run_of(*given, **changes))[0].ranks
    assert found is not None
    return found


def cluster(ranks: int = 64, launches: int = 10, seed: int = 1, **slow: float) -> list[list[float]]:
    """[launch][rank] ms; slow: `r37=0.08`."""
    draw = random.Random(seed)
    own = [100 * (1 + draw.gauss(0, 0.004)) for _ in range(ranks)]
    for name, longer in slow.items():
        own[int(name[1:])] = 100 * (1 + longer)
    return [
        [drift * one * (1 + draw.gauss(0, 0.005)) for one in own]
        for drift in (draw.uniform(0.95, 1.05) for _ in range(launches))
    ]


def test_the_slow_rank_is_named_with_its_place_and_how_slow_it_is() -> None:
    found = times(cluster(r37=0.08), hosts=8)
    (one,) = found.slow
    assert (one.rank, one.launches) == (37, 10)
    assert one.longer == pytest.approx(0.08, abs=0.01)
    assert found.words.startswith("rank 37 (host 4, device 5) computes ")
    assert found.words.endswith(" % longer than the rest, in 10 of 10 launches")


def test_nobody_is_an_answer() -> None:
    found = times(cluster())
    assert found.slow == () and found.absent == ""
    assert found.words == "no rank is slow"


def test_slow_ranks_do_not_hide_one_another() -> None:
    """A whole host of eight among eight."""
    slow: dict[str, Any] = {f"r{rank}": 0.06 + (rank - 16) / 50 for rank in range(16, 24)}
    found = times(cluster(**slow), hosts=8)
    assert [one.rank for one in found.slow] == [23, 22, 21, 20, 19, 18, 17, 16]
    assert found.words.startswith("rank 23 (host 2, device 7) ")
    assert found.words.endswith("; and 5 more")


def test_what_was_seen_in_few_launches_is_no_slow_rank() -> None:
    """Slow by 30 % in every second launch: something happened to it."""
    launches = cluster(16)
    for launch in launches[::2]:
        launch[3] *= 1.3
    assert times(launches).slow == ()


def test_less_than_two_percent_is_nobodys_concern() -> None:
    alike = [[1.0] * 5 for _ in range(500)]
    assert slow_ranks([*alike, [1.019] * 5]) == ()
    assert [one.rank for one in slow_ranks([*alike, [1.06] * 5])] == [500]


@pytest.mark.parametrize(("longer", "named"), [(0.106, 0), (0.115, 1)])
def test_how_launches_vary_is_held_against_a_finding(longer: float, named: int) -> None:
    """Logs -0.03, 0, 0.03 in each of eight ranks: a median of them varies by 0.0394^2, a rank by
    that and 0.01^2. Moderated 0.0257, times sqrt(8/7) and t(99.875 %, 10) = 4.006: 0.1101."""
    launches = [[math.exp(base + z) for z in (-0.03, 0.0, 0.03)] for base in (*[0.0] * 7, longer)]
    assert len(slow_ranks(launches)) == named


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_nobody_can_say_which_is_the_odd_one(order: tuple[int, int]) -> None:
    own = (100.0, 107.0)
    launches = [[own[rank] + k % 2 for rank in order] for k in range(5)]
    found = times(launches)
    slower, other = order.index(1), order.index(0)
    assert found.words == (
        f"rank {slower} (device {slower}) computes 7 % longer than rank {other}, in 5 of 5 launches"
    )
    even = [[100.0 + k % 3, 101.0 - k % 2] for k in range(5)]
    assert times(even).words == "no rank is slow"
    by_chance = [[100.0, 100.0 + more] for more in (25.0, -10.0, 2.0, 12.0, -8.0)]
    assert times(by_chance).words == "no rank is slow", "3 % longer on average"


def test_few_alike_chips_are_not_told_apart_by_chance() -> None:
    """Three that happen to be the same to 0.01 %, and one 1 % or 3 % behind: chips are so."""
    for behind in (1.01, 1.03):
        assert slow_ranks([[1.0] * 5, [1.0001] * 5, [0.9999] * 5, [behind] * 5]) == ()
    assert slow_ranks([[1.0] * 5, [1.0001] * 5, [0.9999] * 5, [1.08] * 5]) == (
        SlowRank(rank=3, longer=pytest.approx(0.08), launches=5),  # type: ignore[arg-type]
    )


def test_two_alike_chips_are_not_told_apart_because_launches_agree() -> None:
    """Chips differ by 1 % and more, in every launch alike: only beyond that one of them is slow."""
    assert slow_ranks([[1.0] * 10, [1.04] * 10]) == slow_ranks([[1.04] * 10, [1.0] * 10]) == ()
    found, named = script.tried("normal", 2, 10, runs=50, spread=script.UNEVEN * script.CHIPS)
    assert found > 15 and named <= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shared_host": True}, "the ranks share the cores of one host"),
        ({"scheme": "dlrm-hybrid"}, "the ranks do not compute the same: some have more of the"),
        ({"silent": False, "silent_absent": "no such operator"}, "no such operator"),
    ],
)
def test_where_it_cannot_be_told_it_says_why(changes: dict[str, Any], words: str) -> None:
    found = times(cluster(8, r3=0.3), **changes)
    assert found.slow == ()
    assert found.words.startswith(f"cannot be told: {words}")


def test_two_launches_name_nobody() -> None:
    found = times(cluster(8, 2, r3=0.3))
    assert found.words == "cannot be told: 2 launches, and it takes 3"
    assert found.relative[3] == pytest.approx([1.3, 1.3], abs=0.05), "but the map is drawn"


def test_where_nobody_looked_nothing_is_said() -> None:
    assert summarize(run_of(cluster(8), silent=False))[0].ranks is None
    alone = make_file([make_case()], [make_launch(launch=k, order=k) for k in range(3)])
    assert summarize(alone)[0].ranks is None


def test_copies_compute_alone_and_need_no_silent_block() -> None:
    found = times(cluster(8, r5=0.1), "replicas", silent=False)
    assert [one.rank for one in found.slow] == [5]


def test_what_each_rank_computes_and_waits() -> None:
    """Seconds a step; each launch's median rank is 1 in the map."""
    found = times([[10.0, 10.0, 12.0], [20.0, 20.0, 24.0], [10.0, 10.0, 12.0]])
    assert found.compute_seconds[2] == pytest.approx((0.012, 0.024, 0.012))
    assert found.compute == pytest.approx([0.010, 0.010, 0.012])
    assert found.wait_seconds == pytest.approx([0.002, 0.002, 0.0])
    assert found.relative[0] == found.relative[1] == [1.0] * 3
    assert found.relative[2] == pytest.approx([1.2] * 3)


# Shown


@pytest.mark.parametrize(
    ("slow", "line"),
    [
        ({"r6": 0.09}, "SLOW rank 6 (device 6) computes "),
        ({}, "slow: no rank is slow: "),
    ],
)
def test_the_card_says_who_is_slow(slow: dict[str, Any], line: str) -> None:
    card = TABLE.render([run_of(cluster(8, **slow))], Canvas(width=120))
    assert sum(words.startswith(line) for words in card.splitlines()) == 1, card


def test_a_shared_host_is_not_told_twice() -> None:
    card = TABLE.render([run_of(cluster(8, r6=0.3), shared_host=True)], Canvas(width=120))
    assert "slow:" not in card.casefold() and "shared host: " in card


def rows_of(run: RunFile) -> tuple[dict[str, Any], Row]:
    (row,) = summarize(run)
    return flat(run, row), row


def test_flat_rows_have_each_rank() -> None:
    run = run_of(cluster(8, r6=0.09))
    found, row = rows_of(run)
    assert row.ranks is not None
    assert found["slow_ranks"] == [6] and found["slow_ranks_absent"] is None
    assert found["slow_ranks_longer"] == [row.ranks.slow[0].longer]
    assert found["rank_compute_seconds"] == row.ranks.compute
    assert len(found["rank_wait_seconds"]) == 8 and found["rank_wait_seconds"][6] == 0
    (line,) = csv.DictReader(io.StringIO(CSV.render([run], Canvas())))
    assert line["slow_ranks"] == "6"
    none, _ = rows_of(run_of(cluster(8)))
    assert none["slow_ranks"] == [] and none["slow_ranks_absent"] is None
    untold, _ = rows_of(run_of(cluster(8), shared_host=True))
    assert untold["slow_ranks"] is None and "cores of one host" in untold["slow_ranks_absent"]


# The script


def test_the_script_counts_what_is_found_and_what_is_falsely_named() -> None:
    found, named = script.tried("heavy", ranks=16, count=5, runs=5)
    assert (found, named) == (5, 0)


def test_the_script_sees_a_rule_that_names_too_readily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.judging.ranks.slow.LEAST", 0.0)
    monkeypatch.setattr("bench.judging.ranks.slow.LEVEL", 0.9)
    found, named = script.tried("heavy", ranks=16, count=5, runs=5)
    assert found < 5 and named > 0
