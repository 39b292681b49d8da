"""Operators one by one on an asynchronous device, by events of a scripted clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest
import torch

from bench.backend import Queued, Recorder
from bench.measuring.explaining import ceilings, profiled, rotated
from bench.measuring.explaining.tape import recorded
from bench.measuring.explaining.timing import Stopwatch
from bench.records.explained import Explained, Unexplained
from bench.records.outcome import Memory
from bench.tests.fakes import FakeDevice
from bench.tests.measuring.explaining.small_job import CLOCK, PLANTED_NS, SmallJob, nobody_looks


class Accelerator(FakeDevice):
    """The host's memory, and a queue of its own: what the planted operator takes is queued."""

    def __init__(self, graphs: bool = False) -> None:
        super().__init__(CLOCK, synchronous=False)
        self.graphs, self.recordings = graphs, 0
        self.bytes: int | None = None

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def elapsed_ns(self, start: object, end: object) -> int:
        return int(end.time - start.time)  # type: ignore[attr-defined]

    def capacity_bytes(self) -> int | None:
        return self.bytes

    def memory(self) -> Memory:
        return msgspec.structs.replace(super().memory(), device_used_bytes=0)

    def recorder(self) -> Recorder | None:
        return self.record if self.graphs else None

    def record(self, work: Queued, prepare: Queued) -> Queued:
        self.recordings += 1
        return work


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "DEVICE_BUFFER_BYTES", 4096)
        patch.setattr(ceilings, "DEVICE_SIZES", (8,))
        patch.setattr(rotated, "ROTATE_BYTES", 16 << 10)
        patch.setattr(rotated, "REPEATS", 2)
        patch.setattr(profiled, "_profiled", nobody_looks)
        yield


@pytest.fixture(params=[False, True], ids=["loop", "graph"])
def device(request: pytest.FixtureRequest) -> Accelerator:
    return Accelerator(request.param)


def test_a_planted_operator_is_found_in_a_graph_and_in_a_loop(device: Accelerator) -> None:
    found = rotated.explained(SmallJob(), device, CLOCK)
    assert isinstance(found, Explained) and found.how == "operands rotated"
    rows = {op.name: op for op in found.operators}
    assert rows["planted::layer_norm"].ns == PLANTED_NS
    assert set(found.step_ns) == {PLANTED_NS}
    assert sum(op.ns or 0.0 for op in found.operators) == pytest.approx(PLANTED_NS, rel=1e-6)
    assert bool(device.recordings) == device.graphs


def test_operands_rotate_through_more_than_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    tape = recorded(SmallJob().step, "cpu")
    product = next(call for call in tape.calls if call.name == "aten::mm")

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append(a.data_ptr())
        return a @ b

    call = product._replace(func=watched)
    row = rotated.row_of(tape, call, Stopwatch(Accelerator(), CLOCK), None)
    size = 4 * (8 * 32 + 32 * 32)
    assert len(set(seen)) * size >= rotated.ROTATE_BYTES and not row.hot
    monkeypatch.setattr(rotated, "SMALL_BYTES", 1)
    seen.clear()
    assert rotated.row_of(tape, call, Stopwatch(Accelerator(), CLOCK), 3 * size).hot
    assert len(set(seen)) == 1, "half of what is left holds one set of operands"


def test_an_operator_that_cannot_be_called_alone_is_a_row_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real: Callable[..., rotated.Row] = rotated.row_of

    def failing(tape: object, call: object, *rest: object) -> rotated.Row:
        if call.name == "aten::relu":  # type: ignore[attr-defined]
            raise RuntimeError("no kernel\nand a stack")
        return real(tape, call, *rest)

    monkeypatch.setattr(rotated, "row_of", failing)
    found = rotated.explained(SmallJob(), Accelerator(), CLOCK)
    assert isinstance(found, Explained)
    absent = {op.name: op.absent for op in found.operators if op.absent}
    assert absent == {"aten::relu": "RuntimeError: no kernel"}


def test_too_little_memory_is_refused() -> None:
    device = Accelerator()
    device.bytes = 8 << 10
    found = rotated.explained(SmallJob(), device, CLOCK, batch=4)
    assert isinstance(found, Unexplained) and "batch_size = 1" in found.reason
