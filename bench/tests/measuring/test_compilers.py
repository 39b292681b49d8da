"""A compiler that is to search for its kernels: how it is told, and whether it was one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.backends.cpu import CpuBackend
from bench.measuring import asked, compilers
from bench.measuring.execution import Execution
from bench.precision import PRECISIONS
from bench.records.environment import UNSEARCHED
from bench.workload import Unsupported
from bench.workloads.decoding import slots


@pytest.mark.parametrize("large", [True, False])
def test_products_that_torchs_compiler_does_not_search_for_are_noted(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Of a GPU with few multiprocessors, as it says itself."""
    from torch._inductor import utils

    monkeypatch.setattr(torch._dynamo, "register_backend", lambda *_, **__: None)  # once a process
    backend = CpuBackend()
    execution = Execution("compile", backend, backend.open(0, PRECISIONS["fp32"]), searches=True)
    execution._place = torch.device("cuda")
    monkeypatch.setattr(utils, "is_big_gpu", lambda place: large)
    record: dict[str, Any] = {}
    execution.looks(record)
    assert record["compiler"].get(UNSEARCHED, 0) == (0 if large else 1)


def test_a_search_is_what_its_backend_says_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[dict[str, Any]] = []

    def vendors(graph: Callable[..., Any], inputs: Any, **given: Any) -> Callable[..., Any]:
        asked_for.append(given)
        return graph

    torch._dynamo.register_backend(vendors, name="test-vendors")
    backend, (info, *_) = CpuBackend(), CpuBackend().devices()
    device = backend.open(info.index, PRECISIONS["fp32"])
    monkeypatch.setattr(CpuBackend, "compilers", ("test-vendors",))
    with pytest.raises(Unsupported, match="max-autotune: the backend cpu names no search of its"):
        Execution("compile", backend, device, searches=True)
    monkeypatch.setattr(CpuBackend, "compiler_searches", {"test-vendors": {"effort": 2}})
    execution, record = Execution("compile", backend, device, searches=True), dict[str, Any]()
    assert "asked for max-autotune, got no graph" in asked.complaint(execution.looks(record))
    compile_: Any = torch._dynamo.lookup_backend(execution.compiler)
    assert compile_(torch.relu, [torch.ones(2)]) is torch.relu
    assert asked_for == [{"effort": 2}]
    assert "max-autotune" not in asked.complaint(execution.looks(record))
    assert record["compiler_searched"] == 1


def test_room_to_compile_is_made_by_a_name_that_the_oldest_torch_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch 2.6 has no `recompile_limit`; what is patched is what holds in later ones."""

    class Config:
        cache_size_limit = 8

        def patch(self, **changes: int) -> dict[str, int]:
            return changes

    job: Any = SimpleNamespace(_compiled=True, _reaches=range(10))
    with slots.SlotModel._room_to_compile(job):
        assert torch._dynamo.config.recompile_limit == 22
    old = Config()
    monkeypatch.setattr(torch._dynamo, "config", old)
    compilers.make_room(3)
    assert old.cache_size_limit == 24
    assert slots.SlotModel._room_to_compile(job) == {"cache_size_limit": 24}
