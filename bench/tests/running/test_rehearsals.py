"""What is counted beforehand: the next few cases, each once, and of a sweep one point."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from bench.measuring.messages import Request
from bench.records.case import Case
from bench.records.run import Settings
from bench.running import rehearsals
from bench.running.case_state import CaseState
from bench.running.rehearsals import Rehearsals
from bench.running.stems import Stems
from bench.running.worker_process import WorkerProcess
from bench.tests.running.scripted_workers import request, scripted
from bench.tests.running.test_session import A, B, play
from bench.tests.values import make_case, make_launch, make_measured

CASES = [make_case(parameters={"shape": f"{n}x8x8"}) for n in range(12)]


def asked(state: CaseState) -> Request:
    return msgspec.structs.replace(request(), case=state.case)


class Counting:
    """Counts all but the cases that it cannot."""

    def __init__(self, *refused: Case) -> None:
        self.rounds: list[list[Case]] = []
        self.refused = refused

    def __call__(self, requests: Sequence[Request]) -> dict[str, int]:
        assert all(one.rehearsal_only for one in requests)
        cases = [one.case for one in requests]
        self.rounds.append(cases)
        return {case.fingerprint: 7 for case in cases if case not in self.refused}


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsals, "usable_cores", lambda: 2)


def test_the_next_few_are_counted_before_the_first_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    count = Counting(CASES[1])
    them, states = Rehearsals(count), [CaseState(case, Settings()) for case in CASES]
    for state in states:
        them.ahead([state], states, asked)
    assert count.rounds == [CASES[:4], CASES[4:8], CASES[8:]]
    assert [them.bytes_of(case) for case in CASES[:3]] == [7, None, 7], "its launch counts itself"


def test_what_has_run_or_is_not_alone_is_not_counted() -> None:
    count = Counting()
    states = [CaseState(case, Settings()) for case in CASES[:3]]
    states[0].keep(make_launch(make_measured(), case=CASES[0]))
    states[1].beyond = True
    states[2].case = msgspec.structs.replace(CASES[2], devices=2)
    for state in states:
        Rehearsals(count).ahead([state], states, asked)
    assert not count.rounds


def test_of_a_sweep_one_point_is_counted_at_a_time() -> None:
    count = Counting()
    sweep = [make_case(parameters={"batch_size": size}) for size in (1, 2, 4)]
    them, states = Rehearsals(count), [CaseState(case, Settings()) for case in sweep]
    for state in states:
        them.ahead([state], states, asked)
    assert count.rounds == [[sweep[0]], [sweep[1]], [sweep[2]]]


def test_a_run_tells_each_launch_what_was_counted_before_any(tmp_path: Path) -> None:
    count = Counting(B)
    stage, _, _ = play(
        tmp_path, {"A": [make_measured()], "B": [make_measured()]}, rehearsals=Rehearsals(count)
    )
    assert count.rounds == [[A, B]] and stage.order == "ABAB"
    known = [(one.estimated_peak_bytes, one.rehearse) for one in stage.requests]
    assert known == [(7, True), (None, True), (7, False), (None, False)]


def test_one_that_has_counted_is_gone_before_the_next_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end of all its number may be somebody else's."""
    started: list[WorkerProcess] = []

    def start(one: Request, given: Mapping[str, str], living: Stems) -> WorkerProcess:
        assert all(worker.process.stdin.closed for worker in started if worker.process.stdin)
        started.append(WorkerProcess(one, given, scripted("sys.stdout.buffer.write(REPORT)")))
        return started[-1]

    monkeypatch.setattr(rehearsals, "usable_cores", lambda: 1)
    monkeypatch.setattr(rehearsals, "_started", start)
    rehearsals.counted([request(), request()], {}, Stems(sys.executable, None))
    assert len(started) == 2
