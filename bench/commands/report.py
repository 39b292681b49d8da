"""`accelmark report`: one or more runs, in any format."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.commands.common import WIDE, put_report, render, say
from bench.commands.options import PATH, output_option, width_option
from bench.errors import EXIT_BAD_INPUT, RecordError


@click.command(short_help="Print the report of runs, in any format.")
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN...")
@click.option(
    "--format",
    "format_name",
    default="table",
    show_default=True,
    help="One of `accelmark list reports`.",
)
@output_option
@width_option
@WIDE
def report(
    runs: tuple[Path, ...], format_name: str, output: Path | None, width: int | None, wide: bool
) -> None:
    """Print the report of one or more RUNs: records (*.jsonl), or their folders."""
    from bench import api

    files, refused = [], []
    for path in runs:
        try:
            files.append(api.read_run(path))
        except RecordError as error:
            refused.append(error)
    if not files:
        for one in refused[1:]:
            say(f"error: {one}")
        raise refused[0]
    text = render(format_name, files, width, wide=wide, handed_on=output is not None)
    put_report(text, format_name, output)
    for one in refused:
        say(f"error: {one} Nothing of it is in the report above.")
    damaged = [file for file in files if file.damage]
    for file in damaged:
        say(
            f"error: {file.damage}. The report above holds the lines before it, which are "
            f"good. {file.remedy}"
        )
    if damaged or refused:
        sys.exit(EXIT_BAD_INPUT)
