"""`accelmark ab`: two sides on one host, in turns."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from pathlib import Path

import click

from bench.commands.common import WIDE, Side, choose, face_of, render, say, typed
from bench.commands.options import ONLY, PATH, SPREAD, precision_option
from bench.commands.streams import put_card
from bench.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_OK, ComparisonError

PYTHON = "Python (3.11 or later) with torch, numpy, msgspec and psutil; it runs this accelmark"


@click.command(short_help="Measure a suite on two sides, and compare them.")
@click.argument("suite", default="quick")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="BACKEND[:INDEX]",
    help="Give it once for both sides, or once for each side.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME=VALUE",
    help="Environment of side B only. May be given several times.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PATH",
    help=f"A {PYTHON}. Give it once for side B, or once for each side.",
)
@ONLY
@SPREAD
@click.option(
    "--launches",
    metavar="N",
    default="10",
    show_default=True,
    help="Launches of each case on each side, or `auto`.",
)
@precision_option
@click.option(
    "--out",
    type=PATH,
    default=Path("runs"),
    show_default=True,
    help="Folder for the two records.",
)
@WIDE
def ab(
    suite: str,
    devices: tuple[str, ...],
    variables: tuple[str, ...],
    pythons: tuple[str, ...],
    only: str | None,
    spread: int | None,
    launches: str,
    precision: str | None,
    out: Path,
    wide: bool,
) -> None:
    """Measure SUITE on two sides in turns on this host, and compare side B with side A.

    The sides differ in --device, --env or --python. The same --device twice is an A/A test: what it
    then calls FASTER or SLOWER is noise of this machine.
    """
    from bench import api
    from bench.judging.comparing.verdicts import unanswered
    from bench.planning import plan, suite_file
    from bench.planning.instead import both, wanted
    from bench.records.runfile import read
    from bench.running.header import begin, run_id
    from bench.running.hosts import seating
    from bench.running.hosts.placement import require_one_host
    from bench.running.session import open_session
    from bench.running.turns import alternate

    require_one_host("accelmark ab")
    sides = _sides(devices, variables, pythons)
    read_suite = suite_file.read_suite(suite_file.find_suite(suite))
    is_open = plan.leaves_devices_open(read_suite)
    if not is_open or spread is not None:
        plan.require(read_suite, spread, wanted(None, precision), only)
    settings = suite_file.with_launches(read_suite.settings, launches, "--launches")
    if (minutes := read_suite.budget_minutes) is not None:
        say(f"the suite's budget of {minutes:g} minutes ends a `run`, and no `ab`")
    identity = run_id()
    chosen = [choose(side, f"side {letter}: ") for letter, side in zip("AB", sides, strict=True)]
    if is_open:
        spread = min(seating.size(spread, one.device, one.here) for one in chosen)
    taken = both(*(wanted(one.device, precision) for one in chosen))
    what = plan.whole(read_suite, spread, taken, only)
    for one in chosen:
        seating.require_first(what.cases, one.device, what.left_out)
    with face_of(settings) as face, contextlib.ExitStack() as stack:
        sessions = []
        for letter, (device, _, here), side in zip("ab", chosen, sides, strict=True):
            name = f"{identity}-{letter}"
            path = out / f"{read_suite.name}-{device.backend}-{name}.jsonl"
            header = (name, read_suite.title, what.cases, settings, device, typed())
            writer = begin(path, *header, what.left_out, what.instead)
            stack.callback(writer.close)
            sessions.append(
                open_session(
                    writer, device, face, python=side.python, forced=side.forced, here=here
                )
            )
        reason = alternate(*sessions)
    paths = [session.writer.path for session in sessions]
    first, second = (read(path) for path in paths)
    comparison = api.compare_runs(first, second)
    put_card(render("table", comparison, wide=wide))
    for path in paths:
        say(f"record: {path}")
    if reason == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
    answered = comparison.ratios and not unanswered(comparison)
    sys.exit(EXIT_OK if answered else EXIT_INCOMPLETE)


def _sides(
    devices: tuple[str, ...], variables: tuple[str, ...], pythons: tuple[str, ...]
) -> tuple[Side, Side]:
    """What the options of `ab` mean; `ComparisonError` if the two sides are not told apart."""
    for option, values in (("--device", devices), ("--python", pythons)):
        if len(values) > 2:
            raise ComparisonError(
                f"{option} is given {len(values)} times. Give it at most twice: once for each side."
            )
    for variable in variables:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", variable, re.DOTALL):
            raise ComparisonError(f"--env {variable}: write NAME=VALUE, e.g. OMP_NUM_THREADS=1.")
    if not variables and not pythons and len(devices) < 2:
        raise ComparisonError(
            "accelmark ab: the two sides are the same. Give --device twice, --env NAME=VALUE or "
            "--python PATH. For an A/A test, give the same --device twice."
        )
    for python in pythons:
        if shutil.which(python) is None:
            raise ComparisonError(
                f"--python {python}: there is no such program. Give the path of a {PYTHON}."
            )
    device_a, device_b = (devices * 2)[:2] if devices else (None, None)
    python_a, python_b = pythons if len(pythons) == 2 else (sys.executable, *pythons, "")[:2]
    forced = dict(variable.split("=", 1) for variable in variables)
    return (
        Side(device_a, python_a),
        Side(device_b, python_b or sys.executable, forced),
    )
