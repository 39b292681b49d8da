"""A whole launch on scripted time: its parts in order, and when it stops."""

from __future__ import annotations

import gc

import msgspec
import pytest

from bench.measuring.timing.engine import Engine, Series
from bench.measuring.timing.single_steps import QUEUED_STEPS
from bench.records.outcome import Block, Memory, Phase
from bench.records.run import Settings
from bench.tests.fakes import MS, FakeDevice, ScriptedClock
from bench.tests.measuring.timing.scripted_engine import (
    SINGLE,
    both_kinds,
    engine,
    milliseconds,
    steps,
)


@both_kinds
def test_the_first_step_is_timed_apart(synchronous: bool) -> None:
    measuring, _ = engine([700 * MS, 10 * MS], synchronous=synchronous)
    series = measuring.measure()
    assert series.first_step_ns == 700 * MS
    assert milliseconds(series.warmup) == [700, 10, 10]
    assert milliseconds(series.steady) == [10] * 10
    assert series.flags == ()


@both_kinds
@pytest.mark.parametrize("samples", [10, 11, 37, 200])
def test_as_many_steady_samples_as_asked_for(synchronous: bool, samples: int) -> None:
    measuring, device = engine([10 * MS], synchronous=synchronous)
    series = measuring.measure(samples=samples)
    assert len(series.steady) == samples
    assert len(series.warmup) == 3
    alone = 0 if synchronous else QUEUED_STEPS
    assert device.actions.count("s") == 3 + samples + alone, "and not one step more"


def test_no_steady_sample_is_taken_after_its_time_limit_once_there_are_ten() -> None:
    settings = Settings(block_seconds=0.001, warmup_seconds=0.0, steady_limit_seconds=3.0)
    slow, _ = engine([1000 * MS], settings=settings)
    assert len(slow.measure(samples=50).steady) == 10
    quicker, _ = engine([200 * MS], settings=settings)
    assert len(quicker.measure(samples=50).steady) == 15, "15 samples of 0.2 s are 3 s"


@pytest.mark.parametrize(
    ("samples", "step_ms", "at_most"),
    [(10, [10], 1), (37, [10], 1), (50, [1000], 1), (50, [200], 1), (10, [10, 10, 90, 10, 60], 48)],
    ids=["in the warm-up", "asked for", "least", "time", "never steady"],
)
def test_of_the_last_block_it_is_said_before_that_it_may_be_it(
    samples: int, step_ms: list[int], at_most: int
) -> None:
    """Each block but the first is announced with its steps; few that are not the last may be."""
    settings = Settings(block_seconds=0.001, warmup_seconds=0.0, steady_limit_seconds=3.0)
    measuring, device = engine([ms * MS for ms in step_ms] * 15, settings=settings)
    announced: list[tuple[int, bool]] = []

    def before(steps: int, last: bool) -> None:
        device.log.append("b")
        announced.append((steps, last))

    measuring.before = before
    series = measuring.measure(samples=samples)
    blocks = (*series.warmup, *series.steady)
    assert [steps for steps, _ in announced] == steps(blocks)[1:]
    assert announced[-1][1] and sum(last for _, last in announced) <= at_most
    assert "sb" in device.actions.replace("S", "").replace("w", "").replace("r", "")
    assert all("b" not in block or "s" not in block for block in device.blocks)


@both_kinds
def test_a_whole_launch_synchronizes_at_block_edges_only(synchronous: bool) -> None:
    """Twice a block, and five times to learn what a synchronization costs.

    And once a step at the end, where a queueing device's host is timed by itself.
    """
    settings = Settings(block_seconds=0.05, warmup_seconds=0.0)
    measuring, device = engine([10 * MS], synchronous=synchronous, settings=settings)
    series = measuring.measure(samples=25)
    blocks = [*series.warmup, *series.steady]
    alone = 0 if synchronous else QUEUED_STEPS
    assert device.actions.count("S") == 2 * len(blocks) + 5 + (alone + 1 if alone else 0)
    # What lies between two synchronizations is nothing, the witness or the reset of the peak, or
    # the steps of exactly one block: a wait inside a block would cut it in two.
    held = [part.count("s") for part in device.blocks if "s" in part]
    assert held == steps(tuple(blocks)) + [1] * alone


@pytest.mark.parametrize(("synchronous", "latency"), [(True, True), (False, False)])
def test_no_latency_pass_where_none_is_needed(synchronous: bool, latency: bool) -> None:
    measuring, _ = engine([10 * MS], synchronous=synchronous)
    assert measuring.measure(latency=latency).request_ns is None


# --- What a series says ---------------------------------------------------------------------------


def test_the_step_clock_is_named() -> None:
    assert engine([10 * MS])[0].measure().step_clock == "host"
    assert engine([10 * MS], synchronous=False)[0].measure().step_clock == "device event"


