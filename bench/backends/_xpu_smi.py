"""Telemetry of Intel GPUs from `xpu-smi stats -j` and `xpu-smi ps -j` (Intel XPU Manager)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.records.observed import Reading
from bench.telemetry.figures import Sheet, held
from bench.telemetry.source import NotObservable, Process, Source, printed_json, said

FIELDS = {
    "power": "POWER",
    "clock": "GPU_FREQUENCY",
    "temperature": "GPU_CORE_TEMPERATURE",
    "utilisation": "GPU_UTILIZATION",
}
"""What xpu-smi calls the quantities that are taken from it."""
NEWER = {
    "power": ("power", "gpu_power_w"),
    "clock": ("frequency", "gpu_frequency_mhz"),
    "temperature": ("temperature", "gpu_core_celsius"),
    "utilisation": ("utilization", "gpu_percent"),
}
"""Where xpu-smi 2 has them, for each tile (intel/xpumanager 34c32c6, ial/cmn/cmd_stats.cpp)."""


class XpuSmiSource(Source):
    """One card. Where tiles are devices of their own, which is which is not said: none then."""

    name = "xpu-smi"
    interval_seconds = 1.0

    def __init__(self, index: int) -> None:
        """index: as torch counts.

        torch counts as Level Zero and SYCL do, which ZE_AFFINITY_MASK does not reorder, and without
        an integrated GPU; xpu-smi counts otherwise. So of several cards it is not said which it is.
        Source: Level Zero specification, "Affinity Mask"; intel/torch-xpu-ops 5015.
        """
        super().__init__()
        mask = os.environ.get("ZE_AFFINITY_MASK", "")
        if "." in mask:
            raise NotObservable(f"ZE_AFFINITY_MASK={mask} names tiles; xpu-smi numbers cards")
        cards = _cards(said("xpu-smi", "discovery", "-j"))
        if len(cards) != 1 or index:
            raise NotObservable(
                f"xpu-smi lists {len(cards)} cards, and not which of them torch counts as {index}"
            )
        self._card = cards[0]
        self.card, self.card_devices = str(self._card), 1
        composite = os.environ.get("ZE_FLAT_DEVICE_HIERARCHY") == "COMPOSITE"
        if not composite and _tiles(_object(self._stats())) > 1:
            raise NotObservable(
                "this card's tiles are devices of their own; xpu-smi numbers cards. "
                "ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE makes a card one device"
            )
        with suppress(NotObservable):  # older ones do not say
            about = _object(said("xpu-smi", "discovery", "-d", str(self._card), "-j"))
            if about.get("device_function_type") == "virtual":
                self.is_part("it is a virtual function")

    def _stats(self) -> str:
        return said("xpu-smi", "stats", "-d", str(self._card), "-j")

    def read(self) -> Reading:
        """Power, clock, temperature and utilisation of the card.

        Its energy is left alone: the versions differ in its unit. So do they for memory.
        """
        sheet = parse_stats(self._stats())
        self.absent = {
            **sheet.absent,
            "energy": "xpu-smi: its unit is not the same in all versions",
            "memory": "xpu-smi: its unit is not the same in all versions",
            "reasons": "xpu-smi stats does not say why a clock is low",
        }
        return sheet.reading()

    def processes(self) -> tuple[Process, ...] | None:
        """Those that have the card open, without xpu-smi itself."""
        try:
            return parse_ps(said("xpu-smi", "ps", "-d", str(self._card), "-j"), self._card)
        except NotObservable as why:
            self.absent["processes"] = str(why)
            return None


def parse_stats(text: str) -> Sheet:
    """`xpu-smi stats -d N -j`: `device_level`, one entry a metric; W, MHz, C and % without a word.

    xpu-smi 2 has figures for each tile instead, and the only tile's are the card's. Raises
    `NotObservable`.
    """
    stats = _object(text)
    entries, newer = stats.get("device_level"), _by_tile(stats)
    sheet = Sheet("xpu-smi")
    if isinstance(entries, list):
        values = {str(e.get("metrics_type")): e for e in entries if isinstance(e, dict)}
        for quantity, name in FIELDS.items():
            sheet.take(quantity, [values.get(f"XPUM_STATS_{name}")])
        return sheet
    if not newer:
        raise NotObservable("xpu-smi says nothing of this card")
    for quantity in NEWER:
        found = newer.get(quantity, {}).values()
        sheet.take(quantity, [f.get("current") if isinstance(f, dict) else f for f in found])
        if _tiles(stats) > 1:
            sheet.refuse(quantity, "xpu-smi has figures of several tiles, and none of the card")
    return sheet


def _by_tile(stats: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What xpu-smi 2 says of each tile, by quantity; empty of older ones."""
    groups = {quantity: stats.get(group) for quantity, (group, _) in NEWER.items()}
    known = {q: group.get(NEWER[q][1]) for q, group in groups.items() if isinstance(group, dict)}
    return {quantity: tiles for quantity, tiles in known.items() if isinstance(tiles, dict)}


def _tiles(stats: dict[str, Any]) -> int:
    """How many tiles xpu-smi has figures of."""
    older = stats.get("tile_level")
    return len(older if isinstance(older, list) else set().union(*_by_tile(stats).values()))


def parse_ps(text: str, card: int) -> tuple[Process, ...]:
    """`xpu-smi ps -j`: memory in KiB. Raises `NotObservable`."""
    rows = _object(text).get("device_util_by_proc_list")
    if not isinstance(rows, list):
        raise NotObservable("xpu-smi lists no processes")
    found = []
    for row in rows:
        if not isinstance(row, dict) or row.get("device_id") != card:
            continue
        pid, used = row.get("process_id"), held(row.get("mem_size"))
        if isinstance(pid, int) and Path(str(row.get("process_name"))).name != "xpu-smi":
            found.append(Process(pid, None if used is None else used * 1024))
    return tuple(found)


def _cards(text: str) -> list[int]:
    """`xpu-smi discovery -j`: the numbers of all cards."""
    listed = _object(text).get("device_list")
    cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
    return [card["device_id"] for card in cards if isinstance(card.get("device_id"), int)]


def _object(text: str) -> dict[str, Any]:
    found = printed_json(text, "xpu-smi")
    if not isinstance(found, dict):
        raise NotObservable("xpu-smi printed no object")
    return found
