"""Telemetry of NVIDIA devices from NVML: an energy counter (Volta and later), reasons by bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bench.backends import _links
from bench.records.observed import Reading, Reason
from bench.telemetry.figures import ALL_ONES, Sheet, held
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
APPLICATIONS = 0x2
"""Held by the clocks of applications, made below the highest on a V100 or T4, or by locked ones."""
TURING = 6
"""NVML_DEVICE_ARCH_TURING: newer ones go beyond the clocks that applications are made to have."""
TESLA = (2, 14)
"""NVML_BRAND_TESLA, and NVML_BRAND_NVIDIA, which newer drivers call a T4: others go beyond too."""
SAME_CLOCK = 0.02
"""Relative difference of a clock that is still the one that it was made to have."""
VIRTUAL = (2, 3, 4)
"""NVML_GPU_VIRTUALIZATION_MODE_VGPU, _HOST_VGPU and _HOST_VSGA; passed through (1) it is whole."""
PCIE_LEVELS = {
    0: "one board",
    10: "one PCIe switch",
    20: "several PCIe switches",
    30: "a PCIe host bridge",
    40: "one NUMA node",
    50: "the link between sockets",
}
"""nvmlGpuTopologyLevel_t (NVML API reference), in words."""
MODULE_COUNTER = "NVML: the counter is of a module, with a CPU (NVLink-C2C)"
"""So on a GH200, where Zeus saw it (ml-energy/zeus, pull request 172); of a GB200 nobody says."""
WITHIN = ((8, 7), (11, 0), (12, 1))
"""Compute capabilities (NVIDIA's list) of GPUs within one chip with a CPU, as Orin, Thor and GB10:
what NVML counts is of the GPU there, and of no board or module."""
MPS_SHARES = ("CUDA_MPS_SM_PARTITION", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
"""Some of its SMs for this process alone (static, CUDA 13.1), or as many at most."""


class NvmlSource(Source):
    """One GPU. A part of one (MIG, vGPU, a share of MPS) has no power of its own."""

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
            self._own = instance_of(pynvml, self._handle, index)
        except pynvml.NVMLError as error:
            raise NotObservable(f"NVML does not know this device ({error})") from error
        self.is_part(self.part or self._partition())
        # Also where several lie on one board or module: NVML's power is each GPU's (API reference,
        # nvmlDeviceGetPowerUsage).
        with suppress(Exception):  # then it does not say
            self.card = text_of(pynvml.nvmlDeviceGetUUID(self._handle))
        self.card_devices = None if self.part else 1
        module = self._state("nvmlDeviceGetC2cModeInfoV")  # of a GPU without one: Not Supported
        within = self._state("nvmlDeviceGetCudaComputeCapability") in WITHIN
        self._in_module = getattr(module, "isC2cEnabled", 0) == 1 and not within
        if within and not self.part:
            self.scope = "chip"

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
            self.is_part("it is a MIG instance")
            part = nvml.nvmlDeviceGetHandleByUUID(word)
            return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
        if not word.isdecimal():  # a UUID, or as much of one as tells it from the others
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            found = [h for h in handles if text_of(nvml.nvmlDeviceGetUUID(h)).startswith(word)]
            if len(found) != 1:
                raise NotObservable(f"CUDA_VISIBLE_DEVICES={visible} names {len(found)} devices")
            return found[0]
        order = os.environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
        if count > 1 and order != "PCI_BUS_ID":
            raise NotObservable(
                f"CUDA_DEVICE_ORDER is {order}: NVML counts otherwise. Set it to PCI_BUS_ID"
            )
        for other in range(count) if count > 1 else ():
            if self._is_split(other):  # User Guide of MIG, "CUDA Device Enumeration"
                raise NotObservable(
                    f"GPU {other} is in MIG mode: CUDA counts otherwise. "
                    "Name a UUID in CUDA_VISIBLE_DEVICES"
                )
        return nvml.nvmlDeviceGetHandleByIndex(int(word))

    def _is_split(self, number: int) -> bool:
        """Whether the GPU that NVML counts as `number` is in MIG mode now, as far as it says."""
        with suppress(Exception):  # of another GPU, which may be lost or have no such thing
            handle = self._nvml.nvmlDeviceGetHandleByIndex(number)
            return bool(self._nvml.nvmlDeviceGetMigMode(handle)[0] == 1)
        return False

    def _partition(self) -> str:
        """What makes of this GPU a part, by its driver and by MPS; empty if nothing does."""
        mig = self._state("nvmlDeviceGetMigMode")
        if isinstance(mig, str):
            return f"NVML does not say whether MIG is on ({mig})"
        if self._state("nvmlDeviceIsMigDeviceHandle") == 1:
            return "it is a MIG instance"
        if mig and mig[0] == 1:  # now; the second is from the next reset on
            return "MIG is on, and CUDA has one of its instances"
        if self._state("nvmlDeviceGetVirtualizationMode") in VIRTUAL:
            return "it is a virtual GPU, or serves some"
        shares = ((name, os.environ.get(name, "")) for name in MPS_SHARES)
        return next((f"{n}={v}" for n, v in shares if v not in ("", "100", "100.0")), "")

    def _state(self, name: str, handle: Any = None) -> Any:
        """What a call says of this GPU; None where the GPU or its driver has no such thing; a text
        if the driver should know and does not say."""
        try:
            return getattr(self._nvml, name)(handle or self._handle)
        except AttributeError:
            return None
        except Exception as error:  # noqa: BLE001 - a vendor's library fails as it likes
            return None if str(error) in ("Not Supported", "Function Not Found") else str(error)

    def read(self) -> Reading:
        """Every figure that this GPU has. Power is NVML's: on many chips the mean of a second."""
        nvml = self._nvml
        self.absent = {}
        sheet = Sheet(self.name)
        sheet.take("power", [self._ask("power", "nvmlDeviceGetPowerUsage")], "mW")
        if self._in_module:
            self.absent["energy"] = MODULE_COUNTER
        else:
            sheet.take("energy", [self._ask("energy", "nvmlDeviceGetTotalEnergyConsumption")], "mJ")
        clocks = {"clock": nvml.NVML_CLOCK_SM, "memory clock": nvml.NVML_CLOCK_MEM}
        for quantity, kind in clocks.items():
            sheet.take(quantity, [self._ask(quantity, "nvmlDeviceGetClockInfo", kind)], "MHz")
        heat = self._ask("temperature", "nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
        sheet.take("temperature", [heat], "C")
        busy = self._ask("utilisation", "nvmlDeviceGetUtilizationRates")
        sheet.take("utilisation", [getattr(busy, "gpu", None)], "%")
        memory = self.ask("memory", nvml, "nvmlDeviceGetMemoryInfo", self._own)
        sheet.take("memory", [getattr(memory, "used", None)], "B")
        reading = sheet.reading(reasons=self._reasons())
        self.absent = {**sheet.absent, **self.absent}  # a call that failed is the better reason
        if reading == Reading():
            raise NotObservable(f"NVML says nothing of this device ({self.absent['power']})")
        return reading

    def _reasons(self) -> tuple[Reason, ...] | None:
        bits = self._ask("reasons", "nvmlDeviceGetCurrentClocksEventReasons")  # since driver 535
        if bits is None:
            bits = self._ask("reasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        if not isinstance(bits, int) or float(bits) in ALL_ONES:
            self.absent.setdefault("reasons", "NVML: all bits are set: no figure")
            return None
        if bits & APPLICATIONS and self._clocks_as_made():
            bits &= ~APPLICATIONS
        return reasons_of(bits)

    def _clocks_as_made(self) -> bool:
        """Whether it runs at the clocks that applications had when it came, and is of those that
        are held there by themselves: P100, V100, T4."""
        nvml, off = self._nvml, []
        with suppress(Exception):  # it has no such clocks, or does not say
            if nvml.nvmlDeviceGetArchitecture(self._handle) > TURING:
                return False
            if nvml.nvmlDeviceGetBrand(self._handle) not in TESLA:
                return False
            for kind in (nvml.NVML_CLOCK_GRAPHICS, nvml.NVML_CLOCK_MEM):
                made = nvml.nvmlDeviceGetDefaultApplicationsClock(self._handle, kind)
                off.append(abs(nvml.nvmlDeviceGetClockInfo(self._handle, kind) / made - 1))
        return len(off) == 2 and max(off) <= SAME_CLOCK

    def processes(self) -> tuple[Process, ...] | None:
        """Those that compute; a desktop's are no load to speak of."""
        name = "nvmlDeviceGetComputeRunningProcesses"
        found = self.ask("processes", self._nvml, name, self._own)
        if not isinstance(found, list):
            return None
        clients = self._state("nvmlDeviceGetMPSComputeRunningProcesses", self._own)
        if clients and isinstance(clients, list):
            self.scope = "shared"
            there = {p.pid for p in found}
            found = [*found, *(p for p in clients if p.pid not in there)]
        return tuple(Process(p.pid, held(p.usedGpuMemory)) for p in found)

    def _ask(self, quantity: str, name: str, *arguments: Any) -> Any:
        """What a call says of this GPU."""
        return self.ask(quantity, self._nvml, name, self._handle, *arguments)


def instance_of(nvml: Any, gpu: Any, index: int) -> Any:
    """The instance (MIG) of a GPU that torch counts as `index`, where CUDA_VISIBLE_DEVICES names it
    or there is no other here; else the GPU. It has memory and processes of its own, and no more."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[index : index + 1]
    if named and named[0].strip().startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(named[0].strip())
    here = []
    with suppress(Exception):  # an older driver
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            with suppress(Exception):  # none at that number, or not for this container
                here.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number))
    return here[0] if len(here) == 1 else gpu


def links(nvml: Any, uuids: Sequence[str]) -> str:
    """How GPUs are joined: NVLinks that are up, and pairs by NVLink or by their PCIe ancestor.

    nvml: pynvml, initialised. Source: NVML API reference, nvmlGpuTopologyLevel_t and
    nvmlDeviceGetP2PStatus.
    """
    try:
        handles = [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids]
        up = [_active_links(nvml, handle) for handle in handles]
        found = []
        for first, second in _links.pairs(len(handles)):
            pair = handles[first], handles[second]
            status = nvml.nvmlDeviceGetP2PStatus(*pair, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
            if status == nvml.NVML_P2P_STATUS_OK:
                found.append("NVLink")
                continue
            level = nvml.nvmlDeviceGetTopologyCommonAncestor(*pair)
            found.append(PCIE_LEVELS.get(int(level), f"PCIe level {level}"))
    except nvml.NVMLError as error:
        return f"links not observable: {error}"
    count = f"{min(up)} to {max(up)}" if min(up) != max(up) else str(up[0])
    return f"{_links.kinds(found)}; {count} NVLinks up on each"


def _active_links(nvml: Any, handle: Any) -> int:
    """NVLinks of one GPU that are up; none where it has none."""
    active = 0
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            active += nvml.nvmlDeviceGetNvLinkState(handle, link) == nvml.NVML_FEATURE_ENABLED
        except nvml.NVMLError:  # no such link
            break
    return active


def reasons_of(bits: int) -> tuple[Reason, ...]:
    """The words of a mask of nvmlClocksEventReasons, each once."""
    known: dict[Reason, None] = {word: None for bit, word in REASONS.items() if bits & bit}
    if bits & ~sum(REASONS):
        known["other"] = None
    return tuple(known)


def text_of(value: str | bytes) -> str:
    """What NVML says, of any age."""
    return value.decode() if isinstance(value, bytes) else value
