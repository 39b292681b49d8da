"""A whole account, by a clock that only the planted operator moves."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from bench.backends.cpu import BACKEND
from bench.measuring.explaining import ceilings, fresh, in_order, profiled
from bench.measuring.explaining.replay import Player, Replay
from bench.records.explained import Explained, Operator, Unexplained
from bench.tests.measuring.explaining.small_job import (
    CLOCK,
    FP32,
    PLANTED_NS,
    SmallJob,
    nobody_looks,
)


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "BUFFER_BYTES", 4096)
        patch.setattr(ceilings, "SIZES", (8,))
        patch.setattr(in_order, "LEAST_TURNS", 2)
        patch.setattr(profiled, "_profiled", nobody_looks)
        patch.setattr(fresh, "given_bytes", lambda: (0,))
        yield


@pytest.fixture(scope="module")
def account(small: None) -> Explained:
    job = SmallJob()
    found = in_order.explained(job, BACKEND.open(0, FP32), CLOCK, seconds=0)
    assert isinstance(found, Explained)
    assert job.refills == 3, "before the recording and each of the turns"
    return found


def test_a_planted_operator_is_found_with_its_time(account: Explained) -> None:
    found = {op.name: op for op in account.operators}
    assert account.step_ns == (PLANTED_NS, PLANTED_NS)
    assert found["planted::layer_norm"].kind == "normalization"
    assert found["planted::layer_norm"].ns == PLANTED_NS
    assert sum(op.ns or 0 for op in account.operators) == PLANTED_NS
    assert account.freeing_ns == account.call_floor_ns == 0


def test_step_and_tape_come_first_in_turn(monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    """What comes first finds caches that others have filled."""
    job, order, play = SmallJob(), list[str](), Player.play
    step = job.step

    def played(player: Player) -> Replay:
        order.append("tape")
        return play(player)

    def stepped() -> None:
        order.append("step")
        step()

    monkeypatch.setattr(Player, "play", played)
    monkeypatch.setattr(job, "step", stepped)
    monkeypatch.setattr(in_order, "LEAST_TURNS", 3)
    in_order.explained(job, BACKEND.open(0, FP32), CLOCK, seconds=0)
    recorded, first, *turns = order
    assert (recorded, first) == ("step", "tape")
    assert turns == ["step", "tape", "tape", "step", "step", "tape"]


def test_several_jobs_take_turns(monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    """What drifts hits all of them alike."""
    jobs, order = [SmallJob(), SmallJob()], list[int]()
    for number, job in enumerate(jobs):
        monkeypatch.setattr(job, "refill", functools.partial(order.append, number))
        monkeypatch.setattr(job, "step", functools.partial(stepped, job))
    found = in_order.together(jobs, BACKEND.open(0, FP32), CLOCK, seconds=0)
    assert [one.step_ns for one in found if isinstance(one, Explained)] == [(PLANTED_NS,) * 2] * 2
    assert order == [0, 1, 0, 1, 1, 0], "recorded, and a step in each turn"


def stepped(job: SmallJob) -> None:
    """A step from where it starts."""
    job.position.zero_()
    SmallJob.step(job)


def test_calls_of_the_same_shapes_are_a_row(account: Explained) -> None:
    (products,) = [op for op in account.operators if op.operands == "fp32[8,32] fp32[32,32]"]
    assert (products.name, products.calls, products.precision) == ("aten::mm", 3, "fp32")
    assert products.flop == 3 * 2 * 8 * 32 * 32
    assert products.alone_flop_per_second is not None
    best = account.ceilings.flop_per_second["matmul fp32"]
    assert best >= products.alone_flop_per_second, "the shape's own is a ceiling of its kind"
    views = [op for op in account.operators if op.name == "aten::detach"]
    assert [(op.kind, op.operands, op.flop) for op in views] == [("other", "", 0)]


def test_each_call_is_there_in_its_order(account: Explained) -> None:
    assert len(account.order) == sum(op.calls for op in account.operators)
    place = [op.name for op in account.operators].index("planted::layer_norm")
    at = [k for k, row in enumerate(account.order) if row == place]
    assert len(at) == 1 and account.call_ns[at[0]] == PLANTED_NS


def test_it_stays_what_it_is_in_a_record(account: Explained) -> None:
    text = msgspec.json.encode(account)
    assert msgspec.json.decode(text, type=Explained) == account


def test_too_little_memory_is_refused(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    device = BACKEND.open(0, FP32)
    monkeypatch.setattr(device, "capacity_bytes", lambda: 1000)
    found = in_order.explained(SmallJob(), device, CLOCK, batch=8, seconds=0)
    assert isinstance(found, Unexplained) and "batch_size = " in found.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"ns": None},
        {"absent": "no reason and a time"},
        {"ns": -1.0},
        {"calls": 0},
        {"flop": -1},
        {"read_bytes": 1, "written_bytes": None},
    ],
)
def test_nonsense_is_no_operator(changes: dict[str, Any]) -> None:
    good: dict[str, Any] = {"name": "aten::mm", "kind": "matmul", "calls": 1, "ns": 1.0}
    Operator(**good)
    with pytest.raises(ValueError, match="aten::mm"):
        Operator(**{**good, **changes})
