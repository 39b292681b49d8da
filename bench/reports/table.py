"""The report card: which device, what came of each case, what holds it back, what to do next."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from bench import units
from bench.judging.ranks.scaling import Scaling, scalings
from bench.judging.row import Row
from bench.judging.served import ServingCurve, serving_curves
from bench.judging.summary import summarize
from bench.planning.sweep import batch_of, without_batch
from bench.records.environment import section
from bench.records.run import RunFile
from bench.report import Canvas, Report
from bench.reports.terminal.details import details
from bench.reports.terminal.drawn import drawn
from bench.reports.terminal.grid import INDENT, Column, column, grid, put, small
from bench.reports.wording import memory, scaling, serving
from bench.reports.wording.card_notes import legend, notes
from bench.reports.wording.labels import Label, labels, plain, visible
from bench.reports.wording.notes import within
from bench.reports.wording.rows import (
    ending,
    handed_on,
    limit,
    looks_of,
    next_step,
    threads,
    word_of,
)
from bench.reports.wording.summary import summary

STYLE = {"good": "green", "warn": "yellow", "bad": "bold red"}


class TableReport(Report):
    """For a terminal of any width; means the same without colour."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """One card per run."""

        def draw(console: Console) -> None:
            for number, run in enumerate(runs):
                if number:
                    console.print()
                _card(console, run, summarize(run), canvas)

        return drawn(canvas, draw)


def _card(console: Console, run: RunFile, rows: list[Row], canvas: Canvas) -> None:
    names = labels(run.run.suite, [row.case for row in rows])
    tried = [row for row in rows if not row.untried_point]
    console.print(plain(_headline(run)), style="bold")
    good = all(row.verdict == "OK" for row in tried)
    for number, line in enumerate(summary(tried)):
        console.print(line, style="" if number else "bold green" if good else "bold")
    console.print(plain(_stack(run)), style="dim")
    if run.damage:
        console.print(Text(f"{run.flaw.upper()}  {plain(_damage(run, canvas))}", "bold red"))
    console.print()
    left_out = _table(console, rows if canvas.wide else tried, names, wide=canvas.wide)
    console.print()
    _scalings(console, [one for one in scalings(rows) if not one.absent])
    _served(console, list(serving_curves(rows)))
    found = list(notes(rows, names, wide=canvas.wide))
    for text in (note.line for note in found) if canvas.wide else within(console, found):
        console.print(text)
    if below := legend(run, rows, left_out, wide=canvas.wide):
        console.print(plain(below), style="dim")
    console.print(visible(next_step(run, rows, canvas.beside_record)), style="bold")


def _headline(run: RunFile) -> str:
    launches, cases = len(run.launches), len(run.run.plan) - len(run.run.left_out)
    counts = f"{units.counted(launches, 'launch')} of {units.counted(cases, 'case')}"
    said = ending(run)
    state = f", {said}" if said else ""
    again = f", resumed {len(run.resumed)}x" if run.resumed else ""
    return f"accelmark {run.run.suite} on {run.run.on}: {counts}{again}{state}"


def _damage(run: RunFile, canvas: Canvas) -> str:
    damage = str(run.damage)
    return damage if canvas.beside_record else handed_on(damage, run)


def _stack(run: RunFile) -> str:
    stack: dict[str, Any] = next((x.environment for x in run.launches if x.environment), {})
    facts = {**section(run.run.device, "facts"), **section(stack, "device_state")}
    framework = str(stack.get("framework", "torch"))
    clock = facts.get("sm_clock_max_mhz")
    shown = {
        framework: stack.get(framework),
        "transformers": section(stack, "packages").get("transformers"),
        "threads": threads(stack, facts),
        "driver": facts.get("driver"),
        "compute capability": facts.get("compute_capability"),
        "SM clock": f"up to {clock} MHz" if clock and clock.isdecimal() else clock,
        # What ran, where it was read back; in older records, what the machine has.
        "instructions": facts.get("instructions_used", facts.get("read_back"))
        or facts.get("instructions"),
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)


def _table(
    console: Console, rows: Sequence[Row], names: dict[str, Label], *, wide: bool
) -> list[str]:
    """Prints a line a case, and what is known of it below where that is wanted; what is left out.

    Batches of a sweep that have no number, and all for one reason, are one line.
    """
    lines = list(_lines(rows, names, apart=wide))
    shown, called = [row for row, _ in lines], [label for _, label in lines]
    styles = ["bold" if row.measured else "" for row in shown]
    found = grid(console, called, _columns(shown), styles)
    put(console, found, (details(row) if wide else () for row in shown))
    return found.left_out


def _scalings(console: Console, curves: Sequence[Scaling]) -> None:
    """Prints a small table for each kind of work over devices."""
    for curve in curves:
        console.print(Text.assemble(("Scaling: ", "bold"), plain(scaling.title(curve))))
        _small(console, scaling.HEADINGS, scaling.DROPS, scaling.lines(curve))
        console.print()


def _served(console: Console, curves: Sequence[ServingCurve]) -> None:
    """Prints a small table for each engine, a line a concurrency or rate."""
    for curve in curves:
        console.print(Text.assemble(("Serving: ", "bold"), plain(serving.title(curve))))
        _small(console, serving.HEADINGS, serving.DROPS, serving.lines(curve))
    for text in serving.legend(curves):
        console.print(text, style="dim")
    if curves:
        console.print()


def _small(
    console: Console,
    headings: Sequence[str],
    drops: Sequence[int],
    lines: Iterable[Sequence[str]],
) -> None:
    """Prints those columns of a table that say something, as far as they fit."""
    columns = [
        column(heading, cells, drops=drop)
        for heading, drop, cells in zip(headings, drops, zip(*lines, strict=True), strict=True)
    ]
    for line in small(console.width - INDENT, columns):
        line.rstrip()
        console.print(Text(" " * INDENT) + line, no_wrap=True, overflow="ignore", crop=False)


def _lines(
    rows: Sequence[Row], names: dict[str, Label], *, apart: bool
) -> Iterator[tuple[Row, Label]]:
    for _, group in itertools.groupby(rows, lambda row: row if apart else _alike(row)):
        row, *others = group
        label = names[row.case.fingerprint]
        if others:
            first = f"batch {batch_of(row.case)}"
            rest = [words for words in label.parameters if words != first]
            together = f"{first} to {batch_of(others[-1].case)}"
            label = label._replace(parameters=(together, *rest))
        yield row, label


def _alike(row: Row) -> object:
    """What the batches of a sweep share that have no number for one reason; else the row."""
    if row.measured or batch_of(row.case) is None:
        return row.case.fingerprint
    return without_batch(row.case).fingerprint, row.status, row.reason


def _columns(rows: Sequence[Row]) -> list[Column]:
    launches = {row.launches for row in rows if row.measured}
    counted = memory.scopes(rows)
    apart = len(launches) > 1
    return [
        column("throughput", map(_throughput, rows)),
        column("bus", map(_bus, rows)),
        column("interval", map(_interval, rows), most=12),
        column("launches", (str(row.launches or "") if apart else "" for row in rows), drops=3),
        column("latency", map(_latency, rows), drops=1),
        column("FLOP/s", map(_arithmetic, rows), drops=5),
        column("energy", map(_energy, rows), drops=4),
        column("memory", (memory.figure(row, counted) for row in rows), drops=2),
        column("limit", map(limit, rows), right=False, most=16),
        column("verdict", map(_verdict, rows), right=False, most=16),
    ]


def _throughput(row: Row) -> Text:
    if row.throughput is None:
        return Text("—", "dim")
    return Text(plain(row.rate), "bold")


def _bus(row: Row) -> str:
    bus = row.bus_bytes_per_second
    return "" if bus is None else units.prefixed(bus, "B/s")


def _interval(row: Row) -> str:
    if row.throughput is None:
        return ""
    return "none" if row.interval is None else units.spread(row.interval.half_width)


def _latency(row: Row) -> str:
    latency = row.latency
    if row.operation_seconds is not None:
        return units.duration(row.operation_seconds)
    if latency is None:
        return ""
    name = "" if latency.name == "latency" else f"{plain(latency.name)} "
    return f"{name}{units.duration(latency.p50)}"


def _arithmetic(row: Row) -> str:
    """Nothing where the throughput says it already."""
    if row.flop_per_second is None or row.unit == f"{row.operation}/s":
        return ""
    return units.rate(row.flop_per_second, row.operation)


def _energy(row: Row) -> str:
    if row.items_per_joule is None:
        return ""
    return units.joules(1 / row.items_per_joule, plain(row.item))


def _verdict(row: Row) -> Text:
    return Text(word_of(row), STYLE[looks_of(row)])


REPORT = TableReport()
