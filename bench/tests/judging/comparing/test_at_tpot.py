"""Loads at a limit on TPOT, where a server took in less than came: a result of that rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bench.judging.comparing.at_tpot import compare_at_tpot
from bench.judging.comparing.comparison import CaseComparison
from bench.judging.comparing.reasons import Code
from bench.judging.comparing.verdicts import undecidable
from bench.judging.served import best_within, serving_curves
from bench.judging.summary import summarize
from bench.records.outcome import Flag, Outcome, Skipped
from bench.records.run import RunFile
from bench.records.served import SATURATED
from bench.tests.judging.test_sent_at_once import at_once as sent_at_once
from bench.tests.served_runs import SPEEDS, measured, serve_case, served
from bench.tests.values import failed, make_file, make_launches

RATES = {4.0: 1, 8.0: 2, 16.0: 4}
"""Requests a second, and how many are served at a time."""
FULL = Skipped(reason=f"{SATURATED}: within 4.0 s 16.00 requests/s came and 9.00 got a first token")


def launches(lanes: int, count: int = len(SPEEDS)) -> list[Outcome]:
    return [measured(served(lanes, ms)) for ms in SPEEDS[:count]]


def run_of(densest: Sequence[Outcome]) -> RunFile:
    """Good launches of every rate but the densest, which has these; none: it was not planned."""
    given = {rate: launches(lanes) for rate, lanes in RATES.items()} | {16.0: list(densest)}
    points = [(serve_case(rate=rate), outcomes) for rate, outcomes in given.items() if outcomes]
    made = [launch for point in points for launch in make_launches(*point)]
    return make_file([case for case, _ in points], made)


WHOLE = run_of(launches(4))


def beside(densest: Sequence[Outcome]) -> CaseComparison:
    """That run beside one that has figures of all rates, each of which keeps the limit."""
    (case,) = compare_at_tpot(WHOLE, run_of(densest), 1.0).cases
    return case


def rates(case: CaseComparison) -> list[Any]:
    return [row.case.parameters["rate"] for row in (case.base, case.other) if row is not None]


def test_a_rate_that_saturates_a_server_was_measured() -> None:
    """It has no figure there, and needs none: its best is what it gives at a lower rate."""
    case = beside([FULL] * 5)
    assert case.reasons == () and rates(case) == [16.0, 8.0]
    assert case.verdict == "SLOWER" and case.interval is not None


def test_two_that_keep_up_with_the_densest_rate_are_not_told_apart_by_it() -> None:
    """It is the throughput of both: one may have twice the capacity of the other."""
    case = beside(launches(4))
    assert rates(case) == [16.0, 16.0]
    assert (case.verdict, case.codes) == ("UNRANKED", (Code.RATE_GIVEN,))
    assert "rate 16.0, which is their throughput: measure rates above it" in case.reasons[0]
    found = compare_at_tpot(run_of([FULL] * 5), run_of([FULL] * 5), 1.0)
    assert (
        "rate 8.0, which is their throughput: measure rates between it and 16"
        in (found.cases[0].reasons[0])
    )
    assert undecidable(found) == [*found.cases], "of that alone"


def test_a_rate_that_could_not_be_tried_was_not_measured() -> None:
    """Nor one that was not planned: it might be the side's best."""
    for densest in ([Skipped(reason="no steady load")], [failed()], []):
        case = beside(densest)
        assert case.verdict == "INCOMPARABLE" and "not measured at rate 16" in case.reasons[0]


def test_a_rate_that_saturates_in_some_launches_is_not_the_best() -> None:
    """Two of five: the three that have a figure are those of luck."""
    mixed = [*launches(4, count=3), FULL, FULL]
    case = beside(mixed)
    assert rates(case) == [16.0, 8.0] and case.verdict == "SLOWER"
    (curve,) = serving_curves(summarize(run_of(mixed)))
    (row,) = [row for row in curve.points if row.case.parameters["rate"] == 16.0]
    assert row.verdict == "INVALID" and best_within([row], 1.0) is None
    case = beside([*launches(4, count=3), failed(), failed()])
    assert rates(case) == [16.0, 16.0], "a fault is to be mended"
    assert case.codes == (Code.RATE_GIVEN, Code.INVALID)


def test_a_side_that_has_no_other_load_is_said_to_have_no_steady_one() -> None:
    """It keeps the limit in three launches, and in two it falls behind."""
    case = serve_case(rate=16.0)
    run = make_file([case], make_launches(case, [*launches(4, count=3), FULL, FULL]))
    (found,) = compare_at_tpot(WHOLE, run, 1.0).cases
    assert found.reasons == ("no steady load of the other keeps a median TPOT of 1000 ms",)


def test_a_side_of_which_no_tpot_is_known_is_said_to_have_none() -> None:
    """It may keep any limit; nor is a load without a number nameless."""
    offline = serve_case(0, arrival="offline")
    known, unknown = (
        make_file([offline], make_launches(offline, [measured(load)] * 5))
        for load in (served(4), sent_at_once(8, 80, 2))
    )
    (case,) = compare_at_tpot(known, unknown, 1.0).cases
    assert case.codes == (Code.NO_LOAD_IN_LIMIT,) and case.reasons == (
        "no load of the other has a TPOT: all requests were sent before the steady part",
    )
    hot = [msgspec.structs.replace(measured(served(4)), flags=("THROTTLED",))] * 5
    run = make_file([offline], make_launches(offline, hot))
    (case,) = compare_at_tpot(run, known, 0.001).cases
    assert case.reasons[0].endswith("of 1 ms; it was THROTTLED at arrival offline")


