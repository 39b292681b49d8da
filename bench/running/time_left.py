"""How long the rest of a plan will take."""

from __future__ import annotations

from collections.abc import Sequence

from bench.running.case_state import CaseState


class TimeLeft:
    """An estimate that is kept up to date launch by launch."""

    def __init__(self, states: Sequence[CaseState]) -> None:
        self._unseen = sum(not (state.seconds or state.beyond) for state in states)
        self._seconds = sum(sum(state.seconds) for state in states)
        self._launches = sum(len(state.seconds) for state in states)
        self._of_case: dict[str, float] = {}
        self._total = 0.0
        for state in states:
            if state.seconds:
                self._note(state)

    def update(self, state: CaseState) -> None:
        """Takes note of the last launch of a case."""
        self._unseen -= len(state.seconds) == 1
        self._seconds += state.seconds[-1]
        self._launches += 1
        self._note(state)

    def _note(self, state: CaseState) -> None:
        left = self.expected(state) * state.launches_left()
        self._total += left - self._of_case.get(state.case.fingerprint, 0.0)
        self._of_case[state.case.fingerprint] = left

    def expected(self, state: CaseState) -> float:
        """Seconds that the next launch of a case will take: as its last, else as all so far."""
        if state.expected_seconds is not None:
            return state.expected_seconds
        return self._seconds / self._launches if self._launches else 0.0

    def total(self) -> float | None:
        """Seconds until the plan is done, once every case has run once."""
        return None if self._unseen else max(self._total, 0.0)
