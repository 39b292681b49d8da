"""Operators one by one on an asynchronous device, by events of a scripted clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch

from bench.backend import Queued, Recorder
from bench.measuring.explaining import (
    ceilings,
    kernels,
    launch,
    profiled,
    remedies,
    rotated,
    timing,
)
from bench.measuring.explaining.ceilings import Meter
from bench.measuring.explaining.tape import recorded
from bench.measuring.explaining.timing import Stopwatch
from bench.records.explained import Explained, Tried, Unexplained
from bench.records.outcome import Memory
from bench.tests.fakes import FakeDevice, ScriptedClock
from bench.tests.measuring.explaining.small_job import CLOCK, PLANTED_NS, SmallJob, nobody_looks
from bench.tests.measuring.explaining.test_kernels import EVENTS, event
from bench.tests.values import make_case
from bench.workload import Unsupported

HOST = ScriptedClock()
"""Of a host that queues in no time; what the planted operator takes is the device's."""
US = 1_000


class Accelerator(FakeDevice):
    """The host's memory, and a queue of its own."""

    def __init__(self, graphs: bool = False) -> None:
        super().__init__(CLOCK, synchronous=False)
        self.graphs, self.recordings = graphs, 0
        self.bytes: int | None = None
        self.kept = 0
        """Bytes that its allocator keeps for itself."""

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def elapsed_ns(self, start: object, end: object) -> int:
        return int(end.time - start.time)  # type: ignore[attr-defined]

    def capacity_bytes(self) -> int | None:
        return self.bytes

    def release_memory(self) -> None:
        self.kept = 0

    def memory(self) -> Memory:
        return msgspec.structs.replace(super().memory(), device_used_bytes=self.kept)

    def recorder(self) -> Recorder | None:
        return self.record if self.graphs else None

    def record(self, work: Queued, prepare: Queued) -> Queued:
        self.recordings += 1
        return work

    def queue(self, nanoseconds: int) -> None:
        """Work that begins 10 us after the host has begun to queue it."""
        CLOCK.advance(10 * US)
        self.work(nanoseconds)


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "DEVICE_BUFFER_BYTES", 4096)
        patch.setattr(ceilings, "DEVICE_SIZES", (8,))
        patch.setattr(timing, "MOST_CALLS", 2)
        patch.setattr(rotated, "ROTATE_BYTES", 16 << 10)
        patch.setattr(rotated, "REPEATS", 2)
        patch.setattr(profiled, "_profiled", nobody_looks)
        yield


@pytest.fixture(params=[False, True], ids=["loop", "graph"])
def device(request: pytest.FixtureRequest) -> Accelerator:
    return Accelerator(request.param)


def test_a_planted_operator_is_found_in_a_graph_and_in_a_loop(device: Accelerator) -> None:
    found = rotated.explained(SmallJob(), device, HOST)
    assert isinstance(found, Explained) and found.how == "operands rotated"
    rows = {op.name: op for op in found.operators}
    assert rows["planted::layer_norm"].ns == PLANTED_NS
    assert set(found.step_ns) == {PLANTED_NS}
    assert sum(op.ns or 0.0 for op in found.operators) == pytest.approx(PLANTED_NS, rel=1e-6)
    assert bool(device.recordings) == device.graphs


def test_what_the_host_takes_is_no_time_of_the_operator(device: Accelerator) -> None:
    """In a loop nobody can tell the two apart; a graph needs no host, and a step does."""
    tape = recorded(SmallJob().step, "cpu")
    (call,) = [call for call in tape.calls if call.name == "planted::layer_norm"]
    row = rotated.row_of(tape, call, Stopwatch(device, CLOCK), None)
    assert (row.ns, row.queue_ns) == (PLANTED_NS, PLANTED_NS)
    assert row.absent == ("" if device.graphs else rotated.SLOW_HOST)
    quick = rotated.row_of(tape, call, Stopwatch(device, HOST), None)
    assert (quick.queue_ns, quick.absent) == (0, "")


