"""Every workload with its modes, and how a test builds it small."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import bench.workloads
from bench.precision import PRECISIONS, Precision
from bench.workload import Job, Parameters, Site, Workload

FP32 = PRECISIONS["fp32"]
MODULES = {
    module.name.replace("_", "-"): f"bench.workloads.{module.name}"
    for module in pkgutil.iter_modules(bench.workloads.__path__)
    if not module.ispkg and not module.name.startswith("_")
}
NAMES = list(MODULES)
WORKLOADS: dict[str, Workload] = {
    name: importlib.import_module(module).WORKLOAD for name, module in MODULES.items()
}
KERNELS = {
    name
    for name, workload in WORKLOADS.items()
    if not any("graph" in mode.executions for mode in workload.modes.values())
}
"""Workloads without a model, each of which goes wrong in ways of its own: tested by itself. Every
model can be recorded."""
MODES = [
    (name, mode)
    for name, workload in WORKLOADS.items()
    for mode, declared in workload.modes.items()
    # Nothing for one device (`test_collective`), or no step of one thing (`test_serve`).
    if not declared.together and not declared.serves
]
NOT_ON_A_CPU = {
    "tf32",  # without the device's switch it is fp32
    # torch has no such products there; `bench/tests/workloads/test_formats.py` has a stand-in.
    *("fp8-block128", "mxfp8", "mxfp4", "nvfp4"),
}
CASES = [
    (name, mode, precision)
    for name, mode in MODES
    for precision in WORKLOADS[name].modes[mode].precisions
    if precision not in NOT_ON_A_CPU and (mode, precision) != ("grouped", "fp8-row")
]
TRAINING = [(name, mode) for name, mode in MODES if mode in ("train", "train-pipeline", "lora")]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads gain nothing at these sizes, and on a busy machine they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def site(precision: Precision = FP32, seed: int = 0, memory_format: str = "contiguous") -> Site:
    return Site(
        device=torch.device("cpu"), precision=precision, seed=seed, memory_format=memory_format
    )


SMALLEST = {"whisper": "tiny-2l"}
"""The model that tests use, if it is not `tiny`: Whisper's own has that name, and takes seconds."""


def small(name: str, mode: str, **given: Any) -> Parameters:
    """The twin of the smallest model: what any workload offers that is quick on a CPU."""
    workload = WORKLOADS[name]
    kind = workload.modes[mode].parameters
    if "model" in kind.__struct_fields__:
        given.setdefault("model", SMALLEST.get(name, "tiny"))
    return msgspec.structs.replace(workload.twin(mode, kind()), **given)


def build(name: str, mode: str, at: Site, **given: Any) -> Job:
    return WORKLOADS[name].build(mode, small(name, mode, **given), at)


def model_of(job: Any) -> torch.nn.Module:
    model: torch.nn.Module = job.generator.model if hasattr(job, "generator") else job._model
    return model


class NoQuestions(TorchDispatchMode):
    """Refuses what makes the host wait for a value: `.item()`, `if tensor`, `tensor.tolist()`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.equal.default,
            torch.ops.aten.nonzero.default,
        ):
            raise AssertionError(f"the step asks the device: {func}")
        return func(*args, **(kwargs or {}))
