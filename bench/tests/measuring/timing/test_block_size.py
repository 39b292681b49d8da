"""How many steps a block holds: by the time of a step, the cost of a look, and the settings."""

from __future__ import annotations

from typing import Literal

import pytest

from bench.measuring.timing.block_size import BlockSize
from bench.measuring.timing.engine import Engine
from bench.records.run import BLOCK_STEPS, Settings
from bench.tests.fakes import MS, FakeDevice, FakeJob, ScriptedClock
from bench.tests.measuring.timing.scripted_engine import both_kinds, engine, milliseconds, steps


@both_kinds
@pytest.mark.parametrize(
    ("step_ns", "sync_ns", "expected"),
    [
        (10 * MS, 0, 5),  # 50 ms
        (15 * MS, 0, 4),  # 50 / 15, rounded up
        (80 * MS, 0, 1),
        (MS, 0, 50),
        (1_000, 0, 50_000),
        (100, 0, BLOCK_STEPS),  # 500,000 would be too long a list
    ],
)
def test_a_block_lasts_50_ms(synchronous: bool, step_ns: int, sync_ns: int, expected: int) -> None:
    settings = Settings(block_seconds=0.05, warmup_seconds=0.0)
    measuring, _ = engine([step_ns], synchronous=synchronous, sync_ns=sync_ns, settings=settings)
    series = measuring.measure()
    assert steps(series.warmup) == [1, 1, 1]
    assert steps(series.steady) == [expected] * 10


def test_a_block_lasts_1000_times_what_the_clock_and_a_synchronization_cost() -> None:
    """A synchronization of 0.2 ms: blocks of at least 200 ms, so 20 steps of 10 ms."""
    settings = Settings(block_seconds=0.05, warmup_seconds=0.0)
    measuring, device = engine([10 * MS], sync_ns=MS // 5, settings=settings)
    assert BlockSize(device, settings, device.clock).sync_cost_ns() == MS // 5
    assert steps(measuring.measure().steady) == [20] * 10


def test_the_cold_first_step_does_not_size_the_block() -> None:
    """By the first step of 5 s one step would fill a block; by the next, five do."""
    settings = Settings(block_seconds=0.05, warmup_seconds=0.0)
    measuring, _ = engine([5000 * MS, 10 * MS], settings=settings)
    assert steps(measuring.measure().steady) == [5] * 10


def test_a_job_that_gets_faster_gets_longer_blocks() -> None:
    """40 ms a step at first, 10 ms later: once that is seen five steps, no longer two."""
    settings = Settings(block_seconds=0.05, warmup_seconds=0.0)
    measuring, _ = engine([40 * MS] * 3 + [10 * MS], settings=settings)
    assert steps(measuring.measure().steady) == [2] + [5] * 9


def test_a_single_slow_block_does_not_shorten_the_next() -> None:
    """Three steps, nine blocks of five, then one block of 100 ms a step: after it still five."""
    settings = Settings(block_seconds=0.05, warmup_seconds=0.0)
    slow = [10 * MS] * 48 + [100 * MS] * 5 + [10 * MS]
    series = engine(slow, settings=settings)[0].measure(samples=12)
    assert steps(series.steady) == [5] * 12
    assert milliseconds(series.steady) == [50] * 9 + [500] + [50] * 2


class UsedUp(FakeJob):
    """16 steps use its operands up."""

    most_steps = 16


@both_kinds
@pytest.mark.parametrize(
    ("step_ns", "flags"), [(MS // 25, ("SHORT_BLOCKS",)), (2 * MS, ())], ids=["short", "long"]
)
def test_a_block_that_its_operands_cut_short_is_flagged(
    synchronous: bool, step_ns: int, flags: tuple[str, ...]
) -> None:
    """16 steps of 40 us last 0.64 ms, where 20 ms were asked for."""
    device = FakeDevice(ScriptedClock(), synchronous)
    settings = Settings(block_seconds=0.02, warmup_seconds=0.0)
    series = Engine(UsedUp(device, [step_ns]), device, settings, clock=device.clock).measure()
    assert steps(series.steady) == [min(16, 20 * MS // step_ns)] * 10
    assert series.flags == flags


@pytest.mark.parametrize(("timing", "steps"), [("block", 50), ("step", 1)])
def test_where_the_device_is_synchronized(timing: Literal["block", "step"], steps: int) -> None:
    """Steps of 1 ms in blocks of 50 ms; or each step by itself."""
    settings = Settings(timing=timing, warmup_seconds=0.0)
    measuring, _ = engine([MS], synchronous=False, settings=settings)
    series = measuring.measure()
    assert {len(block.step_ns) for block in series.steady} == {steps}
