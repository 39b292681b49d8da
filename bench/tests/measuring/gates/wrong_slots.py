"""Slot engines that are wrong, each in one way: the gate must refuse every one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench.measuring.serving_schedule import Asked, Schedule
from bench.serving_job import Rows


def _with_rows(job: Any, change: Callable[[Rows], Rows]) -> Any:
    """The job, given other rows than it was asked for."""
    forward = job.forward
    job.forward = lambda rows: forward(change(rows))
    return job


def forgetful(job: Any) -> Any:
    """Each slot forgets the token at every fiftieth place: it is kept where nobody looks.

    What it forgets is the key and value; the token's own answer is right.
    """
    engine = job._engine
    fill = engine.fill

    def forgotten(rows: Rows) -> tuple[int, int]:
        filled: tuple[int, int] = fill(rows)
        _, slots, places = engine.shared.table
        slots[(places % 50 == 49) & (slots < job.slots)] = job.slots
        return filled

    engine.fill = forgotten
    return job


def one_slot_forgets(job: Any) -> Any:
    """Slot 1 forgets one place, which the idle engine's short prompts have too."""
    engine = job._engine
    fill = engine.fill

    def forgotten(rows: Rows) -> tuple[int, int]:
        filled: tuple[int, int] = fill(rows)
        _, slots, places = engine.shared.table
        slots[(places == 3) & (slots == 1)] = job.slots
        return filled

    engine.fill = forgotten
    return job


def shared_row(job: Any) -> Any:
    """Slots 0 and 1 keep their texts in the same row of the cache."""
    engine = job._engine
    fill = engine.fill

    def shared(rows: Rows) -> tuple[int, int]:
        filled: tuple[int, int] = fill(rows)
        slots = engine.shared.table[1]
        slots[slots == 1] = 0
        return filled

    engine.fill = shared
    return job


def wrong_position(job: Any) -> Any:
    """A decoded token is put one place too far."""

    def moved(rows: Rows) -> Rows:
        decoding = [(s, t, min(place + 1, job.length - 1)) for s, t, place in rows.decoding]
        return msgspec.structs.replace(rows, decoding=decoding)

    return _with_rows(job, moved)


def stale(job: Any) -> Any:
    """A recording that goes on with the tokens that it was made with."""
    engine = job._engine
    made: dict[Any, Any] = {}
    run = engine.run

    def again(rows: int, reach: int) -> None:
        run(rows, reach)
        engine.tokens = made.setdefault((rows, reach), engine.tokens.clone())

    engine.run = again
    return job


def cached_answer(job: Any) -> Any:
    """The first answer is given again to whoever comes later."""
    forward = job.forward
    given: dict[int, int] = {}

    def remembered(rows: Rows) -> Sequence[int]:
        tokens = [*forward(rows)]
        for slot, _, place in rows.decoding:
            tokens[slot] = given.setdefault(place, tokens[slot])
        return tokens

    job.forward = remembered
    return job


class StopsEarly(Schedule):
    """An answer of three tokens is enough."""

    def _complete(self, request: Asked) -> bool:
        return len(request.answer) == min(3, request.new_tokens)


WRONG: dict[str, Callable[[Any], Any]] = {
    "a slot that forgets one token in fifty": forgetful,
    "one slot that forgets one token": one_slot_forgets,
    "a cache row shared by two requests": shared_row,
    "a wrong position": wrong_position,
    "a stale graph": stale,
    "a cached answer": cached_answer,
}
