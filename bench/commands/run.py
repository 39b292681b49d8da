"""`accelmark run`: measure a suite, or the rest of a run that ended early."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.common import WIDE, render, say, show, typed, watching
from bench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, RecordError

if TYPE_CHECKING:
    from bench.records.run import RunFile


@click.command()
@click.argument("suite", required=False, metavar="[SUITE]")
@click.option(
    "--device", metavar="BACKEND[:INDEX]", help="Default: the first accelerator, else cpu."
)
@click.option("--only", metavar="GLOB", help="Only these cases, e.g. 'llama-*,*-train'.")
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
@WIDE
def run(
    suite: str | None,
    device: str | None,
    only: str | None,
    launches: str | None,
    budget_minutes: float | None,
    record: Path | None,
    out: Path | None,
    wide: bool,
) -> None:
    """Measure SUITE (quick, quick@1, a .toml file; default: quick) and print its report card."""
    from bench import api

    if record is not None:
        given = {"SUITE": suite, "--device": device, "--only": only, "--launches": launches}
        wrong = [name for name, value in {**given, "--out": out}.items() if value is not None]
        if wrong:
            raise RecordError(
                f"--resume {record}: {', '.join(wrong)} cannot be given with it; the record says "
                "what is to be done. Leave it out, or start a new run."
            )
        _resume(record, budget_minutes, wide=wide)
        return
    _finish(
        api.run_suite(
            suite or "quick",
            device=device,
            only=only,
            launches=launches,
            budget_minutes=budget_minutes,
            out=out or "runs",
            watch=watching,
            command=typed(),
        ),
        wide=wide,
    )


def _resume(record: Path, budget_minutes: float | None, *, wide: bool) -> None:
    """Measures what a run that ended early has not."""
    from bench import api
    from bench.running.resume import require_run

    file = api.read_run(record)
    if file.passing or not api.is_complete(file):
        require_run(file)  # before it is read again, which a pipe cannot be
    if api.is_complete(file):
        say(f"{file.path} ran to its end: nothing is left to measure.")
        _finish(file, wide=wide)
        return
    result = api.resume_run(record, budget_minutes=budget_minutes, watch=watching, command=typed())
    _finish(result, wide=wide)


def _finish(result: RunFile, *, wide: bool) -> None:
    """Prints the card of a run that has ended, and leaves with its exit code."""
    from bench import api

    show(render("table", [result], wide=wide), result.path)
    say(f"record: {result.path}")
    if result.end is not None and result.end.reason == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
    usable = all(
        row.status == "measured" or (row.status == "skipped" and row.reached) or row.sweep_end
        for row in api.summarize_run(result)
    )
    sys.exit(EXIT_OK if usable else EXIT_INCOMPLETE)
