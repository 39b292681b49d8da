"""One line a case, as wide as the terminal is; where that is too narrow, two.

At `ONE_LINE` columns and more every case has one line. Where not all columns fit, the less needed
ones are left out, and named; only then is a case's name cut. Below, a case whose name would have to
be cut has a line for its name and verdict, and one for its figures.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bench.reports.wording.labels import TWO_LINES, Label, fitted

ONE_LINE = 100
"""Columns of a terminal from which on a case has one line, whatever it is called."""
INDENT = 2
FIRST = "case"


class Column(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Beside the case: a heading, and a cell for each case, empty where it has nothing to show."""

    heading: str
    cells: Sequence[Text]
    right: bool = True
    drops: int = 0
    """What is left out first where not all fits: the highest. Columns of 0 stay."""
    most: int = 24
    """Cells; a longer text is cut. No figure of a real device is so long."""

    @functools.cached_property
    def width(self) -> int:
        """Cells that it takes."""
        longest = max((cell_len(cell.plain) for cell in self.cells), default=0)
        return max(cell_len(self.heading), min(longest, self.most))

    def drawn(self, cell: Text) -> Text:
        """A cell, as wide as its column."""
        text = cell.copy()
        text.truncate(self.width, overflow="ellipsis")
        text.align("right" if self.right else "left", self.width)
        return text


def column(heading: str, cells: Iterable[Text | str], **changes: Any) -> Column:
    """A column of cells that come one by one."""
    texts = [Text(cell) if isinstance(cell, str) else cell for cell in cells]
    return Column(heading=heading, cells=texts, **changes)


class Grid(NamedTuple):
    """What is printed: the lines of the head, those of each case, and the headings left out."""

    head: list[Text]
    rows: list[list[Text]]
    left_out: list[str]


def put(console: Console, found: Grid, behind: Iterable[Iterable[str]]) -> None:
    """Prints it; behind: of each case the lines that come below its own, on one line each."""
    for number, line in enumerate(found.head):
        console.print(line, style="" if number else "bold", no_wrap=True, overflow="ignore")
    for lines, below in zip(found.rows, behind, strict=True):
        for line in lines:
            console.print(line, no_wrap=True, overflow="ignore", crop=False)
        for text in below:
            console.print(Padding(Text(text), (0, 0, 0, INDENT)), style="dim")


def grid(
    console: Console, labels: Sequence[Label], columns: Sequence[Column], styles: Sequence[str]
) -> Grid:
    """The cases in a table as wide as the console; styles: of each case's name.

    The last column is the verdict, which stands beside the name where a case has two lines.
    """
    width = console.width
    shown = [column for column in columns if any(cell.plain for cell in column.cells)]
    longest = max((cell_len(label.text) for label in labels), default=0)
    longest = max(longest, cell_len(FIRST))
    chosen, fits = _fitting(shown, width - longest)
    if not fits and width < ONE_LINE:
        return _stacked(console, labels, shown, styles)
    gap = 2 if _need(chosen, 2) + longest <= width else 1
    first = min(longest, width - _need(chosen, gap))
    lines = [
        _joined([Text(name, style), *cells], first, chosen, gap)
        for name, style, *cells in zip(
            fitted(labels, first), styles, *(column.cells for column in chosen), strict=True
        )
    ]
    headings = (Text(column.heading) for column in chosen)
    head = _joined([Text(FIRST), *headings], first, chosen, gap)
    rule = Text("─" * (first + _need(chosen, gap)))
    left_out = [column.heading for column in shown if column not in chosen]
    return Grid([head, rule], [[line] for line in lines], left_out)


def small(width: int, columns: Sequence[Column]) -> list[Text]:
    """A table without names, its head first, within so many columns of a terminal.

    Where not all of it fits, the less needed columns are left out.
    """
    shown = [column for column in columns if any(cell.plain for cell in column.cells)]
    chosen, _ = _fitting(shown, width + 1)
    gap = Text("  " if _need(chosen, 2) - 2 <= width else " ")
    heads = [column.drawn(Text(column.heading)) for column in chosen]
    cells = zip(*(map(column.drawn, column.cells) for column in chosen), strict=True)
    return [gap.join(one) for one in (heads, *cells)]


def _fitting(columns: Sequence[Column], room: int) -> tuple[list[Column], bool]:
    """As many of them as fit, each with a gap before it, or those that stay; and whether these
    fit."""
    ranks = sorted({column.drops for column in columns} - {0}, reverse=True)
    choices = [[column for column in columns if column.drops <= most] for most in (*ranks, 0)]
    fitting = [some for some in choices if _need(some, 1) <= room]
    return (fitting[0], True) if fitting else (choices[-1], False)


def _need(columns: Sequence[Column], gap: int) -> int:
    """Cells that columns take, each with the gap before it."""
    return sum(column.width + gap for column in columns)


def _joined(cells: Sequence[Text], width: int, columns: Sequence[Column], gap: int) -> Text:
    """A line: the first cell, as wide as that, then one of each column."""
    first = cells[0].copy()
    first.align("left", width)
    drawn = [column.drawn(cell) for column, cell in zip(columns, cells[1:], strict=True)]
    return Text(" " * gap).join([first, *drawn])


def _stacked(
    console: Console, labels: Sequence[Label], columns: Sequence[Column], styles: Sequence[str]
) -> Grid:
    """Name and verdict, and the figures below them."""
    width = console.width
    *figures, verdict = columns
    first = width - verdict.width - 1
    chosen, aligned = _fitting(figures, width - INDENT + 1)
    names = fitted(labels, first) if width >= TWO_LINES else [label.text for label in labels]
    rows = []
    for number, (name, style) in enumerate(zip(names, styles, strict=True)):
        lines = list(Text(name, style).wrap(console, first))
        lines[0] = _joined([lines[0], verdict.cells[number]], first, [verdict], 1)
        cells = [column.cells[number] for column in chosen]
        if any(cell.plain.strip("—") for cell in cells):
            lines += _figures(console, chosen, cells, aligned)
        rows.append(lines)
    head = [_joined([Text(FIRST), Text(verdict.heading)], first, [verdict], 1)]
    head += _figures(console, chosen, [Text(column.heading) for column in chosen], aligned)
    left_out = [column.heading for column in figures if column not in chosen]
    return Grid([*head, Text("─" * width)], rows, left_out)


def _figures(
    console: Console, columns: Sequence[Column], cells: Sequence[Text], aligned: bool
) -> Iterator[Text]:
    """The figures of a case, or their headings: each in its column, or one after the other."""
    if not columns:
        return
    indent = Text(" " * INDENT)
    if aligned:
        first = columns[0].drawn(cells[0])
        yield indent + _joined([first, *cells[1:]], columns[0].width, columns[1:], 1)
        return
    said = [cell for cell in cells if cell.plain]
    yield from (
        indent + line for line in Text(", ").join(said).wrap(console, console.width - INDENT)
    )
