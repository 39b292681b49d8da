"""A table where it fits, and where it does not, the same words one below the other."""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

LONGEST_WORD = 24
"""A longer one of a column that wraps is cut, and makes no block of a table."""


def fitting(console: Console, table: Table) -> RenderableType:
    """The table; or a block of lines a row, for a terminal so narrow that figures would be cut."""
    gaps = len(table.columns) - 1
    if sum(map(_needed, table.columns)) + gaps <= console.width:
        return table
    return Group(*_blocks(table))


def _needed(column: Column) -> int:
    """Columns below which it would be cut: its lines where they do not wrap, else its words."""
    lines = [line for cell in (column.header, *column.cells) for line in _text(cell).split("\n")]
    if column.no_wrap:
        return max(cell_len(line.plain) for line in lines)
    longest = max(cell_len(word) for line in lines for word in line.plain.split() or [""])
    return max(column.min_width or 0, min(longest, LONGEST_WORD))


def _blocks(table: Table) -> Iterator[RenderableType]:
    """Of each row its first cell as it stands, then every other one behind its heading."""
    headings = [Text(" ").join(_text(column.header).split("\n")) for column in table.columns]
    for number, cells in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
        if number:
            yield ""
        yield cells[0]
        for heading, cell in zip(headings[1:], cells[1:], strict=True):
            lines = [line for line in _text(cell).split("\n") if line.plain.strip()]
            if lines:
                value = Text(", ").join(lines)
                yield Padding(Text.assemble(heading, ": ", value), (0, 0, 0, 2))


def _text(cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))
