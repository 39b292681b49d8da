"""Instances of a GPU (MIG): of which of NVML's devices their own memory and users are asked."""

from __future__ import annotations

from types import SimpleNamespace

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
    fake.nvmlDeviceGetMemoryInfo = lambda handle: seen.append(handle) or SimpleNamespace(used=1)
    fake.nvmlDeviceGetComputeRunningProcesses = lambda handle: seen.append(handle) or []
    fake.nvmlDeviceGetMPSComputeRunningProcesses = lambda handle: seen.append(handle) or []
    source = nvml_source(monkeypatch, fake, 1 if variables else 0, **variables)
    assert source.read().clock_mhz == 1410, "the GPU's"
    assert (source.processes(), seen) == ((), [asked] * 3)
