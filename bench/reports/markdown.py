"""Markdown tables that paste into a pull request; of several runs, the first is the base."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from bench import units
from bench.errors import ComparisonError, RecordError
from bench.judging.comparing.compare import compare, whole
from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.comparing.systems import otherwise_spread
from bench.judging.curves import curves
from bench.judging.ranks.scaling import Scaling, scalings
from bench.judging.row import Row
from bench.judging.served import ServingCurve, serving_curves
from bench.judging.summary import summarize
from bench.judging.tracks import tuned
from bench.records.run import RunFile
from bench.report import Canvas, Report
from bench.reports.wording import endpoint, scaling, serving
from bench.reports.wording import memory as peak_memory
from bench.reports.wording.card_notes import COLLECTIVES, joined, unseen
from bench.reports.wording.comparison_notes import beside, figure
from bench.reports.wording.labels import labels
from bench.reports.wording.notes import grouped
from bench.reports.wording.rows import (
    ending,
    handed_on,
    limit,
    ratio,
    remarks,
    spread,
    tail,
    whose,
    word_of,
)
from bench.reports.wording.summary import summary
from bench.reports.wording.systems import factors, spreads


class MarkdownReport(Report):
    """GitHub's dialect: a table per run, then one per comparison with the first."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """Every row of every run; those without a number with their reason."""
        lines: list[str] = []
        for run in runs:
            lines += _run(run, summarize(run))
        for other in runs[1:]:
            try:
                lines += _comparison(compare(whole(runs[0]), whole(other)))
            except (ComparisonError, RecordError) as error:
                lines += ["", f"**Not compared**: {_text(handed_on(str(error), runs[0], other))}"]
                continue
            if systems := otherwise_spread(runs[0], other):
                lines += _systems(systems)
        return "\n".join(lines).strip() + "\n"


def _run(run: RunFile, rows: Sequence[Row]) -> Iterator[str]:
    yield f"\n### accelmark {_text(run.run.suite)} on {_text(run.run.on)}\n"
    counts = f"{units.counted(len(run.launches), 'launch')}, {run.run.started_at[:10]}"
    said = ending(run)
    yield f"{counts}, run `{_code(run.run.run_id)}`" + (f", **{said}**" if said else "")
    if run.damage:
        damage, remedy = (_text(handed_on(text, run)) for text in (run.damage, run.remedy))
        yield f"\n**{run.flaw.upper()}**: {damage}. {remedy}"
    tried = [row for row in rows if not row.untried_point]
    yield f"\n{_text('. '.join(summary(tried)))}.\n"
    yield "| case | throughput | interval | launches | latency | limit | peak memory | verdict |"
    yield "|---|--:|--:|--:|--:|--:|--:|---|"
    counted = peak_memory.scopes(tried)
    for row in tried:
        yield _measured(row, counted) if row.measured else _absent(row)
    if len(counted) > 1:
        yield f"\nPeak memory: {_text(peak_memory.words(counted))}."
    if any(row.operation_seconds for row in tried):
        yield f"\n{COLLECTIVES}."
    names = labels(run.run.suite, [row.case for row in tried])
    seen = unseen([row for row in tried if row.measured], names, wide=True)
    for note in (*endpoint.notes(rows), *joined(rows, wide=True), *seen):
        yield f"\n{note.word}: {_text(note.text)}"
    for reason, some in grouped((r for r in rows if r.untried_point), lambda row: row.reason):
        yield f"\n**SKIPPED** {units.counted(len(some), 'case')}: {_text(reason)}"
    for one in scalings(rows):
        yield from _scaled(one)
    for engine in serving_curves(rows):
        yield from _served(engine)
    for curve in curves(rows):
        yield f"\n**Sweep** {_text(curve.title)}: {_text(curve.words)}"
    for found in tuned(rows):
        yield f"\n**Tuned** {_text(found.title)}: {_text(found.words)}"


def _scaled(curve: Scaling) -> Iterator[str]:
    """A table for one kind of work over devices."""
    title = f"\n**Scaling** {_text(scaling.title(curve))}"
    yield f"{title}: no efficiency: {_text(curve.absent)}\n" if curve.absent else f"{title}\n"
    columns = zip(scaling.HEADINGS, *scaling.lines(curve), strict=True)
    headings, *lines = zip(*(column for column in columns if any(column[1:])), strict=True)
    yield from _grid(headings, lines)


def _served(curve: ServingCurve) -> Iterator[str]:
    """A table for one engine and one kind of requests."""
    yield f"\n**Serving** {_text(serving.title(curve))}\n"
    yield from _grid(serving.HEADINGS, serving.lines(curve))
    yield f"\n{_text('; '.join(serving.legend([curve])))}."


