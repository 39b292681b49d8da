"""Telemetry of NVIDIA devices from NVML: an energy counter (Volta and later), reasons by bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from bench.records.observed import Reading, Reason
from bench.telemetry.source import NotObservable, Process, Source

REASONS: dict[int, Reason] = {
    0x1: "idle",
    0x2: "user clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal",
    0x40: "thermal",
    0x80: "power brake",
    0x100: "user clocks",
}
"""nvmlClocksEventReasons (NVML API reference); 0x20 is heat seen by software, 0x40 by hardware.
Bits that are not here are "other"."""


class NvmlSource(Source):
    """One GPU. A partition of one (MIG) has the power and clocks of the whole: scope `shared`."""

    name = "NVML"

    def __init__(self, index: int) -> None:
        """index: as torch counts, through CUDA_VISIBLE_DEVICES and the order of the worker."""
        super().__init__()
        import pynvml

        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NotObservable(f"NVML does not load ({error})") from error
        try:
            self._handle = self._find(index)
        except pynvml.NVMLError as error:
            raise NotObservable(f"NVML does not know this device ({error})") from error

    def _find(self, index: int) -> Any:
        nvml = self._nvml
        count = nvml.nvmlDeviceGetCount()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        word = str(index)
        if visible:
            listed = [part.strip() for part in visible.split(",")]
            if index >= len(listed):
                raise NotObservable(f"CUDA_VISIBLE_DEVICES={visible} has no device {index}")
            word = listed[index]
        if word.startswith("MIG-"):
            self.scope = "shared"
            part = nvml.nvmlDeviceGetHandleByUUID(word)
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
        if not word.isdecimal():  # a UUID, or as much of one as tells it from the others
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            found = [h for h in handles if _text(nvml.nvmlDeviceGetUUID(h)).startswith(word)]
            if len(found) != 1:
                raise NotObservable(f"CUDA_VISIBLE_DEVICES={visible} names {len(found)} devices")
            return found[0]
        order = os.environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
        if count > 1 and order != "PCI_BUS_ID":
            raise NotObservable(
                f"CUDA_DEVICE_ORDER is {order}: NVML counts otherwise. Set it to PCI_BUS_ID"
            )
        return nvml.nvmlDeviceGetHandleByIndex(int(word))

    def read(self) -> Reading:
        """Every figure that this GPU has. Power is NVML's: on many chips the mean of a second."""
        nvml, gpu = self._nvml, self._handle
        self.absent.clear()
        milliwatts = self._ask("power", nvml.nvmlDeviceGetPowerUsage, gpu)
        millijoules = self._ask("energy", nvml.nvmlDeviceGetTotalEnergyConsumption, gpu)
        busy = self._ask("utilisation", nvml.nvmlDeviceGetUtilizationRates, gpu)
        memory = self._ask("memory", nvml.nvmlDeviceGetMemoryInfo, gpu)
        reading = Reading(
            power_watts=None if milliwatts is None else milliwatts / 1000,
            energy_joules=None if millijoules is None else millijoules / 1000,
            clock_mhz=self._ask("clock", nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask(
                "memory clock", nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_MEM
            ),
            temperature_celsius=self._ask(
                "temperature", nvml.nvmlDeviceGetTemperature, gpu, nvml.NVML_TEMPERATURE_GPU
            ),
            utilisation_percent=None if busy is None else busy.gpu,
            memory_used_bytes=None if memory is None else int(memory.used),
            reasons=self._reasons(),
        )
        if reading == Reading():
            raise NotObservable(f"NVML says nothing of this device ({self.absent['power']})")
        return reading

    def _reasons(self) -> tuple[Reason, ...] | None:
        nvml = self._nvml
        ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)  # since driver 535
        bits = None if ask is None else self._ask("reasons", ask, self._handle)
        if bits is None:
            bits = self._ask(
                "reasons", nvml.nvmlDeviceGetCurrentClocksThrottleReasons, self._handle
            )
        return None if bits is None else reasons_of(bits)

    def processes(self) -> tuple[Process, ...] | None:
        """Those that compute; a desktop's are no load to speak of."""
        nvml = self._nvml
        found = self._ask("processes", nvml.nvmlDeviceGetComputeRunningProcesses, self._handle)
        if found is None:
            return None
        return tuple(Process(p.pid, p.usedGpuMemory) for p in found)

    def _ask(self, quantity: str, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            answer = call(*arguments)
        except self._nvml.NVMLError as error:
            self.absent[quantity] = f"NVML: {error}"
            return None
        self.absent.pop(quantity, None)
        return answer


def reasons_of(bits: int) -> tuple[Reason, ...]:
    """The words of a mask of nvmlClocksEventReasons, each once."""
    known: dict[Reason, None] = {word: None for bit, word in REASONS.items() if bits & bit}
    if bits & ~sum(REASONS):
        known["other"] = None
    return tuple(known)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
