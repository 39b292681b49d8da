"""npu-smi: its tables, as A2, A3, 950 and 310P print them, and telemetry from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import msgspec

from bench.records.observed import Reading, Scope
from bench.telemetry.figures import Sheet, figure, held
from bench.telemetry.source import NotObservable, Process, Source, said

TWO_DIES = "Ascend910"
"""What npu-smi calls each die of a 910C, and nothing else."""
RUNTIME_OPTIONS = "ASCEND_RUNTIME_OPTIONS"
"""VIRTUAL in a container that has a virtual NPU, whose template (`vir04`) is in its name."""
SHARED = ("NPU ID", "Chip Count")
"""What the common page says of the card, before its chips."""
COMMON = {
    "clock": "Aicore curFreq",
    "temperature": "Temperature",
    "utilisation": "Aicore Usage Rate",
}
"""What the common page calls a chip's figures."""
NPU_SMI_SECONDS = 10.0
"""npu-smi that takes longer says nothing."""


class Chip(msgspec.Struct, frozen=True, kw_only=True):
    """One row pair of `npu-smi info`: a die, which is what torch calls a device."""

    npu: int | None
    """The card, or package: the two dies of a 910C have one number. None of a row that cannot be
    read."""
    chip: int | None
    physical: int | None
    """Phy-ID (A3) or Device (310P); None where npu-smi prints none (A2)."""
    name: str
    """`910B4-1`, `310P3`, and `Ascend910` for every 910C: not torch's SoC name."""
    health: str
    power_watts: float | None
    """Of the whole card; None on its second die, which has no figure of its own."""
    temperature_celsius: float | None
    memory_total_mb: int | None
    hbm_total_mb: int | None
    """None where the part has no HBM (310P)."""


UNREADABLE = Chip(
    **dict.fromkeys(("npu", "chip", "physical", "power_watts", "temperature_celsius")),
    **dict.fromkeys(("memory_total_mb", "hbm_total_mb")),
    name="",
    health="",
)
"""In the place of a die whose rows in the table cannot be read."""
COLUMNS = {
    "Power": "power",
    "Temp": "temperature",
    "Memory-Usage": "memory",
    "HBM-Usage": "memory",
}
"""Of the table, by their names without the unit: what they hold."""


def parse_info(text: str) -> tuple[Chip, ...]:
    """The dies in the table of `npu-smi info`, in its order: models print it differently.

    The header names the columns and their units: `Phy-ID` or `Device` beside `Chip`, and HBM, are
    not always there; a 950's card has a column of its own. Two rows are a die. Where one cannot be
    read, `UNREADABLE` holds the die's place; where a cell of figures is blank, which is which is
    unclear, and the row's are None.
    """
    chips: list[Chip] = []
    names: list[list[str]] = [[], []]
    labelled = False
    upper: list[str] | None = None
    """The first of two rows; [] where it cannot be read."""
    alone = False
    """Whether the card has a column of its own."""
    for line in text.splitlines():
        cells = _cells(line)
        alone = alone or cells[:1] == ["NPU ID"]
        if "Process id" in line or len(cells) > 3 + alone:  # the processes
            break
        cells = _joined(cells) if alone else cells
        kind = _kind(cells, all(names))
        if upper is not None and kind in ("upper", "header", ""):
            chips.append(UNREADABLE)
            upper = None
        if kind == "header":
            below = cells[0].startswith("Chip")
            names[below] = cells[2].split()
            labelled = len(cells[0].split()) > 1 if below else labelled
        elif kind == "upper":
            upper = cells
        elif upper is not None or kind == "lower":
            chips.append(_chip(upper, cells, names, labelled) if upper and cells else UNREADABLE)
            upper = None
        elif kind == "unreadable":
            upper = []
    return tuple(chips) if upper is None else (*chips, UNREADABLE)


def _cells(line: str) -> list[str]:
    """The cells of a whole line of a table; of one that is cut off, [""]; none of any other."""
    bare = line.strip()
    if not bare.startswith("|"):
        return []
    return [cell.strip() for cell in bare[1:-1].split("|")] if bare.endswith("|") else [""]


def _joined(cells: list[str]) -> list[str]:
    """A line of four columns (950) as of three: the chip, of which no number is printed, is 0."""
    if len(cells) != 4:
        return cells
    card, name, third, figures = cells
    first = f"{card} {name}".strip().replace("NPU ID", "NPU")
    if not first and (third == "Bus-Id" or ":" in third):
        first = "Chip" if third == "Bus-Id" else "0"
    return [first, third, figures.replace("NPU Util", "NPU-Util")]


