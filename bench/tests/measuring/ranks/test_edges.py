"""Several engines that do one step: they agree at every edge, whatever their own times are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.measuring.ranks.edges import SINGLE, Edges
from bench.measuring.timing.engine import Engine, Series
from bench.measuring.timing.single_steps import requests
from bench.records.run import Settings
from bench.telemetry.contention import Counters
from bench.tests.fakes import MS, FakeDevice, FakeJob, ScriptedClock
from bench.tests.measuring.timing.scripted_engine import both_kinds, engine, steps

PATIENCE = 20.0


class Shared(Edges):
    """Edges of threads that stand for ranks; one that comes alone is an error, not a hang."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size)
        self._said = [0] * size
        self.exchanges = 0

    def of(self, rank: int) -> Edges:
        return Seat(self, rank)

    def most(self, rank: int, ns: int) -> int:
        self._said[rank] = ns
        self._barrier.wait(PATIENCE)
        found = max(self._said)
        self._barrier.wait(PATIENCE)
        self.exchanges += rank == 0
        return found


class Seat(Edges):
    def __init__(self, shared: Shared, rank: int) -> None:
        self._shared, self._rank = shared, rank

    def meet(self) -> None:
        self.slowest(0)

    def slowest(self, ns: int) -> int:
        return self._shared.most(self._rank, ns)

    def all(self, said: bool) -> bool:
        return not self.slowest(0 if said else 1)


def together(
    *step_ns: list[int],
    synchronous: bool = True,
    prepare: Callable[[Engine], None] = lambda measuring: None,
    **settings: float,
) -> list[Series]:
    """One engine a list of step times, in step with the others."""
    shared = Shared(len(step_ns))
    chosen = Settings(**{"block_seconds": 0.02, "warmup_seconds": 0.0, **settings})  # type: ignore[arg-type]

    def one(rank: int) -> Series:
        measuring, _ = engine(
            step_ns[rank], synchronous=synchronous, settings=chosen, sync_ns=rank * 50_000
        )
        prepare(measuring)
        edges = shared.of(rank)
        measuring.edges = measuring._timer.edges = measuring._size.edges = edges
        return measuring.measure(samples=12, latency=True)

    with ThreadPoolExecutor(len(step_ns)) as pool:
        return list(pool.map(one, range(len(step_ns))))


def test_a_rank_that_waits_for_a_slower_one_has_no_gap_between_host_and_device() -> None:
    """Copies that exchange nothing: the block is the slowest one's, the events are its own."""
    for series in together([10 * MS], [13 * MS], synchronous=False):
        assert series.flags == ()


@both_kinds
def test_the_slowest_is_the_figure_of_all(synchronous: bool) -> None:
    quick, slow = together([3 * MS], [5 * MS], synchronous=synchronous)
    assert [block.wall_ns for block in quick.steady] == [block.wall_ns for block in slow.steady]
    assert slow.busy_ns == tuple(block.wall_ns for block in slow.steady)
    for busy, block in zip(quick.busy_ns, quick.steady, strict=True):
        assert busy / block.wall_ns == pytest.approx(3 / 5, rel=0.01)


def test_what_a_rank_waited_for_is_no_other_work() -> None:
    """Its peers' work on the same cores; a quota's part is counted."""

    def counting(measuring: Engine) -> None:
        measuring.host = lambda: Counters(measuring.clock(), measuring.clock(), None, None, 0)

    for series in together([3 * MS], [5 * MS], prepare=counting):
        assert series.contention is not None
        assert series.contention.waiting_seconds is None
        assert series.contention.throttled_seconds == 0.0


@both_kinds
def test_a_rank_that_waits_for_one_that_stood_still_did_not_stand_still(synchronous: bool) -> None:
    """Copies that exchange nothing, of which one stops for a second in a steady step."""
    stops = [10 * MS] * 20 + [1010 * MS] + [10 * MS]
    waits, stood = together([10 * MS], stops, synchronous=synchronous)
    assert "stood still for 1 s" in stood.stopped
    assert waits.stopped == "" and max(block.wall_ns for block in waits.steady) > 1000 * MS


@both_kinds
def test_all_take_the_same_steps(synchronous: bool) -> None:
    """The one's times are steady at once, the other's late: both warm up as long."""
    late = [9 * MS, 8 * MS, 7 * MS, 6 * MS, 5 * MS, 5 * MS]
    quick, slow = together([1 * MS], late, synchronous=synchronous)
    assert steps(quick.warmup) == steps(slow.warmup)
    assert steps(quick.steady) == steps(slow.steady)
    assert len(quick.steady) == 12


def test_a_time_limit_ends_all_at_once() -> None:
    """By the slowest's time; by its own the quick one would go on alone."""
    quick, slow = together([1 * MS], [400 * MS], steady_limit_seconds=1.0)
    assert len(quick.steady) == len(slow.steady) == 10


def test_requests_end_with_the_slowest() -> None:
    shared = Shared(2)

    def one(rank: int) -> tuple[int, ...]:
        clock = ScriptedClock()
        device = FakeDevice(clock, synchronous=False)
        job = FakeJob(device, [(1 + 99 * rank) * MS])
        return requests(job, device, clock, 0.5, shared.of(rank))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert first == second == (100 * MS,) * 5


def test_one_alone_waits_for_nobody() -> None:
    assert SINGLE.slowest(7) == 7
    assert SINGLE.all(True) and not SINGLE.all(False)
    (series,) = together([2 * MS])
    assert series.busy_ns == tuple(block.wall_ns for block in series.steady)
