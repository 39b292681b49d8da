"""Any CPU that torch runs on: synchronous, memory by resident set size."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.backend import Backend, Device, DeviceInfo
from bench.backends import _read_back, _trial
from bench.backends._host import CpuSource
from bench.errors import DeviceUnavailable
from bench.precision import Precision
from bench.records.cpu_limits import groups, usable_cores
from bench.records.environment import cpu_flags, cpu_name
from bench.records.outcome import Memory
from bench.telemetry.source import Source

if TYPE_CHECKING:
    import torch

CPUS = Path("/sys/devices/system/cpu")
CACHE_SIZE = re.compile(r"(\d+)([KMG]?)")
CACHE_FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
GROUP_FILES = (
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
"""Limit and use of a control group by the two versions, and before its names in memory.stat."""
INSTRUCTIONS = {
    "fp16": ({"avx512_fp16", "amx_fp16", "fphp"}, "AVX512-FP16, AMX-FP16 or Arm FP16"),
    "fp8": ({"amx_fp8", "avx10_2"}, "AMX-FP8 or AVX10.2"),
}
"""By any of which flags a CPU has an arithmetic, and what they are called."""
GIVEN_UP = ("inactive_file", "active_file", "slab_reclaimable")
"""What counts as a group's use, and the kernel gives up for the asking."""


class CpuDevice(Device):
    """The host itself. A call returns when its work is done, so there is nothing to wait for."""

    synchronous = True
    shares_host_memory = True
    needs_warmup_under_load = False

    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self._scope = "process RSS since its start"

    @property
    def torch_device(self) -> torch.device:
        """The device `cpu`."""
        import torch

        return torch.device("cpu")

    def synchronize(self) -> None:
        """Nothing is ever queued. (`torch.accelerator.synchronize` raises on a CPU build.)"""

    def event(self) -> Any:
        """No events: the host clock times every step."""
        return None

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Never called on a synchronous device."""
        raise TypeError("a CPU has no events")

    def release_memory(self) -> None:
        """Trims the heap, which the raised thresholds would keep (glibc)."""
        if sys.platform == "linux":
            import ctypes

            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)

    def reset_peak_memory(self) -> None:
        """Restarts the kernel's peak counter (Linux, where the container allows it)."""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
                self._scope = "process RSS"

    def memory(self) -> Memory:
        """Peak resident set size, since the last reset or else since the start: the scope says."""
        import psutil

        process = psutil.Process()
        rss = int(process.memory_info().rss)
        peak = _peak_rss_bytes() or rss
        return Memory(peak_bytes=max(peak, rss), scope=self._scope, host_rss_bytes=rss)

    def capacity_bytes(self) -> int | None:
        """What the host has available now, and no more than any control group has left."""
        import psutil

        left = [int(psutil.virtual_memory().available)]
        for _, folder in groups("memory"):
            for names in GROUP_FILES:
                with contextlib.suppress(OSError, ValueError):  # the other version, or "max"
                    left.append(_left(folder, *names))
        return max(0, min(left))

    def random_state(self) -> bytes | None:
        """Of torch's one generator of the host."""
        import torch

        return bytes(torch.get_rng_state().tolist())

    def facts(self) -> dict[str, str]:
        """Which matrix instructions the CPU has; which of them ran, `read_back` says."""
        flags = cpu_flags()
        known = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")
        present = [f for f in (*known, "bf16", "i8mm", "sve") if f in flags]
        return {"instructions": " ".join(present) or "unknown"}


