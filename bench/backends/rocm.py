"""AMD GPUs, and Hygon's, through a ROCm build of torch, which calls them cuda."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.backend import DeviceInfo
from bench.backends import _caches, _links, _loaded, _sysfs
from bench.backends._amd_smi import amd_source
from bench.backends._torch_device import LOST, TorchBackend
from bench.backends._vendors import CudaTypeDevice, compatible_vendor
from bench.precision import Precision
from bench.quantized_product import Products
from bench.telemetry.source import Source

HYGONS = re.compile("gfx9(26|28|2a|36|38)")
"""Of Hygon's alone, whose names (BW1000) say nothing; its Z100 has AMD's gfx906."""

EMULATES_BF16 = re.compile("gfx(8|10|90[02-79c])")
"""GCN, Vega, RDNA 1 and 2: no instruction of theirs multiplies bfloat16, as MI100's do (LLVM,
AMDGPUUsage). Torch's `is_bf16_supported` says yes of every HIP."""
UNNAMED = re.compile(r"(amd|radeon|\(tm\)|graphics|device|gpu|unknown|gfx\w+|\s)*", re.IGNORECASE)
"""Of a chip that is not in the libdrm that is here, or has no table of names (TheRock 4693)."""
INSTINCTS: dict[str, str] = dict(
    re.findall(
        r"(\w{4}) ([^,]+)",
        "738c MI100,7408 MI250X,740c MI250X / MI250,740f MI210,74a0 MI300A,74a1 MI300X,74a2 MI308X,"
        "74a5 MI325X,74a8 MI308X HF,74a9 MI300X HF,74b5 MI300X VF,74b6 MI308X,74bd MI300X HF,"
        "75a0 MI350X,75a3 MI355X,75b0 MI350X VF,75b3 MI355X VF",
    )
)
"""By PCI device id: as libdrm's newest table, data/amdgpu.ids, has them."""


class RocmProducts(Products):
    """Scales of blocks lie row by row, as torch wants them from hipBLASLt before 7.13.

    Source: torch, aten/src/ATen/native/cuda/ScaledBlas.cpp, `_scaled_mxfp8_mxfp8`. Later releases
    want tiles of their own, and refuse these.
    """

    swizzled = False


class RocmDevice(CudaTypeDevice):
    """One GPU, current in this process."""

    def facts(self) -> dict[str, str]:
        """The switches as they stand. MIOpen's search is exhaustive where torch's benchmark switch
        is on, which is left as it is: cold it takes many minutes a shape (pytorch/pytorch 179795).
        """
        import torch

        cudnn = torch.backends.cudnn
        return {
            **super().facts(),
            "miopen_search": "exhaustive" if cudnn.benchmark else "torch's default",
            "miopen_user_db_mode": tuned(),
            **_sysfs.settings(self, "amdgpu"),
        }


def tuned() -> str:
    """What MIOpen found when it was told to tune, in words: it heeds that in every later run, with
    no variable set. Source: its manual, "Performance database"; its `.ufdb` is a cache alone.
    """
    folder = Path(os.environ.get("MIOPEN_USER_DB_PATH") or "~/.config/miopen")
    entries: list[bytes] = []
    with suppress(OSError, RuntimeError):  # nobody's home
        for file in sorted(folder.expanduser().rglob("*.udb*")):
            entries += file.read_bytes().splitlines()
    digest = hashlib.sha256(b"\n".join(sorted(entries))).hexdigest()[:8]
    return f"tuned, {len(entries)} lines, SHA-256 {digest}" if entries else "not tuned"


