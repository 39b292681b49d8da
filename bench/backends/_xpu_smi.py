"""Telemetry of Intel GPUs from `xpu-smi stats -j` and `xpu-smi ps -j` (Intel XPU Manager)."""

from __future__ import annotations

import json
import os
from typing import Any

from bench.records.observed import Reading
from bench.telemetry.source import NotObservable, Process, Source, said


class XpuSmiSource(Source):
    """One card. Where tiles are devices of their own, which is which is not said: none then."""

    name = "xpu-smi"
    interval_seconds = 1.0

    def __init__(self, index: int) -> None:
        """index: as torch counts, through ZE_AFFINITY_MASK."""
        super().__init__()
        mask = os.environ.get("ZE_AFFINITY_MASK")
        listed = mask.split(",") if mask else []
        if listed and (index >= len(listed) or not listed[index].isdecimal()):
            raise NotObservable(f"ZE_AFFINITY_MASK={mask} does not number device {index}")
        self._card = int(listed[index]) if listed else index
        composite = os.environ.get("ZE_FLAT_DEVICE_HIERARCHY") == "COMPOSITE"
        if not composite and len(_json(self._stats()).get("tile_level") or []) > 1:
            raise NotObservable(
                "this card's tiles are devices of their own; xpu-smi numbers cards. "
                "ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE makes a card one device"
            )

    def _stats(self) -> str:
        return said("xpu-smi", "stats", "-d", str(self._card), "-j")

    def read(self) -> Reading:
        """Power, clock, temperature and utilisation of the card.

        Its energy is left alone: the versions differ in its unit. So do they for memory.
        """
        self.absent = {
            "energy": "xpu-smi: its unit is not the same in all versions",
            "memory": "xpu-smi: its unit is not the same in all versions",
            "reasons": "xpu-smi stats does not say why a clock is low",
        }
        return parse_stats(self._stats())

    def processes(self) -> tuple[Process, ...] | None:
        """Those that have the card open, without xpu-smi itself."""
        try:
            return parse_ps(said("xpu-smi", "ps", "-d", str(self._card), "-j"), self._card)
        except NotObservable as why:
            self.absent["processes"] = str(why)
            return None


def parse_stats(text: str) -> Reading:
    """`xpu-smi stats -d N -j`: `device_level`, one entry a metric.

    Raises `NotObservable`.
    """
    entries = _json(text).get("device_level")
    if not isinstance(entries, list):
        raise NotObservable("xpu-smi says nothing of this card")
    values = {e.get("metrics_type"): e.get("value") for e in entries if isinstance(e, dict)}

    def at(name: str) -> float | None:
        value = values.get(f"XPUM_STATS_{name}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else None  # type: ignore[arg-type]

    return Reading(
        power_watts=at("POWER"),
        clock_mhz=at("GPU_FREQUENCY"),
        temperature_celsius=at("GPU_CORE_TEMPERATURE"),
        utilisation_percent=at("GPU_UTILIZATION"),
    )


def parse_ps(text: str, card: int) -> tuple[Process, ...]:
    """`xpu-smi ps -j`: memory in kB. Raises `NotObservable`."""
    rows = _json(text).get("device_util_by_proc_list")
    if not isinstance(rows, list):
        raise NotObservable("xpu-smi lists no processes")
    return tuple(
        Process(int(row["process_id"]), int(row["mem_size"]) * 1000 if "mem_size" in row else None)
        for row in rows
        if isinstance(row, dict)
        and row.get("device_id") == card
        and row.get("process_name") != "xpu-smi"
    )


def _json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise NotObservable(f"xpu-smi printed no JSON ({error})") from error
    if not isinstance(found, dict):
        raise NotObservable("xpu-smi printed no object")
    return found
