"""What torch's profiler saw, added up: events made by hand."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.backends.cpu import BACKEND
from bench.measuring.explaining import profiled
from bench.measuring.explaining.profiled import MARK, Profiler, Span, rows, spans, summed
from bench.measuring.explaining.tape import Tape, recorded
from bench.records.explained import Kind
from bench.tests.measuring.explaining.small_job import FP32, SmallJob

KINDS: dict[str, Kind] = {
    "aten::mm": "matmul",
    "aten::relu": "elementwise",
    "aten::add_": "elementwise",
}


def event(name: str, start: float, us: float, above: Any = None, device: str = "CPU") -> Any:
    """One of torch's."""
    return SimpleNamespace(
        name=name,
        time_range=SimpleNamespace(start=start, end=start + us),
        us=us,
        device_type=f"DeviceType.{device}",
        cpu_parent=above,
    )


def taken(one: Any) -> float:
    return float(one.us)


@pytest.fixture(scope="module")
def tape() -> Tape:
    return recorded(SmallJob().step, "cpu")


def test_an_operator_counts_where_no_other_holds_it_in_a_step() -> None:
    """By time and not by what holds it: an accelerator's backward runs in a thread of its own."""
    step = event(MARK, 100.0, 50.0)
    product = event("aten::mm", 110.0, 10.0, step)
    optimizer = event("Optimizer.step#AdamW.step", 130.0, 10.0, step)
    events = [
        event("aten::mm", 90.0, 5.0),  # of what was done before the step
        step,
        product,
        event("aten::relu", 112.0, 3.0, product),  # held
        event("aten::mm", 125.0, 4.0),  # of another thread
        optimizer,
        event("aten::add_", 131.0, 2.0, optimizer),
        event("aten::unheard_of", 140.0, 1.0, step),
        event(MARK, 200.0, 90.0, device="OTHER"),  # the mark's shadow among the kernels
        event("aten::mm", 210.0, 5.0),
    ]
    assert spans(events, KINDS, taken) == [
        Span("aten::mm", "matmul", 10.0),
        Span("aten::mm", "matmul", 4.0),
        Span("aten::add_", "optimizer", 2.0),
    ]


def test_each_call_counts_with_its_median(tape: Tape) -> None:
    """A mean would count the turn that the host gave to others."""
    steps = [
        [Span("aten::mm", "matmul", us), Span("aten::relu", "elementwise", 1.0)]
        for us in (10.0, 9000.0, 11.0)
    ]
    found = summed(steps, [20_000, 9_020_000, 21_000])
    assert found.kinds == {"matmul": 11_000.0, "elementwise": 1000.0}
    assert found.step_ns == 21_000 and found.calls == {"aten::mm": 1.0, "aten::relu": 1.0}
    assert rows(steps, tape) == (), "another number of calls than on the tape"


class Look:
    """What torch's profiler gives of a step that is one product."""

    def events(self) -> list[Any]:
        step = event(MARK, 0.0, 50.0)
        return [step, event("aten::mm", 10.0, 20.0, step)]


def test_what_was_seen_is_read_at_once_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tape: Tape
) -> None:
    """Where it lies, the step's memory was."""
    looks = list[weakref.ref[Look]]()

    def looked(*_: object) -> tuple[Look, int]:
        found = Look()
        looks.append(weakref.ref(found))
        return found, 50_000

    monkeypatch.setattr(profiled, "_profiled", looked)
    monkeypatch.setattr(Profiler, "_taken", lambda self, one: taken(one))
    profiler = Profiler(SmallJob(), BACKEND.open(0, FP32))
    profiler.look()
    assert looks[0]() is not None and profiler.names(tape) == ["aten::mm"]
    profiler.follow(tape)
    profiler.look()
    assert [one() for one in looks] == [None, None]
    profile, _ = profiler.seen(tape)
    assert profile is not None and profile.calls == {"aten::mm": 1.0}
    assert profile.kinds == {"matmul": 20_000.0}


def test_what_an_optimizer_calls_too_keeps_its_kind_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.nn.Parameter(torch.rand(4))

    def step() -> None:
        with torch.no_grad():
            weight.detach().add_(1.0)
            with torch.autograd.profiler.record_function("Optimizer.step#plain"):
                weight.add_(1.0)

    mark = event(MARK, 0.0, 50.0)
    optimizer = event("Optimizer.step#plain", 30.0, 10.0, mark)
    seen = [
        *(mark, event("aten::add_", 10.0, 20.0, mark)),
        *(optimizer, event("aten::add_", 31.0, 2.0, optimizer)),
    ]
    monkeypatch.setattr(profiled, "_profiled", lambda *_: (SimpleNamespace(events=lambda: seen), 1))
    monkeypatch.setattr(Profiler, "_taken", lambda self, one: taken(one))
    profiler = Profiler(SmallJob(), BACKEND.open(0, FP32))
    profiler.look()
    profile, _ = profiler.seen(recorded(step, "cpu"))
    assert profile is not None
    assert profile.kinds == {"elementwise": 20_000.0, "optimizer": 2_000.0}
