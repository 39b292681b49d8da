"""What came of a run in a few lines: how many cases are good, how far from what they could do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set

from bench import units
from bench.judging.load import BURST
from bench.judging.row import UNDISTURBED, Row
from bench.planning.shapes import ARITHMETIC, BANDWIDTH
from bench.reports.wording.labels import name_of
from bench.reports.wording.rows import about, share, whole, word_of

YARDSTICKS = (ARITHMETIC, BANDWIDTH, "collective")
"""Workloads that ceilings are made of, or that have none here: how far they come says nothing."""

CEILINGS = {
    ARITHMETIC: ("flop_per_second", "ceiling_fraction"),
    BANDWIDTH: ("bytes_per_second", "bandwidth_fraction"),
    "transfer": ("transferred_bytes_per_second", "transfer_fraction"),
}
"""Workloads of ceilings; what a row counts that has one of them, and its share of it."""


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """How many cases are OK, and what the others are; what holds them back; the chip's peaks."""
    count = Counter(map(word_of, rows))
    good = count.pop("OK", 0)
    others = f": {', '.join(f'{n} {word}' for word, n in count.items())}" if count else ""
    yield f"{good} of {units.counted(len(rows), 'case')} OK{others}"
    figures = [row for row in rows if row.verdict in UNDISTURBED]
    own = [row for row in figures if row.endpoint is None]  # a server's limits are not seen
    planned = {row.case.workload for row in rows}
    yield from _held_back([row for row in own if row.case.workload not in YARDSTICKS], planned)
    yield from _published(figures)


def _held_back(rows: Sequence[Row], planned: Set[str]) -> Iterator[str]:
    """planned: the workloads of the run."""
    held: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        if row.limit is not None:
            word, found = row.limit
            said = about(row.limit_half_width) + whole(found)
            held.setdefault(word, []).append((found, said))
    parts = [_held(word, held[word]) for word in sorted(held, key=lambda word: -len(held[word]))]
    if parts:
        yield f"Held back {', '.join(parts)}"
    elif unknown := _without_ceiling(rows):
        if absent := [name for name in unknown if name not in planned]:
            s = "s" if len(absent) > 1 else ""
            why = f"with the workload{s} {' and '.join(absent)} in the suite, this machine's "
            why += "ceilings are measured beside them"
        else:
            why = f"{' and '.join(unknown)} gave no ceiling for them"
        yield f"What holds them back is not known: {why}"


def _without_ceiling(rows: Sequence[Row]) -> list[str]:
    """Of which workloads a ceiling is lacking for what these count; a burst has none, nor has what
    shares a host's cores."""
    some = [row for row in rows if not row.shared_host and row.case.mode != BURST]
    return [
        name
        for name, (rate, share) in CEILINGS.items()
        if any(getattr(row, rate) is not None and getattr(row, share) is None for row in some)
    ]


def _held(word: str, shares: Sequence[tuple[float, str]]) -> str:
    """shares: each with its words."""
    what = "kernels below their ceilings" if word == "kernels" else word
    low, high = min(shares)[1], max(shares)[1]
    between = low if low == high else f"{low} to {high}"
    return f"by {what} in {units.counted(len(shares), 'case')} ({between})"


def _published(rows: Sequence[Row]) -> Iterator[str]:
    """The best shares of the chip's peaks, here and nowhere else: of a case they say little."""
    parts: dict[str, list[str]] = {}
    for name, shares in (
        ("MFU", [(row.mfu, row.mfu_of, row) for row in rows if row.mfu is not None]),
        ("MBU", [(row.mbu, row.mbu_of, row) for row in rows if row.mbu is not None]),
    ):
        if shares:
            value, whose, row = max(shares, key=lambda each: each[0])
            parts.setdefault(whose, []).append(f"{name} {share(value)} ({name_of(row.case)})")
    for whose, said in parts.items():
        yield f"Peaks of {whose}: at best {', '.join(said)}"