def _grid(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of figures, with its head."""
    yield _line(headings)
    yield f"|{'--:|' * len(headings)}"
    for line in lines:
        yield _line([_text(cell) or "—" for cell in line])


def _line(cells: Iterable[str]) -> str:
    """Of a table."""
    return f"| {' | '.join(cells)} |"


def _measured(row: Row, counted: Sequence[str]) -> str:
    memory = _text(peak_memory.figure(row, counted)) or "—"
    verdict = word_of(row) + (f": {_text(_why(row))}" if _why(row) else "")
    if row.flags:
        verdict += f" [{', '.join(f'{flag}{whose(row, flag)}' for flag in row.flags)}]"
    figures = (spread(row.interval), str(row.launches), _latency(row), limit(row) or "—", memory)
    bus = row.bus_bytes_per_second
    rate = row.rate if bus is None else f"{row.rate}, bus {units.prefixed(bus, 'B/s')}"
    return _line([_text(row.case.label), _text(rate), *figures, verdict])


def _why(row: Row) -> str:
    """The reason of a verdict, and what must be known beside the figure."""
    return "; ".join(dict.fromkeys(part for part in (row.reason, *remarks(row)) if part))


def _latency(row: Row) -> str:
    latency = row.latency
    if row.operation_seconds is not None:
        return units.duration(row.operation_seconds)
    if latency is None:
        return "—"
    return f"{latency.name} p50 {units.duration(latency.p50)}, {tail(latency)}"


def _absent(row: Row) -> str:
    why = f"**{word_of(row)}**: {_text(_why(row))}"
    return _line([_text(row.case.label), *["—"] * 6, why])


def _comparison(comparison: Comparison) -> Iterator[str]:
    names = [_text(str(r.run.device.get("name"))) for r in (comparison.base, comparison.other)]
    runs = [_code(r.run.run_id) for r in (comparison.base, comparison.other)]
    yield f"\n### {names[1]} (`{runs[1]}`) against {names[0]} (`{runs[0]}`)\n"
    for one in comparison.configured.settings:
        word = "Compared" if one.name in comparison.configured.compared else "Settings differ"
        yield f"**{word}**: {_text(one.name)}: {_text(one.base)} | {_text(one.other)}\n"
    for unsaid in comparison.configured.not_recorded:
        yield f"Not known: {_text(unsaid)}\n"
    yield "| case | base | other | ratio | interval | verdict |"
    yield "|---|--:|--:|--:|--:|---|"
    for case in comparison.cases:
        sides = (_text(figure(case, row)) or "—" for row in (case.base, case.other))
        yield _line([_text(case.case.label), *sides, *_judgement(comparison, case)])
    mean = comparison.geometric_mean
    if mean is not None:
        count = f"{len(comparison.averaged)} of {len(comparison.cases)}"
        said = f"{count} cases (a summary, no verdict): {ratio(mean)}"
        yield f"\nGeometric mean of the ratios of {said}"
    if comparison.differences:
        yield "\n<details><summary>The runs differ in</summary>\n"
        yield "| | base | other |"
        yield "|---|---|---|"
        for one in comparison.differences:
            yield _line(map(_text, (one.name, one.base, one.other)))
        yield "\n</details>"


def _systems(comparison: Comparison) -> Iterator[str]:
    yield "\n**As whole systems**, at equal global batch:\n"
    yield "| case | devices | ratio | interval | verdict | |"
    yield "|---|---|--:|--:|---|---|"
    for case in comparison.cases:
        case_on, product = map(_text, (case.case.label, spreads(case))), factors(comparison, case)
        yield _line([*case_on, *_judgement(comparison, case), _text(product)])


def _judgement(comparison: Comparison, case: CaseComparison) -> tuple[str, str, str]:
    found = "—" if case.ratio is None else ratio(case.ratio)
    interval = case.interval
    between = "—" if interval is None else f"{ratio(interval.low)} to {ratio(interval.high)}"
    verdict = f"**{case.verdict.replace('_', ' ')}**"
    if case.verdict == "UNDECIDED" and case.not_excluded is not None:
        verdict += f": up to {case.not_excluded:.1%} not excluded"
    verdict += "".join(f": {_text(said)}" for said in beside(comparison, case))
    if case.because:
        verdict += f": {_text('; '.join(case.reasons))} (`{'`, `'.join(case.codes)}`)"
    if case.same_work is not None and case.ratio is not None:
        verdict += f"; {_text(case.same_work.words)}"
    return found, between, verdict


def _text(text: str) -> str:
    """Plain text within a table's cell: nothing in it is markup, a mention or a new line."""
    escaped = re.sub(r"([\\`*_\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
    return escaped.replace("@", "@\u200b")  # a zero-width space ends what would name a person


def _code(text: str) -> str:
    return re.sub(r"[^\w.:+-]", "_", text)


REPORT = MarkdownReport()
