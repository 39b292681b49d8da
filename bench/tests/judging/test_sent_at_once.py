"""Loads whose requests are all sent at once to a server: their figure is of full slots, or none."""

from __future__ import annotations

import msgspec
import pytest

from bench.judging.serving import unfilled
from bench.judging.summary import summarize
from bench.records.served import Served, ServedRequest
from bench.tests.served_runs import serve_case, served, served_run

MS = 1_000_000


def at_once(slots: int, requests: int, tokens: int = 100) -> Served:
    """So many answered at a time: 50 ms to the first token, then one each 10 ms; no two of them
    are at the same nanosecond."""
    each = (50 + 10 * (tokens - 1)) * MS
    found, moments = [], []
    for number in range(requests):
        begin = number // slots * each + number % slots * 1000 + 1
        arrived = [begin + (50 + 10 * token) * MS for token in range(tokens)]
        arrived[-1] -= 1  # a slot is free before the next request has it
        found.append(
            ServedRequest(
                prompt_tokens=8,
                due_ns=0,
                admitted_ns=0,
                first_ns=arrived[0],
                last_ns=arrived[-1],
                tokens=tokens,
            )
        )
        moments += arrived
    return Served(
        requests=tuple(found),
        arrived_ns=tuple(sorted(moments)),
        arrived_tokens=(1,) * len(moments),
        ramp=requests // 10,
        load="abc",
    )


@pytest.mark.parametrize("tokens", [2, 100])
@pytest.mark.parametrize("slots", [13, 16, 24, 32, 39])
def test_a_window_within_the_first_filling_is_none_and_how_many_give_one_is_said(
    slots: int, tokens: int
) -> None:
    load = at_once(slots, 40, tokens)
    why = unfilled(load)
    assert unfilled(msgspec.structs.replace(load, requests=load.requests[::-1])) == why
    assert why.startswith("no steady window: all 40 requests were sent at once") is (slots > 13)
    if why:
        enough = int(why.split("--requests ")[1].split()[0])
        assert 3 * slots <= enough <= 5 * slots and unfilled(at_once(slots, enough, tokens)) == ""


@pytest.mark.parametrize("tokens", [1, 2, 100])
@pytest.mark.parametrize("slots", [40, 41, 256])
def test_where_all_are_answered_at_a_time_no_number_is_said(slots: int, tokens: int) -> None:
    """A server of 256 slots would be advised 160, then 640, then 1,024."""
    why = unfilled(at_once(slots, 40, tokens))
    assert "all at a time: how many it can is not known. Give --requests 4 times that" in why
    assert unfilled(at_once(slots, 4 * slots, tokens)) == ""


@pytest.mark.parametrize(("slots", "counts"), [(8, True), (13, True), (24, False), (40, False)])
def test_answers_of_one_token_are_held_to_the_time_that_one_takes(slots: int, counts: bool) -> None:
    """All that a step answers comes at once: between first and last token there is nothing."""
    assert (unfilled(at_once(slots, 40, 1)) == "") is counts


def test_a_slow_start_fills_no_slots() -> None:
    """As long as all the rest: what is compiled for the first step of so many."""
    load = at_once(8, 40)
    late = load.arrived_ns[-1]

    def moved(request: ServedRequest) -> ServedRequest:
        assert request.first_ns is not None and request.last_ns is not None
        first, last = late + request.first_ns, late + request.last_ns
        return msgspec.structs.replace(request, first_ns=first, last_ns=last)

    later = tuple(map(moved, load.requests))
    moments = tuple(ns + late for ns in load.arrived_ns)
    assert unfilled(msgspec.structs.replace(load, requests=later, arrived_ns=moments)) == ""


@pytest.mark.parametrize("slots", [1, 4, 8, 13])
def test_of_a_window_that_counts_the_throughput_is_that_of_full_slots(slots: int) -> None:
    load = at_once(slots, 40)
    assert unfilled(load) == "" and load.window is not None
    full = slots * 100 / 1.04
    assert load.window.tokens / load.window.seconds == pytest.approx(full, rel=0.06)


def test_what_was_recorded_with_such_a_figure_is_void() -> None:
    """A server that is twice as fast had less than half of the tokens a second."""
    case = serve_case(0, arrival="offline", requests=40)
    of = {slots: summarize(served_run([(case, [at_once(slots, 40)] * 3)]))[0] for slots in (4, 32)}
    assert (of[4].status, of[32].status) == ("measured", "void")
    assert "the server answered 32 at a time. Give --requests 128 or more" in of[32].reason


def test_other_loads_and_our_own_engine_are_judged_by_their_ramp() -> None:
    assert unfilled(served(2)) == ""