def _kind(cells: list[str], begun: bool) -> str:
    """Of a line: header, upper or lower row of a die, unreadable, or "" for none of them.

    begun: whether both lines of the header have been.
    """
    if len(cells) != 3:
        return "unreadable" if cells and begun else ""
    words = cells[0].split()
    if words[:1] == ["Chip"] or words[:2] == ["NPU", "Name"]:
        return "header"
    if not begun:
        return ""
    numbers = [word.isdecimal() for word in words]
    if ":" in cells[1] and numbers and all(numbers):
        return "lower"
    is_upper = cells[1] and ":" not in cells[1] and numbers[:1] == [True] and not all(numbers[1:2])
    return "upper" if is_upper or (cells[1].isalpha() and numbers == [True]) else "unreadable"


def _chip(upper: list[str], lower: list[str], names: list[list[str]], labelled: bool) -> Chip:
    numbers = [int(word) for word in lower[0].split() if word.isdecimal()]
    if _kind(lower, True) != "lower" or len(numbers) != 1 + labelled:
        return UNREADABLE
    card, *name = upper[0].split()
    figures = {**_figures(names[0], upper[2]), **_figures(names[1], lower[2])}
    return Chip(
        npu=int(card),
        chip=numbers[0],
        physical=numbers[1] if labelled else None,
        name=" ".join(name),
        health=upper[1],
        power_watts=figures.get("Power"),
        temperature_celsius=figures.get("Temp"),
        memory_total_mb=_whole(figures.get("Memory-Usage")),
        hbm_total_mb=_whole(figures.get("HBM-Usage")),
    )


def _figures(names: list[str], cell: str) -> dict[str, float]:
    """A cell's figures by the names of its columns; empty if they are not as many.

    `Memory-Usage(MB)` over `3416 / 65536` is all that there is, in MB.
    """
    words = re.sub(r"(\S+)[ \t]*/[ \t]*(\S+)", r"\1/\2", cell).split()
    if len(words) != len(names) or any(w.startswith("/") or w.endswith("/") for w in words):
        return {}
    found = {}
    for title, word in zip(names, words, strict=True):
        name, _, unit = title.rstrip(")").partition("(")
        quantity = COLUMNS.get(name)
        used, slash, total = word.partition("/")
        if quantity is None or bool(slash) != (quantity == "memory"):
            continue
        value = figure(quantity, total or used, unit)
        if not isinstance(value, str):
            found[name] = value / 2**20 if slash else value
    return found


def parse_common(text: str) -> tuple[dict[str, str], ...]:
    """`npu-smi info -t common -i CARD`: its `key : value` lines, one dictionary for each chip.

    What stands there twice is unclear and empty; a line that is cut off is none; of chips that are
    not in order it is unclear whose lines are whose, and there are none. After a `Chip Name` the
    card's controller has what the chips lack. A page that counts no chips (950) is chip 0.
    """
    page: dict[str, str] = {}
    """What stands before the first chip."""
    chips: list[dict[str, str]] = []
    controller = False
    for line in text.splitlines(keepends=True):
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not line.endswith("\n"):
            continue
        if key == "Chip ID":
            chips.append({name: page[name] for name in SHARED if name in page})
            controller = False
        here = chips[-1] if chips else page
        controller = controller or key == "Chip Name"
        if key not in here:
            here[key] = value
        elif here[key] != value and not controller:
            here[key] = ""
    if not chips and "NPU ID" in page and "Chip Count" not in page:
        chips = [{**page, "Chip ID": "0"}]
    numbers = [chip["Chip ID"] for chip in chips]
    in_order = all(n.isdecimal() for n in numbers) and numbers == sorted(set(numbers), key=int)
    return tuple(chips) if in_order else ()


def common_figure(page: Mapping[str, str], quantity: str, name: str) -> float | str:
    """A figure of `parse_common` by its name without the unit, which is read; or why none."""
    for key, text in page.items():
        title, _, unit = key.rstrip(")").partition("(")
        if title.strip() == name:
            return figure(quantity, text, unit)
    return "it does not say"


def power_of_card(chips: tuple[Chip, ...], npu: int) -> float | None:
    """Watts of a card: the one figure that its dies have between them; else None.

    Never halved over the dies, and never added up: a 910C prints it with its first die only.
    """
    figures = [c.power_watts for c in chips if c.npu == npu and c.power_watts is not None]
    return figures[0] if len(figures) == 1 else None


