"""Telemetry of AMD devices: the amdsmi package of the ROCm that is here, else its programs' JSON.

`amdsmi` comes with ROCm and must be of its version, so it is used where it is and not required.
Fields as amdsmi 7.0 and the JSON of amd-smi and rocm-smi name them.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.backends import _sysfs
from bench.records.observed import Reading, Reason, Scope
from bench.telemetry.figures import Sheet, figure, held
from bench.telemetry.source import NotObservable, Process, Source, printed_json, said

ACTIVE: dict[str, Reason] = {
    "active_prochot_thrm": "thermal",
    "active_socket_thrm": "thermal",
    "active_vr_thrm": "thermal",
    "active_hbm_thrm": "thermal",
    "active_ppt_pwr": "power cap",
}
"""amdsmi_violation_status_t: package power tracking (PPT) is the power limit, the others heat."""
POWER_FIELDS = ("current_socket_power", "average_socket_power", "socket_power")
NO_POWER = (0, "N/A")
"""What the second of two dies says of its power."""
ONE_AT_A_TIME = threading.Lock()
"""Several devices are opened side by side, and the library is begun once."""
ROCM_FIELDS = (
    (
        *("power", "W"),
        ("Current Socket Graphics Package Power (W)", "Average Graphics Package Power (W)"),
    ),
    ("energy", "uJ", ("Accumulated Energy (uJ)",)),
    ("clock", None, ("sclk clock speed:",)),
    ("memory clock", None, ("mclk clock speed:",)),
    (
        *("temperature", "C"),
        ("Temperature (Sensor junction) (C)", "Temperature (Sensor edge) (C)"),
    ),
    ("utilisation", "%", ("GPU use (%)",)),
    ("memory", "B", ("VRAM Total Used Memory (B)",)),
)
"""Quantity, the unit that the names hold, and the names, best first; clocks are `(1700Mhz)`."""
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
    scope: Scope = "package"

    def __init__(self, index: int) -> None:
        super().__init__()
        try:
            with ONE_AT_A_TIME:
                self._smi: Any = importlib.import_module("amdsmi")
                self._smi.amdsmi_init()
        except Exception as error:  # a vendor's library fails as it likes
            raise NotObservable(f"amdsmi does not load ({error})") from error
        self._index = physical(index)
        self._handle = self._find(self._index)
        self._apu = _sysfs.apu(str(self._get("memory", "amdsmi_get_gpu_device_bdf")))
        self.is_part(partitioned(self._get("partition", "amdsmi_get_gpu_compute_partition")))
        mode = self._get("partition", "amdsmi_get_gpu_virtualization_mode")
        mode = mode.get("mode") if isinstance(mode, dict) else mode
        if "GUEST" in str(getattr(mode, "name", mode)).upper():
            self.scope = "shared"  # of a virtual function it is not said how much of it this is

    def _find(self, index: int) -> Any:
        handles = self.ask("device", self._smi, "amdsmi_get_processor_handles") or []
        each = "amdsmi_get_gpu_enumeration_info"
        known = [self.ask("device", self._smi, each, handle) for handle in handles]
        numbers = [n.get("hip_id") if isinstance(n, dict) else None for n in known]
        place = _place(numbers, index)
        return handles[_only(range(len(handles)), index, "amdsmi") if place is None else place]

    def read(self) -> Reading:
        """The package's figures; the second die of an MI250 has no power of its own."""
        smi = self._smi
        self.absent.clear()
        sheet = Sheet(self.name)
        power = self._get("power", "amdsmi_get_power_info")
        sheet.take("power", _fields(power, *POWER_FIELDS))
        self._energy(sheet)
        self._clock(sheet, "clock", "GFX")
        self._clock(sheet, "memory clock", "MEM")
        now, kinds = smi.AmdSmiTemperatureMetric.CURRENT, smi.AmdSmiTemperatureType
        sensors = (getattr(kinds, name) for name in ("HOTSPOT", "EDGE"))  # an APU has one
        heat = (self._get("temperature", "amdsmi_get_temp_metric", kind, now) for kind in sensors)
        sheet.take("temperature", heat)
        activity = self._get("utilisation", "amdsmi_get_gpu_activity")
        sheet.take("utilisation", _fields(activity, "gfx_activity"))
        memory = self._get("memory", "amdsmi_get_gpu_vram_usage")
        sheet.take("memory", _fields(memory, "vram_used"), "MB")
        _of_apu(sheet, self._apu)
        reading = sheet.reading(reasons=self._reasons())
        if reading == Reading():
            raise NotObservable("amdsmi says nothing of this device")
        # Each figure is one device's (a partition has none), but for the two dies of an MI250:
        # the first has the package's, and which die lies beside it is not said.
        self.card = str(self._index)
        if power is not None and all(v in NO_POWER for v in _fields(power, *POWER_FIELDS)):
            self.card = ""
            sheet.refuse("power", "this die has no power of its own")
        self.absent = {**sheet.absent, **self.absent}  # a call that failed is the better reason
        return reading

    def _energy(self, sheet: Sheet) -> None:
        """The accumulator times its resolution is microjoules; all ones are asked for before."""
        count = self._get("energy", "amdsmi_get_energy_count")
        for ticks in _fields(count, "energy_accumulator", "power"):
            raw = figure("energy", ticks)
            each = figure("energy", next(iter(_fields(count, "counter_resolution")), None))
            if isinstance(raw, str) or isinstance(each, str) or not raw or not each:
                sheet.refuse("energy", "amdsmi: the accumulator or its resolution is no figure")
            else:
                sheet.take("energy", [raw * each], "uJ")
            return
        sheet.take("energy", ())

    def _clock(self, sheet: Sheet, quantity: str, kind: str) -> None:
        clock_type = getattr(self._smi.AmdSmiClkType, kind)
        found = self._get(quantity, "amdsmi_get_clock_info", clock_type)
        sheet.take(quantity, _fields(found, "clk", "cur_clk"))

    def _reasons(self) -> tuple[Reason, ...] | None:
        """MI300 and later; older ones do not say."""
        status = self._get("reasons", "amdsmi_get_violation_status")
        told = status if isinstance(status, dict) else {}
        known = [name for name in ACTIVE if told.get(name) in (0, 1)]  # or booleans
        if not known:
            self.absent.setdefault("reasons", "amdsmi: this device does not say")
            return None
        return tuple(dict.fromkeys(ACTIVE[name] for name in known if told[name] == 1))

    def processes(self) -> tuple[Process, ...] | None:
        """Those that hold memory of the device: each that computes on another has it open too.

        Of an APU any memory counts; MI300A's have none by these figures (rocm-systems 2601).
        """
        found = self._get("processes", "amdsmi_get_gpu_process_list")
        if not isinstance(found, list):
            return None
        known = [p for p in found if isinstance(p, dict) and isinstance(p.get("pid"), int)]
        kinds = ("vram_mem", "gtt_mem") if self._apu else ("vram_mem",)
        users = []
        for one in known:
            said = [held(m) for m in _fields(one.get("memory_usage"), *kinds)]
            told = [size for size in said if size is not None]
            users.append(Process(one["pid"], sum(told) if told else None))
        there = tuple(p for p in users if p.memory_bytes != 0)
        if self._apu and users and not there:
            self.absent["processes"] = "amdsmi: not what memory an APU's processes have"
            return None
        return there

    def _get(self, quantity: str, name: str, *arguments: Any) -> Any:
        return self.ask(quantity, self._smi, name, self._handle, *arguments)


