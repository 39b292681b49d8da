"""Peak memory in a column: figures that count unlike things are marked apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench import units
from bench.judging.row import Row

MARK = "*"


def scopes(rows: Sequence[Row]) -> list[str]:
    """What figures of memory count: first what most of them do, of as many the earliest row's."""
    counted = Counter(row.memory_scope for row in rows if row.peak_memory_bytes)
    return [scope for scope, _ in counted.most_common()]


def figure(row: Row, among: Sequence[str]) -> str:
    """`1.2 GiB`, marked where it counts something else than the first of the scopes; empty where
    there is none."""
    if not row.peak_memory_bytes:
        return ""
    return units.memory(row.peak_memory_bytes) + MARK * among.index(row.memory_scope)


def words(among: Sequence[str]) -> str:
    """`device allocator; *: process RSS`: what each mark means."""
    return "; ".join(f"{MARK * n}: {scope}" if n else scope for n, scope in enumerate(among))
