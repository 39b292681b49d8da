"""`accelmark run`: measure a suite, or the rest of a run that ended early."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from bench.commands.common import (
    Side,
    choose,
    face_of,
    render,
    say,
    show,
    typed,
)
from bench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, RecordError


@click.command()
@click.argument("suite", required=False, metavar="[SUITE]")
@click.option(
    "--device", metavar="BACKEND[:INDEX]", help="Default: the first accelerator, else cpu."
)
@click.option("--only", metavar="GLOB", help="Only these cases, e.g. 'llama-*' or '*-train'.")
@click.option(
    "--launches", metavar="N", help="Processes per case, or `auto`: until the interval is narrow."
)
@click.option(
    "--budget-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="M",
    help="Start nothing that would end later.",
)
@click.option(
    "--resume",
    "record",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Go on with a run that ended early; its suite, device and settings are in its record.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the run's record.  [default: runs]",
)
def run(
    suite: str | None,
    device: str | None,
    only: str | None,
    launches: str | None,
    budget_minutes: float | None,
    record: Path | None,
    out: Path | None,
) -> None:
    """Measure SUITE (a shipped suite or a .toml file; default: quick) and print its report card."""
    if record is not None:
        given = {"SUITE": suite, "--device": device, "--only": only, "--launches": launches}
        wrong = [name for name, value in {**given, "--out": out}.items() if value is not None]
        if wrong:
            raise RecordError(
                f"--resume {record}: {', '.join(wrong)} cannot be given with it; the record says "
                "what is to be done. Leave it out, or start a new run."
            )
        _resume(record, budget_minutes)
        return
    from bench.planning import plan, suite_file
    from bench.running.header import begin, run_id
    from bench.running.session import open_session

    read_suite = suite_file.read_suite(suite_file.find_suite(suite or "quick"))
    cases = plan.plan(read_suite)
    if only is not None:
        cases = plan.select(cases, only)
    settings = suite_file.with_launches(read_suite.settings, launches, "--launches")
    chosen = choose(Side(device))
    identity = run_id()
    path = (out or Path("runs")) / f"{read_suite.name}-{chosen.backend}-{identity}.jsonl"
    with face_of(settings) as face:
        writer = begin(path, identity, read_suite.name, cases, settings, chosen, typed())
        with contextlib.closing(writer):
            budget = None if budget_minutes is None else budget_minutes * 60
            reason = open_session(writer, cases, settings, chosen, face, budget).run()
    _finish(path, reason)


def _resume(record: Path, budget_minutes: float | None) -> None:
    """Measures what a run that ended early has not."""
    from bench.records.runfile import read
    from bench.running.resume import resume
    from bench.running.session import open_session

    file = read(record)
    if file.end is not None and file.end.reason == "complete":
        say(f"{file.path} ran to its end: nothing is left to measure.")
        _finish(Path(file.path), "complete")
        return
    address = f"{file.run.device.get('backend')}:{file.run.device.get('index')}"
    chosen = choose(Side(address))
    settings = file.run.settings
    with face_of(settings) as face:
        writer = resume(file, chosen, typed())
        with contextlib.closing(writer):
            budget = None if budget_minutes is None else budget_minutes * 60
            reason = open_session(
                writer, file.run.plan, settings, chosen, face, budget, done=file.launches
            ).run()
    _finish(Path(file.path), reason)


def _finish(path: Path, reason: str) -> None:
    """Prints the card of a run that has ended, and leaves with its exit code."""
    from bench.judging.summary import summarize
    from bench.records.runfile import read

    result = read(path)
    show(render("table", [result]), path)
    say(f"record: {path}")
    if reason == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
    usable = all(
        row.status == "measured" or (row.status == "skipped" and row.reached) or row.sweep_end
        for row in summarize(result)
    )
    sys.exit(EXIT_OK if usable else EXIT_INCOMPLETE)
