"""Links are timed turn by turn, between meetings of all ranks."""

from __future__ import annotations

from typing import Any

from bench.measuring.ranks.edges import Edges
from bench.measuring.ranks.pairs import REPEATED, SWEEPS, peer_ns
from bench.tests.fakes import FakeDevice, ScriptedClock


class Meetings(Edges):
    """Counts them."""

    count = 0

    def meet(self) -> None:
        """One more."""
        self.count += 1


class Tournament:
    """Of rank 0 among three: it meets 1, then sits out, then meets 2."""

    turns = 3
    others = (1, None, 2)

    def __init__(self, clock: ScriptedClock, late: int) -> None:
        self.clock, self.late, self.calls = clock, late, 0

    def meet(self, turn: int) -> int | None:
        """An exchange with 2 takes thrice as long; the very first one is late."""
        self.clock.now += (100, 0, 300)[turn] + (self.late if not self.calls else 0)
        self.calls += 1
        return self.others[turn]


def test_of_each_pair_the_median_time_of_an_exchange() -> None:
    clock, meetings = ScriptedClock(), Meetings()
    job: Any = Tournament(clock, late=10_000)
    device: Any = FakeDevice(clock, synchronous=True)
    said: list[int] = []
    all_turns = (job, 3, device, meetings, clock, lambda: said.append(meetings.count))
    assert peer_ns(*all_turns) == (0, 100, 300)
    assert job.calls == SWEEPS * 3 * REPEATED and meetings.count == SWEEPS * 3
    assert said == list(range(SWEEPS * 3)), "a word before each turn, or it is taken for a hang"
    job.turns = 0
    assert peer_ns(*all_turns) == ()