class AmdSmiProgram(Source):
    """`amd-smi metric --json`: a program each time, so looked at once a second at most."""

    name = "amd-smi"
    scope: Scope = "package"
    interval_seconds = 1.0
    _apu: Path | None = None

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index = gpu_of(physical(index))
        self.card = str(self._index)
        with suppress(NotObservable):
            listed = card_of(said(self.name, "list", "--json"), self._index)
            self._apu = _sysfs.apu(str(listed.get("bdf")))
        with suppress(NotObservable):  # older ones do not know the option, nor partitions
            words = said("amd-smi", "static", "--partition", "--json")
            found = card_of(words, self._index).get("partition")
            self.is_part(partitioned(*_fields(found, "accelerator_partition", "compute_partition")))

    def read(self) -> Reading:
        """The figures of one GPU."""
        sheet = parse_amd_smi(said("amd-smi", "metric", "--json"), self._index)
        _of_apu(sheet, self._apu)
        self.absent = {**sheet.absent, "reasons": "amd-smi does not say them in one word"}
        return sheet.reading()


class RocmSmiProgram(Source):
    """`rocm-smi --json`, of older ROCm."""

    name = "rocm-smi"
    scope: Scope = "package"
    interval_seconds = 1.0

    def __init__(self, index: int) -> None:
        super().__init__()
        found = printed_json(said("rocm-smi", "--showuse", "--json"), self.name)
        listed = found if isinstance(found, dict) else {}
        named = [re.fullmatch(r"card(\d+)", name) for name in listed]
        cards = [int(match[1]) for match in named if match]
        self._index = _only(cards, physical(index), self.name)
        self.card = str(self._index)
        self._apu = _sysfs.apu(self._one("--showbus", "PCI Bus"))
        self.is_part(partitioned(self._one("--showcomputepartition", "Compute Partition")))

    def _one(self, option: str, name: str) -> str:
        """What one option says of this card; empty where an older program does not know it."""
        with suppress(NotObservable):
            found = printed_json(said(self.name, option, "--json"), self.name)
            card = found.get(f"card{self._index}") if isinstance(found, dict) else None
            return "".join(map(str, _fields(card, name)))
        return ""

    def read(self) -> Reading:
        """The figures of one GPU."""
        sheet = parse_rocm_smi(said("rocm-smi", *ROCM_SMI), self._index)
        _of_apu(sheet, self._apu)
        self.absent = {**sheet.absent, "reasons": "rocm-smi does not say them"}
        return sheet.reading()


