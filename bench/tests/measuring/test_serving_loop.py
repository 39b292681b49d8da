"""Schedule and loop on an engine of no model: exact rows, exact times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.measuring.serving_loop import Loaded, Loop, prompts
from bench.measuring.serving_schedule import Asked, Schedule
from bench.planning.arrivals import Lengths, Load, closed, offline, poisson
from bench.serving_job import Rows

STEP_NS = 1_000_000
LENGTHS = Lengths(input_tokens=5, output_tokens=3)


class Scripted:
    """An engine whose forward takes a millisecond; a token says what it came after."""

    slots, chunk, vocabulary, length = 2, 4, 100, 8

    def __init__(self) -> None:
        self.now = 0
        self.rows: list[Rows] = []
        self.slept: list[float] = []

    def clock(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)

    def forward(self, rows: Rows) -> Sequence[int]:
        self.rows.append(rows)
        self.now += STEP_NS
        tokens = [0] * self.slots
        for slot, token, _ in rows.decoding:
            tokens[slot] = token + 1
        return [*tokens, rows.prompt[-1] + 1] if rows.prompt else tokens


class Slow(Scripted):
    """The same engine, of another speed."""

    def forward(self, rows: Rows) -> Sequence[int]:
        self.now += 77
        return super().forward(rows)


def served(load: Load, engine: Scripted | None = None) -> tuple[Loaded, Scripted]:
    engine = engine or Scripted()
    job: Any = engine
    texts = prompts(load, engine.vocabulary, 1)
    return Loop(job, load, texts, 2, engine.clock, engine.sleep).run(), engine


def test_every_answer_follows_its_own_prompt() -> None:
    """Whatever was in the forwards beside it."""
    loaded, _ = served(closed(7, LENGTHS, 2, 0))
    for request in loaded.requests:
        last = request.prompt[-1]
        assert request.answer == [last + 1, last + 2, last + 3]


def test_the_rows_of_each_forward_are_known() -> None:
    """Two requests of 5 + 3 tokens, chunks of 4: the second is read in while the first answers."""
    loaded, engine = served(offline(2, LENGTHS, 0))
    one, two = loaded.requests
    assert [(len(r.prompt), r.slot, r.start) for r in engine.rows] == [
        (4, 0, 0),
        (1, 0, 4),
        (4, 1, 0),
        (1, 1, 4),
        (0, 0, 0),
        (0, 0, 0),
    ]
    places = [[(slot, place) for slot, _, place in r.decoding] for r in engine.rows]
    assert places == [[], [], [(0, 5)], [(0, 6)], [(1, 5)], [(1, 6)]]
    assert (one.first_ns, one.last_ns) == (2 * STEP_NS, 4 * STEP_NS)
    assert (two.admitted_ns, two.first_ns, two.last_ns) == (0, 4 * STEP_NS, 6 * STEP_NS)
    served_ = loaded.served
    assert served_.arrived_tokens == (1, 1, 2, 1, 1) and served_.arrived_ns[0] == 2 * STEP_NS
    steps = served_.steps
    assert steps is not None and steps.forward_ns == (STEP_NS,) * 6
    assert steps.decode_rows == (0, 0, 1, 1, 1, 1) and steps.prompt_rows == (4, 1, 4, 1, 0, 0)


def test_a_closed_loop_keeps_its_concurrency_and_is_due_when_one_ends() -> None:
    """One at a time: each request is due at the last token of the one before it."""
    loaded, _ = served(closed(4, LENGTHS, 1, 0))
    ends = [request.last_ns for request in loaded.requests]
    assert [request.due_ns for request in loaded.requests] == [0, *ends[:-1]]
    assert all(r.admitted_ns == r.due_ns for r in loaded.served.requests)


def test_open_arrivals_wait_for_nobody() -> None:
    """Requests are due as drawn, and latencies count from there; an idle engine sleeps till then.

    Two a second at 7 ms each: the engine is idle before each, and never late.
    """
    load = poisson(6, LENGTHS, 2.0, 3)
    loaded, engine = served(load)
    assert [r.due_ns for r in loaded.served.requests] == [r.due_ns for r in load.requests]
    assert len(engine.slept) == 6 and min(engine.slept) > 0
    crowded, _ = served(poisson(6, LENGTHS, 1e5, 3))
    assert any((r.admitted_ns or 0) > r.due_ns for r in crowded.served.requests)


def test_the_schedule_is_the_load_s_and_no_clock_s() -> None:
    """Equal digests from an engine of another speed; another from another load or order."""
    slow = Slow()
    load = closed(9, Lengths(input_tokens=3, output_tokens=2, sigma=0.4), 2, 5)
    one, other = served(load)[0].served, served(load, slow)[0].served
    assert one.arrived_ns != other.arrived_ns and one.schedule == other.schedule
    another = closed(9, Lengths(input_tokens=3, output_tokens=2, sigma=0.4), 2, 6)
    assert served(another)[0].served.schedule != one.schedule


def test_the_window_s_edges_are_marked_once_each() -> None:
    """Where host counters are read: in the order that they come."""
    marks: list[int] = []
    engine = Scripted()
    job: Any = engine
    load = closed(8, LENGTHS, 2, 0)
    loop = Loop(job, load, prompts(load, 100, 1), 2, engine.clock, engine.sleep)
    loaded = loop.run(mark=lambda: marks.append(engine.now))
    window = loaded.served.window
    assert window is not None and len(marks) == 2
    assert marks == [window.start_ns, window.end_ns + STEP_NS]


def test_an_answer_cut_short_has_failed() -> None:
    """Early stop: it is a row, and says how many tokens there are of how many."""
    asked = Asked(index=0, prompt=[1], new_tokens=3, due_ns=0, answer=[5, 6])
    asked.admitted_ns, asked.first_ns, asked.last_ns = 0, 1, 2
    assert asked.record.failed == "2 tokens, and 3 were asked for"


def test_a_slot_is_free_again_only_after_its_last_token() -> None:
    """A third request waits, though it has arrived."""
    schedule = Schedule(2, 4)
    for index in range(3):
        schedule.add(Asked(index, [1, 2], 1, 0))
    for done in range(3):
        rows = schedule.rows(0)
        assert rows.prompt and schedule.admitted == min(2 + done, 3)
        assert [r.index for r in schedule.take([0, 0, 9], 0)[1]] == [done]
    assert not schedule.busy


@pytest.mark.parametrize("seed", [0, 1])
def test_prompts_are_another_seed_s(seed: int) -> None:
    """Nobody can have the answers of this launch ready."""
    load = offline(3, Lengths(input_tokens=20, output_tokens=1), 0)
    texts = prompts(load, 50, seed)
    assert texts == prompts(load, 50, seed) != prompts(load, 50, seed + 1)
    assert len({tuple(text[:8]) for text in texts}) == 3
    assert all(len(t) == 20 and min(t) >= 0 and max(t) < 50 for t in texts)
