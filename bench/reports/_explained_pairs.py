"""The card of two explained runs: where the difference of their steps lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.judging.explained_pairs import ClassPair, ExplainedPair, OperatorPair
from bench.records.run import RunFile
from bench.reports._explained import NARROWEST_COLUMNS, STANDARD_COLUMNS, ms, shortened, wrapped

NAME_COLUMNS = 24
OPERATOR_COLUMNS = 46
LEGEND = (
    "difference: other less base; those of all parts add up to that of the steps. speed: base's "
    "time over other's = chip x software; chip: how many times as fast other's own ceilings would "
    "do the same, software: how many times as near other comes to them."
)


def card(base: RunFile, other: RunFile, pairs: Sequence[ExplainedPair], width: int) -> str:
    """All cases, as text that ends in a newline; width: columns."""
    sides = [
        f"{file.run.device.get('name')} ({file.run.device.get('backend')})"
        for file in (base, other)
    ]
    lines = wrapped(f"base {sides[0]}, other {sides[1]}", width)
    for pair in pairs:
        lines += ["", *_pair(pair, width)]
    lines += ["", *wrapped(LEGEND, width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _pair(pair: ExplainedPair, width: int) -> Iterator[str]:
    yield from wrapped(pair.case.label, width, "  ")
    if pair.reason:
        yield from wrapped(f"not held together: {pair.reason}", width, "  ")
        return
    yield from wrapped(
        f"step {ms(pair.base_ms)} -> {ms(pair.other_ms)} ms: {signed(pair.difference_ms)} ms", width
    )
    name = max(NARROWEST_COLUMNS, NAME_COLUMNS + min(0, width - STANDARD_COLUMNS))
    yield (
        f"{'part':<{name}}{'base ms':>10}{'other ms':>10}{'difference':>12}{'chip':>8}"
        f"{'software':>10}"
    )[:width]
    for part in pair.parts:
        yield _part(part, name)[:width]
    name = max(NARROWEST_COLUMNS, OPERATOR_COLUMNS + width - STANDARD_COLUMNS)
    yield f"{'operator':<{name}}{'base ms':>10}{'other ms':>10}{'difference':>12}"[:width]
    for operator in pair.operators:
        yield _operator(operator, name)[:width]


def _part(part: ClassPair, name: int) -> str:
    chip, software = (
        "—" if value is None else f"{value:.2f}" for value in (part.chip, part.software)
    )
    return (
        f"{part.name:<{name}}{ms(part.base_ms):>10}{ms(part.other_ms):>10}"
        f"{signed(part.difference_ms):>12}{chip:>8}{software:>10}"
    )


def _operator(operator: OperatorPair, name: int) -> str:
    base, other = (
        "not there" if value is None else ms(value)
        for value in (operator.base_ms, operator.other_ms)
    )
    called = f"{operator.name.removeprefix('aten::')} {operator.operands}".rstrip()
    return (
        f"{shortened(called, name - 1):<{name}}{base:>10}{other:>10}"
        f"{signed(operator.difference_ms):>12}"
    )


def signed(value: float) -> str:
    """Milliseconds with their sign."""
    return f"{'+' if value >= 0 else '-'}{ms(abs(value))}"


def rows(pairs: Sequence[ExplainedPair]) -> list[dict[str, Any]]:
    """A row for each part and each operator of each case, all with the same keys."""
    found: list[dict[str, Any]] = []
    for pair in pairs:
        head = {"case": pair.case.label, "fingerprint": pair.case.fingerprint}
        step = {"base_ms": pair.base_ms, "other_ms": pair.other_ms}
        known = not pair.reason
        found.append(
            {
                **head,
                "level": "step",
                "name": None,
                "operands": None,
                "base_ms": step["base_ms"] if known else None,
                "other_ms": step["other_ms"] if known else None,
                "difference_ms": pair.difference_ms if known else None,
                "chip": None,
                "software": None,
                "reason": pair.reason or None,
            }
        )
        each: list[ClassPair | OperatorPair] = [*pair.parts, *pair.operators]
        for one in each:
            of_class = isinstance(one, ClassPair)
            found.append(
                {
                    **head,
                    "level": "part" if of_class else "operator",
                    "name": one.name,
                    "operands": getattr(one, "operands", None),
                    "base_ms": one.base_ms,
                    "other_ms": one.other_ms,
                    "difference_ms": one.difference_ms,
                    "chip": getattr(one, "chip", None),
                    "software": getattr(one, "software", None),
                    "reason": None,
                }
            )
    return found
