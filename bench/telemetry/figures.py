"""Whether a figure that a vendor's tool gives is one: no sentinel, a known unit, and possible.

One place for all vendors. A parser takes every figure through `figure`, which knows what tools
print for none and reads the unit; whoever looks at a device takes every reading through `possible`,
whichever source it came from, so a source of somebody else's is held to the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from bench.records.observed import Reading

NONE = frozenset({"", "-", "--", "na", "n/a", "none", "null", "unknown", "not supported"})
"""What tools print for no figure, in small letters and without brackets."""
WIDTHS = (15, 16, 31, 32, 63, 64)
"""Bits of the registers, signed and unsigned, that hold all ones where there is no figure. Eight
bits are not among them: 255 W is a power, and 255 % and 255 C are no more possible than 65535."""
ALL_ONES = frozenset(float(2**width - 1) for width in WIDTHS)
SCALES = {
    "bytes": (1, 2**10, 2**20, 2**30, 10**3, 10**6, 10**9),
    "others": (1, 10, 10**2, 10**3, 10**6, 10**9),
}
"""By which a register is divided, or a memory multiplied, on its way to the unit."""
NUMBER = re.compile(r"\s*\(?\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\s\d)]*)\s*\)?\s*")
MOST_WATTS = 10_000.0
"""Of any board."""
BINARY = {f"{p}{i}B": 2.0 ** (10 * k) for k, p in enumerate("KMGT", 1) for i in ("", "i")}
"""Tools that say MB of memory count in 1024, all those that are known."""


class Quantity(NamedTuple):
    """What a quantity is counted in, and how much of it there can be."""

    field: str
    """Of `Reading`."""
    unit: str
    most: float
    units: Mapping[str, float]
    """What other units are worth, by their spelling."""
    none_at_zero: bool = False


QUANTITIES = {
    "power": Quantity(
        "power_watts", "W", MOST_WATTS, {"kW": 1e3, "mW": 1e-3, "uW": 1e-6, "µW": 1e-6}, True
    ),
    "energy": Quantity(
        *("energy_joules", "J", 1e13),
        {"kJ": 1e3, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "Wh": 3.6e3, "kWh": 3.6e6, "mWh": 3.6},
    ),
    "clock": Quantity(
        "clock_mhz", "MHz", 10_000.0, {"GHz": 1e3, "kHz": 1e-3, "KHz": 1e-3, "Hz": 1e-6}
    ),
    "memory clock": Quantity(
        "memory_clock_mhz", "MHz", 50_000.0, {"GHz": 1e3, "kHz": 1e-3, "KHz": 1e-3, "Hz": 1e-6}
    ),
    "temperature": Quantity(
        "temperature_celsius", "C", 120.0, {"°C": 1.0, "Celsius": 1.0, "mC": 1e-3, "m°C": 1e-3}
    ),
    "utilisation": Quantity("utilisation_percent", "%", 100.0, {}),
    "memory": Quantity("memory_used_bytes", "B", 2.0**48, BINARY),
}
"""Power of any board; energy of a board in thirty years; the memory clock as its tools count it,
several times a clock. A device that is on draws power: 0 W is no figure."""
SPELLINGS = {
    "Mhz": "MHz",
    "MHZ": "MHz",
    "mhz": "MHz",
    "degC": "C",
    "c": "C",
    "percent": "%",
    "kB": "KB",
}


def figure(quantity: str, value: Any, unit: str | None = None) -> float | str:
    """The figure in the unit of its quantity (`QUANTITIES`); or why there is none.

    value: a number, a text with or without its unit, or `{"value": 1, "unit": "W"}`; unit: of a
    number that has none beside it, the quantity's own if None. What is possible at all is not
    asked here but by `possible`.
    """
    about = QUANTITIES[quantity]
    beside: Any = None
    if isinstance(value, Mapping):
        value, beside = value.get("value"), value.get("unit")
    if isinstance(value, str):
        if value.strip().strip("[]()").strip().lower() in NONE:
            return f"it says {value.strip() or 'nothing'}"
        found = NUMBER.fullmatch(value)
        if found is None:
            return f"{value.strip()[:40]!r} is no number"
        value, beside = found[1], found[2] or beside
        value = float(value)
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return "it says nothing"
    try:
        amount = float(value)
    except OverflowError:
        return "it is beyond every register"
    factor = _worth(about, beside or unit)
    if factor is None:
        known = ", ".join((about.unit, *about.units))
        return f"{amount:,g} {str(beside or unit)[:20]}: its unit is none of {known}"
    if not math.isfinite(amount) or amount < 0:
        return f"{amount:,g} is no figure: it is below 0 or not finite"
    if amount in ALL_ONES:
        return f"{amount:,g} is all ones of a register: no figure"
    return amount * factor


def held(value: Any, unit: str | None = None) -> int | None:
    """Bytes of memory that a process has; None where it is not said."""
    found = figure("memory", value, unit)
    return None if isinstance(found, str) else int(found)


def _worth(about: Quantity, unit: Any) -> float | None:
    """What one of it is in the quantity's own unit; None where the unit is not known."""
    if unit is None or unit == "":
        return 1.0
    word = SPELLINGS.get(str(unit).strip(), str(unit).strip())
    return 1.0 if word == about.unit else about.units.get(word)


