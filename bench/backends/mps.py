"""Apple's GPUs through torch.mps: unified memory, one device, no peak counter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from bench.backend import Device, DeviceInfo
from bench.backends._torch_device import TorchBackend, TorchDevice
from bench.errors import DeviceUnavailable, NothingInstalled
from bench.precision import Precision
from bench.records.environment import cpu_name
from bench.records.outcome import Memory
from bench.telemetry.source import NotObservable, Source


class MpsDevice(TorchDevice):
    """The one GPU. Its module counts no devices: its calls take no index."""

    def synchronize(self) -> None:
        """Waits for every stream of the device."""
        self._module.synchronize()

    def event(self) -> None:
        """None that can be relied on: a wait for one of Metal's eats its signal, so that a second
        waits for ever, and two close together may be told in reverse order, which raises.

        Source: pytorch/pytorch issue 196395, with torch 2.13.
        """

    def reset_peak_memory(self) -> None:
        """Hands cached memory back, so that what the driver holds later is what was needed."""
        self._module.empty_cache()

    def memory(self) -> Memory:
        """What Metal holds now, caches included: they only grow until they are emptied."""
        import psutil

        held = int(self._module.driver_allocated_memory())
        process = int(psutil.Process().memory_info().rss)
        return Memory(
            peak_bytes=held or process,
            scope="held by the driver at the end, cache included" if held else "process RSS",
            host_rss_bytes=process,
            device_used_bytes=held or None,
        )


class MpsBackend(TorchBackend):
    """Apple silicon: the GPU of the chip that the host runs on."""

    name = "mps"
    vendor = "Apple"
    device_type = "mps"
    library_switches = ("is_torch_mps_available",)

    def worker_environment(self) -> Mapping[str, str]:
        """No fallback, even where a library would switch it on."""
        return {**super().worker_environment(), "PYTORCH_ENABLE_MPS_FALLBACK": "0"}

    def recorded_variables(self) -> tuple[str, ...]:
        """What changes kernels or the allocator."""
        return ("METAL_*", "MTL_*", "MPS_*")

    def harmful_variables(self) -> Mapping[str, str]:
        """What lets operators run elsewhere, or with fewer bits."""
        return {
            "PYTORCH_ENABLE_MPS_FALLBACK": "operators may run on the host",
            "PYTORCH_MPS_FAST_MATH": "arithmetic is less exact than it is said to be",
        }

    def telemetry(self, index: int) -> Source:
        """None: what there is answers to root only, and nothing here asks for root."""
        raise NotObservable("powermetrics, the one source of power and clocks, needs root")

    def devices(self) -> list[DeviceInfo]:
        """The GPU, named as its chip, of which there are some with fewer cores."""
        if sys.platform != "darwin":
            raise NothingInstalled("mps: this is no Mac. Pass --device cpu.")
        module: Any = self.load()
        import torch

        if not torch.backends.mps.is_available():
            raise DeviceUnavailable(
                "mps: torch sees no Metal device. macOS 14 and Apple silicon are needed; "
                "or pass --device cpu."
            )
        facts = {"torch": str(torch.__version__)}
        if cores := getattr(torch.backends.mps, "get_core_count", None):  # torch 2.9 on
            facts["gpu_cores"] = str(cores())
        return [
            DeviceInfo(
                backend=self.name,
                index=0,
                name=cpu_name(),
                memory_bytes=int(module.recommended_max_memory()),
                facts=facts,
            )
        ]

    def open(self, index: int, precision: Precision) -> Device:
        """The device; there is nothing to make current."""
        self.shorten_float32(precision.shortened)
        return MpsDevice(self.pick(index, self.devices()), self.device_type)


BACKEND = MpsBackend()
