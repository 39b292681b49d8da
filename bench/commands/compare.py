"""`accelmark compare`: who is faster than BASE, or why that cannot be said."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench import units
from bench.commands import explain
from bench.commands.common import WIDE, canvas, put_report, render, say
from bench.commands.options import ABOVE_ZERO, PATH, PERCENT, json_option, width_option
from bench.commands.streams import put_file
from bench.errors import EXIT_INCOMPLETE, EXIT_SLOWER, ComparisonError

if TYPE_CHECKING:
    from bench.judging.comparing.comparison import Comparison


@click.command(short_help="Say who is faster, or why that is open.")
@click.argument("base", type=PATH, metavar="BASE")
@click.argument("others", nargs=-1, required=True, type=PATH, metavar="OTHER...")
@click.option(
    "--price",
    "prices",
    type=ABOVE_ZERO,
    multiple=True,
    metavar="P",
    help="What an hour of a device costs. Give it once for each run, BASE first.",
)
@click.option(
    "--systems",
    is_flag=True,
    help="Whole systems: the same work at equal global batch, on however many devices each has.",
)
@click.option(
    "--devices",
    multiple=True,
    metavar="N",
    help="With --systems: how many, or how spread (fsdp64). Once for each run. Default: the most.",
)
@click.option(
    "--tpot-ms",
    type=ABOVE_ZERO,
    metavar="X",
    help="Served loads: the best throughput of each within X ms a token, whatever the load.",
)
@click.option(
    "--fail-if-slower",
    type=PERCENT,
    metavar="PERCENT",
    help="Exit 3 if a case is surely slower, by PERCENT or more; exit 1 if one cannot be judged.",
)
@click.option(
    "--explain",
    "explaining",
    is_flag=True,
    help="Of two explained runs: which classes of operators make the difference of the steps.",
)
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, a row a case.")
@width_option
@WIDE
def compare(
    base: Path,
    others: tuple[Path, ...],
    prices: tuple[float, ...],
    systems: bool,
    devices: tuple[str, ...],
    tpot_ms: float | None,
    fail_if_slower: float | None,
    explaining: bool,
    as_json: bool,
    as_csv: bool,
    width: int | None,
    wide: bool,
) -> None:
    """Say who is faster than BASE, by how much, how surely; or why that cannot be said."""
    from bench import api
    from bench.judging.comparing import verdicts
    from bench.judging.comparing.compare import Prices

    for option, given in (("--price", prices), ("--devices", devices)):
        if given and len(given) != len(others) + 1:
            raise ComparisonError(
                f"{option} is given {units.counted(len(given), 'time')} for {len(others) + 1} "
                "runs. Give it once for each run, BASE first, in their order."
            )
    if devices and not systems:
        raise ComparisonError(
            "--devices chooses among whole systems: give --systems too. Without it equal cases are "
            "compared, each on the devices that it says."
        )
    if as_json and as_csv:
        raise ComparisonError("--json and --csv: give one of them.")
    if tpot_ms is not None and systems:
        raise ComparisonError(
            "--tpot-ms chooses the load of each side, --systems the devices: give one of them."
        )
    format_name = "json" if as_json else "csv" if as_csv else "table"
    first = api.read_run(base)
    if explaining:
        if prices or systems or tpot_ms is not None or fail_if_slower is not None:
            raise ComparisonError(
                "--explain says where a difference lies: leave out --price, --systems, --tpot-ms "
                "and --fail-if-slower, which ask how large it is."
            )
        rest = [api.read_run(other) for other in others]
        text = explain.compared(first, rest, as_json, as_csv, canvas(width).width)
        put_report(text, format_name)
        return
    each = [Prices(base=prices[0], other=price) for price in prices[1:]]
    wanted = [(devices[0], there) for there in devices[1:]]
    try:
        if systems:
            comparisons = [
                api.compare_systems(first, other, price, spread or ("", ""))
                for other, price, spread in itertools.zip_longest(others, each, wanted)
            ]
        else:  # no price at all, or one for each
            pairs = itertools.zip_longest(others, each)
            comparisons = [api.compare_runs(first, *pair, tpot_ms=tpot_ms) for pair in pairs]
    except ComparisonError as error:
        if as_json and error.code:
            refused = {"refused": {"code": error.code, "reason": str(error)}}
            put_file(json.dumps([refused], indent=2) + "\n")
        raise
    put_report(render(format_name, comparisons, width, wide=wide), format_name)

    def who(one: Comparison) -> str:
        return f"{one.other.path}: " if len(others) > 1 else ""

    if fail_if_slower is not None:
        slower = [(x, c) for x in comparisons for c in verdicts.slower_than(x, fail_if_slower)]
        for one, case in slower:
            say(f"{who(one)}slower by {1 - (case.ratio or 0):.1%}: {case.label}")
        if slower:
            sys.exit(EXIT_SLOWER)
        unjudged = [(x, c) for x in comparisons for c in verdicts.undecidable(x)]
        for one, case in unjudged:
            say(f"{who(one)}not judged ({case.verdict}, {', '.join(case.codes)}): {case.label}")
        if unjudged:
            sys.exit(EXIT_INCOMPLETE)
    if not any(one.ratios for one in comparisons):
        sys.exit(EXIT_INCOMPLETE)
