"""The table of the page: every row of every run, and what each column shows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from bench import units
from bench.judging.ranks.links import in_words
from bench.judging.row import Row
from bench.reports.page.side import NONE, Side, name_of
from bench.reports.wording.rows import (
    about,
    energy_of,
    first_step,
    looks_of,
    remarks,
    share,
    tail,
    whose,
    word_of,
)

ALWAYS = ("case", "verdict", "throughput")
"""Columns that are there even where no row has anything to show."""


class Cell(msgspec.Struct, frozen=True):
    """What a cell shows, and by what its column sorts: the number, or else the text."""

    text: str
    value: float | None = None
    note: str = ""
    looks: str = ""


class Column(msgspec.Struct, frozen=True):
    """A column of the table: its head and its cell for each row of the page."""

    title: str
    numeric: bool
    cells: list[Cell]


def columns(sides: Sequence[Side]) -> list[Column]:
    """The columns in which any row has something to show."""
    rows = in_order(sides)
    found = []
    for title, numeric, cell in COLUMNS:
        cells = [cell(row) for _, row in rows]
        if title in ALWAYS or any(c.text != NONE for c in cells):
            found.append(Column(title, numeric, cells))
    if rows and len(sides) > 1:
        runs = [(side.number, str(side.file.run.device.get("name"))) for side, _ in rows]
        cells = [Cell(str(number), number, device) for number, device in runs]
        found.insert(1, Column("run", False, cells))
    return found


def in_order(sides: Sequence[Side]) -> list[tuple[Side, Row]]:
    """Every row of every run; the runs' rows of one case lie beside each other."""
    place: dict[str, int] = {}
    rows = [(side, row) for side in sides for row in side.rows]
    for _, row in rows:
        place.setdefault(row.work.fingerprint, len(place))
    return sorted(rows, key=lambda pair: (place[pair[1].work.fingerprint], pair[0].number))


Number = TypeVar("Number", bound=float)


def _number(value: Number | None, text: Callable[[Number], str], note: str = "") -> Cell:
    return Cell(NONE) if value is None else Cell(text(value), value, note)


def _energy_cell(row: Row) -> Cell:
    joules = 1 / row.items_per_joule if row.items_per_joule else None
    return _number(joules, lambda v: units.joules(v, row.item), energy_of(row))


def _interval_cell(row: Row) -> Cell:
    if row.throughput is None:
        return Cell(NONE)
    note = units.counted(row.launches, "launch")
    if row.interval is None:
        return Cell("no interval", note=note)
    return Cell(units.spread(row.interval.half_width), row.interval.half_width, note)


def _latency_cell(row: Row) -> Cell:
    if row.latency is None:
        return Cell(NONE)
    note = f"{row.latency.name}, {tail(row.latency)}"
    return Cell(units.duration(row.latency.p50), row.latency.p50, note)


def _operation_cell(row: Row) -> Cell:
    note = "" if row.link is None else in_words(row.link)
    return _number(row.operation_seconds, units.duration, note)


def _share(value: float | None, half_width: float | None = None, of: str = "") -> Cell:
    return _number(value, lambda v: f"{about(half_width)}{share(v)}", of)


def _detail(row: Row) -> str:
    return f"({row.case.detail})" if row.case.detail else ""


def _bytes_cell(row: Row) -> Cell:
    found = _share(row.bandwidth_fraction, row.share_half_widths.get("memory"))
    note = "" if found.value is None else f"{found.text} of bandwidth"
    return _number(row.bytes_per_second, lambda v: units.prefixed(v, "B/s"), note)


def _first_step_cell(row: Row) -> Cell:
    return Cell(first_step(row) or NONE, row.cold.first_step_seconds if first_step(row) else None)


def _limit_cell(row: Row) -> Cell:
    ceiling, reached = row.limit or ("", None)
    return _share(reached, row.limit_half_width, ceiling)


def _memory_cell(row: Row) -> Cell:
    return _number(row.peak_memory_bytes, units.memory, row.memory_scope)


def _why(row: Row) -> str:
    """Everything that must be known beside the figures of a row."""
    parts = [row.reason, *remarks(row)]
    parts += [f"{flag}{whose(row, flag)}" for flag in row.flags if flag != row.verdict]
    return "; ".join(part for part in dict.fromkeys(parts) if part)


COLUMNS: tuple[tuple[str, bool, Callable[[Row], Cell]], ...] = (
    ("case", False, lambda row: Cell(name_of(row.case), note=_detail(row))),
    ("verdict", False, lambda row: Cell(word_of(row), note=_why(row), looks=looks_of(row))),
    ("throughput", True, lambda row: _number(row.throughput, lambda v: units.rate(v, row.item))),
    ("interval", True, _interval_cell),
    (
        "bus bandwidth",
        True,
        lambda row: _number(row.bus_bytes_per_second, lambda v: units.prefixed(v, "B/s")),
    ),
    ("an operation", True, _operation_cell),
    ("held back by", True, _limit_cell),
    ("p50", True, _latency_cell),
    (
        "FLOP/s",
        True,
        lambda row: _number(row.flop_per_second, lambda v: units.rate(v, row.operation)),
    ),
    (
        "of matmul",
        True,
        lambda row: _share(row.ceiling_fraction, row.share_half_widths.get("matmul")),
    ),
    ("MFU", True, lambda row: _share(row.mfu, None, row.mfu_of)),
    ("MBU", True, lambda row: _share(row.mbu, None, row.mbu_of)),
    ("first step", True, _first_step_cell),
    ("bytes/s", True, _bytes_cell),
    ("peak memory", True, _memory_cell),
    ("energy", True, _energy_cell),
)
