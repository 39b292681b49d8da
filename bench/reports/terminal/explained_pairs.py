"""The card of two explained runs: where the difference of their steps lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bench import stats
from bench.judging.explaining.explained_pairs import ClassPair, ExplainedPair, OperatorPair
from bench.records.run import RunFile
from bench.reports.flat.comparison import runs_of
from bench.reports.flat.row import columns, of_interval
from bench.reports.terminal.explained import (
    STANDARD_COLUMNS,
    fitting,
    line,
    operators,
    wrapped,
)
from bench.reports.wording.labels import plain
from bench.reports.wording.operators import ms
from bench.reports.wording.rows import factor

NAME_COLUMNS = 24
COLUMNS = (10, 10, 12, 8, 10)
"""Of base, other, difference, chip and software, at the least, on a card of 80 and more."""
CEILING, SHARE = "ceiling", "share"
"""What `chip` and `software` are called where a setting may have made the ceilings."""
LEGEND = (
    "difference: other less base; those of all parts add up to that of the steps. Of a part whose "
    "operators all have a bound, base's time over other's = chip x software; chip: how many times "
    "as fast other's own ceilings would do the same, software: the rest, how near each side comes "
    "to them and by which operators."
)


def card(
    base: RunFile, other: RunFile, pairs: Sequence[ExplainedPair], width: int, named: bool = False
) -> str:
    """All cases, as text that ends in a newline; width: columns; named: with the ids of the runs,
    beside another card."""
    sides = [run.on + f" {run.run_id}" * named for run in (base.run, other.run)]
    lines = wrapped(f"base {sides[0]}, other {sides[1]}", width)
    doubts = dict.fromkeys(pair.chip_doubt for pair in pairs if pair.chip_doubt)
    for doubt in doubts:
        lines += wrapped(f"No verdict on the chip: {doubt}", width)
    for pair in pairs:
        lines += ["", *_pair(pair, width)]
    legend = LEGEND
    if doubts:
        legend = legend.replace("chip", CEILING).replace("software", SHARE)
    lines += ["", *wrapped(legend, width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _pair(pair: ExplainedPair, width: int) -> Iterator[str]:
    yield from wrapped(pair.case.label, width, "  ")
    if pair.reason:
        yield from wrapped(f"not held together: {pair.reason}", width, "  ")
        return
    yield from wrapped(
        f"step {ms(pair.base_ms)} -> {ms(pair.other_ms)} ms: {signed(pair.difference_ms)} ms "
        f"({_relative(pair)})",
        width,
        "  ",
    )
    for seen in pair.disturbed:
        yield from wrapped(seen, width, "  ")
    narrow = width < STANDARD_COLUMNS
    split = (CEILING, SHARE) if pair.chip_doubt else ("chip", "software")
    heading = ("base ms", "other ms", "difference", *split)
    parts = [_part(part) for part in pair.parts]
    columns = fitting([heading, *parts], [0] * len(COLUMNS) if narrow else COLUMNS)
    longest = max((len(part.name) for part in pair.parts), default=0)
    name = min(NAME_COLUMNS, max(longest, width - sum(columns)))
    yield line(("part", *heading), (name, *columns), width)
    for part, figures in zip(pair.parts, parts, strict=True):
        yield line((part.name, *figures), (name, *columns), width)
    rows = [
        (plain(f"{o.name.removeprefix('aten::')} {o.operands}"), _operator(o))
        for o in pair.operators
    ]
    yield from operators(rows, heading[:3], COLUMNS[:3], width - 2, width)


def _relative(pair: ExplainedPair) -> str:
    """`-5.5%, 95% interval of geometric means -8.1% to -2.9%; 5 and 5 launches`."""
    ratio = pair.ratio
    assert ratio is not None
    interval = "no interval"
    if ratio.low is not None and ratio.high is not None:
        between = f"{ratio.low - 1:+.1%} to {ratio.high - 1:+.1%}"
        interval = f"{stats.FIXED_LEVEL:.0%} interval of geometric means {between}"
    launches = " and ".join(map(str, pair.launches))
    return f"{pair.other_ms / pair.base_ms - 1:+.1%}, {interval}; {launches} launches"


def _part(part: ClassPair) -> tuple[str, ...]:
    ratios = ("—" if value is None else factor(value) for value in (part.chip, part.software))
    return ms(part.base_ms), ms(part.other_ms), signed(part.difference_ms), *ratios


def _operator(operator: OperatorPair) -> tuple[str, ...]:
    base, other = (
        "not there" if value is None else ms(value)
        for value in (operator.base_ms, operator.other_ms)
    )
    return base, other, signed(operator.difference_ms)


def signed(value: float) -> str:
    """Milliseconds with their sign."""
    return f"{'+' if value >= 0 else '-'}{ms(abs(value))}"


def rows(base: RunFile, other: RunFile, pairs: Sequence[ExplainedPair]) -> list[dict[str, Any]]:
    """A row for each part and each operator of each case, all with the same keys."""
    runs = runs_of(base, other)
    found: list[dict[str, Any]] = []
    for pair in pairs:
        step: dict[str, Any] = {"level": "step", "reason": pair.reason or None}
        if not pair.reason:
            step |= {
                **columns(pair, "base_ms", "other_ms", "difference_ms"),
                **of_interval("ratio", pair.ratio),
                "base_launches": pair.launches[0],
                "other_launches": pair.launches[1],
                "disturbed": "; ".join(pair.disturbed) or None,
            }
        each: list[ClassPair | OperatorPair] = [*pair.parts, *pair.operators]
        for one in (step, *map(_of_one, each)):
            found.append(
                {
                    **runs,
                    "case": pair.case.label,
                    "fingerprint": pair.case.fingerprint,
                    **dict.fromkeys(KEYS),
                    **one,
                    "chip_doubt": pair.chip_doubt or None,
                }
            )
    return found


KEYS = (
    *("level", "name", "operands", "base_ms", "other_ms", "difference_ms", "chip", "software"),
    *("ratio", "ratio_low", "ratio_high", "base_launches", "other_launches", "disturbed"),
    *("chip_doubt", "reason"),
)
"""Of a row, beside its runs and its case."""


def _of_one(one: ClassPair | OperatorPair) -> dict[str, Any]:
    return {
        "level": "part" if isinstance(one, ClassPair) else "operator",
        **msgspec.structs.asdict(one),
        "difference_ms": one.difference_ms,
    }
