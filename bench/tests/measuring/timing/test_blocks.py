"""One block on scripted time: where it waits, what is timed, and what the timing costs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from bench.measuring.timing.blocks import TRIED, BlockTimer
from bench.measuring.timing.engine import Engine
from bench.measuring.timing.usage import process_usage
from bench.records.run import Settings
from bench.tests.fakes import MS, FakeDevice, FakeEvent, FakeJob, ScriptedClock
from bench.tests.measuring.timing.scripted_engine import SINGLE, both_kinds, engine

# --- Waiting for the device -----------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("count", [1, 7])
def test_a_block_synchronizes_at_its_two_edges_only(synchronous: bool, count: int) -> None:
    measuring, device = engine([MS], synchronous=synchronous)
    measuring.block(count)
    inside = "s" * count if synchronous else "e" + "se" * count
    made = "" if synchronous else "e" * (count + 1 + TRIED)
    assert device.actions == f"{made}S{inside}S", "drivers make an event when it is first recorded"
    device.log.clear()
    measuring.block(count)
    assert device.actions == f"S{inside}S", "and keep it"


def test_the_wall_time_of_queued_work_is_that_of_the_device() -> None:
    """Queueing takes 0.1 ms a step and the device 10 ms: a missing last wait would show 0.5 ms."""
    measuring, _ = engine([10 * MS], synchronous=False, host_ns=MS // 10)
    block = measuring.block(5)
    # The device begins when the first step has been queued.
    assert block.wall_ns == 50 * MS + MS // 10
    assert sum(block.step_ns) == block.wall_ns


def test_work_queued_before_a_block_is_not_counted_in_it() -> None:
    """A missing first wait would add the second that is queued already."""
    measuring, device = engine([10 * MS], synchronous=False)
    device.work(1000 * MS)
    assert measuring.block(5).wall_ns == 50 * MS


def test_every_step_of_queued_work_is_timed_by_events() -> None:
    durations = [k * MS for k in (3, 1, 4, 1, 5)]
    measuring, _ = engine(durations, synchronous=False)
    block = measuring.block(5)
    assert list(block.step_ns) == durations
    assert block.wall_ns == sum(durations)
    assert block.step_cpu_ns is None and block.step_switches is None


def test_a_device_that_queues_and_has_no_events_is_timed_by_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No step is waited for; each has its block's mean, of the host's usage too."""
    device = FakeDevice(ScriptedClock(), synchronous=False)
    monkeypatch.setattr(device, "event", lambda: None)
    monkeypatch.setattr(device, "queues_on_host", True, raising=False)
    usages = iter([(1.0, 2), (1.5, 6)])
    job = FakeJob(device, [3 * MS, MS, 2 * MS])
    timer = BlockTimer(job, device, Settings(), device.clock, lambda: next(usages))
    block = timer.block(3)
    assert device.actions == "SsssS" and timer.step_clock == "block"
    assert block.wall_ns == 6 * MS and block.step_ns == (2 * MS,) * 3
    assert sum(block.step_cpu_ns or ()) == 500 * MS and block.step_switches == (2, 1, 1)


def test_an_interval_below_nothing_costs_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public, of AMD's and Intel's: of very short ones a time is read too early."""
    measuring, device = engine([3 * MS, MS, 2 * MS], synchronous=False)
    said = iter([3 * MS, -1000, 2 * MS])
    monkeypatch.setattr(device, "elapsed_ns", lambda a, b: next(said))
    block = measuring.block(3)
    assert (block.wall_ns, block.step_ns) == (6 * MS, (3 * MS, 0, 2 * MS))


class Fed(FakeJob):
    """Waits 4 ns for the input of each step, by the host's clock."""

    input_wait_ns = 0
    mark: Callable[[], None] | None = None

    def on_input(self, mark: Callable[[], None] | None) -> None:
        self.mark = mark

    def step(self) -> None:
        self.input_wait_ns += 4
        if self.mark is not None:
            self.mark()
        super().step()


def test_events_that_say_that_everything_was_nothing_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Public, of a vendor's layer: else a job never waits for its input, and stands still."""
    device = FakeDevice(ScriptedClock(), synchronous=False)
    monkeypatch.setattr(device, "elapsed_ns", lambda a, b: 0)
    timer = BlockTimer(Fed(device, [3 * MS, MS, 2 * MS] * 2), device, Settings(), device.clock)
    for _ in range(2):
        block = timer.block(3)
        assert timer.step_clock == "block"
        assert block.wall_ns == sum(block.step_ns) and min(block.step_ns) > MS
        assert block.input_wait_ns == 12
    assert device.actions.endswith("SsssS")


