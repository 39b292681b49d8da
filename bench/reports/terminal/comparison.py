"""A comparison as people read it in a terminal: one line a case."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from bench import units
from bench.judging.comparing.comparison import CaseComparison, CompareVerdict, Comparison
from bench.judging.comparing.configured import in_turns
from bench.judging.comparing.reasons import Code
from bench.judging.comparing.verdicts import COMPARE_LAUNCHES, DISTURBED
from bench.judging.comparing.whole import is_joint
from bench.judging.row import Row
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.terminal.drawn import drawn
from bench.reports.terminal.grid import INDENT, Column, column, grid, put
from bench.reports.wording import serving
from bench.reports.wording.again import SAME_AB, again_on_both
from bench.reports.wording.comparison_notes import (
    CELLS,
    JUDGED,
    PER_JOULE,
    PER_PRICE,
    STYLE,
    after,
    before,
    chose_unlike,
    details,
    excludes_one,
    figure,
    legend,
    notes,
    parts,
    per_joule,
)
from bench.reports.wording.labels import Label, labels, plain, visible
from bench.reports.wording.notes import within
from bench.reports.wording.rows import (
    PIPES,
    STOPPERS,
    ending,
    factor,
    going_on,
    ratio,
    unfinished,
)
from bench.reports.wording.systems import lines, one, spreads

AS_ASKED = {
    *(Code.VOID, Code.FAILED, Code.SKIPPED, Code.NOT_REACHED, Code.OTHER_WORK, Code.SIMULATED),
    *(Code.SHORT_MANTISSA, Code.FULL_MANTISSA, Code.UNTRAINED, Code.SHARED_HOST, Code.LOAD),
}
"""Why cases have no ratio of which both runs were asked for the same."""


def render(comparisons: Sequence[Comparison], canvas: Canvas) -> str:
    """One card for each other run; means the same without colour."""

    def draw(console: Console) -> None:
        for number, comparison in enumerate(comparisons):
            if number:
                console.print()
            _card(console, comparison, canvas)

    return drawn(canvas, draw)


def _card(console: Console, comparison: Comparison, canvas: Canvas) -> None:
    console.print(f"base   {plain(_name(comparison.base))}", style="bold")
    console.print(f"other  {plain(_name(comparison.other))}", style="bold")
    for line in _outcome(comparison):
        console.print(line)
    for note in before(comparison):
        console.print(note.line)
    console.print()
    names = labels(comparison.base.run.suite, [case.case for case in comparison.cases])
    left_out = _table(console, comparison, names, wide=canvas.wide)
    console.print()
    found = list(notes(comparison, names))
    for line in (note.line for note in found) if canvas.wide else within(console, found):
        console.print(line)
    if below := legend(comparison, left_out, wide=canvas.wide):
        console.print(below, style="dim")
    heading, others = after(comparison, wide=canvas.wide)
    console.print(heading, style="bold")
    for note in others:
        console.print(Padding(note.line, (0, 0, 0, INDENT)))
    if comparison.command_for_the_rest:
        console.print("What the other has not measured, on its device:")
        _command(console, comparison.command_for_the_rest)
    if comparison.command_for_the_base:
        console.print("What the other measured in another precision, on the base's device:")
        _command(console, comparison.command_for_the_base)
    console.print(visible(_next(comparison, canvas)), style="bold")


def _command(console: Console, text: str) -> None:
    """A line of its own, however long: broken in two it could not be copied."""
    console.print(f"  {visible(text)}", soft_wrap=True)


def _name(file: RunFile) -> str:
    run = file.run
    launches = units.counted(len(file.launches), "launch")
    ended = ", ".join(filter(None, (launches, ending(file))))
    return f"{run.on}: {run.suite}, {ended}, {run.started_at[:10]}, {run.run_id}"


def _outcome(comparison: Comparison) -> Iterator[Text]:
    """How many cases are judged, and how; then the mean, which is no verdict."""
    count = Counter(case.verdict for case in comparison.cases)
    said = ", ".join(f"{count[verdict]} {CELLS[verdict]}" for verdict in CELLS if count[verdict])
    cases = units.counted(len(comparison.cases), "case")
    how = " as whole systems" if comparison.of_systems else ""
    yield Text(f"other against base{how}, {cases}: {said}", "bold")
    mean = comparison.geometric_mean
    if mean is not None:
        of = f"{len(comparison.averaged)} of {cases}"
        yield Text(f"Geometric mean of the ratios of {of} (a summary, no verdict): {ratio(mean)}")


def _table(
    console: Console, comparison: Comparison, names: dict[str, Label], *, wide: bool
) -> list[str]:
    """Prints a line a case, and what is behind it where that is wanted; what is left out."""
    cases = comparison.cases
    called = [names[case.case.fingerprint] for case in cases]
    styles = ["bold" if case.ratio is not None else "" for case in cases]
    found = grid(console, called, _columns(comparison), styles)
    put(console, found, (map(plain, _behind(comparison, case, wide=wide)) for case in cases))
    return found.left_out


def _behind(comparison: Comparison, case: CaseComparison, *, wide: bool) -> Iterator[str]:
    yield from lines(case, one(comparison))
    yield from serving.at_limit(case)
    if wide:
        yield from details(case, parts(comparison))


def _columns(comparison: Comparison) -> list[Column]:
    cases = comparison.cases

    chip, software = parts(comparison)
    marked = bool(comparison.configured.unintended)
    return [
        column("devices", (plain(spreads(case)) for case in cases), most=28),
        column("base", (_side(case, case.base) for case in cases), drops=2),
        column("other", (_side(case, case.other) for case in cases), drops=2),
        column("ratio", map(_ratio_cell, cases if comparison.ratios else ()), most=12),
        column("interval", map(_interval, cases), most=16),
        column(f"{chip} x {software}", map(_split, cases), drops=1, most=16),
        column(PER_JOULE, map(per_joule, cases), drops=4, most=18),
        column(PER_PRICE, map(_per_price, cases), most=12),
        column("verdict", (_word(case, marked) for case in cases), right=False, most=20),
    ]


def _side(case: CaseComparison, row: Row | None) -> Text:
    without = row is not None and row.throughput is None
    return Text(plain(figure(case, row)), "dim" if without else "")


def _ratio_cell(case: CaseComparison) -> Text:
    return Text("—", "dim") if case.ratio is None else Text(ratio(case.ratio), "bold")


def _interval(case: CaseComparison) -> str:
    found = case.interval
    return "" if found is None else f"{ratio(found.low)}\N{EN DASH}{ratio(found.high)}"


def _split(case: CaseComparison) -> str:
    split = case.split
    return "" if split is None else f"{factor(split.chip)} x {factor(split.software)}"


def _per_price(case: CaseComparison) -> str:
    return "" if case.price_ratio is None else factor(case.price_ratio)


def _word(case: CaseComparison, marked: bool) -> Text:
    """marked: settings differ, so who is faster is no verdict on the chips."""
    word = CELLS[case.verdict]
    if case.verdict in ("FASTER", "SLOWER") and marked:
        word += "*"
    elif case.verdict == "UNDECIDED" and excludes_one(case):  # so why no verdict?
        word += f", p = {case.p_value:.2g}"
    return Text(word, STYLE.get(case.verdict, ""))


def _disturbed(comparison: Comparison, verdict: CompareVerdict) -> list[Row]:
    """Of the cases of that verdict the sides that were disturbed."""
    sides = [(case.base, case.other) for case in comparison.cases if case.verdict == verdict]
    return [row for pair in sides for row in pair if row is not None and row.verdict in DISTURBED]


def _left_too_few(row: Row) -> bool:
    """Whether there were launches enough for an interval, but for those that are left out."""
    made = row.launches + row.hindered + row.excluded
    return row.launches < COMPARE_LAUNCHES <= made


def _undisturbed(rows: Sequence[Row]) -> str:
    """What helps against that which disturbed them, as a run's own card says it; one thing."""
    invalid = [row for row in rows if row.verdict == "INVALID"]
    if any(row.verdict == "THROTTLED" for row in rows):
        return "cool the device of what is not ranked, or lower its power limit, and run it again."
    if any("QUOTA" in row.flags for row in invalid):
        return (
            "no more threads than the CPU quota has cores (OMP_NUM_THREADS), or a larger "
            "quota, on the machine of what is not ranked; run it again."
        )
    if any("STOPPED" in row.flags for row in invalid):
        return f"find what {STOPPERS}, and run what is not ranked again."
    if any(row.exclusion and not row.hindrance for row in invalid):
        return "find why launches failed of what is not ranked (its report says it); run it again."
    if not invalid and all(row.serving for row in rows):
        return "ask at a lower rate for what is not ranked: more came than was answered."
    return "end other work on the machine of what is not ranked, and run it again."