class RocmBackend(TorchBackend):
    """Every device of a torch with `torch.version.hip`."""

    name = "rocm"
    vendor = "AMD"
    device_type = "cuda"
    built_for = "hip"
    install = "Install a ROCm build of torch"
    graph_type = "CUDAGraph"
    products = RocmProducts()
    opened = RocmDevice
    lost = re.compile(
        LOST.pattern + r"|illegal memory access|unspecified launch failure|illegal state"
        r"|device-side assert|memory access fault|hipErrorIllegalAddress|hipErrorLaunchFailure",
        re.IGNORECASE,
    )
    # Convolutions take channels_last as a copy, unless PYTORCH_MIOPEN_SUGGEST_NHWC=1 is set.

    def worker_environment(self) -> Mapping[str, str]:
        """With TF32 allowed to hipBLASLt, so that torch's switch decides: without it, never."""
        return {**super().worker_environment(), "HIPBLASLT_ALLOW_TF32": "1"}

    def recorded_variables(self) -> tuple[str, ...]:
        """What changes the choice of devices and kernels."""
        return (
            *("HSA_*", "HIP_*", "ROC*", "DEBUG_CLR_*", "DEBUG_HIP_*", "PAL_*"),
            *("AMD_*", "HIPBLAS*", "MIOPEN_*", "TENSILE_*", "NCCL_*", "RCCL_*", "GPU_*"),
            "AMDGCN_*",  # Triton's
            "CUDA_*",  # HIP heeds some of them
        )

    def heeded(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """With RCCL's files."""
        return _links.heeded("rccl", given)

    def harmful_variables(self) -> Mapping[str, str]:
        """What makes the host wait for every kernel, and what watches each call."""
        waits = ("HIP_LAUNCH_BLOCKING", "CUDA_LAUNCH_BLOCKING", "AMD_SERIALIZE_KERNEL")
        tools = ("HSA_TOOLS_LIB", "ROCP_TOOL_LIBRARIES")
        return {
            **dict.fromkeys(waits, "the host waits for every kernel"),
            "AMD_SERIALIZE_COPY": "the host waits for every copy",
            "GPU_FORCE_QUEUE_PROFILING": "every kernel is profiled",
            **dict.fromkeys(tools, "a tool, as a profiler, is put into the process"),
        }

    def telemetry(self, index: int) -> Source:
        """amdsmi, amd-smi or rocm-smi: the first that answers."""
        return amd_source(index)

    def describe(self, module: Any, index: int) -> DeviceInfo:
        """With its architecture and the versions of HIP and of the driver; an APU with all that its
        driver gives it, of which torch may say half (TheRock 4645)."""
        import psutil
        import torch

        info = super().describe(module, index)
        properties = module.get_device_properties(index)
        facts = dict(info.facts)
        facts.pop("last_level_cache_bytes", None)  # torch's is the level below, of one die of many
        facts |= {
            **_caches.of_kfd(),
            "hip": str(torch.version.hip),
            "driver": _sysfs.version("amdgpu"),
            "architecture": getattr(properties, "gcnArchName", "not available"),
            "multiprocessors": str(properties.multi_processor_count),
            **_loaded.versions(rocblas="rocblas_get_version_string"),
        }
        if EMULATES_BF16.match(facts["architecture"]):
            facts["bfloat16"] = "no"
        hygons = HYGONS.match(facts["architecture"]) or info.name.startswith("Z100")
        vendor = "Hygon" if hygons else compatible_vendor(info.name, os.environ) or self.vendor
        name, size, card = info.name, info.memory_bytes, _sysfs.card(properties, "amdgpu")
        if card and size and getattr(properties, "is_integrated", 0):
            vram, gtt = _sysfs.apu_bytes(card, "total") or (0, 0)
            if 0 < vram < size:  # an older kernel keeps to the first; MI300A has none of it
                size = min(max(size, gtt), int(psutil.virtual_memory().total))
            size = max(size, vram)
        if UNNAMED.fullmatch(name):
            chip = INSTINCTS.get(_sysfs.pci_device(card))
            kind = facts["architecture"].partition(":")[0]
            name = f"{vendor} {kind}, {facts['multiprocessors']} CUs"
            name = f"AMD Instinct {chip}" if chip else name
        return msgspec.structs.replace(
            info, name=name, memory_bytes=size, facts=facts, vendor=vendor
        )

    def unsupported(self, info: DeviceInfo, precision: Precision) -> str | None:
        """An emulated bfloat16 is no figure of the chip's; the MI300s have an fp8 of their own,
        with half the range of the one meant here.
        """
        kind = info.facts["architecture"].partition(":")[0]
        wide = "bfloat16" in (precision.weights, precision.autocast)
        if wide and EMULATES_BF16.match(kind):
            return f"{kind} only emulates bfloat16"
        if precision.arithmetic == "fp8" and kind.startswith("gfx94"):
            return "gfx94x multiplies e4m3fnuz, not e4m3fn"
        return super().unsupported(info, precision)


BACKEND = RocmBackend()
