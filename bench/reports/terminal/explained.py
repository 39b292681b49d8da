"""The card of an explained case: the step in three, its classes, the operators above their bounds.

Plain text of any width from 40 columns on, without colour: it means the same everywhere.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from bench import units
from bench.judging.explaining.explained import MEANINGS, ClassRow, ExplainedCase, OperatorRow
from bench.judging.explaining.remedies import measured, said
from bench.planning.instead import cause, in_place
from bench.planning.tuning import in_words
from bench.records.run import RunFile
from bench.reports.wording.labels import visible
from bench.reports.wording.notes import grouped
from bench.reports.wording.operators import called, launched, ms
from bench.reports.wording.rows import ending

TOP = 10
"""Operators on the card; `--wide` shows all."""
NAME_COLUMNS = 24
"""Of a class, on a card of 80 columns."""
STANDARD_COLUMNS = 80
OPERATOR = "operator"
CLASS_HEADING = ("class", "ms", "share", "x bound", "above bound", "seen")
CLASS_COLUMNS = (9, 8, 9, 13, 8)
OPERATOR_FIGURES = (7, 9, 8, 9, 13)
NARROWEST_COLUMNS = 19
"""The longest class has 18."""
LEGEND = (
    "share: of the step. x bound: time over the least that this box could take, by its own "
    "ceilings (arithmetic, bytes, calls). above bound: the time less that; no way to save it need "
    "exist. seen: share of the operators' time, by torch's profiler."
)


def card(run: RunFile, found: Sequence[ExplainedCase], width: int, *, wide: bool = False) -> str:
    """All explained cases of a run, as text that ends in a newline; width: columns."""
    threads = next((x.environment.get("threads") for x in run.explanations), None)
    with_threads = f", {units.counted(int(threads), 'thread')}" if threads else ""
    head = f"accelmark explains {run.run.suite} on {run.run.on}{with_threads}"
    ended = ending(run)
    lines = wrapped(", ".join(filter(None, (head, ended))), width)
    for _, whys in grouped([*run.run.instead.values()], cause):
        lines += wrapped(f"PRECISION {in_place(whys)}", width)
    for case in found:
        lines += ["", *_case(case, width, run.run.explanations, wide=wide)]
    if any(case.operators for case in found):
        lines += ["", *wrapped(LEGEND, width)]
    if ended and run.run.only_explained:
        lines += wrapped("Next: this cannot go on; run the same command again.", width)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """A text in lines of so many columns."""
    return textwrap.wrap(
        visible(text),
        width,
        subsequent_indent=indent,
        break_long_words=True,
        break_on_hyphens=False,
    )


def _case(case: ExplainedCase, width: int, of: int, *, wide: bool) -> Iterator[str]:
    yield from wrapped(case.case.label, width, "  ")
    if case.choice is not None:
        yield from wrapped(f"best: {in_words(case.choice)}", width, "  ")
    if case.verdict != "EXPLAINED":
        yield from wrapped(f"{case.verdict}: {case.reason}", width, "  ")
    yield from _step(case, width, of, wide=wide)
    for tried in case.tried:
        yield from wrapped(said(tried, measured(case.tried)), width, "  ")


def _step(case: ExplainedCase, width: int, of: int, *, wide: bool) -> Iterator[str]:
    if case.step_ms is None or case.coverage is None:
        return
    assert case.operators_ms is not None and case.freeing_ms is not None
    assert case.host_ms is not None
    step = case.step_ms.said(ms, unit=" ms")
    parts = (
        f"step {step} = operators {ms(case.operators_ms.value)} + freeing "
        f"{ms(case.freeing_ms.value)} + host {ms(case.host_ms.value)} "
        f"({case.coverage.value:.1%} explained; {launched(case, of)}, {case.how})"
    )
    yield from wrapped(parts, width, "  ")
    yield from wrapped(_ceilings(case), width, "  ")
    name = max(NARROWEST_COLUMNS, NAME_COLUMNS + min(0, width - STANDARD_COLUMNS))
    lines = [CLASS_HEADING, *map(_class, case.classes)]
    columns = (name, *fitting([cells[1:] for cells in lines], CLASS_COLUMNS))
    yield from (line(cells, columns, width) for cells in lines)
    yield from _operators(case, width, wide=wide)
    for flag, seen in case.flags.items():
        meaning = MEANINGS.get(flag, "")
        yield from wrapped(f"{flag} {seen}{f' ({meaning})' if meaning else ''}", width, "  ")
    for note in case.notes[: None if wide else 3]:
        yield from wrapped(f"note: {note}", width, "  ")
    if case.profile_absent:
        yield from wrapped(f"not cross-checked: {case.profile_absent}", width, "  ")


def line(cells: Sequence[str], columns: Sequence[int], width: int) -> str:
    """A name and its figures, each in its column; the last ones that do not fit are left out whole,
    for a figure that is cut is another one."""
    text = f"{cells[0]:<{columns[0]}}"
    for cell, column in zip(cells[1:], columns[1:], strict=True):
        if len(text) + column > width:
            break
        text += f"{cell:>{column}}"
    return text


def fitting(lines: Sequence[Sequence[str]], least: Sequence[int]) -> tuple[int, ...]:
    """Columns of figures in which each has a blank before it: none runs into that on its left."""
    return tuple(
        max(column, 1 + max(map(len, cells))) for column, *cells in zip(least, *lines, strict=True)
    )


def _class(row: ClassRow) -> tuple[str, ...]:
    seen = "" if row.profiled_share is None else f"{row.profiled_share:.1%}"
    above = row.flags[0] if row.flags else _above(row.above_ms)
    return row.kind, ms(row.ms.value), f"{row.share:.1%}", _times(row.times_bound), above, seen


def _operators(case: ExplainedCase, width: int, *, wide: bool) -> Iterator[str]:
    shown = case.operators if wide else case.operators[:TOP]
    heading = ("calls", *CLASS_HEADING[1:-1])
    rows = [(called(row), _operator(row)) for row in shown]
    yield from operators(rows, heading, OPERATOR_FIGURES, width, width)
    if left := len(case.operators) - len(shown):
        yield from wrapped(f"{units.counted(left, 'operator')} more (--wide)", width)
    for row in case.operators:
        if row.absent:
            yield from wrapped(f"not measured: {called(row)}: {row.absent}", width, "  ")


def operators(
    rows: Sequence[tuple[str, tuple[str, ...]]],
    heading: Sequence[str],
    least: Sequence[int],
    room: int,
    width: int,
) -> Iterator[str]:
    """Names and figures; a narrow card has a line for a name, or all products would look alike.

    room: columns of the table on a card of `width`.
    """
    columns = fitting([heading, *(figures for _, figures in rows)], least)
    longest = max(len(OPERATOR), room - sum(columns))
    yield line((OPERATOR, *heading), (longest, *columns), width)
    apart = width < STANDARD_COLUMNS
    for name, figures in rows:
        if apart:
            yield shortened(name, width)
        begun = "" if apart else shortened(name, longest - 1)
        yield line((begun, *figures), (longest, *columns), width)


def _operator(row: OperatorRow) -> tuple[str, ...]:
    took = "—" if row.ms is None else ms(row.ms.value)
    share = "—" if row.share is None else f"{row.share:.1%}"
    above = "BEATS-BOUND" if "BEATS-BOUND" in row.flags else _above(row.above_ms)
    return f"{row.calls:g}", took, share, _times(row.times_bound), above


def shortened(text: str, columns: int) -> str:
    """A text in so many columns."""
    return text if len(text) <= columns else f"{text[: max(columns - 3, 1)]}..."


def _times(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"


def _above(value: float | None) -> str:
    return "—" if value is None else f"{ms(value)} ms"


def _ceilings(case: ExplainedCase) -> str:
    words = []
    for name, value in case.ceilings.items():
        if name == "launch":
            words.append(f"launch {units.duration(value / 1e9)}")
        else:
            unit = "FLOP/s" if " " in name else "B/s"
            words.append(f"{name} {units.prefixed(value, unit)}")
    return f"ceilings: {', '.join(words)}"
