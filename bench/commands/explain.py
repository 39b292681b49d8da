"""`accelmark explain`: where a step's time goes, operator by operator, and how far from what this
box can do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.common import (
    WIDE,
    canvas,
    looking,
    put_report,
    require_output,
    say,
    typed,
    watching,
)
from bench.commands.options import (
    DEVICE,
    LAUNCHES,
    OUT,
    output_option,
    precision_option,
    width_option,
)
from bench.errors import EXIT_BAD_INPUT, EXIT_INCOMPLETE, EXIT_INTERRUPTED

if TYPE_CHECKING:
    from bench.records.run import RunFile

FORMATS = ("table", "json", "csv", "trace")


@click.command(short_help="Say where a step's time goes, operator by operator.")
@click.argument("what", metavar="CASE|SUITE|RUN")
@DEVICE
@click.option("--only", metavar="GLOB", help="Explain only these cases of a suite.")
@click.option(
    "--launches",
    type=LAUNCHES,
    metavar="N",
    help="Processes that explain each case.  [default: 5]",
)
@click.option(
    "--try",
    "trying",
    is_flag=True,
    help="Also try known remedies on the whole step, each checked, and say what each came to.",
)
@precision_option
@OUT
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="trace: for Chrome and Perfetto.",
)
@output_option
@width_option
@WIDE
def explain(
    what: str,
    device: str | None,
    only: str | None,
    launches: int | None,
    trying: bool,
    precision: str | None,
    out: Path | None,
    format_name: str,
    output: Path | None,
    width: int | None,
    wide: bool,
) -> None:
    """Say of a step's time which operators take it, and how far each is from its bound.

    CASE: a name as `resnet50-train`, or a glob, of the shipped suites. SUITE: as of `accelmark
    run`. RUN: a record that holds explanations already; nothing is measured.
    """
    from bench import api

    measured = not _is_record(what)
    if not measured:
        given = {"--device": device, "--only": only, "--launches": launches, "--out": out}
        given |= {"--try": trying or None, "--precision": precision}
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise click.UsageError(f"{what} is measured already: leave out {', '.join(wrong)}")
        run = api.read_run(what)
    else:
        if output is not None:
            require_output(output, format_name)
        run = api.explain_suite(
            what,
            device=device,
            only=only,
            launches=launches or api.EXPLANATIONS,
            trying=trying,
            out=out or "runs",
            looking=looking,
            watch=watching,
            command=typed(),
            precision=precision,
        )
    text = explained(run, format_name, canvas(width).width, wide=wide)
    try:
        put_report(text, format_name, output)
    finally:
        say(f"record: {run.path}")
    if run.damage:
        say(f"error: {run.damage}. What is above is of the lines before it. {run.remedy}")
        sys.exit(EXIT_BAD_INPUT)
    finish(run, measured)


def _is_record(what: str) -> bool:
    """Whether it is read as `report` reads a RUN; what a suite or a case is called is theirs."""
    from bench.errors import AccelmarkError
    from bench.planning.explainable import suite_of
    from bench.records.opened import STDIN

    suffixes = Path(what).suffixes
    if ".toml" in suffixes[-1:]:
        return False
    if what == STDIN or ".jsonl" in suffixes or ".json" in suffixes:
        return True
    if not os.path.exists(what):  # noqa: PTH110 - Path raises of a name that is too long
        return False
    if "/" in what:
        return True
    try:
        suite_of(what, None)
    except AccelmarkError:
        return True
    return False


def explained(run: RunFile, format_name: str, width: int, *, wide: bool) -> str:
    """The explanations of a run in one of `FORMATS`; raises `RecordError` where it has none."""
    from bench.errors import RecordError
    from bench.exchange.chrome_trace import traced
    from bench.judging.explaining.explained import explain_run
    from bench.reports.flat import explained as flat_explained
    from bench.reports.flat.comma_separated import written
    from bench.reports.terminal import explained as explained_card

    found = explain_run(run)
    if not found:
        raise RecordError(
            f"{run.path}: this run explains nothing. Give one of `accelmark explain` or of "
            "`accelmark run --explain`."
        )
    if format_name == "trace":
        return json.dumps(traced(run, found)) + "\n"
    if format_name == "table":
        return explained_card.card(run, found, width, wide=wide)
    rows = flat_explained.rows(run, found)
    return written(rows) if format_name == "csv" else json.dumps(rows) + "\n"


def finish(run: RunFile, measured: bool) -> None:
    """Leaves with the exit code of what was explained; measured: by this command, now."""
    from bench.judging.explaining.explained import explain_run

    if measured and run.end is not None and run.end.reason == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
    if any(case.verdict != "EXPLAINED" for case in explain_run(run)):
        sys.exit(EXIT_INCOMPLETE)


def compared(
    base: RunFile, others: Sequence[RunFile], as_json: bool, as_csv: bool, width: int
) -> str:
    """Explained runs against the first: a card each, or rows of all."""
    from bench.judging.explaining.explained_pairs import explained_pairs
    from bench.reports.flat.comma_separated import written
    from bench.reports.terminal import explained_pairs as pairs_card

    each = [(other, explained_pairs(base, other)) for other in others]
    if as_json or as_csv:
        rows = [row for one, pairs in each for row in pairs_card.rows(base, one, pairs)]
        return written(rows) if as_csv else json.dumps(rows) + "\n"
    named = len(each) > 1
    return "\n".join(pairs_card.card(base, one, pairs, width, named) for one, pairs in each)
