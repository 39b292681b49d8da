"""A backend whose devices are joined by a simulated collective library; they compute as the CPU."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from bench.backend import Device, DeviceInfo
from bench.backends.cpu import CpuBackend, CpuDevice
from bench.precision import Precision

VARIABLE = "SIMULATED_FABRIC"
"""JSON of a `Fabric`."""


@dataclasses.dataclass(frozen=True)
class Fabric:
    """What joins the devices, and what is wrong with it."""

    latency: float = 0.0
    """Seconds of an operation, whatever its size."""
    bandwidth: float = 1e12
    """Bytes/s of each device's link, as bus bandwidth counts them."""
    fault: str = ""
    """`lost`, `doubled`, `stale`, `bit`, `narrow` or `unrooted`; see `fabric_library`."""
    rank: int = 0
    """Whose fault it is."""
    after: int = 0
    """Operations that go well before."""
    at_once: float = 2e-3
    """Seconds after an operation within which the next one counts as queued behind it."""
    on_top: bool = False
    """Whether the latency comes after what gloo itself takes, which else lies within."""
    dry: bool = False
    """Whether a process only waits for as long: nothing is sent, and none waits for another."""
    multiplies: bool = False
    """Whether the devices can multiply too."""


class FabricBackend(CpuBackend):
    name = "fabric"

    def devices(self) -> list[DeviceInfo]:
        """Without torch, which would take longer than all the rest."""
        return [DeviceInfo(backend=self.name, index=0, name="Fabric device", memory_bytes=None)]

    def open(self, index: int, precision: Precision) -> Device:
        return CpuDevice(self.devices()[0])

    def recorded_variables(self) -> tuple[str, ...]:
        return (VARIABLE,)

    def unsupported(self, info: DeviceInfo, precision: Precision) -> str | None:
        """Nothing that only moves or adds values is skipped for it."""
        if json.loads(os.environ.get(VARIABLE, "{}")).get("multiplies"):
            return super().unsupported(info, precision)
        return "fabric devices multiply nothing"

    def collective_library(self, device_type: str) -> str:
        import fabric_library  # type: ignore[import-not-found]

        return str(fabric_library.register(os.environ.get(VARIABLE, "{}")))


BACKEND: Any = FabricBackend()
