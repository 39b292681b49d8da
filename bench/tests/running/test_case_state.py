"""What is known of a case says how many launches it still needs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from bench.judging.summary import summarize
from bench.records.limits import ended_sooner
from bench.records.observed import Reading, Watched
from bench.records.outcome import Failed, Outcome, Phase
from bench.records.run import Launch, Settings
from bench.running.case_state import CaseState
from bench.tests.telemetry.launches import seen, steady
from bench.tests.telemetry.sights import of
from bench.tests.values import make_case, make_file, make_launch, make_measured

CASE = make_case()
AUTO = Settings(launches="auto")


def test_auto_counts_the_time_to_the_next_look() -> None:
    state = CaseState(CASE, AUTO)
    expected = [5, 4, 3, 2, 1, 5, 4, 3, 2, 1, 10]
    noisy = [make_measured(s) for s in [0.01, 0.02] * 10]
    found = []
    for k, outcome in enumerate(noisy[:11]):
        found.append(state.launches_left())
        state.keep(make_launch(outcome, CASE, launch=k))
    assert found == expected


def clocked(*clocks: float, ranks: bool = False) -> list[Launch]:
    """Launches of equal rates, at these clocks; ranks: of the second of two devices, beside a first
    at 1400 MHz."""
    made = []
    for number, mhz in enumerate(clocks):
        own = 1400.0 if ranks else mhz
        readings = tuple(Reading(at_seconds=16.0 + k, clock_mhz=own) for k in range(4))
        outcome = of((0, 0), (0, 1)) if ranks else steady()
        if ranks:
            watched = Watched(source="x", readings=4, clock_mhz=mhz, clocks=4)
            second = msgspec.structs.replace(outcome.ranks[1], watched=watched)
            outcome = msgspec.structs.replace(outcome, ranks=(outcome.ranks[0], second))
        made.append(make_launch(outcome, CASE, launch=number, telemetry=seen(readings=readings)))
    return made


def state_of(launches: Sequence[Launch], settings: Settings = AUTO) -> CaseState:
    state = CaseState(CASE, settings)
    for launch in launches:
        state.keep(launch)
    return state


@pytest.mark.parametrize("ranks", [False, True])
def test_auto_does_not_count_a_launch_whose_clock_fell(ranks: bool) -> None:
    """The judge leaves it out: of five it would judge four, too few to compare."""
    fell = clocked(1400, 1400, 1400, 1400, 1200, 1400, ranks=ranks)
    state = state_of(fell[:5])
    assert not state.finished and state.launches_left() == 1 and len(state.rates) == 4
    (row,) = summarize(make_file([CASE], fell[:5], settings=AUTO))
    assert (row.launches, row.hindered) == (4, 1)
    state.keep(fell[5])
    assert state.finished and len(state.rates) == 5
    assert state_of(clocked(1400, 1400, 1400, 1400, 1390, ranks=ranks)).finished


def test_a_clock_that_rose_leaves_out_the_launches_before_it() -> None:
    """Where they are too many, no further launch would help, and the case ends."""
    rose = clocked(*[1200] * 7, *[1400] * 3)
    state = state_of(rose[:8])
    assert not state.finished and len(state.rates) == 1 and state.launches_left() == 4
    assert state_of(rose).finished
    (row,) = summarize(make_file([CASE], rose, settings=AUTO))
    assert row.verdict == "THROTTLED"


def contended(*slowed: bool, seconds: float = 0.01) -> list[Launch]:
    """Launches, of which other work slowed some."""
    return [
        make_launch(
            make_measured(
                2 * seconds if one else seconds,
                flags=("CONTENDED",) if one else (),
                causes={"CONTENDED": "other work"} if one else {},
            ),
            CASE,
            launch=k,
            order=k,
        )
        for k, one in enumerate(slowed)
    ]


@pytest.mark.parametrize("slowed", [3, 5])
def test_auto_goes_on_while_a_few_more_launches_outweigh_the_slowed(slowed: int) -> None:
    """Five agree, and the case would be INVALID for the others; also where none is undisturbed."""
    most = 3 * slowed
    launches = contended(*[True] * slowed, *[False] * (most - slowed))
    for made in range(5 + slowed, most):
        state = state_of(launches[:made])
        assert not state.finished
        assert state.launches_left() == state.launches_left(to_the_last_look=True) == most - made
        (row,) = summarize(make_file([CASE], launches[:made], settings=AUTO))
        assert row.verdict == "INVALID"
    state = state_of(launches)
    assert state.finished and state.launches_left() == 0
    (row,) = summarize(make_file([CASE], launches, settings=AUTO))
    assert row.verdict == "OK"
    assert not state_of(launches[:5]).finished


def test_a_failed_launch_and_a_slowed_one_are_outweighed_together() -> None:
    failed = make_launch(Failed(kind="crash", phase="measure", message="x"), CASE)
    launches = [failed, *contended(True, *[False] * 5)]
    state = state_of(launches[:5])
    assert not state.finished
    assert state_of(launches).finished
    slowed = [failed, *contended(True, True, *[False] * 5)]
    assert not state_of(slowed).finished and state_of(slowed).launches_left() == 1


def test_auto_does_not_give_up_over_a_failed_launch_that_more_outweigh() -> None:
    """Of eleven one failed and three were slowed, and the seven others do not agree yet."""
    word = "FSCCSCCSCCCCCC"
    launches = [
        make_launch(Failed(kind="crash", phase="measure", message="x"), CASE)
        if one == "F"
        else contended(one == "S", seconds=0.01 * (1 + k % 3 / 20))[0]
        for k, one in enumerate(word)
    ]
    launches = [msgspec.structs.replace(x, launch=k, order=k) for k, x in enumerate(launches)]
    assert not any(state_of(launches[:made]).finished for made in range(1, 15))
    early, late = (summarize(make_file([CASE], launches[:n], settings=AUTO))[0] for n in (11, 14))
    assert (early.verdict, late.verdict) == ("INVALID", "NOISY")


def test_auto_ends_where_too_many_are_slowed_to_be_outweighed() -> None:
    always = contended(*[True] * 20)
    ends = [n for n in range(1, 21) if state_of(always[:n]).finished]
    assert ends[0] == 7


LATE = Failed(kind="timeout", phase="measure", message="no report within 120 s")


@pytest.mark.parametrize(
    ("limit", "hopeless"), [(1800.0, False), (120.0, True)], ids=["more time", "no more"]
)
def test_what_a_small_budget_ended_twice_is_tried_again_by_a_run_that_has_more_time(
    limit: float, hopeless: bool
) -> None:
    """And their seconds still count: what is made now has a number of its own."""
    now = Settings(launches=3, launch_limit_seconds=limit)
    state = CaseState(CASE, now)
    for k in range(2):
        state.keep(make_launch(LATE, CASE, launch=k, seconds=121.0), now)
    assert state.hopeless == state.finished == hopeless and len(state.seconds) == 2
    assert state.launches_left() == (0 if hopeless else 3)


@pytest.mark.parametrize(
    ("ended", "seconds", "phase", "excluded"),
    [
        *((121.0, 400.0, phase, 0) for phase in ("numerics", "build", "warm-up", "measure")),
        *((121.0, 400.0, "import", 2), (121.0, 20.0, "measure", 2)),
        *((1205.0, 1400.0, "measure", 2), (1205.0, 1400.0, "warm-up", 2)),
    ],
)
def test_what_a_small_budget_ended_is_no_failure_of_a_case_that_takes_longer(
    ended: float, seconds: float, phase: Phase, excluded: int
) -> None:
    """One that hangs is: it takes longer than others do, ends before its work, or at its own limit:
    a phase of these has two thirds of 1800 s."""
    late = Failed(kind="timeout", phase=phase, message="x")
    outcomes: list[Outcome] = [late, late, *[make_measured(0.01)] * 3]
    launches = [
        make_launch(one, CASE, launch=k, order=k, seconds=ended if k < 2 else seconds)
        for k, one in enumerate(outcomes)
    ]
    (row,) = summarize(make_file([CASE], launches, settings=Settings(launches=3)))
    assert row.excluded == excluded and bool(row.exclusion) == bool(excluded)
    assert (row.verdict == "INVALID") == bool(excluded)


def test_ranks_that_hang_are_no_launch_that_a_budget_ended() -> None:
    """They are ended as soon as all are silent."""
    two = msgspec.structs.replace(CASE, devices=2, parallelism="ddp")
    late = Failed(kind="timeout", phase="measure", message="rank 1 of 2 hangs")
    assert not ended_sooner(make_launch(late, two, seconds=70.0), 300.0)
    assert ended_sooner(make_launch(late, CASE, seconds=70.0), 300.0)


def test_a_fixed_number_is_that_number_whatever_the_clock() -> None:
    assert state_of(clocked(1400, 1400, 1200), Settings(launches=3)).finished
