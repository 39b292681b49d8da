"""Loads that come faster than they are answered: their latencies are of the run's length."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.judging.row import Row
from bench.judging.served import best_within
from bench.judging.serving import falls_behind
from bench.judging.summary import summarize
from bench.measuring.serving_loop import Loop, prompts
from bench.planning.arrivals import Lengths, Load, offline, poisson
from bench.records.run import RunFile
from bench.records.served import Served, ServedRequest
from bench.reports.wording.rows import next_step
from bench.tests.measuring.test_serving_loop import Scripted
from bench.tests.served_runs import serve_case, served_run

LENGTHS = Lengths(input_tokens=8, output_tokens=4)


class Engine(Scripted):
    """Two slots; a forward takes 40 ms. A request needs two forwards for its prompt, which it has
    to itself, and so 12 requests/s are answered."""

    def forward(self, rows: Any) -> Any:
        self.now += 39_000_000
        return super().forward(rows)


def load_of(load: Load, ramp: int = 2) -> Served:
    engine = Engine()
    job: Any = engine
    texts = prompts(load, engine.vocabulary, 1)
    return Loop(job, load, texts, ramp, engine.clock, engine.sleep).run().served


def run_of(rate: float, requests: int, seed: int = 0) -> RunFile:
    served = load_of(poisson(requests, LENGTHS, rate, seed))
    return served_run([(serve_case(rate=rate, requests=requests), [served] * 3)])


def row_of(rate: float, requests: int, seed: int = 0) -> Row:
    (row,) = summarize(run_of(rate, requests, seed))
    return row


def test_an_engine_above_its_capacity_is_not_steady() -> None:
    row = row_of(16.0, 256)
    assert row.verdict == "NO_STEADY_STATE" and "NO_STEADY_STATE" in row.flags
    assert row.reason == (
        "3 of 3 launches never became steady: requests come faster than they are answered"
    )
    assert row.throughput is not None
    assert "at a lower rate" in next_step(run_of(16.0, 256), [row])


@pytest.mark.parametrize("seed", range(5))
def test_an_engine_below_its_capacity_is(seed: int) -> None:
    assert row_of(4.0, 256, seed=seed).verdict == "OK"


def test_a_short_load_is_judged_too() -> None:
    assert row_of(24.0, 64).verdict == "NO_STEADY_STATE"
    assert row_of(4.0, 64).verdict == "OK"


def test_a_load_that_falls_behind_is_not_the_best_within_a_limit() -> None:
    """It gives most tokens, each in the time of full slots; but nobody can ask so for long."""
    below, above = row_of(8.0, 256), row_of(16.0, 256)
    assert above.throughput is not None and above.throughput > (below.throughput or 0.0)
    assert best_within([below, above], 1.0) is below
    assert best_within([above], 1.0) is None


def served_by(slots: int, load: float, requests: int, seed: int = 0) -> Served:
    """By a server of which nothing is seen but its answers: 4 s each, first token at once when a
    slot is free. load: of what it can do. Its window ends with the last request that is sent."""
    seconds = 4.0
    times = poisson(requests, LENGTHS, load * slots / seconds, seed).requests
    free, found = [0.0] * slots, []
    for one in times:
        due = (one.due_ns or 0) / 1e9
        begin = max(due, min(free))
        free[free.index(min(free))] = begin + seconds
        found.append((due, begin + 0.1, begin + seconds))
    ns = [tuple(round(t * 1e9) for t in each) for each in found]
    moments = sorted(moment for _, first, last in ns for moment in (first, last, last, last))
    return Served(
        requests=tuple(
            ServedRequest(
                prompt_tokens=8, tokens=4, due_ns=due, admitted_ns=due, first_ns=first, last_ns=last
            )
            for due, first, last in ns
        ),
        arrived_ns=tuple(moments),
        arrived_tokens=(1,) * len(moments),
        ramp=requests // 10,
        load="abc",
    )


@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("load", [3.0, 5.0])
def test_a_server_of_which_few_answers_end_in_time_falls_behind(slots: int, load: float) -> None:
    """The more it is asked, the fewer end before the last request is sent."""
    assert falls_behind(served_by(slots, load, 40))
    assert not any(falls_behind(served_by(slots, 0.7, 40, seed)) for seed in range(5))


@pytest.mark.parametrize("seed", [1, 3, 9])
def test_a_server_that_is_slow_to_begin_does_not_fall_behind(seed: int) -> None:
    """A minute more to each first token, as of a long prompt; the rest rises by chance."""
    load = served_by(1, 0.7, 40, seed)
    late = [
        msgspec.structs.replace(r, first_ns=r.first_ns + 60 * 10**9, last_ns=r.last_ns + 60 * 10**9)
        for r in load.requests
        if r.first_ns and r.last_ns
    ]
    assert not falls_behind(msgspec.structs.replace(load, requests=tuple(late)))


def test_only_arrivals_at_random_are_judged() -> None:
    """All at once wait for one another by rights."""
    served = load_of(offline(256, LENGTHS, 0))
    case = serve_case(0, arrival="offline", requests=256)
    (row,) = summarize(served_run([(case, [served] * 3)]))
    assert row.verdict == "OK"


def test_too_few_requests_say_nothing() -> None:
    served = load_of(poisson(64, LENGTHS, 24.0, 0))
    few = msgspec.structs.replace(
        served,
        requests=served.requests[:8],
        arrived_ns=tuple(r.last_ns or 0 for r in served.requests[:8]),
        arrived_tokens=(4,) * 8,
    )
    assert falls_behind(served) and not falls_behind(few)