def _going_on(comparison: Comparison, canvas: Canvas) -> str:
    """How a side that ended early makes what cases without a verdict lack; else empty. None of the
    sides of one `ab` goes on alone."""
    if in_turns(comparison.base.run, comparison.other.run):
        return ""
    sides = ("base", comparison.base), ("other", comparison.other)
    for (who, file), side in zip(sides, _rows(comparison), strict=True):
        launches = file.run.settings.launches
        enough = launches == "auto" or launches >= COMPARE_LAUNCHES
        rows = [row for case, row in side if _lacks(case, row, enough)]
        every = [row for _, row in side]
        if on := going_on(file, every, unfinished(file, rows), canvas.beside_record):
            return f"of the {who} {on}"
    return ""


def _lacks(case: CaseComparison, row: Row, enough: bool) -> bool:
    """Whether a case has no verdict for want of launches of a side; enough: whether as many as an
    interval needs are planned."""
    if not row.reached:
        return {*case.codes} == {Code.NOT_REACHED}
    too_few = case.verdict == "NO_INTERVAL" and row.launches < COMPARE_LAUNCHES
    disturbed = case.verdict in ("NO_INTERVAL", "UNRANKED") and row.verdict in DISTURBED
    undecided = case.verdict == "UNDECIDED" and not chose_unlike(case)
    return disturbed or undecided or (too_few and enough)


