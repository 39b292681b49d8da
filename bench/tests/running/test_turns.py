"""How many rounds the sides of one `ab` make: as many as a verdict needs that are in both."""

from __future__ import annotations

import pytest

from bench.judging.comparing.compare import compare
from bench.records.outcome import Outcome
from bench.records.run import RunFile, Settings
from bench.running.case_state import CaseState
from bench.running.turns import _goes_on
from bench.tests.judging.two_runs import AUTO, CASE
from bench.tests.values import failed, make_file, make_launches, make_measured

OUTCOMES: dict[str, Outcome] = {
    ".": make_measured(0.01),
    "S": make_measured(0.02, flags=("CONTENDED",), causes={"CONTENDED": "other work"}),
    "F": failed(),
}


def play(sides: tuple[str, str], settings: Settings = AUTO) -> tuple[RunFile, RunFile]:
    """Rounds of both for as long as their case goes on; of more than are told none is disturbed."""
    states = CaseState(CASE, settings), CaseState(CASE, settings)
    told = [make_launches(CASE, [OUTCOMES[o] for o in f"{side:.<20}"]) for side in sides]
    enough: set[int] = set()
    rounds = 0
    while _goes_on(states, enough):
        for state, launches in zip(states, told, strict=True):
            state.keep(launches[rounds])
        rounds += 1
    names = ("20260101T000000Z-abcd-a", "20260101T000000Z-abcd-b")
    first, second = (
        make_file([CASE], launches[:rounds], settings=settings, run_id=name)
        for launches, name in zip(told, names, strict=True)
    )
    return first, second


@pytest.mark.parametrize(
    ("sides", "rounds", "verdict"),
    [
        (("", ""), 5, "EQUIVALENT"),
        (("S", "S"), 6, "EQUIVALENT"),
        (("S", ""), 6, "EQUIVALENT"),
        (("S", ".S"), 7, "EQUIVALENT"),
        (("F", ".S"), 7, "EQUIVALENT"),
        (("S..S", ".S..S"), 9, "EQUIVALENT"),
        (("S..S..S", ".S..S..S"), 11, "EQUIVALENT"),
        (("S.S.S.S.S.S.S.S.S", ".S.S.S.S"), 13, "NO_INTERVAL"),
        (("SSSSSSSSSSSSS", ""), 7, "UNRANKED"),
    ],
)
def test_auto_goes_on_until_the_two_have_enough_rounds_in_common(
    sides: tuple[str, str], rounds: int, verdict: str
) -> None:
    """But not where one side is disturbed too often to be ranked."""
    files = play(sides)
    assert [len(file.launches) for file in files] == [rounds, rounds]
    assert compare(*files).cases[0].verdict == verdict


def test_a_fixed_number_is_that_number() -> None:
    files = play(("S", ".S"), Settings(launches=6))
    assert [len(file.launches) for file in files] == [6, 6]
    assert compare(*files).cases[0].verdict == "NO_INTERVAL"
