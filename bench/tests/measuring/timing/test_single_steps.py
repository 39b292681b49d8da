"""Requests, each waited for, and the queueing of a step on an idle device."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

from bench.measuring.timing import single_steps
from bench.measuring.timing.single_steps import QUEUED_STEPS, REQUESTS, queueing
from bench.records.run import Settings
from bench.tests.fakes import MS, FakeDevice, ScriptedClock
from bench.tests.measuring.timing.scripted_engine import engine


def test_the_latency_pass_synchronizes_every_request() -> None:
    measuring, device = engine([10 * MS], synchronous=False, host_ns=MS)
    series = measuring.measure(latency=True)
    assert series.request_ns == (11 * MS,) * REQUESTS
    assert device.actions.endswith("SsS" * REQUESTS + "Ss" * QUEUED_STEPS + "Smw")


def test_the_latency_pass_ends_with_its_time() -> None:
    settings = Settings(block_seconds=0.001, warmup_seconds=0.0, steady_limit_seconds=2.0)
    measuring, _ = engine([100 * MS], synchronous=False, settings=settings)
    series = measuring.measure(latency=True)
    assert series.request_ns == (100 * MS,) * 20


def test_what_the_host_takes_to_queue_a_step_is_timed_on_an_idle_device() -> None:
    """0.1 ms a step, whatever the device takes; a synchronous device has no queue."""
    for device_ms in (10, 0):
        measuring, _ = engine([device_ms * MS + 1], synchronous=False, host_ns=MS // 10)
        assert measuring.measure().queue_ns == (MS // 10,) * QUEUED_STEPS
    measuring, _ = engine([10 * MS])
    assert measuring.measure().queue_ns is None


class Full:
    """A job of many operators on a device whose queue takes 1,000: then the host waits until one
    is done. The host takes 10 us to call one."""

    def __init__(self, operators: int, kernel_ns: int) -> None:
        self.clock = ScriptedClock()
        self.device = Holding(self.clock, kernel_ns)
        self.operators, self.steps, self.steps_now = operators, 0, False

    def step(self) -> None:
        self.steps, self.steps_now = self.steps + 1, True
        x = torch.zeros(1)
        for _ in range(self.operators):
            x.add_(1.0)
            self.device.takes()
        self.steps_now = False

    def witness(self) -> float:
        return 1.0


class Holding(FakeDevice):
    def __init__(self, clock: ScriptedClock, kernel_ns: int) -> None:
        super().__init__(clock, synchronous=False)
        self.kernel_ns = kernel_ns
        self.done: list[int] = []
        """When each kernel is done."""

    def takes(self) -> None:
        self.clock.advance(10_000)
        if len(self.done) >= 1000:
            self.clock.now = max(self.clock.now, self.done[-1000])
        begin = max(self.clock.now, self.done[-1] if self.done else 0)
        self.done.append(begin + self.kernel_ns)

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def synchronize(self) -> None:
        if self.done:
            self.clock.now = max(self.clock.now, self.done[-1])


@pytest.mark.parametrize(
    ("kernel_ns", "seen_ns", "plain_ms", "found_ms"),
    [
        (30_000, (0, 0), 60, 30),  # the device is what a step waits for
        (30_000, (5_000, 5_000), 60, 30),
        (30_000, (5_000, 20_000), 60, 60),  # what it costs to see an operator is not found
        (2_000, (5_000, 5_000), 30, 30),  # the host is
        (2_000, (5_000, 8_000), 30, 30),
        (2_000, (5_000, 20_000), 30, 30),
    ],
)
def test_the_wait_for_room_in_the_queue_is_not_the_hosts(
    monkeypatch: pytest.MonkeyPatch,
    kernel_ns: int,
    seen_ns: tuple[int, int],
    plain_ms: int,
    found_ms: int,
) -> None:
    """3,000 operators: 30 ms for the host, 90 ms or 6 ms for the device. To see one costs time, in
    the step and where that is measured."""
    job = Full(3000, kernel_ns)

    class Costly(single_steps._Counting):
        def see(self, *given: Any) -> Any:
            job.clock.advance(seen_ns[not job.steps_now])
            return super().see(*given)

    monkeypatch.setattr(single_steps, "_Counting", Costly)
    plain = queueing(job, job.device, job.clock)
    found = queueing(job, job.device, job.clock, calls_operators=True)
    assert statistics.median(plain) == pytest.approx(plain_ms * MS, rel=0.01)
    assert statistics.median(found) == pytest.approx(found_ms * MS, rel=0.01)


def test_a_step_of_few_operators_fills_no_queue() -> None:
    job = Full(400, 30_000)
    assert queueing(job, job.device, job.clock, calls_operators=True) == (4 * MS,) * QUEUED_STEPS
    assert job.steps == QUEUED_STEPS + 1
