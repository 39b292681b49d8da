"""NVIDIA GPUs through torch.cuda: TF32 set and recorded, driver and clocks from NVML."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from bench.backend import Device, DeviceInfo
from bench.backends import _caches, _links, _loaded
from bench.backends._nvml import NvmlSource, instance_of, links, text_of
from bench.backends._torch_device import TorchBackend
from bench.backends._vendors import CudaTypeDevice, compatible_vendor
from bench.errors import DeviceUnavailable
from bench.precision import Precision
from bench.telemetry.figures import refused
from bench.telemetry.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BF16_CAPABILITY = (8, 0)
"""Ampere: the first with bfloat16 tensor cores (NVIDIA A100 whitepaper)."""
TF32_CAPABILITY = (8, 0)
"""Ampere again."""
FP8_CAPABILITY = (8, 9)
"""Ada: the first with fp8 tensor cores (NVIDIA Ada whitepaper)."""
LOST_DEVICE = re.compile(
    r"illegal memory access|unspecified launch failure|device-side assert|an illegal instruction"
    r"|misaligned address|invalid program counter|hardware stack error"
    r"|operation not supported on global/shared address space"
    r"|the launch timed out and was terminated|uncorrectable ecc|uncorrectable nvlink"
    r"|peer gpu memory over nvlink|tensor memory not completely freed"
    r"|gpu is lost|device is lost|fallen off the bus",
    re.IGNORECASE,
)
"""CUDA errors after which the process's context is unusable (CUDA runtime API, sticky errors)."""

QUANTITY_OF = {"_mhz": "memory clock", "_watts": "power", "_celsius": "temperature"}
"""Of facts, by the end of their names: what can be (`bench.telemetry.figures`); a memory clock, as
the higher of two, for all clocks."""


class CudaDevice(CudaTypeDevice):
    """One GPU, current in this process."""

    def float32_reduced(self) -> bool:
        """TF32 in cuBLAS or cuDNN, by torch's switches or by the library's own variable."""
        import torch

        if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
            return False
        switches = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        return any(switches) or os.environ.get("NVIDIA_TF32_OVERRIDE") == "1"

    def free_and_total(self) -> tuple[int, int]:
        """As the driver says; where the host shares its memory, free is also what the host's page
        cache holds, which a job could have at once: the driver counts it as used."""
        import psutil

        free, total = super().free_and_total()
        if self.shares_host_memory:
            free = max(free, min(total, int(psutil.virtual_memory().available)))
        return free, total

    def facts(self) -> dict[str, str]:
        """The switches as they stand, the attention kernels allowed, and NVML's clocks."""
        import torch

        cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
        kernels = ("flash", "mem_efficient", "cudnn", "math")
        allowed = [name for name in kernels if getattr(cuda, f"{name}_sdp_enabled")()]
        return {
            "tf32_matmul": str(cuda.matmul.allow_tf32),
            "cudnn_benchmark": str(cudnn.benchmark),
            "sdpa_kernels_enabled": " ".join(allowed),
            **super().facts(),
            **_nvml_facts(self.info),
        }


