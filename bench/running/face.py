"""Who watches a run, and what it is told: the plan, each launch as it starts, and as it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from bench.measuring.messages import Progress
from bench.records.case import Case, Choice
from bench.records.explained import Explanation
from bench.records.run import Launch
from bench.running.time_left import Span


class Ahead(NamedTuple):
    """How far a run has come, or one side of two."""

    done: int
    """Launches that have ended, those of the run that it goes on with included."""
    left: int
    """Launches that are planned; of `auto`, up to the next look; of a sweep, if all of it fits."""
    more: bool
    """Whether others may follow those."""
    seconds: Span
    """Until the last of them has ended."""


class Start(NamedTuple):
    """A launch that starts now."""

    case: Case
    number: int
    """Which launch of its figure it is, from 1; of a search, which choice."""
    of: int
    """How many are planned; of `auto`, up to the next look."""
    more: bool
    """Whether others may follow those."""
    choice: Choice | None
    """What a tuned case runs with this time."""
    search: bool
    """Whether the launch is to find the best choice."""
    seconds: float
    """How long it is expected to take; 0 while nothing is known."""
    next: Case | None
    """The case that comes after it; None if nothing does."""


class Face(Protocol):
    """Who watches a run; does nothing, as it stands."""

    def turn(self, side: str) -> None:
        """Whose turn it is, where two sides are measured."""
        return

    def begins(self, plan: Sequence[Case], ahead: Ahead) -> None:
        """The cases that are to be measured, before the first launch; of each side by itself."""
        return

    def starts(self, start: Start, ahead: Ahead) -> None:
        """A worker is being started; ahead: with this launch."""
        return

    def progress(self, progress: Progress) -> None:
        """The worker says where it is."""
        return

    def ends(self, launch: Launch, rates: Sequence[float], finished: bool) -> None:
        """A launch is on disk.

        rates: throughput of every measured launch of its case so far; finished: whether the case
        needs no other.
        """
        return

    def explains(self, case: Case, number: int, of: int) -> None:
        """A worker is being started that explains a case, for that time of so many."""
        return

    def explained(self, explanation: Explanation) -> None:
        """An explanation is on disk."""
        return


class Nobody(Face):
    """Nobody watches."""
