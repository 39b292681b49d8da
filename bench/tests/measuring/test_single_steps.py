"""Requests, each waited for, and the queueing of a step on an idle device."""

from __future__ import annotations

from bench.measuring.single_steps import QUEUED_STEPS, REQUESTS
from bench.records.run import Settings
from bench.tests.fakes import MS
from bench.tests.measuring.scripted_engine import engine


def test_the_latency_pass_synchronizes_every_request() -> None:
    measuring, device = engine([10 * MS], synchronous=False, host_ns=MS)
    series = measuring.measure(latency=True)
    assert series.request_ns == (11 * MS,) * REQUESTS
    assert device.actions.endswith("SsS" * REQUESTS + "Ss" * QUEUED_STEPS + "Sw")


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
