"""npu-smi: its tables, as A2, A3 and 310P print them, and telemetry from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from bench.records.observed import Reading, Scope
from bench.telemetry.source import NotObservable, Process, Source, said

NO_FIGURE = ("-", "NA", "N/A")
"""What npu-smi prints for none."""
NPU_SMI_SECONDS = 10.0
"""npu-smi that takes longer says nothing."""


class Chip(msgspec.Struct, frozen=True, kw_only=True):
    """One row pair of `npu-smi info`: a die, which is what torch calls a device."""

    npu: int
    """The card, or package: the two dies of a 910C have one number."""
    chip: int
    physical: int | None
    """Phy-ID (A3) or Device (310P); None where npu-smi prints none (A2)."""
    name: str
    """`910B4-1`, `310P3`, and `Ascend910` for every 910C: not torch's SoC name."""
    health: str
    power_watts: float | None
    """Of the whole card; None on its second die, which has no figure of its own."""
    temperature_celsius: float | None
    memory_used_mb: int | None
    memory_total_mb: int | None
    hbm_used_mb: int | None
    hbm_total_mb: int | None
    """None where the part has no HBM (310P)."""


def parse_info(text: str) -> tuple[Chip, ...]:
    """The dies in the table of `npu-smi info`, in its order: A2, A3 and 310P print it differently.

    The header names the columns: `Phy-ID` or `Device` beside `Chip`, and HBM, are not always there.
    """
    chips = []
    labelled = has_hbm = False
    first: list[list[str]] | None = None
    for line in text.splitlines():
        cells = [cell.split() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3 or not cells[0]:
            first = None
        elif cells[0][0] == "Chip":
            labelled, has_hbm = len(cells[0]) > 1, "HBM-Usage" in line
        elif not cells[0][0].isdecimal():
            first = None
        elif first is None:
            first = cells
        else:
            chips.append(_chip(first, cells, labelled, has_hbm))
            first = None
    return tuple(chips)


def _chip(first: list[list[str]], second: list[list[str]], labelled: bool, has_hbm: bool) -> Chip:
    numbers = " ".join(second[2]).replace("/", " ").split()[1:]  # after AICore(%)
    used, total, *hbm = (number(n) for n in (*numbers, *["-"] * 4))
    power, celsius = (number(n) for n in first[2][:2])
    return Chip(
        npu=int(first[0][0]),
        chip=int(second[0][0]),
        physical=int(second[0][1]) if labelled and len(second[0]) > 1 else None,
        name=first[0][1],
        health=first[1][0],
        power_watts=power,
        temperature_celsius=celsius,
        memory_used_mb=_whole(used),
        memory_total_mb=_whole(total),
        hbm_used_mb=_whole(hbm[0]) if has_hbm else None,
        hbm_total_mb=_whole(hbm[1]) if has_hbm else None,
    )


def parse_common(text: str) -> tuple[dict[str, str], ...]:
    """`npu-smi info -t common -i CARD`: its `key : value` lines, one dictionary for each chip."""
    shared: dict[str, str] = {}
    chips: list[dict[str, str]] = []
    for line in text.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if key == "Chip ID":
            chips.append(dict(shared))
        (chips[-1] if chips else shared)[key] = value
    return tuple(chips)


def power_of_card(chips: tuple[Chip, ...], npu: int) -> float | None:
    """Watts of a card: the one figure that its dies have between them; else None.

    Never halved over the dies, and never added up: a 910C prints it with its first die only.
    """
    figures = [c.power_watts for c in chips if c.npu == npu and c.power_watts is not None]
    return figures[0] if len(figures) == 1 else None


def chip_of(chips: tuple[Chip, ...], index: int, visible: str | None) -> Chip | None:
    """The die that torch counts as `index`, through ASCEND_RT_VISIBLE_DEVICES; None if unclear."""
    number = index
    if visible:
        listed = [part.strip() for part in visible.split(",")]
        if index >= len(listed) or not listed[index].isdecimal():
            return None
        number = int(listed[index])
    by_number = {i if c.physical is None else c.physical: c for i, c in enumerate(chips)}
    return by_number.get(number) if len(by_number) == len(chips) else None


def number(text: str) -> float | None:
    if text in NO_FIGURE:
        return None
    with suppress(ValueError):
        return float(text)
    return None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def parse_processes(text: str) -> tuple[tuple[int, int, Process], ...]:
    """The processes in the table of `npu-smi info`: (card, chip, process).

    A name may be empty, and a container's own numbers may stand in a fifth column.
    """
    found = []
    listed = False
    for line in text.splitlines():
        cells = [cell.split() for cell in line.strip().strip("|").split("|")]
        if "Process id" in line:
            listed = True
        elif listed and len(cells) >= 4 and len(cells[0]) >= 2:
            npu, chip, pid = cells[0][0], cells[0][1], (cells[1] or [""])[0]
            if npu.isdecimal() and chip.isdecimal() and pid.isdecimal():
                memory = number((cells[3] or ["-"])[0])
                used = None if memory is None else int(memory) * 2**20
                found.append((int(npu), int(chip), Process(int(pid), used)))
    return tuple(found)


def npu_smi(*arguments: str) -> str | None:
    """What it prints; None where it is not there, fails or hangs."""
    try:
        return said("npu-smi", *arguments, seconds=NPU_SMI_SECONDS)
    except NotObservable:
        return None


class NpuSmiSource(Source):
    """One die, by `npu-smi info -t common`; its power is that of the whole card.

    The two dies of a 910C have one figure between them: it is neither halved nor added up, and the
    scope says `package`. 910B: one die, scope `board`.
    """

    name = "npu-smi"
    interval_seconds = 1.0

    def __init__(self, index: int) -> None:
        """index: as torch counts, through ASCEND_RT_VISIBLE_DEVICES."""
        super().__init__()
        chips = parse_info(said("npu-smi", "info", seconds=NPU_SMI_SECONDS))
        chip = chip_of(chips, index, os.environ.get("ASCEND_RT_VISIBLE_DEVICES"))
        if chip is None:
            raise NotObservable("npu-smi does not show which of its dies this is")
        self._chip = chip
        dies = sum(other.npu == chip.npu for other in chips)
        self.scope: Scope = "package" if dies > 1 else "board"

    def read(self) -> Reading:
        """Power, clock, temperature and use of the die's memory, to a hundredth of it."""
        card = str(self._chip.npu)
        pages = said("npu-smi", "info", "-t", "common", "-i", card, seconds=NPU_SMI_SECONDS)
        chips = parse_common(pages)
        mine = next((c for c in chips if c.get("Chip ID") == str(self._chip.chip)), None)
        if mine is None:
            raise NotObservable("npu-smi says nothing of this die")
        watts = [number(c.get("NPU Real-time Power(W)", "-")) for c in chips]
        figures = [w for w in watts if w is not None]
        self.absent = {
            "energy": "npu-smi has no energy counter",
            "reasons": "npu-smi does not say why a clock is low",
        }
        if len(figures) != 1:
            self.absent["power"] = f"npu-smi has {len(figures)} figures for this card"
        return Reading(
            power_watts=figures[0] if len(figures) == 1 else None,
            clock_mhz=number(mine.get("Aicore curFreq(MHZ)", "-")),
            temperature_celsius=number(mine.get("Temperature(C)", "-")),
            utilisation_percent=number(mine.get("Aicore Usage Rate(%)", "-")),
            memory_used_bytes=self._memory(mine),
        )

    def _memory(self, page: Mapping[str, str]) -> int | None:
        hbm = self._chip.hbm_total_mb
        total = self._chip.memory_total_mb if hbm is None else hbm
        share = number(
            page.get("Memory Usage Rate(%)" if hbm is None else "HBM Usage Rate(%)", "-")
        )
        if total is None or share is None:
            self.absent["memory"] = "npu-smi does not say"
            return None
        return int(share / 100 * total * 2**20)

    def processes(self) -> tuple[Process, ...] | None:
        """Those on this die, by the table."""
        text = npu_smi("info")
        if text is None or "Process id" not in text:
            return None
        mine = (self._chip.npu, self._chip.chip)
        return tuple(p for npu, chip, p in parse_processes(text) if (npu, chip) == mine)
