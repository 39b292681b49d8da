"""The report card: what was measured, how surely, what was not and why, and what to do next."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench import stats, units
from bench.judging.curves import curves
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.judging.tracks import tuned
from bench.planning.sweep import batch_of, without_batch
from bench.planning.tuning import in_words
from bench.records.run import RunFile, Settings
from bench.report import Canvas, Report
from bench.reports._drawn import drawn
from bench.reports._narrow import fitting
from bench.reports._wording import first_step, limits, next_step, tail, threads

VERDICT_STYLE = {"OK": "green", "NOISY": "yellow"}
MOST_NAMES = 6
"""Cases that a flag names; of more, it says how many."""
FLAGS = {
    "NO_STEADY_STATE": "a launch never became steady",
    "DRIFT": "step times moved by more than 5 % within a launch",
    "HOST_GAP": "the host's wall time and the device's events differ by more than 2 %",
    "CONTENDED": "other work on the host slowed a launch",
    "QUOTA": "the CPU quota of this container held a launch back",
    "STOPPED": "a launch's process, or the machine, stood still while it was timed",
    "THROTTLED": "heat, the power supply or protection slowed a launch",
    "POWER_CAPPED": "the device held its clock to its power limit, as it does under heavy load",
    "SHARED_DEVICE": "others had the device open too",
    "ENERGY_DISAGREES": "energy by the counter and by the power differ by more than 5 %",
}
"""What a launch's flag means. NO_STEADY_STATE of many launches is the verdict, said before."""
WHOSE = {
    "package": "the whole package",
    "shared": "the whole device, which others may use",
}
"""Whose energy it is, where it is not the device's own alone."""
STATUS_STYLE = {"void": "bold red", "failed": "bold red", "skipped": "yellow"}