def chip_of(chips: tuple[Chip, ...], index: int, visible: str | None) -> Chip | None:
    """The die that torch counts as `index`, through ASCEND_RT_VISIBLE_DEVICES; None if unclear.

    A container that has a part of the host's dies counts them from 0, whatever their Phy-IDs.
    Source: vllm-project/vllm-ascend 16256.
    """
    number = index
    if visible:
        listed = [part.strip() for part in visible.split(",")]
        if index >= len(listed) or not listed[index].isdecimal():
            return None
        number = int(listed[index])
    numbered = enumerate(chips)
    known = [(i if c.physical is None else c.physical, c) for i, c in numbered if readable(c)]
    by_number = dict(known)
    if any(c.physical is not None for c in chips) and sorted(by_number) != [*range(len(known))]:
        return None
    return by_number.get(number) if len(by_number) == len(known) else None


def readable(chip: Chip) -> bool:
    """Whether the table says which die it is."""
    return chip.npu is not None


def dies_of(chips: tuple[Chip, ...], chip: Chip) -> int | None:
    """Dies on a die's card; None where the table does not show all of them.

    A container may see one die of a 910C: its number, or the name of the package, gives it away.
    """
    dies = sum(other.npu == chip.npu for other in chips)
    alone = dies == 1 and (chip.chip != 0 or chip.name == TWO_DIES)
    return None if alone or not all(map(readable, chips)) else dies


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def parse_processes(text: str) -> tuple[tuple[int, int, Process], ...]:
    """The processes in the table of `npu-smi info`: (card, chip, process).

    A name may be empty, a container's own numbers may stand in a fifth column, and a 950's card
    stands alone: its chip is 0.
    """
    found = []
    titles: list[str] = []
    for line in text.splitlines():
        cells = _cells(line)
        if "Process id" in line:
            titles = [" ".join(cell.partition("(")[0].split()) for cell in cells]
            unit = line.partition("Process memory(")[2].partition(")")[0]
        elif len(cells) == len(titles) > 1:
            row = dict(zip(titles, cells, strict=True))
            place = f"{row['NPU ID']} 0" if "NPU ID" in row else row.get("NPU Chip", "")
            words = f"{place} {row.get('Process id', '')}".split()
            if len(words) == 3 and all(word.isdecimal() for word in words):
                used = held(row.get("Process memory"), unit or "MB")
                found.append((int(words[0]), int(words[1]), Process(int(words[2]), used)))
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
        self.card, self.card_devices = str(chip.npu), dies_of(chips, chip)
        self.scope: Scope = "board" if self.card_devices == 1 else "package"
        if "vir" in chip.name.lower() or "VIRTUAL" in os.environ.get(RUNTIME_OPTIONS, ""):
            self.is_part("it is a virtual NPU")

    def read(self) -> Reading:
        """Power, clock, temperature and use of the die's memory, to a hundredth of it."""
        card = str(self._chip.npu)
        pages = said("npu-smi", "info", "-t", "common", "-i", card, seconds=NPU_SMI_SECONDS)
        chips = parse_common(pages)
        mine = [c for c in chips if c.get("Chip ID") == str(self._chip.chip)]
        if len(mine) != 1:
            raise NotObservable("npu-smi says nothing of this die")
        sheet = Sheet(self.name)
        watts = [common_figure(c, "power", "NPU Real-time Power") for c in chips]
        figures = [w for w in watts if not isinstance(w, str)]
        sheet.take("power", figures)
        if len(figures) != 1:
            sheet.refuse("power", f"npu-smi has {len(figures)} figures for this card")
        for quantity, name in COMMON.items():
            found = common_figure(mine[0], quantity, name)
            if isinstance(found, str):
                sheet.refuse(quantity, f"npu-smi: {found}")
            else:
                sheet.take(quantity, [found])
        sheet.take("memory", [self._memory(mine[0])])
        self.absent = {
            **sheet.absent,
            "energy": "npu-smi has no energy counter",
            "reasons": "npu-smi does not say why a clock is low",
        }
        return sheet.reading()

    def _memory(self, page: Mapping[str, str]) -> float | None:
        """Bytes in use; None where that is not said."""
        hbm = self._chip.hbm_total_mb
        total = self._chip.memory_total_mb if hbm is None else hbm
        which = "Memory Usage Rate" if hbm is None else "HBM Usage Rate"
        share = common_figure(page, "utilisation", which)
        if total is None or isinstance(share, str) or share > 100:
            return None
        return int(share / 100 * total * 2**20)

    def processes(self) -> tuple[Process, ...] | None:
        """Those on this die, by the table."""
        text = npu_smi("info")
        if text is None or "Process id" not in text:
            return None
        mine = (self._chip.npu, self._chip.chip)
        return tuple(p for npu, chip, p in parse_processes(text) if (npu, chip) == mine)
