"""How long the rest of a plan will take: by the suite's own times, then by what was measured."""

from __future__ import annotations

import math
import statistics
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
    each: float | None
    """Seconds of its next launch; None of a case that has not run."""


class TimeLeft:
    """An estimate that is kept up to date launch by launch.

    A case that has run goes on as in its last launch. Those that have not are taken for cases like
    the others: for as many launches of the mean, give or take twice what the spread between cases
    makes of it, and for none faster or slower than those that were seen.
    """

    def __init__(self, states: Sequence[CaseState], floor: float = 0.0) -> None:
        """floor: seconds that the suite's own times make of one launch, at least."""
        self._floor = floor
        self._parts: dict[str, _Part] = {}
        self._shortest, self._longest = math.inf, 0.0
        self._seconds = sum(sum(state.seconds) for state in states)
        self._launches = sum(len(state.seconds) for state in states)
        for state in states:
            if state.seconds or not state.beyond:
                self._note(state)

    def update(self, state: CaseState) -> None:
        """Takes note of the last launch of a case."""
        self._seconds += state.seconds[-1]
        self._launches += 1
        self._note(state)

    def _note(self, state: CaseState) -> None:
        each, most = state.expected_seconds, state.launches_left(to_the_last_look=True)
        self._parts[state.case.fingerprint] = _Part(state.launches_left(), most, each)
        if each is not None:
            self._shortest, self._longest = min(self._shortest, each), max(self._longest, each)

    @property
    def launches(self) -> int:
        """That are planned; of `auto`, up to the next look."""
        return sum(part.launches for part in self._parts.values())

    @property
    def more(self) -> bool:
        """Whether other launches may follow those that are planned."""
        return any(part.most > part.launches for part in self._parts.values())

    def expected(self, state: CaseState) -> float:
        """Seconds that the next launch of a case will take: as its last, else as all so far."""
        if state.expected_seconds is not None:
            return state.expected_seconds
        return self._seconds / self._launches if self._launches else 0.0

    def total(self) -> Span:
        """Seconds until the plan is done."""
        seen = [(part, part.each) for part in self._parts.values() if part.each is not None]
        unseen = [part for part in self._parts.values() if part.each is None]
        least = sum(part.launches * each for part, each in seen)
        most = sum(part.most * each for part, each in seen)
        if not unseen:
            return Span(least, most)
        few, many = sum(part.launches for part in unseen), sum(part.most for part in unseen)
        count = len(seen)
        if count < 2:
            return Span(least + few * self._floor, None)
        mean = statistics.fmean(each for _, each in seen)
        variance = statistics.variance((each for _, each in seen), mean)
        squares = sum(part.launches**2 for part in unseen)

        def margin(launches: int) -> float:
            return 2 * math.sqrt(variance * (squares + launches**2 / count))

        least += max(few * mean - margin(few), few * self._shortest)
        most += min(many * mean + margin(many), many * self._longest)
        return Span(least, most)
