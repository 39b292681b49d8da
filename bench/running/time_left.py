"""How long the rest of a plan will take: by the suite's own times, then by what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from bench.running.case_state import CaseState


class Span(NamedTuple):
    """An estimate of a time, in seconds."""

    least: float
    most: float | None
    """None while too little has been measured to say so."""


class _Part(NamedTuple):
    """What is left of one case."""

    launches: int
    """Of `auto`, up to the next look."""
    most: int
    """Of `auto`, up to the last look."""

    @classmethod
    def of(cls, state: CaseState) -> _Part:
        return cls(state.launches_left(), state.launches_left(to_the_last_look=True))


class TimeLeft:
    """An estimate that is kept up to date launch by launch: its cost does not grow with the plan.

    A case that has run goes on as in its last launch. Those that have not are taken for cases like
    the others: for as many launches of the mean, give or take twice what the spread between cases
    makes of it, and for none faster or slower than those that were seen.
    """

    def __init__(self, states: Sequence[CaseState], floor: float = 0.0) -> None:
        """floor: seconds that the suite's own times make of one launch, at least."""
        self._floor = floor
        self._waiting: dict[str, _Part] = {}
        self._seen: dict[str, tuple[_Part, float]] = {}
        """What is left of each case that has run, and seconds of its next launch."""
        self.launches = 0
        """That are planned; of `auto`, up to the next look."""
        self._open = 0
        """That may follow those."""
        self._least = self._most = 0.0
        """Seconds of the launches that are left of cases that have run."""
        self._sum = self._squares = 0.0
        """Of the seconds of the next launch of each of those."""
        self._shortest, self._longest = math.inf, 0.0
        self._unseen = self._unseen_most = self._unseen_squares = 0
        """Launches of the cases that have not run, and the squares of their numbers."""
        self._seconds = sum(sum(state.seconds) for state in states)
        self._launches = sum(len(state.seconds) for state in states)
        for state in states:
            if state.seconds:
                self._note(state)
            elif not state.beyond:
                self._waiting[state.case.fingerprint] = part = _Part.of(state)
                self._count(part)
                self._wait(part)

    def update(self, state: CaseState) -> None:
        """Takes note of the last launch of a case."""
        waited = self._waiting.pop(state.case.fingerprint, None)
        if waited is not None:
            self._count(waited, -1)
            self._wait(waited, -1)
        self._seconds += state.seconds[-1]
        self._launches += 1
        self._note(state)

    def _note(self, state: CaseState) -> None:
        part, each = _Part.of(state), self.expected(state)
        if before := self._seen.get(state.case.fingerprint):
            self._add(*before, -1)
        self._add(part, each)
        self._seen[state.case.fingerprint] = part, each
        self._shortest, self._longest = min(self._shortest, each), max(self._longest, each)

    def _add(self, part: _Part, each: float, sign: int = 1) -> None:
        self._count(part, sign)
        self._least += sign * part.launches * each
        self._most += sign * part.most * each
        self._sum += sign * each
        self._squares += sign * each**2

    def _count(self, part: _Part, sign: int = 1) -> None:
        self.launches += sign * part.launches
        self._open += sign * (part.most - part.launches)

    def _wait(self, part: _Part, sign: int = 1) -> None:
        self._unseen += sign * part.launches
        self._unseen_most += sign * part.most
        self._unseen_squares += sign * part.launches**2

    @property
    def more(self) -> bool:
        """Whether other launches may follow those that are planned."""
        return self._open > 0

    def expected(self, state: CaseState) -> float:
        """Seconds that the next launch of a case will take: as its last, else as all so far."""
        if state.expected_seconds is not None:
            return state.expected_seconds
        return self._seconds / self._launches if self._launches else 0.0

    def total(self) -> Span:
        """Seconds until the plan is done."""
        least, most = max(self._least, 0.0), max(self._most, 0.0)
        count = len(self._seen)
        if not self._waiting:
            return Span(least, most)
        if count < 2:
            return Span(least + self._unseen * self._floor, None)
        mean = self._sum / count
        variance = max(self._squares - count * mean**2, 0.0) / (count - 1)

        def margin(launches: int) -> float:
            return 2 * math.sqrt(variance * (self._unseen_squares + launches**2 / count))

        few = max(self._unseen * mean - margin(self._unseen), self._unseen * self._shortest)
        many = min(
            self._unseen_most * mean + margin(self._unseen_most),
            self._unseen_most * self._longest,
        )
        return Span(least + few, most + many)