def gpu_of(index: int) -> int:
    """amd-smi's number of the GPU that HIP counts as `index`: HIP counts by the kernel's nodes, the
    program in the order of its discovery.

    Of ROCm before 6.4, where it does not say, the only one. Raises `NotObservable`.
    """
    with suppress(NotObservable):
        cards = cards_of(said("amd-smi", "list", "-e", "--json"))
        place = _place([card.get("hip_id") for card in cards], index)
        number = None if place is None else cards[place].get("gpu")
        if isinstance(number, int):
            return number
    numbers = [card.get("gpu") for card in cards_of(said("amd-smi", "list", "--json"))]
    return _only([n for n in numbers if isinstance(n, int)], index, "amd-smi")


def _place(numbers: Sequence[Any], index: int) -> int | None:
    """Where `index` stands among the `hip_id`s of AMD's tools; None where that is not HIP's count.

    They count the kernel's nodes from the first that is seen, with gaps for those that are not
    (0, 2, 3 in a container that lacks one), and HIP counts what it sees without gaps.
    """
    words = [str(number) for number in numbers]
    counted = sorted(int(word) for word in words if word.isdecimal())
    without_gaps = counted == [*range(len(counted))]
    return words.index(str(index)) if without_gaps and index in counted else None


def _only(numbers: Sequence[int], index: int, who: str) -> int:
    """The one device that there is, where nobody says which is which."""
    if len(numbers) == 1 and index == 0:
        return numbers[0]
    raise NotObservable(
        f"{who} lists {len(numbers)} devices, and not which of them HIP counts as {index}: "
        "give the container one, or all of the host's, and choose by ROCR_VISIBLE_DEVICES"
    )


def partitioned(*modes: Any) -> str:
    """What makes of a device a part, by the words for its compute partition; empty if it is whole.

    SPX is the whole; DPX, TPX, QPX and CPX are halves, thirds, quarters and single dies.
    """
    words = [str(mode).strip().upper() for mode in modes]
    parts = [word for word in words if word.endswith("PX") and word != "SPX"]
    return f"its compute partition is {parts[0]}" if parts else ""


def parse_amd_smi(text: str, index: int) -> Sheet:
    """`amd-smi metric --json`: a list, or one under `gpu_data`; `{"value": 142, "unit": "W"}`.

    Raises `NotObservable`.
    """
    card = card_of(text, index)

    def at(*path: str) -> Any:
        here: Any = card
        for name in path:
            here = here.get(name) if isinstance(here, dict) else None
        return here

    sheet = Sheet("amd-smi")
    power = at("power", "socket_power"), at("power", "average_socket_power")
    sheet.take("power", power)
    sheet.take("energy", [at("energy", "total_energy_consumption")])
    sheet.take("clock", [at("clock", "gfx_0", "clk"), at("clock", "gfx", "clk")])
    sheet.take("memory clock", [at("clock", "mem_0", "clk"), at("clock", "mem", "clk")])
    sheet.take("temperature", [at("temperature", "hotspot"), at("temperature", "edge")])
    sheet.take("utilisation", [at("usage", "gfx_activity")])
    sheet.take("memory", [at("mem_usage", "used_vram")], "MB")
    return sheet


def card_of(text: str, index: int) -> dict[str, Any]:
    """What amd-smi's JSON says of one GPU. Raises `NotObservable`."""
    for card in cards_of(text):
        if card.get("gpu") == index:
            return card
    raise NotObservable(f"amd-smi says nothing of GPU {index}")


def cards_of(text: str) -> list[dict[str, Any]]:
    """What amd-smi's JSON says, of each GPU. Raises `NotObservable`."""
    found = printed_json(text, "amd-smi")
    cards = found.get("gpu_data") if isinstance(found, dict) else found
    return [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []


def parse_rocm_smi(text: str, index: int) -> Sheet:
    """`rocm-smi --json`: texts under `cardN`; power is "Current Socket" or "Average", by age.

    The names hold the units. Raises `NotObservable`.
    """
    found = printed_json(text, "rocm-smi")
    card = found.get(f"card{index}") if isinstance(found, dict) else None
    if not isinstance(card, dict):
        raise NotObservable(f"rocm-smi says nothing of card{index}")
    sheet = Sheet("rocm-smi")
    for quantity, unit, names in ROCM_FIELDS:
        sheet.take(quantity, _fields(card, *names), unit)
    return sheet


def _of_apu(sheet: Sheet, card: Path | None) -> None:
    """Puts an APU's memory in use in the place of what these tools say, which is of the little
    alone that is set aside for it; card: its folder of the driver's, None of any other device."""
    if card is None:
        return
    if used := _sysfs.apu_bytes(card, "used"):
        sheet.take("memory", [sum(used)])
        sheet.absent.pop("memory", None)
    else:
        sheet.refuse("memory", "an APU's lies in the host's, and its driver does not say how much")


def _fields(holder: Any, *names: str) -> list[Any]:
    """Of the named fields, those that are there."""
    if not isinstance(holder, dict):
        return []
    return [holder[name] for name in names if holder.get(name) is not None]