class CpuBackend(Backend):
    """The reference backend: always there wherever torch loads."""

    name = "cpu"
    vendor = ""  # its name says it
    is_host = True
    forks = True
    targets = MappingProxyType({"mindspore": "CPU"})
    compiler_searches = MappingProxyType(
        {"inductor": {"config_patches": {"max_autotune": True, "cpp_wrapper": True}}}
    )
    """Here also: calls of kernels by compiled code, not by Python, whose time is the device's."""

    def worker_environment(self) -> Mapping[str, str]:
        """Allocator thresholds as good practice demands, and no vendor's plug-in.

        glibc maps and unmaps every block over 32 MiB by default: page faults then cost ResNet-50
        at batch 32 more than half its speed. 1 GiB and 4 GiB keep activations in the heap.
        """
        return {
            "MALLOC_MMAP_THRESHOLD_": str(2**30),
            "MALLOC_TRIM_THRESHOLD_": str(2**32),
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
        }

    def telemetry(self, index: int) -> Source:
        """RAPL, and what the operating system says."""
        return CpuSource()

    def read_back(self, index: int) -> Mapping[str, str]:
        """The instructions that the libraries chose and the threads that ran."""
        return _read_back.libraries()

    def devices(self) -> list[DeviceInfo]:
        """The host, once torch has been seen to load."""
        try:
            import torch
        except ImportError as error:
            raise DeviceUnavailable(
                f"cpu: torch does not load ({error}). Install it: pip install torch==2.13.0."
            ) from error
        import psutil

        facts = {"torch": str(torch.__version__), "usable_cores": str(usable_cores())}
        if (cache := last_level_bytes()) is not None:
            facts["last_level_cache_bytes"] = str(cache)
        try:
            memory = int(psutil.virtual_memory().total)
            _peak_rss_bytes()
        except OSError as error:
            raise DeviceUnavailable(
                f"cpu: the system does not say how much memory there is ({error.filename}: "
                f"{error.strerror}). Mount it (mount -t proc proc /proc), or start the container "
                "or chroot with it."
            ) from error
        return [
            DeviceInfo(backend="cpu", index=0, name=cpu_name(), memory_bytes=memory, facts=facts)
        ]

    def open(self, index: int, precision: Precision) -> Device:
        """The host. float32 stays float32: oneDNN's reduced modes are off, but for `tf32`."""
        if index != 0:
            raise DeviceUnavailable(f"cpu:{index}: there is one CPU device, cpu. Use --device cpu.")
        self.shorten_float32(precision.shortened)
        return CpuDevice(self.devices()[0])

    def unsupported(self, info: DeviceInfo, precision: Precision) -> str | None:
        """What needs instructions of its own; bf16 runs everywhere, `slow` says how.

        Without them torch multiplies fp8 by reference code, ten thousand times slower than bf16.
        """
        flags, kind = cpu_flags(), precision.arithmetic
        needed, words = INSTRUCTIONS.get(kind, (flags, ""))
        if words and not flags & needed:
            if not flags:
                return f"whether this CPU has {kind} arithmetic ({words}) is not known here"
            return f"this CPU has no {kind} arithmetic ({words})"
        import torch

        return _trial.refusal(self, torch.device("cpu"), precision) if precision.tried else None

    def slow(self, info: DeviceInfo, precision: Precision) -> str | None:
        """By a product: torch knows which instructions it uses, and every CPU runs everything."""
        return _trial.by_reference(precision)


def last_level_bytes(folder: Path = CPUS, cores: Iterable[int] | None = None) -> int | None:
    """Bytes of the last-level caches of all these cores together, each once; None where one does
    not say.

    cores: None for those that this process may run on. As Linux says it; anybody may read that.
    """
    if cores is None:
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    found: dict[tuple[str, int], int] = {}
    for core in cores:
        last = max(_caches(folder / f"cpu{core}" / "cache"), default=None)
        if last is None:
            return None
        level, shared, size = last
        found[shared, level] = size
    return sum(found.values()) or None


def _caches(folder: Path) -> Iterable[tuple[int, str, int]]:
    """Level, who shares it, and bytes, of each that holds data."""
    for path in folder.glob("index[0-9]*"):
        try:
            kind, level, shared, size = (
                (path / name).read_text(encoding="ascii").strip()
                for name in ("type", "level", "shared_cpu_list", "size")
            )
        except (OSError, ValueError):
            continue
        match = CACHE_SIZE.fullmatch(size)
        if kind != "Instruction" and level.isdecimal() and match:
            yield int(level), shared, int(match[1]) * CACHE_FACTORS[match[2]]


def _left(folder: Path, limit: str, use: str, prefix: str) -> int:
    """Bytes that a control group's limit leaves; all of it where the use cannot be read."""
    most, used = int((folder / limit).read_bytes()), 0
    with contextlib.suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        stat = dict(line.split() for line in lines)
        used = int((folder / use).read_bytes())
        used -= sum(int(stat.get(prefix + name, 0)) for name in GIVEN_UP)
    return most - max(0, used)


def _peak_rss_bytes() -> int | None:
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_bytes().splitlines():
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
        return None
    if sys.platform == "darwin":
        import resource

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return None


BACKEND = CpuBackend()