def test_an_operator_that_the_host_queues_slowly_is_a_row_without_a_time() -> None:
    found = rotated.explained(SmallJob(), Accelerator(), CLOCK)
    assert isinstance(found, Explained)
    absent = {op.name: op.absent for op in found.operators if op.absent}
    assert absent == {"planted::layer_norm": rotated.SLOW_HOST} and max(found.call_ns) == 0


def test_the_gap_before_the_first_kernel_is_in_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a synchronization the first event is over at once, and the device waits for work."""
    monkeypatch.setattr(timing, "MOST_CALLS", 200)
    device = Accelerator(graphs=True)
    moving = [("read", 10**6, lambda: device.queue(100 * US))]
    monkeypatch.setattr(ceilings, "_moving", lambda _: moving)
    meter = Meter(device, Stopwatch(device, HOST), ())
    meter.look()
    assert meter.traffic["read"] == pytest.approx(10**6 / 100e-6, rel=0.01)

    tape = recorded(SmallJob().step, "cpu")
    call = next(call for call in tape.calls if call.name == "aten::mm")
    monkeypatch.setattr(device, "record", lambda *_: lambda: device.queue(160 * US))
    row = rotated.row_of(tape, call, Stopwatch(device, HOST), 0)
    assert row.ns == pytest.approx(10 * US, rel=0.01), "of 16 calls in a graph"
    monkeypatch.setattr(device, "record", lambda *_: lambda: device.queue(200 * US))
    assert timing.launch_ns(Stopwatch(device, HOST)) == pytest.approx(2 * US, rel=0.01)


@pytest.mark.parametrize("error", [Unsupported("it waits"), RuntimeError("it failed\nand how")])
def test_an_operator_that_is_not_recorded_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """After a recording that failed there is none: what it might give would be no figure."""
    device = Accelerator(graphs=True)
    tried: list[bool] = []

    def record(work: Queued, prepare: Queued) -> Queued:
        tried.append(len(tried) == 3)
        if tried[-1]:
            raise error
        return work if len(tried) > 1 else lambda: device.work(200 * US)

    monkeypatch.setattr(device, "record", record)
    found = rotated.explained(SmallJob(), device, HOST)
    assert isinstance(found, Explained) and found.ceilings.launch_ns == 2 * US
    assert not [op.absent for op in found.operators if op.absent]
    failed = isinstance(error, RuntimeError)
    assert (len(tried) == 4) is failed
    assert found.notes == ((f"{rotated.NO_GRAPH_AFTER}: it failed",) if failed else ())


def test_a_launch_that_is_not_recorded_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a loop it would be the host's."""

    def record(work: Queued, prepare: Queued) -> Queued:
        raise Unsupported("nothing more is recorded")

    device = Accelerator(graphs=True)
    monkeypatch.setattr(device, "record", record)
    assert timing.launch_ns(Stopwatch(device, HOST)) is None
    found = rotated.explained(Sums(), device, HOST)
    assert isinstance(found, Explained) and found.ceilings.launch_ns is None


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


