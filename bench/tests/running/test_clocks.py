"""A worker's clock held to its parent's: by what certainly came after what."""

from __future__ import annotations

import os
from types import SimpleNamespace

import msgspec
import pytest

from bench.measuring.messages import Progress, Report
from bench.records.outcome import Measured, Void
from bench.running import clocks
from bench.tests.running.scripted_workers import REPORT, run

SECOND = 10**9


def held(
    monkeypatch: pytest.MonkeyPatch,
    pace: float,
    *,
    measured: float = 10.0,
    hears: float = 0.0,
    answers: float = 0.0,
    ends: float = 0.0,
) -> str:
    """Why a report is void whose clock goes at that pace; seconds by which this process is late to
    hear of the warm-up, to answer, and to hear the report."""
    now = SimpleNamespace(seconds=5.0)

    def ours() -> int:
        return int(now.seconds * SECOND)

    def theirs() -> int:
        return round(100 * SECOND + pace * ours())

    monkeypatch.setattr(clocks, "time", SimpleNamespace(perf_counter_ns=ours))

    both = clocks.Clocks()
    both.lets_go()
    now.seconds += 2
    begins = Progress(phase="warm-up", clock_ns=theirs())
    now.seconds += hears
    assert not both.asks(begins)
    now.seconds += measured - hears
    assert not both.asks(Progress(phase="warm-up")) and not both.asks(Progress(phase="measure"))
    now.seconds += answers
    asked = Progress(phase="report", clock_ns=theirs())
    assert both.asks(asked) and not both.asks(asked)
    report = msgspec.structs.replace(REPORT, clock_ns=theirs())
    now.seconds += ends
    outcome = both.held(report).outcome
    return outcome.reason if isinstance(outcome, Void) else ""


def test_a_clock_of_another_pace_voids(monkeypatch: pytest.MonkeyPatch) -> None:
    said = held(monkeypatch, 0.5)
    assert said == "the worker's clock runs at no more than 0.5 of the host's"
    assert "no more than 0.9 " in held(monkeypatch, 0.9)
    assert "no less than 1.7 " in held(monkeypatch, 2.0)


@pytest.mark.parametrize("who", ["hears", "answers", "ends"])
@pytest.mark.parametrize("late", [0.4, 9.0])
def test_who_is_late_condemns_nobody(
    monkeypatch: pytest.MonkeyPatch, who: str, late: float
) -> None:
    for pace in (0.96, 1.0, 1.04):
        assert not held(monkeypatch, pace, **{who: late})


def test_what_lasts_no_time_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not held(monkeypatch, 0.5, measured=0.4)


def test_who_says_no_time_and_what_is_not_measured_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clocks, "LEAST_NS", 1)
    both = clocks.Clocks()
    assert both.asks(Progress(phase="report")), "an older one's"
    assert both.held(REPORT) is REPORT
    void: Report = msgspec.structs.replace(REPORT, outcome=Void(reason="wrong"), clock_ns=1)
    both.asks(Progress(phase="warm-up", clock_ns=1))
    assert both.held(void) is void


@pytest.mark.skipif(os.name != "posix", reason="POSIX process groups")
@pytest.mark.parametrize("pace", [0, 1])
def test_a_worker_is_answered_once_it_has_measured(
    monkeypatch: pytest.MonkeyPatch, pace: int
) -> None:
    """One whose clock stands still, and one whose clock is ours."""
    monkeypatch.setattr(clocks, "LEAST_NS", 1)
    finished = run(
        f"""
        clock = lambda: 1 + {pace} * time.perf_counter_ns()
        say = lambda **words: os.write(1, json.dumps(words).encode() + b"\\n")
        sys.stdin.readline(); sys.stdin.readline()
        say(line="progress", phase="warm-up", clock_ns=clock())
        say(line="progress", phase="report", clock_ns=clock())
        sys.stdin.readline()
        os.write(1, REPORT.replace(b'"clock_ns":null', b'"clock_ns":%d' % clock()))
        """
    )
    assert isinstance(finished.report.outcome, Measured) == bool(pace), finished
