"""Instances of a GPU (MIG): of which of NVML's devices their own memory and users are asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bench.tests.backends.test_nvml import FakeNvml, NvmlError, nvml_source


@pytest.mark.parametrize(
    ("variables", "slices", "asked"),
    [
        ({"CUDA_VISIBLE_DEVICES": "GPU-0, MIG-7f"}, ["a", "b"], "part MIG-7f"),
        ({}, ["a"], "slice a"),
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, ["a", "b"], "GPU-0abc"),
        ({}, [], "GPU-0abc"),
    ],
    ids=["named", "the only one", "one of several", "whole"],
)
def test_an_instance_is_asked_for_its_own_memory_and_users(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], slices: list[str], asked: str
) -> None:
    """The whole GPU has the memory and the processes of all its instances."""

    def at(handle: str, number: int) -> str:
        if number >= len(slices):
            raise NvmlError("Not Found")
        return f"slice {slices[number]}"

    fake, seen = FakeNvml(), list[str]()
    fake.nvmlDeviceGetMaxMigDeviceCount = lambda _: 7 if slices else 0
    fake.nvmlDeviceGetMigDeviceHandleByIndex = at
    for name, answer in (
        ("MemoryInfo", SimpleNamespace(used=1)),
        ("ComputeRunningProcesses", []),
        ("MPSComputeRunningProcesses", []),
    ):

        def call(handle: str, answer: Any = answer) -> Any:
            seen.append(handle)
            return answer

        monkeypatch.setattr(fake, f"nvmlDeviceGet{name}", call, raising=False)
    source = nvml_source(monkeypatch, fake, 1 if variables else 0, **variables)
    assert source.read().clock_mhz == 1410, "the GPU's"
    assert (source.processes(), seen) == ((), [asked] * 3)