@pytest.mark.parametrize(
    ("event_us", "step_ms", "by"),
    [(120, 1, "block"), (120, 3, "device event"), (3, 0.01, "device event")],
)
def test_events_that_take_a_part_of_the_step_time_none(
    monkeypatch: pytest.MonkeyPatch, event_us: int, step_ms: float, by: str
) -> None:
    device, record = FakeDevice(ScriptedClock(), synchronous=False), FakeEvent.record

    def dear(event: FakeEvent) -> None:
        device.clock.advance(event_us * MS // 1000)
        record(event)

    monkeypatch.setattr(FakeEvent, "record", dear)
    job = FakeJob(device, [int(step_ms * MS)] * 400)
    timer = BlockTimer(job, device, Settings(), device.clock)
    timer.block(100)
    assert timer.step_clock == by
    block = timer.block(100)
    assert device.blocks[-2].count("e") == (0 if by == "block" else 101)
    assert by != "block" or block.wall_ns == 100 * step_ms * MS


class UsedUp(FakeJob):
    """Makes its operands anew in half a second of the device."""

    most_steps = 7

    def refill(self) -> None:
        self.device.log.append("f")
        self.device.work(500 * MS)


@both_kinds
def test_operands_that_are_used_up_are_made_anew_before_the_clock_starts(synchronous: bool) -> None:
    device = FakeDevice(ScriptedClock(), synchronous)
    settings = Settings(block_seconds=0.05, warmup_seconds=0.0)
    measuring = Engine(UsedUp(device, [MS]), device, settings, clock=device.clock)
    block = measuring.block(3)
    assert block.wall_ns == sum(block.step_ns) == 3 * MS
    assert re.match("fSe*S", device.actions), "and done before any rank begins"
    assert {len(one.step_ns) for one in measuring.measure().steady} == {7}
    queued = device.actions.rpartition("w")[0].rpartition("e")[2]
    assert synchronous or queued.count("fS") >= 5, "nor is queueing timed on what has grown"


# --- Usage of the host ----------------------------------------------------------------------------


def test_usage_is_counted_per_step() -> None:
    """Two threads busy all the time, and a context switch every 4 ms."""
    durations = [k * MS for k in (8, 4, 12)]
    measuring, _ = engine(
        durations, usage=lambda clock: (2 * clock.now / 1e9, (clock.now - 1_000) // (4 * MS))
    )
    block = measuring.block(3)
    assert list(block.step_ns) == durations
    assert block.step_cpu_ns == (16 * MS, 8 * MS, 24 * MS)
    assert block.step_switches == (2, 1, 3)


def test_usage_is_not_read_at_steps_that_are_shorter_than_reading_it_is_worth() -> None:
    """A block of 1 ms at the least: ten steps are 100 us each, and eleven would be less."""
    measuring, _ = engine([MS // 100], usage=lambda clock: (0.0, 0))
    assert measuring.block(9).step_cpu_ns == (0,) * 9
    assert measuring.block(10).step_cpu_ns is None


def test_a_queueing_device_has_no_usage_per_step() -> None:
    """A step's call returns before its work is done: the host's counters say nothing of it."""
    measuring, _ = engine([MS], synchronous=False, usage=lambda clock: (0.0, 0))
    assert measuring.block(3).step_cpu_ns is None


# --- Overhead -------------------------------------------------------------------------------------


class NothingDevice(FakeDevice):
    """A device whose every action costs as little as Python allows."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def event(self) -> FakeEvent | None:
        return NOTHING

    def elapsed_ns(self, start: object, end: object) -> int:
        return 1


class NothingEvent(FakeEvent):
    def __init__(self) -> None:
        """Belongs to no device."""

    def record(self) -> None:
        """Nothing to note."""


NOTHING = NothingEvent()


class NothingJob:
    def step(self) -> None:
        """No work at all."""

    def witness(self) -> float:
        return 0.0


@both_kinds
def test_the_engine_costs_at_most_5_us_a_step(synchronous: bool) -> None:
    """The one time in these tests: the issue's limit on the host's overhead per timed step.

    The best of several blocks, since another process can only slow one down.
    """
    device = NothingDevice(ScriptedClock(), synchronous)
    measuring = Engine(NothingJob(), device, SINGLE, usage=process_usage())
    steps, best = 20_000, float("inf")
    for _ in range(7):
        start = time.perf_counter_ns()
        measuring.block(steps)
        best = min(best, (time.perf_counter_ns() - start) / steps)
    assert best <= 5_000, f"{best:.0f} ns a step"