@pytest.mark.parametrize(("later_ms", "flags"), [(12, ("DRIFT",)), (10.4, ())])
def test_drift_after_a_steady_start_is_flagged(later_ms: float, flags: tuple[str, ...]) -> None:
    measuring, _ = engine([10 * MS] * 13 + [round(later_ms * MS)])
    assert measuring.measure(samples=30).flags == flags


@pytest.mark.parametrize(("side_ms", "flags"), [(10, ()), (60, ("HOST_GAP",))])
def test_work_that_the_events_do_not_see_is_flagged(side_ms: int, flags: tuple[str, ...]) -> None:
    """A second stream works 60 ms on a step for which the events show 10."""
    measuring, _ = engine([10 * MS], synchronous=False, side_ns=side_ms * MS)
    assert measuring.measure().flags == flags


def test_a_series_says_all_that_was_run() -> None:
    measuring, device = engine([700 * MS, 10 * MS])
    series: Series = measuring.measure()
    counted = sum(steps(series.warmup)) + sum(steps(series.steady))
    assert counted == device.actions.count("s")


# --- Around the measurement -----------------------------------------------------------------------


@both_kinds
def test_the_witness_is_read_after_the_first_and_after_the_last_step(synchronous: bool) -> None:
    measuring, device = engine([10 * MS], synchronous=synchronous, witness=(7.0, 3.0))
    assert measuring.measure().witness == (7.0, 3.0)
    assert device.actions.count("w") == 2
    assert device.actions.replace("S", "").replace("e", "").startswith("sws")
    assert device.actions.endswith("mw"), "a witness may take memory that no step does"


def test_the_memory_peak_is_reset_after_the_first_steps() -> None:
    """What a library allocates to choose its algorithms in the first step is not the job's."""
    measuring, device = engine([10 * MS])
    measuring.measure()
    order = device.actions.replace("S", "").replace("w", "")
    assert order.startswith("sssrs") and order.count("r") == 1


def test_progress_is_told_between_blocks_with_the_steady_ones() -> None:
    told: list[tuple[Phase, int]] = []
    measuring, device = engine([10 * MS])

    def listen(phase: Phase, blocks: list[Block]) -> None:
        told.append((phase, len(blocks)))
        device.log.append("p")

    measuring.measure(samples=12, progress=listen)
    assert told == [("warm-up", n) for n in range(1, 13)] + [("measure", 10), ("measure", 11)]
    assert all("p" not in part for part in device.blocks if "s" in part), "never inside a block"


class Watched:
    """A job that notes whether garbage is collected while it steps, and may fail."""

    def __init__(self, device: FakeDevice, fail: bool = False) -> None:
        self.device = device
        self.fail = fail
        self.collecting: set[bool] = set()

    def step(self) -> None:
        if self.fail:
            raise RuntimeError("broken")
        self.collecting.add(gc.isenabled())
        self.device.work(10 * MS)

    def witness(self) -> float:
        return 1.0


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fail", [True, False])
def test_garbage_collection_is_off_while_measuring_and_then_as_before(
    enabled: bool, fail: bool
) -> None:
    clock = ScriptedClock()
    device = FakeDevice(clock, synchronous=True)
    job = Watched(device, fail)
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        if fail:
            with pytest.raises(RuntimeError, match="broken"):
                Engine(job, device, SINGLE, clock).measure()
        else:
            Engine(job, device, SINGLE, clock).measure()
            assert job.collecting == {False}
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize(
    ("scope", "shared", "has", "lent"),
    [
        ("device allocator", False, 75, True),
        ("device allocator", False, 76, False),
        ("device allocator, reserved", False, 80, False),
        ("device allocator", False, None, False),
        ("device allocator", True, 75, False),
        ("process RSS", False, 75, False),
    ],
)
def test_tensors_that_a_driver_keeps_on_the_host_are_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, scope: str, shared: bool, has: int | None, lent: bool
) -> None:
    """A driver that lends a device the host's memory never says so: a step is the bus's then.
    A device may say 0.95 of what it has: of a card that held all of it a step was out of memory."""
    measuring, device = engine([10 * MS])
    device.info = msgspec.structs.replace(device.info, memory_bytes=has and has * 2**30)
    peak = Memory(peak_bytes=80 * 2**30, scope=scope, host_rss_bytes=1)
    monkeypatch.setattr(device, "memory", lambda: peak)
    monkeypatch.setattr(type(device), "shares_host_memory", shared)
    if not lent:
        assert measuring.measure().memory == peak
        return
    with pytest.raises(MemoryError, match=r"80\.0 GiB .* says it has \(75\.0 GiB\)"):
        measuring.measure()
