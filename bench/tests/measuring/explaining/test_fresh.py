"""What gets fresh memory is not counted, as a step in its steady state gets none."""

from __future__ import annotations

import itertools
import mmap
import sys

import pytest

from bench.backends.cpu import BACKEND
from bench.measuring.explaining import fresh, in_order
from bench.measuring.explaining.fresh import MOST_TIMES, given_bytes, settled
from bench.measuring.explaining.replay import Player, Replay
from bench.records.explained import Explained
from bench.tests.fakes import MS
from bench.tests.measuring.explaining.small_job import CLOCK, FP32, SmallJob
from bench.tests.measuring.explaining.test_in_order import small

__all__ = ["small"]  # a fixture, used by being here
MIB = 1 << 20


@pytest.mark.parametrize(
    ("given", "times"),
    [
        ((0, 0), 1),
        ((64, 64, 0), 3),
        ((64,) * 9, MOST_TIMES),
        ((0.2, 0), 2),  # MiB in 10 ms: 0.4 % of them
        ((0.05, 0), 1),
    ],
)
def test_what_gets_fresh_memory_is_taken_again(given: tuple[float, ...], times: int) -> None:
    """But not for ever: what always gets some, gets it in the step too."""
    each, total = iter(given), itertools.count(1)
    had, now = [0, 0], [0]

    def work() -> int:
        had[1] += round(next(each) * MIB)  # seen by one of the two that count
        now[0] += 10 * MS
        return next(total)

    assert settled(work, lambda: (had[0], had[1]), lambda: now[0]) == times


@pytest.mark.skipif(sys.platform == "win32", reason="counts no page faults")
def test_pages_that_are_touched_first_are_fresh() -> None:
    before = given_bytes()
    with mmap.mmap(-1, 8 * MIB) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1
        touched = given_bytes()
        memory[0] = 2
    assert max(b - a for a, b in zip(before, touched, strict=True)) >= 8 * MIB


def test_neither_step_nor_tape_counts_with_fresh_memory(
    monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    """Of each turn the first attempt gets some."""
    had = itertools.accumulate(itertools.cycle((0, 1 << 40, 0, 0)))
    monkeypatch.setattr(fresh, "given_bytes", lambda: (next(had),))
    job, plays, play = SmallJob(), list[Player](), Player.play

    def played(player: Player) -> Replay:
        plays.append(player)
        return play(player)

    monkeypatch.setattr(Player, "play", played)
    found = in_order.explained(job, BACKEND.open(0, FP32), CLOCK, seconds=0)
    assert isinstance(found, Explained)
    assert len(found.step_ns) == 2 and job.refills == 1 + 2 * 2 == len(plays)
