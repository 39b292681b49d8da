"""`accelmark compare`: who is faster than BASE, or why that cannot be said."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.common import canvas, say
from bench.errors import EXIT_INCOMPLETE, EXIT_SLOWER, ComparisonError, RecordError

if TYPE_CHECKING:
    from bench.records.run import RunFile


@click.command()
@click.argument("base", type=click.Path(path_type=Path), metavar="BASE")
@click.argument(
    "others", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="OTHER..."
)
@click.option(
    "--price",
    "prices",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    metavar="P",
    help="What an hour of a device costs: once for BASE and once for each OTHER, in order.",
)
@click.option(
    "--fail-if-slower",
    type=click.FloatRange(min=0, max=100),
    metavar="PERCENT",
    help="Exit 3 if a case is surely slower, by PERCENT or more; 1 if one cannot be judged.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--width", type=click.IntRange(60, 500), help="Columns of the table. Default: the terminal's."
)
def compare(
    base: Path,
    others: tuple[Path, ...],
    prices: tuple[float, ...],
    fail_if_slower: float | None,
    as_json: bool,
    width: int | None,
) -> None:
    """Say who is faster than BASE, by how much, how surely; or why that cannot be said."""
    from bench.judging import compare as comparing
    from bench.judging import verdicts
    from bench.reports import _comparison

    if prices and len(prices) != len(others) + 1:
        raise ComparisonError(
            f"--price is given {len(prices)} times for {len(others) + 1} runs. Give it once for "
            "BASE and once for each OTHER, in their order."
        )
    with _without_collection():
        first = _whole(base)
        comparisons = [
            comparing.compare(
                first,
                _whole(other),
                comparing.Prices(base=prices[0], other=prices[k]) if prices else None,
            )
            for k, other in enumerate(others, start=1)
        ]
    if as_json:
        click.echo(json.dumps([_comparison.flat(one) for one in comparisons], indent=2))
    else:
        click.echo(_comparison.render(comparisons, canvas(width)), nl=False)
    if fail_if_slower is not None:
        slower = [c for one in comparisons for c in verdicts.slower_than(one, fail_if_slower)]
        for case in slower:
            say(f"slower by {1 - (case.ratio or 0):.1%}: {case.case.label}")
        if slower:
            sys.exit(EXIT_SLOWER)
        unjudged = [c for one in comparisons for c in verdicts.undecidable(one)]
        for case in unjudged:
            say(f"not judged ({case.verdict}): {case.case.label}")
        if unjudged:
            sys.exit(EXIT_INCOMPLETE)
    if not any(one.ratios for one in comparisons):
        sys.exit(EXIT_INCOMPLETE)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Large records are nothing but values that stay: looking for garbage doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _whole(path: Path) -> RunFile:
    """A run of which every line can be read: a ratio of half a run would pass for the whole."""
    from bench.exchange.benchmark_json import read_any

    run = read_any(path)
    if run.damage:
        raise RecordError(
            f"{run.damage}. A damaged run is not compared; `accelmark report` shows what is whole "
            "in it. Run the rest again, or restore the file."
        )
    return run
