"""The judgement of `bench.tests.scripts.two_hosts`, without namespaces."""

from __future__ import annotations

import pytest

from bench.tests.scripts.two_hosts import FAULTS, GONE, Ended, Fault, near

VANISHES = FAULTS[0]
OUTCOME = "crash in measure: rank 1 (host 1, cpu): its host is gone: nothing heard for 20 s"
WELL = Ended((1, 1), ("error: host 1 (b) is gone", "error: the leader is gone: x"), OUTCOME, 25, 0)


@pytest.mark.parametrize(
    ("megabits", "good"), [(100, True), (91, True), (109, True), (89, False), (111, False)]
)
def test_a_rate_is_that_of_the_link_within_a_tenth(megabits: float, good: bool) -> None:
    assert near(megabits * 1e6 / 8, 100) is good


def test_a_fault_that_ends_as_it_must_is_right() -> None:
    assert VANISHES.outcome == GONE and VANISHES.wrong(WELL) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codes": (0, 1)}, "exit codes (0, 1)"),
        ({"left": 2}, "2 processes left"),
        ({"seconds": 61.0}, "61 s"),
        ({"outcome": "measured"}, "is not in `measured`"),
        ({"outcome": OUTCOME.replace("rank 1", "rank 0")}, "is not in `crash"),
        ({"said": ("nothing", "error: the leader is gone")}, "is not in `nothing`"),
    ],
)
def test_a_fault_that_does_not_is_wrong(changes: dict[str, object], said: str) -> None:
    assert said in VANISHES.wrong(WELL._replace(**changes))  # type: ignore[arg-type]


def test_an_interrupted_launch_has_no_outcome() -> None:
    (fault,) = (f for f in FAULTS if f.codes == (130, 130))
    assert isinstance(fault, Fault)
    ended = Ended((130, 130), ("interrupted", "error: interrupted"), "", 3, 0)
    assert fault.wrong(ended) == ""
    assert fault.wrong(ended._replace(outcome="measured")) != ""