class TableReport(Report):
    """For a terminal of any width; means the same without colour."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """One card per run."""

        def draw(console: Console) -> None:
            for run in runs:
                _card(console, run, summarize(run))

        return drawn(canvas, draw)


def _card(console: Console, run: RunFile, rows: list[Row]) -> None:
    console.print(_headline(run), style="bold")
    console.print(_stack(run), style="dim")
    measured = [row for row in rows if row.status == "measured"]
    if measured:
        console.print()
        console.print(fitting(console, _table(measured)))
        console.print()
        console.print(_legend(run.run.settings, measured), style="dim")
        beside = (*_first_steps(measured), *_energy(measured), *_unseen(measured))
        for line in (*_percentiles(measured), *_waits(measured), *beside):
            console.print(line, style="dim")
    for curve in curves(rows):
        console.print(Text.assemble(("SWEEP", "bold"), f" {curve.title}: {curve.words}"))
    for found in tuned(rows):
        console.print(Text.assemble(("TUNED", "bold"), f" {found.title}: {found.best}"))
        for line in found.beside:
            console.print(Padding(line, (0, 0, 0, 2)), style="dim")
    for absent in _without_number(rows):
        console.print(absent)
    for remark in _remarks(measured):
        console.print(remark)
    if run.damage:
        console.print(f"{run.flaw.upper()}  {run.damage}", style="bold red")
    console.print(next_step(run, rows), style="bold")


def _headline(run: RunFile) -> str:
    device = f"{run.run.device.get('name')} ({run.run.device.get('backend')})"
    launches, cases = len(run.launches), len(run.run.plan)
    counts = f"{units.counted(launches, 'launch')} of {units.counted(cases, 'case')}"
    state = "" if run.end and run.end.reason == "complete" else f", {_ending(run)}"
    again = f", resumed {len(run.resumed)}x" if run.resumed else ""
    return f"accelmark {run.run.suite} on {device}: {counts}{again}{state}"


def _ending(run: RunFile) -> str:
    if run.end is None:
        return "UNFINISHED"
    return {"budget": "ended by its time budget", "interrupted": "INTERRUPTED"}.get(
        run.end.reason, ""
    )


def _stack(run: RunFile) -> str:
    stack: dict[str, Any] = next((x.environment for x in run.launches if x.environment), {})
    facts = {**_section(run.run.device, "facts"), **_section(stack, "device_state")}
    shown = {
        "torch": stack.get("torch"),
        "transformers": _section(stack, "packages").get("transformers"),
        "threads": threads(stack, facts),
        "driver": facts.get("driver"),
        "compute capability": facts.get("compute_capability"),
        "SM clock MHz": facts.get("sm_clock_max_mhz"),
        # What ran, where it was read back; in older records, what the machine has.
        "instructions": facts.get("instructions_used", facts.get("read_back"))
        or facts.get("instructions"),
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)


def _section(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """Part of a free-form description, which another version may have written otherwise."""
    section = facts.get(name)
    return section if isinstance(section, dict) else {}


def _table(rows: list[Row]) -> Table:
    """Two lines a case, so that everything fits into 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, collapse_padding=True)
    table.add_column("case", ratio=None, overflow="fold", min_width=17)
    table.add_column("throughput", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("FLOP/s,\nlimit", justify="right", no_wrap=True)
    table.add_column("peak\nmemory", justify="right", no_wrap=True)
    # A verdict is never cut short: the case's name, which folds, makes room for it.
    longest = max(cell_len(line) for row in rows for line in str(_verdict(row)).splitlines())
    table.add_column("verdict", no_wrap=True, min_width=longest)
    for row in rows:
        table.add_row(
            _case(row),
            _throughput(row),
            _interval(row),
            _arithmetic(row),
            _memory(row),
            _verdict(row),
        )
    return table


def _case(row: Row) -> Text:
    chosen = "" if row.choice is None else f"\nbest: {in_words(row.choice)}"
    return Text.assemble((_name(row), "bold"), "\n", (row.case.detail + chosen, "dim"))


def _throughput(row: Row) -> Text:
    assert row.throughput is not None
    item = row.unit.removesuffix("/s")
    second = ""
    if row.latency is not None:
        second = f"{row.latency.name} {units.duration(row.latency.p50)}"
    elif row.bytes_per_second is not None and item != "B":
        second = units.prefixed(row.bytes_per_second, "B/s")
    return Text.assemble((units.rate(row.throughput, item), "bold"), "\n", (second, "dim"))


def _interval(row: Row) -> Text:
    launches = units.counted(row.launches, "launch")
    if row.interval is None:
        return Text.assemble("no interval", "\n", (launches, "dim"))
    return Text.assemble(units.spread(row.interval.half_width), "\n", (launches, "dim"))


def _arithmetic(row: Row) -> Text:
    rate = "—" if row.flop_per_second is None else units.rate(row.flop_per_second, row.operation)
    return Text.assemble(rate, *(part for line in limits(row) for part in ("\n", (line, "dim"))))


def _memory(row: Row) -> str:
    return units.memory(row.peak_memory_bytes) if row.peak_memory_bytes else "—"


def _verdict(row: Row) -> Text:
    verdict = row.verdict or ""
    words = verdict.replace("_STATE", "\nSTATE").replace("_", " ")  # two lines, as the row has
    return Text(words, style=VERDICT_STYLE.get(verdict, "red"))


def _legend(settings: Settings, rows: list[Row]) -> str:
    level = next((row.interval.level for row in rows if row.interval), None)
    interval = f"{level:.0%} t interval over launches" if level else "no interval below 3 launches"
    return (
        f"Throughput: geometric mean over launches, {interval}; OK is within "
        f"±{settings.target_half_width:.0%}, NOISY is not. Latency, TTFT, TPOT: median. Limit: the "
        "ceiling that the case is nearest to, of those that this run measured: the best matmul at "
        f"the same arithmetic, the best memory bandwidth,{_link(rows)} and the host's time to "
        f"queue a step{_input(rows)}.{_published(rows)} Peak memory: {rows[0].memory_scope}."
    )


def _link(rows: list[Row]) -> str:
    known = any(row.transfer_fraction is not None for row in rows)
    return " the best transfer to the device," if known else ""


def _input(rows: list[Row]) -> str:
    known = any(row.input_fraction is not None for row in rows)
    return ", or to wait for its batch" if known else ""


def _published(rows: list[Row]) -> str:
    if all(row.mfu is None and row.mbu is None for row in rows):
        return ""
    return (
        " MFU, MBU: share of the chip's published dense peak, or of its memory bandwidth; the "
        "larger is shown."
    )


def _percentiles(rows: list[Row]) -> Iterator[str]:
    """The tail of the latency; where there is none, in one line for all, what it would need."""
    few = []
    for row in rows:
        latency = row.latency
        if latency is None:
            continue
        if latency.p90 is None:
            few.append(f"{_short(row, rows)} ({latency.requests})")
            continue
        requests = f"{latency.requests} requests a launch"
        yield (
            f"{latency.name} of {_short(row, rows)}: "
            f"p50 {units.duration(latency.p50)}, {tail(latency)}; {requests}"
        )
    if few:
        needed = ", ".join(f"p{p}: {n}" for p, n in stats.PERCENTILE_SAMPLES.items() if n > 1)
        yield f"too few requests a launch for percentiles ({needed}): {', '.join(few)}"


def _energy(rows: list[Row]) -> Iterator[str]:
    """Joules an item where there are any, with their interval, their source and whose they are."""
    for row in rows:
        if row.items_per_joule is None:
            continue
        item = row.unit.removesuffix("/s")
        found = row.joule_interval
        spread = "no interval" if found is None else units.spread(found.half_width)
        idle = "" if row.idle_watts is None else f"; idle {units.significant(row.idle_watts)} W"
        whose = WHOSE.get(row.energy_scope, row.energy_scope)
        yield (
            f"energy of {_short(row, rows)}: {units.joules(1 / row.items_per_joule, item)} "
            f"{spread} ({whose}; {row.energy_source}{idle})"
        )


def _unseen(rows: list[Row]) -> Iterator[str]:
    """What nobody could see of the device, which is not to say that it was well."""
    whys: dict[str, list[str]] = {}
    for what, why in next((r.not_observable for r in rows if r.not_observable), {}).items():
        whys.setdefault(why, []).append(what)
    parts = [f"{', '.join(whats)} ({why})" for why, whats in whys.items()]
    if parts:
        yield f"not observable: {'; '.join(parts)}"


def _waits(rows: list[Row]) -> Iterator[str]:
    """How long the steps of an input pipeline waited for it."""
    for row in rows:
        if row.input_wait_seconds is not None and row.input_fraction is not None:
            yield (
                f"wait for input of {_short(row, rows)}: "
                f"{units.duration(row.input_wait_seconds)} a step, {row.input_fraction:.0%}"
            )


def _first_steps(rows: list[Row]) -> Iterator[str]:
    """What is paid once where a step is compiled or recorded."""
    for row in rows:
        if first_step(row):
            yield f"first step of {_short(row, rows)}: {first_step(row)}"


def _short(row: Row, rows: list[Row]) -> str:
    """A case's name, with its parameters only where another case has the same name."""
    name = _name(row)
    alone = [_name(other) for other in rows].count(name) == 1
    return name if alone else row.case.label


def _name(row: Row) -> str:
    return f"{row.case.name} {row.case.precision}{row.case.variant}"


def _without_number(rows: list[Row]) -> Iterator[Text]:
    """Every case that has none and why; what is the same of a sweep's batches is said once."""
    absent = [row for row in rows if row.status != "measured"]
    for _, group in itertools.groupby(
        absent, lambda row: (without_batch(row.case).fingerprint, row.status, row.reason)
    ):
        row, *others = group
        word = row.status.upper() if row.reached else "UNREACHED"
        last = f" to batch {batch_of(others[-1].case)}" if others else ""
        yield _line(word, f"{row.case.label}{last}: {row.reason}")


def _remarks(rows: list[Row]) -> Iterator[Text]:
    """What a reader must know beside the figures. (Why a case is NOISY stands in its row.)"""
    for row in rows:
        parts = []
        if row.verdict not in ("OK", "NOISY"):
            parts.append(row.reason)
        if row.left_out:
            parts.append(row.left_out)
        if parts:
            yield _line(str(row.verdict), f"{row.case.label}: {'; '.join(parts)}")
    for flag, meaning in FLAGS.items():
        flagged = [row for row in rows if flag in row.flags and row.verdict != flag]
        names = [_short(row, rows) for row in flagged]
        if len(names) > MOST_NAMES:
            names = [f"{len(names)} of {len(rows)} cases"]
        if names:
            yield _line(flag, f"{meaning}: {', '.join(names)}")
    for said in dict.fromkeys(row.optimizer_passed_over for row in rows):
        names = [_short(row, rows) for row in rows if row.optimizer_passed_over == said]
        if said:
            yield _line("OPTIMIZER", f"{said}: {', '.join(names)}")


def _line(word: str, text: str) -> Text:
    style = VERDICT_STYLE.get(word) or STATUS_STYLE.get(word.lower(), "yellow")
    return Text.assemble((word, style), " ", text)


REPORT = TableReport()
