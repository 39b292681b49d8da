"""`accelmark run`: measure a suite, or the rest of a run that ended early."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.common import WIDE, canvas, looking, render, say, show, typed, watching
from bench.commands.explain import explained
from bench.commands.options import (
    ABOVE_ZERO,
    DEVICE,
    ONLY,
    OUT,
    PATH,
    SPREAD,
    framework_option,
    precision_option,
    python_option,
)
from bench.commands.several_hosts import hosts
from bench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, RecordError

if TYPE_CHECKING:
    from bench.records.run import RunFile
    from bench.running.hosts.leader import Leader


@click.command(short_help="Measure a suite and print its card.")
@click.argument("suite", required=False, metavar="[SUITE]")
@DEVICE
@ONLY
@SPREAD
@click.option(
    "--launches",
    metavar="N",
    help="Launches of each case, or `auto`: until the interval is +-2 %.",
)
@click.option(
    "--budget-minutes",
    type=ABOVE_ZERO,
    metavar="M",
    help="Start no launch that would end later.  [default: the suite's]",
)
@click.option(
    "--resume",
    "record",
    type=PATH,
    metavar="RUN",
    help="Go on with a run that ended early. Its record says what is left to measure.",
)
@OUT
@click.option(
    "--explain",
    "explaining",
    is_flag=True,
    help="Then explain each case, operator by operator, in one more launch that makes no figure.",
)
@precision_option
@framework_option
@python_option
@WIDE
def run(
    suite: str | None,
    device: str | None,
    only: str | None,
    spread: int | None,
    launches: str | None,
    budget_minutes: float | None,
    record: Path | None,
    out: Path | None,
    explaining: bool,
    precision: str | None,
    framework: str | None,
    python: str | None,
    wide: bool,
) -> None:
    """Measure SUITE and print its report card.

    SUITE: a name from `accelmark list suites` (quick, quick@1), or a .toml file. Default: quick.
    """
    if record is not None:
        given: dict[str, object] = {"SUITE": suite, "--device": device, "--only": only}
        given |= {"--launches": launches, "--devices": spread, "--explain": explaining or None}
        given |= {"--precision": precision, "--framework": framework, "--out": out}
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise RecordError(
                f"--resume {record}: the record says what to measure. Leave out "
                f"{', '.join(wrong)}, or start a new run without --resume."
            )
        with hosts(None, resume="yes") as leader:
            _resume(record, budget_minutes, leader, python, wide=wide)
        return
    from bench import api

    asked = {"--device": device, "--only": only, "--devices": spread, "--launches": launches}
    asked["--precision"] = precision
    with hosts(suite or "quick", **asked) as leader:
        result = api.run_suite(
            suite or "quick",
            device=device,
            only=only,
            devices=spread,
            launches=launches,
            budget_minutes=budget_minutes,
            out=out or "runs",
            looking=looking,
            watch=watching,
            command=typed(),
            leader=leader,
            explain=explaining,
            framework=framework,
            python=python,
            precision=precision,
        )
        _finish(result, leader, wide=wide)


def _resume(
    record: Path,
    budget_minutes: float | None,
    leader: Leader | None,
    python: str | None,
    *,
    wide: bool,
) -> None:
    """Measures what a run that ended early has not."""
    from bench import api
    from bench.running.resume import require_run

    file = api.read_run(record)
    if file.passing or not file.complete:
        require_run(file)  # before it is read again, which a pipe cannot be
    if file.complete:
        say(f"{file.path}: this run is complete: nothing is left to measure.")
        _finish(file, leader, wide=wide)
        return
    result = api.resume_run(
        record,
        budget_minutes=budget_minutes,
        looking=looking,
        watch=watching,
        command=typed(),
        leader=leader,
        python=python,
    )
    _finish(result, leader, wide=wide)


def _finish(result: RunFile, leader: Leader | None, *, wide: bool) -> None:
    """Prints the card of a run that has ended, and leaves with its exit code."""
    from bench import api
    from bench.judging.explaining.explained import ended_before

    show(render("table", [result], wide=wide), result.path)
    if result.run.explanations:
        shown = explained(result, "table", canvas(None).width, wide=wide)
        show(f"\n{shown}", result.path)
    say(f"record: {result.path}")
    if leader is not None and leader.lost:
        again = f"accelmark run --resume {result.path}"
        say(f"error: {leader.lost}. On all hosts again, go on with: {again}")
        sys.exit(EXIT_INCOMPLETE)
    if result.end is not None and result.end.reason == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
    usable = all(
        row.status == "measured" or (row.status == "skipped" and row.reached) or row.sweep_end
        for row in api.summarize_run(result)
    )
    sys.exit(EXIT_OK if usable and not ended_before(result) else EXIT_INCOMPLETE)
