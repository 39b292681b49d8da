"""The counters and clocks of this process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bench.measuring.timing import usage
from bench.measuring.timing.usage import process_usage, suspended_ns


def test_the_process_says_what_it_uses() -> None:
    used = process_usage()
    assert used is not None
    before = used()
    sum(range(300_000))
    after = used()
    assert after[0] > before[0] and after[1] >= before[1]


@pytest.mark.parametrize(
    ("system", "awake", "of_day"),
    [
        ("Linux", ("CLOCK_MONOTONIC", "CLOCK_MONOTONIC_RAW"), ()),
        ("macOS", ("CLOCK_UPTIME_RAW",), ("CLOCK_MONOTONIC",)),
    ],
)
def test_a_suspended_machine_is_told_from_a_corrected_time_of_day(
    system: str, awake: tuple[str, ...], of_day: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """awake: clocks that stand while the machine is suspended; of_day: that go with what is set."""
    runs_on = "CLOCK_BOOTTIME" if system == "Linux" else "CLOCK_MONOTONIC_RAW"
    now = {**dict.fromkeys(awake, 10), **dict.fromkeys(of_day, 30), runs_on: 20}
    names = {name: name for name in now}
    monkeypatch.setattr(usage, "time", SimpleNamespace(clock_gettime_ns=now.__getitem__, **names))
    before = suspended_ns()
    now.update({name: at + 5 for name, at in now.items()})
    now.update({name: now[name] + 3600 for name in of_day})
    assert suspended_ns() == before
    now[runs_on] += 7
    assert suspended_ns() == before + 7