def test_of_a_large_table_it_is_what_is_touched_that_rotates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight rows of 1024; and a part of a cache. Each storage is larger than all that rotates."""
    monkeypatch.setattr(rotated, "SMALL_BYTES", 1)
    table, rows, keys = torch.ones(1024, 32), torch.arange(8), torch.ones(1024, 8)[-64:]

    def step() -> None:
        torch.nn.functional.embedding(rows, table)
        torch.relu(keys)
        torch.ops.aten.mul_(keys, 2)

    tape, seen = recorded(step, "cpu"), set[int]()
    for name, touched in (("embedding", 8 * 32 * 4 + 8 * 8), ("relu", 64 * 32), ("mul_", 64 * 32)):
        made = next(call for call in tape.calls if call.name == f"aten::{name}")

        def watched(*args: Any, func: Any = made.func) -> torch.Tensor:
            seen.add(args[0].data_ptr())
            result: torch.Tensor = func(*args)
            return result

        for free, hot in ((256 << 10, True), (64 << 20, False), (None, True)):
            seen.clear()
            call = made._replace(func=watched)
            row = rotated.row_of(tape, call, Stopwatch(Accelerator(), CLOCK), free)
            assert row.hot is hot, (name, free)
            assert (len(seen) * touched >= rotated.ROTATE_BYTES) is not hot, (name, free)
    monkeypatch.setattr(rotated, "SMALL_BYTES", 1 << 20)
    assert not rotated.row_of(tape, call, Stopwatch(Accelerator(), CLOCK), 256 << 10).hot


class Sums(SmallJob):
    """A row of three calls that do two different things."""

    def step(self) -> None:
        with torch.no_grad():
            for dim in (0, 1, 1):
                self.weight.sum(dim)


def test_calls_of_a_row_that_do_other_work_are_measured_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails: list[int] = []

    def row(_: object, call: Any, *rest: object) -> rotated.Row:
        if call.flat[1] in fails:
            raise RuntimeError("no kernel\nand a stack")
        return rotated.Row(1.0 + call.flat[1], 0.0, False)

    monkeypatch.setattr(rotated, "row_of", row)
    for ns, absent in ((5.0, ""), (None, "RuntimeError: no kernel")):
        found = rotated.explained(Sums(), Accelerator(), HOST)
        assert isinstance(found, Explained)
        (sums,) = found.operators
        assert (sums.calls, sums.ns, sums.absent) == (3, ns, absent)
        fails.append(1)


class Integers(SmallJob):
    """A product of a precision of which no list of shapes is measured."""

    def step(self) -> None:
        torch._int_mm(*torch.ones((2, 32, 32), dtype=torch.int8))


@pytest.mark.parametrize("absent", ["", rotated.SLOW_HOST])
def test_the_shapes_of_a_step_are_a_ceiling_where_no_list_is(
    monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    monkeypatch.setattr(rotated, "row_of", lambda *_: rotated.Row(4.0, 0.0, False, absent))
    found = rotated.explained(Integers(), Accelerator(), HOST)
    assert isinstance(found, Explained)
    reached = {} if absent else {"matmul int8": 2 * 32**3 / 4e-9}
    assert found.ceilings.flop_per_second == pytest.approx(reached)


def test_an_operator_that_cannot_be_called_alone_is_a_row_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real: Callable[..., rotated.Row] = rotated.row_of

    def failing(tape: object, call: object, *rest: object) -> rotated.Row:
        if call.name == "aten::relu":  # type: ignore[attr-defined]
            raise RuntimeError("no kernel\nand a stack")
        return real(tape, call, *rest)

    monkeypatch.setattr(rotated, "row_of", failing)
    found = rotated.explained(SmallJob(), Accelerator(), HOST)
    assert isinstance(found, Explained)
    absent = {op.name: op.absent for op in found.operators if op.absent}
    assert absent == {"aten::relu": "RuntimeError: no kernel"}


def test_too_little_memory_is_refused() -> None:
    device = Accelerator()
    device.bytes = 8 << 10
    found = rotated.explained(SmallJob(), device, HOST, batch=4)
    assert isinstance(found, Unexplained) and "batch_size = 1" in found.reason


def test_memory_that_the_allocator_keeps_is_there_to_be_had() -> None:
    device = Accelerator()
    device.bytes = device.kept = 1 << 30
    assert isinstance(rotated.explained(Sums(), device, HOST), Explained)


def test_of_what_the_host_has_left_nothing_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Accelerator()
    device.bytes = 1 << 30
    used = msgspec.structs.replace(device.memory(), device_used_bytes=1 << 30)
    monkeypatch.setattr(device, "memory", lambda: used)
    assert isinstance(rotated.explained(Sums(), device, HOST), Unexplained)
    monkeypatch.setattr(Accelerator, "shares_host_memory", True)
    assert isinstance(rotated.explained(Sums(), device, HOST), Explained)


def test_a_recorded_step_is_held_against_a_launch_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiled, "events_of", lambda *_: ([EVENTS] * 6, 1))
    device = Accelerator(graphs=True)
    monkeypatch.setattr(device, "record", lambda *_: lambda: device.work(200 * US))
    found = kernels.explained(Sums(), device, "fp32", CLOCK)
    assert isinstance(found, Explained) and found.ceilings.launch_ns == 2 * US


def kernel(us: float) -> Any:
    return event("gemm_kernel", us, device_type="DeviceType.OTHER")


def test_a_step_of_which_the_profiler_lost_kernels_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Public: the first of a session are dropped without a word; a mean would hide it."""
    device = Accelerator()
    steps = [[kernel(10.0)], *[[kernel(10.0), kernel(30.0)]] * 5]
    monkeypatch.setattr(profiled, "events_of", lambda *_: (steps, 1))
    found = kernels.explained(SmallJob(), device, "fp32", CLOCK)
    assert isinstance(found, Explained)
    assert [(row.calls, row.ns) for row in found.operators] == [(2, 40_000.0)]
    assert found.notes == ("the profiler lost kernels of 1 of 6 steps, which are left out",)
    rewound = [[kernel(10.0)]] * 5 + [[kernel(10.0), kernel(6.0)]]
    monkeypatch.setattr(profiled, "events_of", lambda *_: (rewound, 1))
    found = kernels.explained(SmallJob(), device, "fp32", CLOCK)
    assert isinstance(found, Explained) and found.notes == ()
    assert sum(row.ns or 0.0 for row in found.operators) == pytest.approx(11_000.0)
    ageing = [[kernel(10.0)] * count for count in range(6)]
    monkeypatch.setattr(profiled, "events_of", lambda *_: (ageing, 1))
    refused = kernels.explained(SmallJob(), device, "fp32", CLOCK)
    assert isinstance(refused, Unexplained)
    assert "lost kernels of 6 of 6 steps, as" in refused.reason


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ([448] * 6, [448] * 6),
        ([448] * 5 + [472], [448] * 5 + [472]),  # a copy for each of 24 windows
        ([512] + [448] * 5, []),
        ([512, 512, 448, 448, 448, 330], []),
        ([512] * 3 + [448, 447, 446], [512] * 3),
    ],
)
def test_where_one_step_has_many_more_kernels_the_usual_one_lacks_them(
    counts: list[int], kept: list[int]
) -> None:
    """ROCTracer loses 64 of 512 in most of the steps (ROCm 6102); a rewinding step has a few."""
    steps = [[kernel(1.0)] * count for count in counts]
    assert [len(step) for step in profiled.whole(steps)] == kept


def test_the_host_is_watched_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, disturbed: Any, batch: int | None) -> Unexplained:
        return Unexplained(reason=type(disturbed.__self__).__name__)

    monkeypatch.setattr(rotated, "explained", asked)
    found = launch.account(SmallJob(), Accelerator(), make_case(), 1)
    assert found == Unexplained(reason="Host")


@pytest.mark.parametrize("fails", [False, True])
def test_remedies_that_were_measured_are_kept_where_the_step_is_not_explained(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def refused(*_: object, **__: object) -> Unexplained:
        if fails:
            raise RuntimeError("boom")
        return Unexplained(reason="too large")

    tried = Tried(remedy="x", before_ns=(2,), after_ns=(1,))
    monkeypatch.setattr(rotated, "explained", refused)
    monkeypatch.setattr(remedies, "tried", lambda *_: (tried,))
    bench: Any = object()
    found = launch.account(SmallJob(), Accelerator(), make_case(), 1, bench)
    assert isinstance(found, Unexplained) and found.tried == (tried,)
