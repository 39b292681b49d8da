"""What a case is called on a card: its name, and of its parameters what does not go without saying.

Two cases of one run are never called alike: what tells most of those of one name apart comes first,
and where even that reads alike, a piece of the fingerprint.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from bench.planning.usual import Kind, given, kind, unusual
from bench.records.case import Case

TWO_LINES = 80
"""Columns from which on a case has two lines at most."""
MORE = "…"
"""Stands where something was cut off."""
MARK_DIGITS = 6
MOST_NAMES = 4
"""Cases that a note names; of more, it says how many."""
INVISIBLE = ("Cc", "Cf", "Zl", "Zp")
"""Categories of Unicode that move what stands beside them, or break a line."""


class Label(NamedTuple):
    """What a case is called, in parts."""

    name: str
    parameters: tuple[str, ...]
    mark: str
    """The beginning of the case's fingerprint."""
    apart: int = 0
    """How many of the parameters tell it from others of its name: the first ones."""

    @property
    def text(self) -> str:
        """All of it: `llama-decode bf16 graph, batch 8, llama-3.1-8b`."""
        return ", ".join((self.name, *self.parameters))

    @property
    def short(self) -> str:
        """What tells it from the others: `llama-decode bf16 graph (batch 8)`."""
        return (
            f"{self.name} ({', '.join(self.parameters[: self.apart])})" if self.apart else self.name
        )

    def fitted(self, width: int) -> str:
        """Within so many columns: parameters are left out from the end, then the name is cut."""
        if cell_len(self.text) <= width:
            return self.text
        for count in range(len(self.parameters) - 1, -1, -1):
            text = ", ".join((self.name, *self.parameters[:count], MORE))
            if cell_len(text) <= width:
                return text
        return cut(self.name, width)


def cut(text: str, width: int) -> str:
    """A text within so many columns; its end is left out where it has more."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + MORE


def visible(text: object) -> str:
    """Another's text without what would move the rest of the card."""
    return "".join(" " if unicodedata.category(c) in INVISIBLE else c for c in str(text))


def plain(text: object) -> str:
    """Another's text on one line, without what would move the rest of the card."""
    return " ".join(visible(text).split())


def name_of(case: Case) -> str:
    """`resnet50-train bf16 compile`: a case without its parameters."""
    return plain(f"{case.name} {case.precision}{case.variant}")


def labels(suite: str, cases: Sequence[Case]) -> dict[str, Label]:
    """What each case of a run is called, by fingerprint."""
    kinds: dict[Kind, list[Case]] = {}
    for case in cases:
        kinds.setdefault(kind(case), []).append(case)
    found: dict[str, Label] = {}
    for alike in kinds.values():
        differing = _differing(alike)
        for case in alike:
            shown = dict.fromkeys((*differing, *unusual(suite, case)))
            words = tuple(plain(word) for word in case.worded(shown))
            mark = case.fingerprint[:MARK_DIGITS]
            apart = len(case.worded(differing))
            found[case.fingerprint] = Label(name_of(case), words, mark, apart)
    texts = Counter(label.text for label in found.values())
    return {
        fingerprint: label
        if texts[label.text] == 1
        else label._replace(parameters=(label.mark, *label.parameters), apart=label.apart + 1)
        for fingerprint, label in found.items()
    }


def _differing(cases: Sequence[Case]) -> list[str]:
    """Parameters in which they differ, each time the one that tells most of them apart.

    A label may be cut: what says nothing beside those before it comes last.
    """
    names = dict.fromkeys(name for case in cases for name in given(case))
    values = {n: [repr(given(case).get(n, MORE)) for case in cases] for n in names}
    left = [n for n in names if len(set(values[n])) > 1]
    told: list[list[str]] = []
    found: list[str] = []
    while left:
        apart = {n: len(set(zip(*told, values[n], strict=True))) for n in left}
        found.append(max(left, key=apart.__getitem__))
        left.remove(found[-1])
        told.append(values[found[-1]])
    return found


def fitted(labels: Sequence[Label], width: int) -> list[str]:
    """Each within so many columns; of what would then read alike, the fingerprint's piece stays."""
    texts = [label.fitted(width) for label in labels]
    count = Counter(text for _, text in set(zip(labels, texts, strict=True)))
    return [
        text if count[text] == 1 else f"{cut(label.name, width - MARK_DIGITS - 1)} {label.mark}"
        for label, text in zip(labels, texts, strict=True)
    ]


def listed(names: Sequence[str]) -> str:
    """Some cases by name; of more than `MOST_NAMES`, how many."""
    return ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} cases"
