"""CUDA on a fake runtime: its devices, precisions, switches, failures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backend import DeviceInfo, DeviceUnavailable, supported_precisions
from bench.backends import _trial, cuda
from bench.backends.cuda import CudaBackend, CudaDevice
from bench.judging.comparing.configured import DEVICE_SETTINGS
from bench.precision import PRECISIONS


class FakeCuda:
    """What the backend asks of `torch.cuda`."""

    def __init__(self, capabilities: list[tuple[int, int]]) -> None:
        self.capabilities = capabilities
        self.current: int | None = None

    def is_available(self) -> bool:
        return bool(self.capabilities)

    def device_count(self) -> int:
        return len(self.capabilities)

    def set_device(self, index: int) -> None:
        self.current = index

    def get_device_capability(self, index: int) -> tuple[int, int]:
        return self.capabilities[index]

    def get_device_properties(self, index: int) -> Any:
        major, minor = self.capabilities[index]
        return SimpleNamespace(
            name=f"Fake GPU {index}",
            major=major,
            minor=minor,
            multi_processor_count=80,
            total_memory=16 * 2**30,
            uuid=f"0000-{index}",
            L2_cache_size=40 * 2**20,
        )


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A CUDA build of torch that sees a Turing and an Ampere GPU, without NVML."""
    import pynvml
    import torch

    fake = FakeCuda([(7, 5), (8, 0)])
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(torch.version, "cuda", "12.8")

    def broken() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", broken)
    for module, name in (
        (torch.backends.cudnn, "allow_tf32"),
        (torch.backends.cudnn, "benchmark"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    torch.get_device_module.cache_clear()
    yield fake
    torch.get_device_module.cache_clear()


@pytest.mark.usefixtures("fake_cuda")
def test_cuda_devices_are_listed() -> None:
    turing, ampere = CudaBackend().devices()
    assert (turing.address, turing.name) == ("cuda:0", "Fake GPU 0")
    assert (ampere.address, ampere.index) == ("cuda:1", 1)
    assert turing.facts["compute_capability"] == "7.5"
    assert ampere.facts["cuda"] == "12.8" and ampere.memory_bytes == 16 * 2**30
    assert ampere.facts["last_level_cache_bytes"] == str(40 * 2**20)
    assert "driver" not in ampere.facts, "NVML says nothing: nothing is made up"


def test_cuda_opens_the_device_with_tf32_off_but_for_tf32(fake_cuda: FakeCuda) -> None:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    try:
        device = CudaBackend().open(1, PRECISIONS["fp32"])
        assert fake_cuda.current == 1
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cudnn.allow_tf32 is False
        CudaBackend().open(1, PRECISIONS["tf32"])
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 is True
        assert isinstance(device, CudaDevice) and device.info.index == 1
        assert not device.synchronous and device.needs_warmup_under_load
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("fake_cuda")
def test_cuda_refuses_a_device_that_is_not_there() -> None:
    with pytest.raises(
        DeviceUnavailable, match=r"cuda:2: there is no such device\. Here: cuda:0, cuda:1"
    ):
        CudaBackend().open(2, PRECISIONS["fp32"])


def test_cuda_reads_tf32_back_from_the_librarys_own_variable_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    device = CudaDevice.__new__(CudaDevice)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert device.float32_reduced()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert not device.float32_reduced(), "off, whatever torch's switches say"


BEFORE_AMPERE = {"bf16", "bf16-amp", "tf32", "int4-weights"}
BEFORE_ADA = {"fp8", "fp8-row", "fp8-block128"}


@pytest.mark.parametrize(
    ("capability", "lacking"),
    [
        ("7.0", {*BEFORE_AMPERE, *BEFORE_ADA}),
        ("7.5", {*BEFORE_AMPERE, *BEFORE_ADA}),
        ("8.0", BEFORE_ADA),
        ("8.9", set()),
        ("9.0", set()),
    ],
)
def test_cuda_has_bfloat16_and_tf32_from_ampere_on_and_fp8_from_ada_on(
    monkeypatch: pytest.MonkeyPatch, capability: str, lacking: set[str]
) -> None:
    monkeypatch.setattr(_trial, "refusal", lambda *_: None)
    info = DeviceInfo(
        backend="cuda",
        index=0,
        name="x",
        memory_bytes=1,
        facts={"compute_capability": capability},
    )
    answers = supported_precisions(CudaBackend(), info)
    assert {name for name, reason in answers.items() if reason} == lacking
    for name in lacking:
        what = "fp8 (8.9" if name in BEFORE_ADA else "bfloat16 (8.0"
        what = "TF32 (8.0" if name == "tf32" else what
        assert answers[name] == f"compute capability {capability} has no {what} and above have)"


def test_cuda_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, fake_cuda: FakeCuda) -> None:
    import torch

    fake_cuda.capabilities = []
    with pytest.raises(DeviceUnavailable, match=r"cuda: .* sees no CUDA device\. Check nvidia-smi"):
        CudaBackend().devices()
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceUnavailable, match=r"cuda: this torch .* is built without CUDA\. Ins"):
        CudaBackend().devices()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceUnavailable, match="cuda: torch does not load"):
        CudaBackend().devices()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "oom"),
        (
            'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":995'
            ", please report a bug to PyTorch.",
            "oom",
        ),
        (
            '!handles_.at(i) INTERNAL ASSERT FAILED at "/c10/cuda/CUDACachingAllocator.cpp":9',
            "error",
        ),
        ("CUDA error: tensor memory not completely freed", "device_lost"),
        ("CUDA error: an illegal memory access was encountered", "device_lost"),
        ("CUDA error: unspecified launch failure", "device_lost"),
        ("CUDA error: device-side assert triggered", "device_lost"),
        ("CUDA error: an illegal instruction was encountered", "device_lost"),
        ("CUDA error: uncorrectable ECC error encountered", "device_lost"),
        ("CUDA error: uncorrectable NVLink error detected during the execution", "device_lost"),
        (
            "CUDA error: Invalid access of peer GPU memory over nvlink or a hardware error",
            "device_lost",
        ),
        ("CUDA error: misaligned address", "device_lost"),
        ("CUDA error: invalid program counter", "device_lost"),
        ("CUDA error: hardware stack error", "device_lost"),
        ("CUDA error: operation not supported on global/shared address space", "device_lost"),
        ("CUDA error: the launch timed out and was terminated", "device_lost"),
        ("GPU has fallen off the bus", "device_lost"),
        ("mat1 and mat2 shapes cannot be multiplied", "error"),
        ("CUDA error: invalid argument", "error"),
        ("CUDA error: operation not supported", "error"),
    ],
)
def test_cuda_failures_are_sorted(message: str, kind: str) -> None:
    assert CudaBackend().failure_kind(RuntimeError(message)) == kind


