"""What is recorded, by stand-ins that behave as `torch.cuda`'s: a failed capture spoils nothing."""

from __future__ import annotations

import contextlib
import gc
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from bench.backend import is_out_of_memory
from bench.backends import _graphs
from bench.records.reason import of_error
from bench.tests.simulated.processes import Processes
from bench.workload import Unsupported

DEVICE = torch.device("cpu")
OOM = "CUDA out of memory. Tried to allocate 2.00 GiB"


class Queue:
    def wait_stream(self, other: Queue) -> None: ...
    def synchronize(self) -> None: ...


class Module:
    """As `torch.cuda`: the end of a failed capture raises anew, and leaves its stream current."""

    class CUDAGraph:
        def replay(self) -> None: ...

    Stream = Queue

    def __init__(self) -> None:
        self.default = self.current = Queue()
        self.captures = 0
        self.capturing = False
        self.mode: int | str = 0

    def current_stream(self) -> Queue:
        return self.current

    @contextmanager
    def stream(self, stream: Queue) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: object, stream: Queue) -> Iterator[None]:
        self.captures += 1
        before, self.current = self.current, stream
        self.capturing, ended = True, False
        try:
            yield
            ended = True
        finally:
            if not ended:
                raise RuntimeError("operation failed due to a previous error during capture")
        self.capturing = False
        self.current = before


class Tells(Module):
    """Whose module tells who waits."""

    def get_sync_debug_mode(self) -> int | str:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        self.mode = mode

    def item(self) -> None:
        if self.mode == "error":
            raise RuntimeError("called a synchronizing HIP operation")
        if self.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_graphs, "_failed", [])


def recorded(module: Module, work: Callable[[], Any]) -> Any:
    found = _graphs.recorder(module, "CUDAGraph", DEVICE)
    assert found is not None
    return found(work, lambda: None)


class Work:
    def __init__(self, module: Module, error: type[BaseException], words: str = "") -> None:
        self.module, self.error, self.words = module, error, words

    def __call__(self) -> None:
        if self.module.capturing:
            raise self.error(self.words)


def test_what_ended_a_capture_is_what_is_raised() -> None:
    module = Module()
    with pytest.raises(torch.OutOfMemoryError) as caught:
        recorded(module, Work(module, torch.OutOfMemoryError, OOM))
    assert is_out_of_memory(caught.value) and of_error(caught.value) == f"OutOfMemoryError: {OOM}"
    assert module.current is module.default, "torch leaves the capture's own"
    module.capturing = False
    with pytest.raises(Unsupported, match=r"a recording failed \(CUDA out of memory"):
        recorded(module, lambda: None)
    assert module.captures == 1, "torch's generator may still take itself for captured"


def test_an_interruption_is_one_in_a_capture_too() -> None:
    module = Module()
    with pytest.raises(KeyboardInterrupt):
        recorded(module, Work(module, KeyboardInterrupt))


def test_a_capture_that_failed_keeps_no_memory() -> None:
    module = Module()
    work = Work(module, RuntimeError)
    there = weakref.ref(work)
    gc.disable()
    try:
        with contextlib.suppress(RuntimeError):
            recorded(module, work)
        del work
        assert there() is None
    finally:
        gc.enable()


def test_work_that_waits_is_no_work_to_record_and_spoils_no_other() -> None:
    module = Tells()
    with pytest.raises(Unsupported, match="the host waits for the device"):
        recorded(module, module.item)
    assert (module.captures, module.mode, module.current) == (0, 0, module.default)
    recorded(module, lambda: None)()
    assert (module.captures, module.mode) == (1, 0)


def test_another_error_of_a_warm_up_is_itself() -> None:
    module = Tells()

    def fails() -> None:
        if module.mode:
            raise RuntimeError(OOM)

    with pytest.raises(RuntimeError, match="out of memory"):
        recorded(module, fails)
    assert module.mode == 0
    recorded(module, lambda: None)


SIMULATED = """
from bench import catalogue
from bench.backends import _graphs
from bench.precision import PRECISIONS

device = catalogue.backend("ascend").open(0, PRECISIONS["fp32"])
x, y, told = torch.ones(2, device="npu"), torch.zeros(2, device="npu"), []

def record(work):
    try:
        device.recorder()(work, lambda: None)()
    except Exception as error:
        told.append(f"{type(error).__name__}: {error}")
    else:
        told.append(y.tolist())
    told.append(torch.npu.current_stream() == torch.npu.default_stream())

record(lambda: y.fill_(x.sum().item()))
record(lambda: torch.add(x, 1.0, out=y))
del torch.npu.get_sync_debug_mode
record(lambda: y.fill_(x.sum().item()))
record(lambda: torch.add(x, 2.0, out=y))
print(json.dumps(told))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a forked process")
def test_on_a_device_who_waits_is_told_before_the_capture(processes: Processes) -> None:
    """And where torch's module does not tell, the device ends the capture."""
    waits, _, works, _, failed, _, no_more, _ = said = processes.run(SIMULATED).said
    assert waits == f"Unsupported: {_graphs.WAITED_FOR}" and works == [2.0, 2.0]
    assert failed.startswith("RuntimeError: NPU function error") and "not permitted" in failed
    assert no_more.startswith(f"Unsupported: {_graphs.NO_MORE} (NPU function error")
    assert said[1::2] == [True] * 4
