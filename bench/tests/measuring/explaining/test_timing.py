"""What times an operator where the device's events do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.measuring.explaining.timing import Stopwatch
from bench.tests.fakes import MS, FakeDevice, ScriptedClock


def without_events(device: FakeDevice, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(device, "event", lambda: None)


def with_some_that_say_nothing(device: FakeDevice, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(device, "elapsed_ns", lambda first, last: 0)


@pytest.mark.parametrize("kind", [without_events, with_some_that_say_nothing])
def test_calls_are_timed_from_a_synchronization_to_the_next(
    kind: Callable[[FakeDevice, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metal's are not relied on, and of a vendor's layer all say 0: ceilings of 10^21 FLOP/s."""
    device = FakeDevice(ScriptedClock(), synchronous=False)
    kind(device, monkeypatch)
    found = Stopwatch(device, device.clock).each_ns(lambda: device.work(3 * MS), 4)
    assert found == pytest.approx(3 * MS, rel=0.01)
    device.work(1000 * MS)  # what was queued before
    assert Stopwatch(device, device.clock).each_ns(lambda: device.work(3 * MS), 4) < 4 * MS


def test_what_is_nothing_by_events_may_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host takes longer for two synchronizations."""
    device = FakeDevice(ScriptedClock(), synchronous=False)
    with_some_that_say_nothing(device, monkeypatch)
    assert Stopwatch(device, device.clock).each_ns(lambda: device.work(1000)) == 1.0