def at_once(
    *loads: int, hot: int | None = None, flag: Flag = "THROTTLED", slower: float = 2.6
) -> RunFile:
    """A closed loop of so many requests at a time; hot: that which the flag made slower."""
    points = []
    for lanes in loads:
        flags, factor = ((flag,), slower) if lanes == hot else ((), 1.0)
        outcomes = [measured(served(lanes, ms * factor)) for ms in SPEEDS]
        outcomes = [msgspec.structs.replace(one, flags=flags) for one in outcomes]
        points.append((serve_case(lanes), outcomes))
    made = [launch for point in points for launch in make_launches(*point)]
    return make_file([case for case, _ in points], made)


@pytest.mark.parametrize(("flag", "is_"), [("THROTTLED", "THROTTLED"), ("CONTENDED", "INVALID")])
@pytest.mark.parametrize("side", [0, 1])
def test_a_load_that_was_disturbed_may_have_been_the_best(side: int, flag: Flag, is_: str) -> None:
    """One engine, twice; one of the devices became too hot to show what it has at four at once."""
    runs = [at_once(1, 2, 4), at_once(1, 2, 4)]
    runs[side] = at_once(1, 2, 4, hot=4, flag=flag)
    (case,) = compare_at_tpot(runs[0], runs[1], 1.0).cases
    assert case.reasons == (
        f"the {('base', 'other')[side]} was {is_} at concurrency 4, where its best may lie: "
        "measure again",
    )
    assert (case.verdict, case.ratio) == ("INCOMPARABLE", None)


@pytest.mark.parametrize(
    ("base", "other", "words"),
    [
        (at_once(1, 2), at_once(1, 2, 4, hot=4), ""),  # neither has a figure at four at once
        (
            at_once(1, 2, hot=2),
            at_once(1, 4),
            "the base was THROTTLED at concurrency 2 and was not measured at concurrency 4",
        ),
        # Beyond the limit for both, hot or not.
        (
            at_once(1, 2, 4, hot=4, slower=9.0),
            at_once(1, 2, 4, hot=4, slower=9.0, flag="DRIFT"),
            "",
        ),
        (at_once(1, 2, hot=1), at_once(1, 2, 4), "was not measured at concurrency 4"),
        (at_once(1, 4, hot=1), at_once(1, 4), ""),  # it has less there in any case
        (
            at_once(2, hot=2, slower=9.0),
            at_once(2),
            "no load of the base keeps a median TPOT of 20 ms; it was THROTTLED at concurrency 2",
        ),
    ],
)
def test_a_disturbed_load_counts_where_it_could_change_something(
    base: RunFile, other: RunFile, words: str
) -> None:
    (case,) = compare_at_tpot(base, other, 0.02).cases
    assert words in "".join(case.reasons)
    assert case.verdict == ("INCOMPARABLE" if words else "EQUIVALENT")


def near(*tpot_ms: float) -> RunFile:
    """One, two and four at a time, at such a TPOT, give or take 1 %."""
    points = [
        (serve_case(lanes), [measured(served(lanes, ms * speed / 9.99)) for speed in SPEEDS])
        for lanes, ms in zip((1, 2, 4), tpot_ms, strict=True)
    ]
    made = [launch for point in points for launch in make_launches(*point)]
    return make_file([case for case, _ in points], made)


@pytest.mark.parametrize(
    ("base", "other", "words"),
    [
        ((20, 25, 29.9), (20, 25, 30.2), ("the base has a median TPOT of 29.9 ms ±0.9%", "other")),
        ((20, 25, 33), (20, 25, 29.9), ("the other has", "concurrency 4: whether it keeps 30 ms")),
        ((20, 25, 27), (20, 25, 30.2), ("the other has a median TPOT of 30.2 ms",)),
        ((20, 25, 27), (20, 30, 33), ("the other has", "concurrency 2")),
        ((20, 25, 27), (20, 25, 33), ()),  # neither is near
        ((20, 25, 30.2), (20, 25, 33), ()),  # both at two at once
        ((20, 24, 33), (20, 25, 30.2), ("the other has", "concurrency 4")),  # and behind there
        ((20, 24, 33), (20, 25, 33), ()),
        ((20, 30, 27), (20, 25, 33), ()),  # the base has a load that gives more
    ],
)
def test_unlike_loads_near_the_limit_are_not_told_apart_by_luck(
    base: tuple[float, ...], other: tuple[float, ...], words: tuple[str, ...]
) -> None:
    """Equal engines, of which one keeps 30 ms by a hair, would be 40 % apart."""
    (case,) = compare_at_tpot(near(*base), near(*other), 0.03).cases
    assert all(word in "".join(case.reasons) for word in words)
    assert {*case.codes} - {"slower", "equivalent"} == ({Code.LIMIT_IN_DOUBT} if words else set())
    assert (case.ratio is None) == bool(words)