def test_cuda_events_are_milliseconds() -> None:
    device = CudaDevice(DeviceInfo(backend="cuda", index=0, name="x", memory_bytes=1), "cuda")
    start = SimpleNamespace(elapsed_time=lambda end: 1.5)
    assert device.elapsed_ns(start, None) == 1_500_000


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize(
    ("returned", "multi_gpu"),
    [(0, "1"), (3, "not observable: Not Supported"), (None, "not observable: NVML lacks it")],
)
def test_facts_that_cannot_be_are_not_observable(
    monkeypatch: pytest.MonkeyPatch, returned: int | None, multi_gpu: str
) -> None:
    import pynvml

    def settings(given: Any) -> int | None:
        given._obj.multiGpuMode = pynvml.NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE
        return returned

    if returned is None:  # an older one
        monkeypatch.delattr(pynvml, "nvmlSystemGetConfComputeSettings")
    else:
        monkeypatch.setattr(pynvml, "nvmlSystemGetConfComputeSettings", settings)

    answers: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetHandleByUUID": "gpu",
        "nvmlDeviceGetClockInfo": 65535,
        "nvmlDeviceGetMaxClockInfo": 14001,
        "nvmlDeviceGetEnforcedPowerLimit": 2**32 - 1,
        "nvmlDeviceGetTemperature": 255,
        "nvmlDeviceGetPersistenceMode": 1,
        "nvmlDeviceGetEccMode": [1, 0],
        "nvmlSystemGetConfComputeState": SimpleNamespace(ccFeature=0),
        "nvmlDeviceGetComputeRunningProcesses": [],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)
    facts = cuda._nvml_facts(DeviceInfo(backend="cuda", index=0, name="x", memory_bytes=1))
    assert facts == {
        "sm_clock_mhz": "not observable: 65,535 MHz is outside 0 to 50,000",
        "sm_clock_max_mhz": "14001",
        "memory_clock_mhz": "not observable: 65,535 MHz is outside 0 to 50,000",
        "memory_clock_max_mhz": "14001",
        "power_limit_watts": "not observable: 4.29497e+06 W is outside 0 to 10,000",
        "temperature_celsius": "not observable: 255 C is outside 0 to 120",
        "persistence_mode": "1",
        "ecc_mode": "1",
        "confidential_computing_mode": "0",
        "confidential_computing_multi_gpu_mode": multi_gpu,
        "processes_on_device": "0",
    }
    of_all = {"confidential_computing_mode", "confidential_computing_multi_gpu_mode"}
    assert of_all == {x for x in facts if x.startswith("conf") and DEVICE_SETTINGS.search(x)}


@pytest.mark.parametrize(("integrated", "used"), [(1, 6 * 2**30), (0, 118 * 2**30)])
def test_where_the_host_shares_its_memory_its_page_cache_is_not_used(
    monkeypatch: pytest.MonkeyPatch, integrated: int, used: int
) -> None:
    """The driver's free memory is MemFree there: `explain` was refused for want of memory."""
    import psutil

    gib = 2**30
    device = CudaDevice.__new__(CudaDevice)
    device.info = DeviceInfo(backend="cuda", index=0, name="Some", memory_bytes=121 * gib)
    device._scope = "device allocator"
    device._module = SimpleNamespace(
        mem_get_info=lambda index: (3 * gib, 121 * gib),
        get_device_properties=lambda index: SimpleNamespace(is_integrated=integrated),
        max_memory_allocated=lambda index: 1,
    )
    left = SimpleNamespace(available=115 * gib, total=121 * gib)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: left)
    assert device.memory().device_used_bytes == used
    left.available = 200 * gib
    assert device.memory().device_used_bytes == (0 if integrated else used)
    assert device.capacity_bytes() == 121 * gib
    left.available = 60 * gib
    assert device.capacity_bytes() == (60 if integrated else 121) * gib
    left.total = 32 * gib
    assert device.capacity_bytes() == 121 * gib, "set apart from the host's at boot"
