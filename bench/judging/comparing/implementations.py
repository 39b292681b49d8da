"""Where two runs' steps ran through other operators, or gave the work to other experts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bench import units
from bench.judging.comparing.differences import Difference
from bench.judging.comparing.side import Side
from bench.judging.row import Row

MOST_NAMED = 3
"""Cases of one difference that are named."""


def operators_differ(pairs: Iterable[tuple[Row | None, Row | None]]) -> Iterator[Difference]:
    """Each kind of operator that is another in one run than in the other, with its cases.

    A kind that one of the two has not seen is no difference that is known.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for base, other in pairs:
        if base is None or other is None or base.executed is None or other.executed is None:
            continue
        mine, theirs = base.executed.operators, other.executed.operators
        for kind in mine.keys() & theirs.keys():
            if mine[kind] != theirs[kind]:
                pair = ", ".join(mine[kind]), ", ".join(theirs[kind])
                found.setdefault((kind, *pair), []).append(base.case.name)
    for (kind, mine_named, theirs_named), cases in sorted(found.items()):
        name = f"{kind} operators ({units.first_ones(list(dict.fromkeys(cases)), MOST_NAMED)})"
        yield Difference(name=name, base=mine_named, other=theirs_named)


def experts_differ(sides: tuple[Side, Side], base: Row, other: Row) -> str:
    """How many tokens went to other experts, at one seed; empty where none did, or nobody looked.

    Rounding moves a router's scores, and a token whose best experts are nearly level to another.
    """
    mine, theirs = (
        {seed: found.executed.expert_tokens for seed, found in side.measured(row) if found.executed}
        for side, row in zip(sides, (base, other), strict=True)
    )
    for seed, tokens in mine.items():
        there = theirs.get(seed, ())
        if tokens and len(there) == len(tokens) and there != tokens:
            moved = sum(abs(a - b) for a, b in zip(tokens, there, strict=True)) / 2
            share = moved / max(sum(tokens), sum(there))
            return f"{share:.2g} of the tokens went to other experts at seed {seed}"
    return ""