class CudaBackend(TorchBackend):
    """NVIDIA's own CUDA devices. (Others borrow the type; they are not claimed.)"""

    name = "cuda"
    vendor = "NVIDIA"
    device_type = "cuda"
    graph_type = "CUDAGraph"
    opened = CudaDevice
    formats = ("contiguous", "channels_last")
    lost = LOST_DEVICE

    def worker_environment(self) -> Mapping[str, str]:
        """PCI order, as NVML and nvidia-smi count, and no other vendor's plug-in."""
        return {**super().worker_environment(), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def silencing_variables(self) -> tuple[str, ...]:
        """None: no operator of torch's own devices runs on the host."""
        return ()

    def fallbacks(self, lines: Iterable[str]) -> tuple[str, ...]:
        """None, likewise."""
        return ()

    def recorded_variables(self) -> tuple[str, ...]:
        """What changes the speed or the numbers of CUDA kernels."""
        return (
            *("CUDA_*", "NVIDIA_*", "NCCL_*", "CUBLAS*", "CUDNN_*", "CUTLASS_*", "NVTE_*"),
            *("PTXAS_*", "DISABLE_PTXAS_*", "DISABLE_MMA_*"),  # Triton's
        )

    def heeded(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """With NCCL's files."""
        return _links.heeded("nccl", given)

    def harmful_variables(self) -> Mapping[str, str]:
        """What makes the host wait for every kernel, and what watches each call."""
        return {
            "CUDA_LAUNCH_BLOCKING": "the host waits for every kernel",
            "CUDA_INJECTION64_PATH": "a tool, as a profiler, is put into the process",
        }

    def telemetry(self, index: int) -> Source:
        """NVML."""
        return NvmlSource(index)

    def devices(self) -> list[DeviceInfo]:
        """Every visible GPU with its compute capability and driver."""
        try:
            import torch
        except ImportError as error:
            raise DeviceUnavailable(
                f"cuda: torch does not load ({error}). Install a CUDA build of torch."
            ) from error
        if torch.version.cuda is None:
            raise DeviceUnavailable(
                f"cuda: this torch ({torch.__version__}) is built without CUDA. "
                "Install a CUDA build of torch, or pass --device cpu."
            )
        if not torch.cuda.is_available():
            raise DeviceUnavailable(
                f"cuda: torch {torch.__version__} sees no CUDA device. Check nvidia-smi, the "
                "driver and CUDA_VISIBLE_DEVICES, or pass --device cpu."
            )
        here = [self._info(index) for index in range(torch.cuda.device_count())]
        found = [info for info in here if compatible_vendor(info.name, os.environ) is None]
        if not found:
            vendor = compatible_vendor(here[0].name, os.environ)
            raise DeviceUnavailable(
                f"cuda: {here[0].name} is made by {vendor}. Pass --device generic."
            )
        return found

    def _info(self, index: int) -> DeviceInfo:
        import torch

        properties = torch.cuda.get_device_properties(index)
        facts = {
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": str(properties.multi_processor_count),
            **_caches.said(properties),
            **_loaded.versions(cublas="cublasGetProperty", cublasLt="cublasLtGetProperty"),
        }
        with _nvml() as nvml:
            if nvml is not None:
                with suppress(nvml.NVMLError):  # no reason to lose a device that works
                    facts["driver"] = text_of(nvml.nvmlSystemGetDriverVersion())
        return DeviceInfo(
            backend=self.name,
            index=index,
            name=properties.name,
            memory_bytes=int(properties.total_memory),
            facts=facts,
        )

    def open(self, index: int, precision: Precision) -> Device:
        """Makes the GPU current.

        cuDNN may choose its algorithms by trial: shapes are fixed, and warm-up pays for it.
        """
        import torch

        device = super().open(index, precision)
        torch.backends.cudnn.benchmark = True
        return device

    def fabric(self, device_type: str, devices: int) -> Mapping[str, str]:
        """NCCL's version, peer access, and NVML's NVLinks and PCIe levels between the devices."""
        import torch

        found = [_links.peers(torch.cuda, devices), _nvml_links(devices)]
        return {
            "library_version": _links.version(torch.cuda),
            "topology": "; ".join(filter(None, found)),
        }

    def unsupported(self, info: DeviceInfo, precision: Precision) -> str | None:
        """What this compute capability lacks; int8 and fp8, then, by a product on the device.

        bfloat16 below Ampere is emulated, and no figure of the chip's.
        """
        capability = info.facts["compute_capability"]
        major, minor = (int(part) for part in capability.split("."))
        for least, what, lacking in (
            (BF16_CAPABILITY, "bfloat16", precision.arithmetic == "bf16"),
            (TF32_CAPABILITY, "TF32", precision.shortened),
            (FP8_CAPABILITY, "fp8", precision.arithmetic == "fp8"),
        ):
            if lacking and (major, minor) < least:
                least_text = ".".join(map(str, least))
                return (
                    f"compute capability {capability} has no {what} ({least_text} and above have)"
                )
        return super().unsupported(info, precision)


@contextmanager
def _nvml() -> Iterator[Any]:
    """The NVML module, initialised; None where there is no NVML (Jetson, WSL without it)."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _nvml_facts(info: DeviceInfo) -> dict[str, str]:
    """Clocks, limits and modes of one GPU; "not observable" where NVML says nothing."""
    import pynvml
    import torch

    uuid = f"GPU-{torch.cuda.get_device_properties(info.index).uuid}"
    readings: dict[str, Callable[[Any, Any], Any]] = {
        "sm_clock_mhz": lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM),
        "sm_clock_max_mhz": lambda n, h: n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM),
        "memory_clock_max_mhz": lambda n, h: n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_MEM),
        "power_limit_watts": lambda n, h: n.nvmlDeviceGetEnforcedPowerLimit(h) / 1000,
        "temperature_celsius": lambda n, h: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU),
        "persistence_mode": lambda n, h: n.nvmlDeviceGetPersistenceMode(h),
        "ecc_mode": lambda n, h: n.nvmlDeviceGetEccMode(h)[0],  # the second is from the next reset
        "confidential_computing_mode": lambda n, _: n.nvmlSystemGetConfComputeState().ccFeature,
        "confidential_computing_multi_gpu_mode": lambda n, _: _multi_gpu_mode(n),
        "processes_on_device": lambda n, h: len(
            n.nvmlDeviceGetComputeRunningProcesses(instance_of(n, h, info.index))
        ),
    }
    facts = {}
    with _nvml() as nvml:
        if nvml is None:
            return dict.fromkeys(readings, "not observable: NVML does not load")
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            return dict.fromkeys(readings, f"not observable: {error}")
        for name, read in readings.items():
            try:
                value = read(nvml, handle)
            except pynvml.NVMLError as error:
                facts[name] = f"not observable: {error}"
                continue
            except (AttributeError, TypeError):  # pynvml of another age
                facts[name] = "not observable: NVML lacks it"
                continue
            quantity = next((q for unit, q in QUANTITY_OF.items() if name.endswith(unit)), None)
            why = refused(quantity, value) if quantity else ""
            facts[name] = f"not observable: {why}" if why else str(value)
    return facts


def _multi_gpu_mode(nvml: Any) -> int:
    """Of NVML_CC_SYSTEM_MULTIGPU_*: 0 none, 1 protected PCIe, 2 NVLE. pynvml hands the settings on
    as they are given, and checks no return code."""
    settings = nvml.c_nvmlSystemConfComputeSettings_v1_t()
    nvml._nvmlCheckReturn(nvml.nvmlSystemGetConfComputeSettings(ctypes.byref(settings)))
    return int(settings.multiGpuMode)


def _nvml_links(devices: int) -> str:
    """As NVML sees the first so many devices of torch's."""
    import torch

    uuids = [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(devices)]
    with _nvml() as nvml:
        return "links not observable: NVML does not load" if nvml is None else links(nvml, uuids)


BACKEND = CudaBackend()
