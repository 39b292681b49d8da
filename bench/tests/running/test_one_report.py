"""The reports of a launch's ranks as one: the slowest is the figure, and the first cause counts."""

from __future__ import annotations

import statistics
from typing import Any

import msgspec
import pytest

from bench.measuring.messages import Report
from bench.records.outcome import Failed, Measured, Outcome, Skipped, Void
from bench.running.hosts.seating import Seat
from bench.running.one_report import End, first, merged
from bench.tests.running.scripted_workers import REPORT
from bench.tests.values import make_measured

MILLISECOND = 1_000_000


def of_two(*seconds: float | list[float], **changes: Any) -> Measured:
    """What becomes of the reports of two ranks on one host, whose steps took so long."""
    made = [make_measured(one, **changes) for one in seconds]
    reports = {
        rank: msgspec.structs.replace(
            REPORT, outcome=one, busy_ns=tuple(block.wall_ns for block in made[0].steady)
        )
        for rank, one in enumerate(made)
    }
    seats = [Seat(0, rank, 2) for rank in range(2)]
    outcome = merged(reports, seats, [0, 0], {}).outcome
    assert isinstance(outcome, Measured)
    return outcome


def test_a_request_takes_as_long_as_the_slowest_rank() -> None:
    """Of two ranks of 20 and 30 ms the requests once took 20, beside a step of 30."""
    outcome = of_two(0.02, 0.03, latency_name="TPOT")
    assert statistics.median(outcome.latencies or []) == pytest.approx(0.03)
    in_turns = of_two([0.02, 0.03] * 5, [0.03, 0.02] * 5, latency_name="TPOT")
    assert set(in_turns.latencies or []) == {0.03}
    assert [share.rank for share in outcome.ranks] == [0, 1]


@pytest.mark.parametrize("changes", [{}, {"latency_name": "TPOT", "step_clock": "device event"}])
def test_what_is_no_request_is_as_rank_0_timed_it(changes: dict[str, Any]) -> None:
    assert of_two(0.02, 0.03, **changes).steady == make_measured(0.02).steady


def ended(rank: int, outcome: Outcome, *, died: bool = False, peer: bool = False) -> End:
    report: Report = msgspec.structs.replace(REPORT, outcome=outcome, blames_peer=peer)
    return End(rank, report, died)


ABORTED = ended(0, Failed(kind="crash", phase="measure", message="killed by SIGABRT"), died=True)
"""As a library ends a rank whose peers are gone."""
OWN: list[Outcome] = [
    Failed(kind="oom", phase="measure", message="out of memory"),
    Failed(kind="device_lost", phase="measure", message="the device is lost"),
    Void(reason="output is not finite"),
    Skipped(reason="does not fit: 1 GiB"),
]


@pytest.mark.parametrize("outcome", OWN, ids=lambda one: one.reason)
def test_who_died_later_is_no_cause_of_what_another_said_of_itself(outcome: Outcome) -> None:
    own = ended(1, outcome)
    assert first([own, ABORTED]) == 1
    assert first([ABORTED, own]) == 0, "nor is what was said after the death"
    assert first([ended(1, outcome, peer=True), ABORTED]) == 0
    assert first([ended(2, outcome, peer=True), own, ABORTED]) == 1


def test_who_died_is_the_cause_of_errors_that_others_had_first() -> None:
    """A library's words of a lost connection are not always known for what they are."""
    error = Failed(kind="error", phase="measure", message="RuntimeError: planted")
    assert first([ended(1, error), ABORTED]) == 0
    assert first([ended(2, error, peer=True), ended(1, error)]) == 1
    assert first([ended(2, error, peer=True), ended(1, error, peer=True)]) == 2
