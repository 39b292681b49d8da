"""Bursts: short blocks of a device that rests between them, and never a ceiling of other work."""

from __future__ import annotations

import pytest

from bench.judging.summary import summarize
from bench.measuring.timing.engine import Engine
from bench.records.run import Settings
from bench.telemetry.contention import Counters, causes
from bench.tests.fakes import MS, FakeDevice, FakeJob, ScriptedClock
from bench.tests.values import make_case, make_file, make_launches, make_measured
from bench.workload import Burst

LONG = Settings(block_seconds=10.0, warmup_seconds=10.0)


@pytest.mark.parametrize(("step_ms", "steps"), [(7, 4), (100, 1)])
def test_blocks_are_short_and_the_device_rests_before_each(step_ms: int, steps: int) -> None:
    """Whatever the suite says of blocks, and of the time that a device needs under load."""
    clock = ScriptedClock()
    device = FakeDevice(clock, synchronous=True, warmup_under_load=True)
    rests: list[tuple[float, int]] = []

    def sleep(seconds: float) -> None:
        rests.append((seconds, clock.now))
        clock.advance(round(seconds * 1e9))

    job = FakeJob(device, [step_ms * MS])
    found = Engine(job, device, LONG, clock, burst=Burst(), sleep=sleep).measure(samples=10)
    assert [len(block.step_ns) for block in found.steady] == [steps] * 20
    assert [len(block.step_ns) for block in found.warmup] == [1, 1, 1, steps]
    assert [seconds for seconds, _ in rests] == [2.0] * 20
    assert all(block.wall_ns == steps * step_ms * MS for block in found.steady), "without the rests"
    assert "NO_STEADY_STATE" not in found.flags


@pytest.mark.parametrize(("waits", "share"), [("in the work", 0.5), ("in the rests", 0.0)])
def test_what_waited_is_shared_out_over_the_blocks_and_not_over_the_rests(
    waits: str, share: float
) -> None:
    """Blocks of 4 steps of 7 ms, in which the job waited for a core half of the time; over the
    rests too that would be 0.7 %. What others do while it rests is nothing to it."""
    clock = ScriptedClock()
    device = FakeDevice(clock, synchronous=True)
    job = FakeJob(device, [7 * MS])
    rested = 0

    def sleep(seconds: float) -> None:
        nonlocal rested
        clock.advance(round(seconds * 1e9))
        rested += round(seconds * 1e9)

    def host() -> Counters:
        waited = job.steps * 7 * MS // 2 if waits == "in the work" else rested // 2
        return Counters(clock.now, waited, None, 0, None)

    engine = Engine(job, device, LONG, clock, host=host, burst=Burst(), sleep=sleep)
    found = engine.measure(samples=10).contention
    assert found is not None
    assert found.elapsed_seconds == pytest.approx(20 * 4 * 0.007)
    assert found.waiting_seconds == pytest.approx(share * found.elapsed_seconds)
    assert (found.steal_seconds, found.pressure_seconds, found.throttled_seconds) == (0, None, None)
    assert bool(causes(found)) is (share > 0)


def test_a_burst_is_no_ceiling_and_has_none() -> None:
    sustained, burst = (make_case(mode=mode) for mode in ("matmul", "burst"))
    quick, slow = make_measured(0.01, flop=10**9), make_measured(0.02, flop=10**9)
    launches = make_launches(burst, [quick] * 3) + make_launches(sustained, [slow] * 3)
    found = {row.case.mode: row for row in summarize(make_file([burst, sustained], launches))}
    assert found["matmul"].ceiling_fraction == pytest.approx(1.0)
    assert found["burst"].ceiling_fraction is None and found["burst"].verdict == "OK"