class Sheet:
    """The figures of one look, by quantity, and the reasons of those that there are not."""

    def __init__(self, source: str) -> None:
        """source: who says so; it begins every reason."""
        self.absent: dict[str, str] = {}
        self._source = source
        self._found: dict[str, float] = {}

    def take(self, quantity: str, values: Iterable[Any], unit: str | None = None) -> None:
        """The first of the values that is a figure; else the reason of the last that is there."""
        why = "it does not say"
        for value in values:
            if value is None:
                continue
            found = figure(quantity, value, unit)
            if isinstance(found, str):
                why = found
            elif found == 0 and QUANTITIES[quantity].none_at_zero:
                why = refused(quantity, found)
            else:
                self._found[quantity] = found
                return
        self.absent[quantity] = f"{self._source}: {why}"

    def refuse(self, quantity: str, why: str) -> None:
        """Leaves a quantity out."""
        self._found.pop(quantity, None)
        self.absent[quantity] = why

    def reading(self, **others: Any) -> Reading:
        """The figures as a reading; others: its fields that are no figures."""
        fields: dict[str, Any] = {QUANTITIES[q].field: v for q, v in self._found.items()}
        if "memory" in self._found:
            fields["memory_used_bytes"] = int(self._found["memory"])
        return Reading(**fields, **others)


def impossible(
    reading: Reading, most_watts: float | None = None, most_bytes: float | None = None
) -> dict[str, str]:
    """What in a reading cannot be, and why; by quantity.

    most_watts, most_bytes: of this device, where they are known.
    """
    most = {"power": most_watts, "memory": most_bytes}
    found = {}
    for quantity, about in QUANTITIES.items():
        value = getattr(reading, about.field)
        why = "" if value is None else refused(quantity, value, most.get(quantity))
        if why:
            found[quantity] = why
    return found


def refused(quantity: str, value: float, most: float | None = None) -> str:
    """Why a value, in the unit of its quantity, cannot be; empty if it can.

    most: of this device, where that is known.
    """
    about = QUANTITIES[quantity]
    most = about.most if most is None else most
    if not 0 <= value <= most:
        return f"{value:,g} {about.unit} is outside 0 to {most:,g}"
    if _scaled_ones(quantity, value):
        return f"{value:,.6f} {about.unit} is all ones of a register: no figure"
    if value == 0 and about.none_at_zero:
        return f"0 {about.unit} is no figure of a device that is on"
    return ""


def _scaled_ones(quantity: str, value: float) -> bool:
    if quantity == "memory":
        return any(value / scale in ALL_ONES for scale in SCALES["bytes"])
    return any(
        round(value * scale) in ALL_ONES and math.isclose(value * scale, round(value * scale))
        for scale in SCALES["others"]
    )


def possible(reading: Reading) -> tuple[Reading, dict[str, str]]:
    """The reading without what cannot be; and why that was left out, by quantity."""
    wrong = impossible(reading)
    if not wrong:
        return reading, wrong
    gone = {QUANTITIES[quantity].field: None for quantity in wrong}
    return msgspec.structs.replace(reading, **gone), wrong
