"""What is said below a table: each thing once, with the cases that it is said of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec
from rich.console import Console
from rich.text import Text

from bench import units
from bench.reports.wording.labels import MORE, TWO_LINES, plain

MOST_LINES = 8
"""Of all notes, from `TWO_LINES` columns on."""
MOST_LINES_A_NOTE = 2

One = TypeVar("One")


class Note(msgspec.Struct, frozen=True):
    """A word that says of what kind it is, and the rest."""

    word: str
    text: str
    style: str = "yellow"
    dim: bool = False

    @property
    def line(self) -> Text:
        """All of it; a word that is not in capitals is told from the rest by a colon."""
        word = plain(self.word) + ("" if self.word.isupper() else ":")
        return Text.assemble(
            (word, "dim" if self.dim else self.style),
            " ",
            (plain(self.text), "dim" if self.dim else ""),
        )


def grouped(some: Iterable[One], key: Callable[[One], str]) -> Iterator[tuple[str, list[One]]]:
    """Those of which the same is to be said, together; nothing of those with an empty key."""
    groups: dict[str, list[One]] = {}
    for one in some:
        if said := key(one):
            groups.setdefault(said, []).append(one)
    yield from groups.items()


def within(console: Console, notes: Sequence[Note]) -> Iterator[Text]:
    """The first notes, each cut where it is long, as far as there is room.

    A narrow terminal has more lines, for as many words.
    """
    factor = 1 if console.width >= TWO_LINES else -(-TWO_LINES // console.width)
    lines: list[Text] = []
    for number, note in enumerate(notes):
        drawn = _cut(console, _wrapped(console, note.line), MOST_LINES_A_NOTE * factor)
        left = len(notes) - number
        if len(lines) + len(drawn) > MOST_LINES * factor - (left > 1):
            lines.append(Text(f"{units.counted(left, 'more note')}: --wide", "dim"))
            break
        lines += drawn
    yield from lines


def _cut(console: Console, lines: list[Text], most: int) -> list[Text]:
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    last.rstrip()
    last.truncate(console.width - len(MORE) - 1)
    return [*lines[: most - 1], last.append(f" {MORE}")]


def _wrapped(console: Console, text: Text) -> list[Text]:
    lines = list(text.wrap(console, console.width)) if text.plain else []
    for line in lines:
        line.rstrip()
    return lines
