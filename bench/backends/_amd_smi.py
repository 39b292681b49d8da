"""Telemetry of AMD devices: the amdsmi package of the ROCm that is here, else its programs' JSON.

`amdsmi` comes with ROCm and must be of its version, so it is used where it is and not required.
Fields as amdsmi 7.0 and the JSON of amd-smi and rocm-smi name them.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from typing import Any

from bench.records.observed import Reading, Reason
from bench.telemetry.source import NotObservable, Process, Source, said

ACTIVE: dict[str, Reason] = {
    "active_prochot_thrm": "thermal",
    "active_socket_thrm": "thermal",
    "active_vr_thrm": "thermal",
    "active_hbm_thrm": "thermal",
    "active_ppt_pwr": "power cap",
}
"""amdsmi_violation_status_t: package power tracking (PPT) is the power limit, the others heat."""
ROCM_SMI = (
    *("--showpower", "--showuse", "--showtemp", "--showclocks", "--showenergycounter"),
    *("--showmeminfo", "vram", "--json"),
)


def amd_source(index: int) -> Source:
    """The first that answers: amdsmi, amd-smi, rocm-smi.

    index: as torch counts. Raises `NotObservable` with what each of them said.
    """
    whys = []
    for make in (AmdSmiSource, AmdSmiProgram, RocmSmiProgram):
        try:
            source = make(index)
            source.read()
        except NotObservable as why:
            whys.append(str(why))
        else:
            return source
    raise NotObservable("; ".join(whys))


def physical(index: int) -> int:
    """The device that torch counts as `index`, through the variables that hide devices.

    HIP_VISIBLE_DEVICES (or CUDA_VISIBLE_DEVICES) counts among what ROCR_VISIBLE_DEVICES leaves.
    Raises `NotObservable` where they name devices otherwise than by number.
    """
    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    hip = next((n for n in ("HIP_VISIBLE_DEVICES", names[0]) if os.environ.get(n)), None)
    for name in (hip, names[2]):
        value = os.environ.get(name, "") if name else ""
        if not value:
            continue
        listed = [part.strip() for part in value.split(",")]
        if index >= len(listed) or not listed[index].isdecimal():
            raise NotObservable(f"{name}={value} does not number device {index}")
        index = int(listed[index])
    return index


class AmdSmiSource(Source):
    """amdsmi, the library."""

    name = "amdsmi"
    scope = "package"

    def __init__(self, index: int) -> None:
        super().__init__()
        try:
            self._smi: Any = importlib.import_module("amdsmi")
            self._smi.amdsmi_init()
        except Exception as error:  # a vendor's library fails as it likes
            raise NotObservable(f"amdsmi does not load ({error})") from error
        self._handle = self._find(physical(index))

    def _find(self, index: int) -> Any:
        handles = self._ask("device", "amdsmi_get_processor_handles") or []
        for handle in handles:  # HIP does not always count as the bus does
            known = self._ask("device", "amdsmi_get_gpu_enumeration_info", handle)
            if known is not None and known.get("hip_id") == index:
                return handle
            if known is None:
                break
        else:
            raise NotObservable(f"amdsmi knows no device {index}")
        if index >= len(handles):
            raise NotObservable(f"amdsmi knows {len(handles)} devices")
        return handles[index]

    def read(self) -> Reading:
        """The package's figures; the second die of an MI250 has no power of its own."""
        smi = self._smi
        power = self._get("power", "amdsmi_get_power_info")
        watts = first_number(power, "current_socket_power", "average_socket_power", "socket_power")
        activity = self._get("utilisation", "amdsmi_get_gpu_activity")
        memory = self._get("memory", "amdsmi_get_gpu_vram_usage")
        used = first_number(memory, "vram_used")
        reading = Reading(
            power_watts=watts or None,
            energy_joules=self._energy(),
            clock_mhz=self._clock("clock", "GFX"),
            memory_clock_mhz=self._clock("memory clock", "MEM"),
            temperature_celsius=number(
                self._get(
                    "temperature",
                    "amdsmi_get_temp_metric",
                    smi.AmdSmiTemperatureType.HOTSPOT,
                    smi.AmdSmiTemperatureMetric.CURRENT,
                )
            ),
            utilisation_percent=first_number(activity, "gfx_activity"),
            memory_used_bytes=None if used is None else int(used) * 2**20,
            reasons=self._reasons(),
        )
        if reading == Reading():
            raise NotObservable("amdsmi says nothing of this device")
        if reading.power_watts is None:
            self.absent.setdefault("power", "this die has no power of its own")
        return reading

    def _energy(self) -> float | None:
        """The accumulator times its resolution is microjoules."""
        count = self._get("energy", "amdsmi_get_energy_count")
        ticks = first_number(count, "energy_accumulator", "power")
        resolution = first_number(count, "counter_resolution")
        return ticks * resolution / 1e6 if ticks and resolution else None

    def _clock(self, quantity: str, kind: str) -> float | None:
        clock_type = getattr(self._smi.AmdSmiClkType, kind)
        return first_number(
            self._get(quantity, "amdsmi_get_clock_info", clock_type), "clk", "cur_clk"
        )

    def _reasons(self) -> tuple[Reason, ...] | None:
        """MI300 and later; older ones do not say."""
        status = self._get("reasons", "amdsmi_get_violation_status")
        if status is None or all(status.get(name) in (None, "N/A") for name in ACTIVE):
            self.absent.setdefault("reasons", "amdsmi: this device does not say")
            return None
        found = {word: None for name, word in ACTIVE.items() if status.get(name) is True}
        return tuple(found)

    def processes(self) -> tuple[Process, ...] | None:
        """Those that have the device open."""
        found = self._get("processes", "amdsmi_get_gpu_process_list")
        if found is None:
            return None
        return tuple(Process(p["pid"], p["memory_usage"]["vram_mem"]) for p in found)

    def _get(self, quantity: str, name: str, *arguments: Any) -> Any:
        return self._ask(quantity, name, self._handle, *arguments)

    def _ask(self, quantity: str, name: str, *arguments: Any) -> Any:
        try:
            answer = getattr(self._smi, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - older versions lack calls; newer raise their own
            self.absent[quantity] = f"amdsmi: {error}"
            return None
        self.absent.pop(quantity, None)
        return answer


class AmdSmiProgram(Source):
    """`amd-smi metric --json`: a program each time, so looked at once a second at most."""

    name = "amd-smi"
    scope = "package"
    interval_seconds = 1.0

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index = physical(index)

    def read(self) -> Reading:
        """The figures of one GPU."""
        self.absent = {"reasons": "amd-smi does not say them in one word"}
        return parse_amd_smi(said("amd-smi", "metric", "--json"), self._index)


class RocmSmiProgram(Source):
    """`rocm-smi --json`, of older ROCm."""

    name = "rocm-smi"
    scope = "package"
    interval_seconds = 1.0

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index = physical(index)

    def read(self) -> Reading:
        """The figures of one GPU."""
        self.absent = {"reasons": "rocm-smi does not say them"}
        return parse_rocm_smi(said("rocm-smi", *ROCM_SMI), self._index)


def parse_amd_smi(text: str, index: int) -> Reading:
    """`amd-smi metric --json`: a list, or one under `gpu_data`; `{"value": 142, "unit": "W"}`.

    A warning may stand before the JSON. Raises `NotObservable`.
    """
    found = _json(text, "amd-smi")
    cards = found.get("gpu_data", []) if isinstance(found, dict) else found
    card = next((c for c in cards if isinstance(c, dict) and c.get("gpu") == index), None)
    if card is None:
        raise NotObservable(f"amd-smi says nothing of GPU {index}")

    def at(*path: str) -> float | None:
        here: Any = card
        for name in path:
            here = here.get(name) if isinstance(here, dict) else None
        return number(here)

    used = at("mem_usage", "used_vram")
    return Reading(
        power_watts=at("power", "socket_power") or at("power", "average_socket_power"),
        energy_joules=at("energy", "total_energy_consumption"),
        clock_mhz=at("clock", "gfx_0", "clk") or at("clock", "gfx", "clk"),
        memory_clock_mhz=at("clock", "mem_0", "clk") or at("clock", "mem", "clk"),
        temperature_celsius=_first(at("temperature", "hotspot"), at("temperature", "edge")),
        utilisation_percent=at("usage", "gfx_activity"),
        memory_used_bytes=None if used is None else int(used) * 2**20,
    )


def parse_rocm_smi(text: str, index: int) -> Reading:
    """`rocm-smi --json`: texts under `cardN`; power is "Current Socket" or "Average", by age.

    Raises `NotObservable`.
    """
    found = _json(text, "rocm-smi")
    card = found.get(f"card{index}") if isinstance(found, dict) else None
    if not isinstance(card, dict):
        raise NotObservable(f"rocm-smi says nothing of card{index}")

    def at(*names: str) -> float | None:
        return _first(*(number(card.get(name)) for name in names))

    def clock(name: str) -> float | None:
        """`(1700Mhz)`."""
        return number(str(card.get(f"{name} clock speed:", "")).strip("()").removesuffix("Mhz"))

    used, microjoules = at("VRAM Total Used Memory (B)"), at("Accumulated Energy (uJ)")
    return Reading(
        power_watts=at(
            "Current Socket Graphics Package Power (W)", "Average Graphics Package Power (W)"
        ),
        energy_joules=None if microjoules is None else microjoules / 1e6,
        clock_mhz=clock("sclk"),
        memory_clock_mhz=clock("mclk"),
        temperature_celsius=at(
            "Temperature (Sensor junction) (C)", "Temperature (Sensor edge) (C)"
        ),
        utilisation_percent=at("GPU use (%)"),
        memory_used_bytes=None if used is None else int(used),
    )


def number(value: Any) -> float | None:
    """A figure, alone or as `{"value": 1, "unit": "W"}`; None for `N/A` and the like."""
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and found < 0xFFFF_FFFF_FFFF_FFFF else None


def first_number(holder: Any, *names: str) -> float | None:
    """The first of the named fields that has a figure."""
    if not isinstance(holder, dict):
        return None
    return _first(*(number(holder.get(name)) for name in names))


def _first(*values: float | None) -> float | None:
    return next((v for v in values if v is not None), None)


def _json(text: str, program: str) -> Any:
    starts = [i for i in (text.find("{"), text.find("[")) if i >= 0]
    try:
        return json.loads(text[min(starts) :]) if starts else {}
    except ValueError as error:
        raise NotObservable(f"{program} printed no JSON ({error})") from error
