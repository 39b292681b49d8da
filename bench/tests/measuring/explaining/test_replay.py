"""A tape played again: from one operator to the next as in the step, and what a call costs."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from bench.measuring.explaining import replay
from bench.measuring.explaining.replay import Live, Player, Ready, Replay, typical
from bench.measuring.explaining.tape import recorded
from bench.tests.measuring.explaining.small_job import CLOCK

X = torch.arange(6.0).reshape(2, 3)


def test_what_an_operator_gives_is_what_the_next_one_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more of it is held than the step holds."""
    tape = recorded(lambda: X.add(1).mul(2).sub(3).neg(), "cpu")
    made, given, held = list[torch.Tensor](), list[weakref.ref[Any]](), list[int]()
    on, keep = replay.on, Live.keep

    def making(storage: Any, ref: Any) -> torch.Tensor:
        made.append(on(storage, ref))
        return made[-1]

    def kept(live: Live, ready: Ready, out: Any) -> None:
        keep(live, ready, out)
        given.append(weakref.ref(out))
        held.append(sum(one() is not None for one in given))

    monkeypatch.setattr(replay, "on", making)
    monkeypatch.setattr(Live, "keep", kept)
    assert len(Player(tape, CLOCK).play().call_ns) == 4
    assert [one.data_ptr() for one in made] == [X.data_ptr()], "all others were given"
    assert held == [1, 2, 2, 2], "its operand and what it gives"


def test_a_tensor_that_becomes_another_view_is_no_other_operator_s() -> None:
    result = torch.zeros(2, 3)

    def step() -> None:
        doubled = X * 2
        same = doubled.detach()
        doubled.t_()
        result.copy_(same)

    tape = recorded(step, "cpu")
    result.zero_()
    Player(tape, CLOCK).play()
    assert torch.equal(result, X * 2)


def test_lists_of_tensors_and_named_ones_are_given_too() -> None:
    result = torch.zeros(4, 3)
    tape = recorded(lambda: torch.cat([X, X + 1], out=result), "cpu")
    result.zero_()
    Player(tape, CLOCK).play()
    assert torch.equal(result, torch.cat([X, X + 1]))


def test_what_a_call_costs_is_what_a_quarter_of_the_views_do_not_reach() -> None:
    """Others have work of their own; and of few, nobody knows."""
    tape = recorded(lambda: [X.view(-1) for _ in range(40)] + [X.neg()], "cpu")
    player = Player(tape, CLOCK)
    assert player.floor_in_place_ns([*range(100, 140), 0]) == 110
    few = Player(recorded(lambda: X.view(-1).neg(), "cpu"), CLOCK)
    assert few.floor_in_place_ns([100, 0]) == 0, "in a loop by a clock that stands"


def test_what_meets_another_call_each_time_is_of_all_of_them() -> None:
    """It meets the step each time too."""
    turns = [Replay([10, 2, 1], 0), Replay([1, 11, 1], 0), Replay([1, 2, 10], 0)]
    steps = [20, 20, 20]
    assert typical(turns, steps) == pytest.approx([1 * 13 / 4, 2 * 13 / 4, 1 * 13 / 4])
    assert typical(turns[:1] * 3, steps) == pytest.approx([10, 2, 1])
    assert typical([Replay([0], 0)], [20]) == [0]


def test_a_replay_is_held_against_the_step_beside_it() -> None:
    """On a host that becomes half as fast, and in the last turn faster again between the two."""
    turns = [Replay([95], 0), Replay([190], 0), Replay([100], 0)]
    assert typical(turns, [100, 200, 210]) == pytest.approx([190])
