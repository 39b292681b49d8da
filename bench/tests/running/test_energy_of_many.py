"""An energy of one of several devices is none of the step's."""

from __future__ import annotations

import msgspec

from bench.measuring.messages import Report
from bench.records.outcome import Cold, Measured, Share
from bench.running.launcher import _observed
from bench.tests.telemetry.launches import seen, steady


def joules(*devices: int, hosts: int = 1) -> tuple[float | None, str | None]:
    """Of steady blocks that ranks on these devices have taken, by a counter of the first."""
    outcome = steady()
    shares = tuple(
        Share(
            rank=rank,
            device=device,
            host=rank % hosts,
            busy_ns=tuple(block.wall_ns for block in outcome.steady),
            memory=outcome.memory,
        )
        for rank, device in enumerate(devices)
    )

    outcome = msgspec.structs.replace(outcome, ranks=shares)
    report = Report(outcome=outcome, cold=Cold(), environment={})
    found = _observed(report, seen(counter=lambda at: 300.0 * at))[0].outcome
    assert isinstance(found, Measured)
    return found.energy_joules, found.energy_absent


def test_only_what_was_watched_has_an_energy() -> None:
    alone, absent = joules()
    assert alone is not None and absent is None
    assert joules(0, 0) == (alone, None), "ranks of one device"
    absent = "not observable: one of 2 devices was watched"
    assert joules(0, 0, hosts=2) == (None, absent), "the first one of each of two hosts"
    assert joules(0, 1, 2) == (None, "not observable: one of 3 devices was watched")
