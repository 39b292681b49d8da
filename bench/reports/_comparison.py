"""A comparison as people read it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench import units
from bench.judging.compare import WITNESS_TOLERANCE
from bench.judging.comparison import CaseComparison, CompareVerdict, Comparison
from bench.judging.row import Row
from bench.judging.verdicts import COMPARE_LAUNCHES, EQUIVALENCE, LEAST_DIFFERENCE
from bench.planning.tuning import in_words
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports._drawn import drawn
from bench.reports._narrow import fitting
from bench.reports._wording import STOPPERS

STYLE: dict[CompareVerdict, str] = {
    "FASTER": "bold green",
    "SLOWER": "bold red",
    "EQUIVALENT": "green",
    "INCOMPARABLE": "bold yellow",
    "UNRANKED": "yellow",
}
WORDS: dict[CompareVerdict, str] = {
    "FASTER": "FASTER",
    "SLOWER": "SLOWER",
    "EQUIVALENT": "EQUIVALENT",
    "UNDECIDED": "no significant difference",
    "NO_INTERVAL": "no interval",
    "UNRANKED": "not ranked",
    "INCOMPARABLE": "INCOMPARABLE",
}
"""A verdict as it is printed."""


def render(comparisons: Sequence[Comparison], canvas: Canvas) -> str:
    """One card for each other run; means the same without colour."""

    def draw(console: Console) -> None:
        for number, comparison in enumerate(comparisons):
            if number:
                console.print()
            _card(console, comparison)

    return drawn(canvas, draw)


def _card(console: Console, comparison: Comparison) -> None:
    console.print(_name("base ", comparison.base), style="bold")
    console.print(_name("other", comparison.other), style="bold")
    compared = [c for c in comparison.cases if c.ratio is not None]
    for line in _configured(comparison):
        console.print(line)
    if compared:
        console.print()
        table = _table(compared, settings_differ=bool(comparison.configured.unintended))
        console.print(fitting(console, table))
        console.print()
        console.print(_mean(comparison), style="bold")
        console.print(_legend(comparison), style="dim")
    for line in _remarks(comparison.cases):
        console.print(line)
    doubt = comparison.configured.chip_doubt
    words = ("ceiling", "share") if doubt else ("chip", "software")
    why = [c for c in compared if any(True for _ in _explanations(c, words))]
    if why:
        console.print(f"\nChip{', setting' if doubt else ''} or software?", style="bold")
        for case in why:
            parts = "; ".join(_explanations(case, words))
            console.print(Text.assemble(f"  {_short(case)}: ", parts))
        if any(c.split is not None for c in why):
            of, reached = (word.capitalize() for word in words)
            console.print(
                f"  {of}: ratio of the ceilings that both runs measured, matmul or memory "
                f"bandwidth, whichever the base is nearer to. {reached}: ratio of the shares of it "
                "that the case reaches. Their product is the ratio.",
                style="dim",
            )
            if doubt:
                console.print(f"  No verdict on the chip: {doubt}.", style="yellow")
    unsaid = comparison.configured.not_recorded
    if comparison.differences:
        console.print("\nThe runs differ in", style="bold")
    else:
        nothing = "nothing that both recorded" if unsaid else "nothing else"
        console.print(f"\nThe runs differ in {nothing}.", style="bold")
    for difference in comparison.differences:
        console.print(f"  {difference.name}: {difference.base} | {difference.other}")
    for words_of_it in unsaid:
        console.print(f"  not known: {words_of_it}")
    console.print(_next(comparison), style="bold")


def _configured(comparison: Comparison) -> Iterator[Text]:
    """Settings in which the runs differ, before any figure."""
    found = comparison.configured
    for one in found.settings:
        on_purpose = one.name in found.compared
        word, style = ("COMPARED", "bold") if on_purpose else ("SETTINGS DIFFER", "bold yellow")
        yield Text.assemble((word, style), f"  {one.name}: {one.base} | {one.other}")


def _name(who: str, file: RunFile) -> str:
    run = file.run
    device = f"{run.device.get('name')} ({run.device.get('backend')})"
    launches = units.counted(len(file.launches), "launch")
    whole = file.end is not None and file.end.reason == "complete"
    ended = "" if whole else ", UNFINISHED"
    return f"{who}  {run.suite} on {device}, {launches}{ended}, {run.started_at[:10]}  {run.run_id}"


def _table(cases: Sequence[CaseComparison], settings_differ: bool) -> Table:
    """Two lines a case, as on the report card."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, collapse_padding=True)
    # No least widths: where they do not fit, rich cuts the last column off.
    table.add_column("case", overflow="fold")
    table.add_column("base", justify="right", no_wrap=True)
    table.add_column("other", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("verdict", max_width=26, overflow="fold")
    for case in cases:
        verdict = _word(case, settings_differ)
        table.add_row(_label(case), _side(case.base), _side(case.other), _ratio(case), verdict)
    return table


def _label(case: CaseComparison) -> Text:
    name = f"{case.case.name} {case.case.precision}{case.case.variant}"
    return Text.assemble((name, "bold"), "\n", (case.case.detail, "dim"))


def _side(row: Row | None) -> Text:
    assert row is not None
    assert row.throughput is not None
    rate = units.rate(row.throughput, row.unit.removesuffix("/s"))
    spread = "no interval" if row.interval is None else units.spread(row.interval.half_width)
    return Text.assemble(rate, "\n", (f"{spread}, n={row.launches}", "dim"))


def _ratio(case: CaseComparison) -> Text:
    assert case.ratio is not None
    interval = case.interval
    between = "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
    return Text.assemble((f"{case.ratio:.3f}", "bold"), "\n", (between, "dim"))


def _word(case: CaseComparison, settings_differ: bool) -> Text:
    words = WORDS[case.verdict]
    style = STYLE.get(case.verdict, "")
    if case.verdict == "UNDECIDED" and case.interval is not None:
        words += f", up to {case.not_excluded:.1%} not excluded"
        if not case.interval.low <= 1 <= case.interval.high:  # so why no verdict?
            words += f", {_p_value(case)}"
    elif case.verdict in ("FASTER", "SLOWER"):
        words += f"\n{_p_value(case)}" + ("\nsettings differ" if settings_differ else "")
    return Text(words, style=style)


def _p_value(case: CaseComparison) -> str:
    assert case.p_value is not None
    return f"p = {case.p_value:.2g}" if case.p_value >= 1e-4 else "p < 0.0001"


def _mean(comparison: Comparison) -> str:
    mean = comparison.geometric_mean
    assert mean is not None
    count = f"{len(comparison.ratios)} of {len(comparison.cases)} cases"
    return f"Geometric mean of the ratios of {count} (a summary, no verdict): {mean:.3f}"


def _legend(comparison: Comparison) -> str:
    few = f"Under {COMPARE_LAUNCHES} launches a side: no interval."
    if all(case.interval is None for case in comparison.cases):
        return f"Ratio: other / base throughput. {few}"
    return (
        f"Ratio: other / base throughput, {comparison.level:.0%} Welch interval over launches. "
        f"FASTER, SLOWER: significant at {1 - comparison.level:.0%} over all cases together (p is "
        f"Holm's) and {LEAST_DIFFERENCE:.0%} or more. EQUIVALENT: the interval lies within "
        f"±{EQUIVALENCE:.0%}. {few}"
    )


def _remarks(cases: Sequence[CaseComparison]) -> Iterator[Text]:
    for case in cases:
        if case.reasons and case.verdict != "NO_INTERVAL":
            word = WORDS[case.verdict]
            yield _line(case.verdict, word, f"{case.case.label}: {'; '.join(case.reasons)}")
    few: dict[str, list[str]] = {}
    for case in cases:
        if case.verdict == "NO_INTERVAL":
            few.setdefault("; ".join(case.reasons), []).append(_short(case))
    for reason, names in few.items():
        yield _line("NO_INTERVAL", "no interval", f"{', '.join(names)}: {reason}")
    for case in cases:
        chosen = [row.choice for row in (case.base, case.other) if row is not None and row.choice]
        if case.ratio is not None and len(chosen) == 2:
            base, other = map(in_words, chosen)
            text = f"{case.case.label}: each side at its best, base {base}; other {other}"
            yield _line("EQUIVALENT", "TUNED", text)
    said: dict[str, list[str]] = {}
    for case in cases:
        if case.same_work is None or case.ratio is None:
            continue
        if case.same_work.absent:
            said.setdefault(case.same_work.words, []).append(_short(case))
        else:
            yield _line("EQUIVALENT", "PROVED", f"{_short(case)}: {case.same_work.words}")
    for words, names in said.items():
        yield _line("NO_INTERVAL", "NOT PROVED", f"{', '.join(names)}: {words}")
    for case in cases:
        if case.witness_gap is not None and case.witness_gap > WITNESS_TOLERANCE:
            text = (
                f"{case.case.label}: the outputs after the first step differ by "
                f"{case.witness_gap:.0%} between the two runs, at equal seeds"
            )
            yield _line("UNRANKED", "CHECK", text)


def _line(verdict: CompareVerdict, word: str, text: str) -> Text:
    return Text.assemble((word, STYLE.get(verdict, "yellow")), "  ", text)


def _short(case: CaseComparison) -> str:
    return f"{case.case.name} {case.case.precision}{case.case.variant}"


def _explanations(case: CaseComparison, words: tuple[str, str]) -> Iterator[str]:
    """What is behind a ratio, as far as the records say; words: for the two parts of a split."""
    base, other = case.base, case.other
    assert base is not None
    assert other is not None
    split = case.split
    if split is not None:
        shares = " and ".join(_percent(share) for share in split.shares)
        yield (
            f"{case.ratio:.2f} = {words[0]} {split.chip:.2f} x {words[1]} {split.software:.2f} "
            f"({shares} of {split.ceiling})"
        )
    for name, pair in (("MFU", (base.mfu, other.mfu)), ("MBU", (base.mbu, other.mbu))):
        if any(share is not None for share in pair):
            figures = ["—" if share is None else f"{share:.1%}" for share in pair]
            yield f"{name} {' and '.join(figures)}"
    if case.joule_ratio is not None:
        yield f"per joule (per watt) {case.joule_ratio:.2f}"
    if case.price_ratio is not None:
        yield f"per currency unit {case.price_ratio:.2f}"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def _unranked(comparison: Comparison) -> Iterator[Row]:
    for case in comparison.cases:
        if case.verdict == "UNRANKED":
            yield from (row for row in (case.base, case.other) if row is not None)


def _next(comparison: Comparison) -> str:
    verdicts = {case.verdict for case in comparison.cases}
    suite = comparison.base.run.suite
    if verdicts == {"INCOMPARABLE"}:
        return f"Next: run the same suite on both: accelmark run {suite} --launches 10"
    if "NO_INTERVAL" in verdicts:
        return f"Next: for verdicts, on both machines: accelmark run {suite} --launches 10"
    if comparison.configured.unintended:
        names = ", ".join(d.name for d in comparison.configured.unintended)
        return f"Next: for a verdict on the chips, run both under the same settings: {names}"
    if any("QUOTA" in row.flags for row in _unranked(comparison)):
        return (
            "Next: no more threads than the CPU quota has cores (OMP_NUM_THREADS), or a larger "
            "quota, on the machine of what is not ranked; run it again."
        )
    if any("STOPPED" in row.flags for row in _unranked(comparison)):
        return f"Next: find what {STOPPERS}, and run what is not ranked again."
    if "UNRANKED" in verdicts:
        return "Next: end other work on the machine of what is not ranked, and run it again."
    if "UNDECIDED" in verdicts:
        most = max(
            max(len(row.rates) for row in (c.base, c.other) if row) for c in comparison.cases
        )
        more = min(max(20, 2 * most), 1000)
        return (
            f"Next: narrower intervals, on both machines: accelmark run {suite} --launches {more}"
        )
    sides = (comparison.base, comparison.other)
    paths = " ".join("RUN" if file.passing else Path(file.path).name for file in sides)
    return f"Next: the pictures: accelmark report {paths} --format html --output compare.html"