def _rows(comparison: Comparison) -> Iterator[list[tuple[CaseComparison, Row]]]:
    """Of base and other, each with the case that it is compared in."""
    yield [(case, case.base) for case in comparison.cases if case.base is not None]
    yield [(case, case.other) for case in comparison.cases if case.other is not None]


def _next(comparison: Comparison, canvas: Canvas) -> str:
    verdicts = {case.verdict for case in comparison.cases}
    measuring = again_on_both(comparison.base.run, comparison.other.run, comparison.suite)
    apart = measuring != SAME_AB
    where = ", on both machines:" if apart else ":"
    paths = " ".join(_path(file, canvas) for file in (comparison.base, comparison.other))
    if on := _going_on(comparison, canvas):
        return f"Next: {on}"
    spread_otherwise = any(
        Code.DEVICE_COUNT in case.codes
        and not any(row and is_joint(row.case) for row in (case.base, case.other))
        for case in comparison.cases
    )
    if verdicts <= {"INCOMPARABLE", *JUDGED} and spread_otherwise:
        return f"Next: as whole systems, at equal global batch: accelmark compare {paths} --systems"
    if comparison.command_for_the_base and verdicts & {"INCOMPARABLE", "NO_INTERVAL"}:
        return "Next: for verdicts, the command above on both machines, with --launches 10"
    in_doubt = any(Code.LIMIT_IN_DOUBT in case.codes for case in comparison.cases)
    if verdicts == {"INCOMPARABLE"} and not in_doubt:
        codes = {code for case in comparison.cases for code in case.codes}
        first = "see why above, then"
        if apart:
            first = f"{first}{where}" if codes <= AS_ASKED else "run the same suite on both:"
        return f"Next: {first} {measuring} --launches 10"
    if hampered := list(filter(_left_too_few, _disturbed(comparison, "NO_INTERVAL"))):
        return f"Next: {_undisturbed(hampered)}"
    if "NO_INTERVAL" in verdicts:
        return f"Next: for verdicts{where} {measuring} --launches 10"
    if comparison.configured.unintended:
        names = ", ".join(d.name for d in comparison.configured.unintended)
        return f"Next: for a verdict on the chips, run both under the same settings: {names}"
    if disturbed := _disturbed(comparison, "UNRANKED"):
        return f"Next: {_undisturbed(disturbed)}"
    undecided = [case for case in comparison.cases if case.verdict == "UNDECIDED"]
    if undecided and not in_doubt and all(map(chose_unlike, undecided)):
        return "Next: measure both at one choice of the two, as a fixed case of a suite of your own"
    if in_doubt or undecided:
        rows = [row for case in comparison.cases for row in (case.base, case.other) if row]
        most = max(len(row.rates) for row in rows)
        more = min(max(20, 2 * most), 1000)
        return f"Next: narrower intervals{where} {measuring} --launches {more}"
    return f"Next: the pictures: accelmark report {paths} --format html --output compare.html"


def _path(file: RunFile, canvas: Canvas) -> str:
    if file.passing and file.path.startswith(PIPES):
        return "RUN"
    return shlex.quote(file.path if canvas.beside_record else Path(file.path).name)
