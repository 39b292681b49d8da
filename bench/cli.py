"""The command `accelmark`. Data on stdout, progress on stderr, exit codes as in `bench.errors`.

Built on click: it imports in 40 ms, and says what is wrong with a command line in one message.
Everything that is slow to import is imported inside the command that needs it.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from bench import __version__
from bench.errors import (
    EXIT_BAD_INPUT,
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SLOWER,
    AccelmarkError,
    ComparisonError,
    OutputError,
    RecordError,
    UnknownName,
    suggestion,
)

if TYPE_CHECKING:
    from bench.backend import DeviceInfo
    from bench.record import RunFile, Settings
    from bench.report import Canvas
    from bench.run import Face

EXIT_CODES = """\b
Exit codes:
  0    every planned case was measured, or skipped because the device cannot do it
  1    the run ended, and at least one case failed, is void or was not reached;
       compare: no case could be compared, or --fail-if-slower could not judge one
  2    bad input: the message says what, where, what is allowed and what to do
  3    compare --fail-if-slower: a case is slower
  130  interrupted: workers ended, what was measured is on disk and on the card"""


class Commands(click.Group):
    """A group that says which commands there are when it is given another."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Raises `UnknownName` for a command that there is not."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            raise UnknownName(
                f"accelmark {args[0]}: unknown command.{suggestion(args[0], self.commands)}"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="accelmark")
def commands() -> None:
    """The same step on any accelerator: who is faster, by how much, how surely.

    Runs offline and unprivileged, and sends nothing anywhere.
    """


@commands.command()
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
    from bench import config, plan
    from bench.run import begin, run_id, session

    read_suite = config.read_suite(config.find_suite(suite or "quick"))
    cases = plan.plan(read_suite)
    if only is not None:
        cases = plan.select(cases, only)
    settings = config.with_launches(read_suite.settings, launches, "--launches")
    chosen = _choose(_SideOptions(device))
    identity = run_id()
    path = (out or Path("runs")) / f"{read_suite.name}-{chosen.backend}-{identity}.jsonl"
    with _termination_as_interrupt(), _face(settings) as face:
        writer = begin(path, identity, read_suite.name, cases, settings, chosen, _command())
        with contextlib.closing(writer):
            budget = None if budget_minutes is None else budget_minutes * 60
            reason = session(writer, cases, settings, chosen, face, budget).run()
    _finish(path, reason)


def _resume(record: Path, budget_minutes: float | None) -> None:
    """Measures what a run that ended early has not."""
    from bench.record import read
    from bench.run import resume, session

    file = read(record)
    if file.end is not None and file.end.reason == "complete":
        _say(f"{file.path} ran to its end: nothing is left to measure.")
        _finish(Path(file.path), "complete")
        return
    address = f"{file.run.device.get('backend')}:{file.run.device.get('index')}"
    chosen = _choose(_SideOptions(address))
    settings = file.run.settings
    with _termination_as_interrupt(), _face(settings) as face:
        writer = resume(file, chosen, _command())
        with contextlib.closing(writer):
            budget = None if budget_minutes is None else budget_minutes * 60
            reason = session(
                writer, file.run.plan, settings, chosen, face, budget, done=file.launches
            ).run()
    _finish(Path(file.path), reason)


def _finish(path: Path, reason: str) -> None:
    """Prints the card of a run that has ended, and leaves with its exit code."""
    from bench.record import read
    from bench.summary import summarize

    result = read(path)
    click.echo(_render("table", [result]), nl=False)
    _say(f"record: {path}")
    if reason == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
    usable = all(
        row.status == "measured" or (row.status == "skipped" and row.reached)
        for row in summarize(result)
    )
    sys.exit(EXIT_OK if usable else EXIT_INCOMPLETE)


LISTS = ("workloads", "suites", "backends", "reports", "precisions", "chips")


@commands.command("list")
@click.argument("what", default="all", metavar="[WHAT]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(what: str, as_json: bool) -> None:
    """List workloads, suites, backends, reports, precisions or chips (default: all of them)."""
    if what not in (*LISTS, "all"):
        raise UnknownName(f"accelmark list {what}: unknown list.{suggestion(what, LISTS)}")
    listed = {name: _listing(name) for name in LISTS if what in (name, "all")}
    if as_json:
        click.echo(json.dumps(listed, indent=2))
        return
    for name, rows in listed.items():
        click.echo(f"{name}:")
        width = max(len(key) for key in rows)
        for key, summary in rows.items():
            click.echo(f"  {key.ljust(width)}  {summary}")


def _listing(what: str) -> dict[str, str]:
    from bench import catalogue, chips
    from bench.precision import PRECISIONS

    if what == "chips":
        return {chip.name: chip.summary for chip in chips.chips()}
    if what == "suites":
        return {name: _suite_summary(file) for name, file in catalogue.suites().items()}
    if what == "precisions":
        return {name: precision.summary for name, precision in PRECISIONS.items()}
    kinds: dict[str, catalogue.Kind] = {
        "workloads": "workloads",
        "backends": "backends",
        "reports": "reports",
    }
    return {name: plug_in.summary for name, plug_in in catalogue.plug_ins(kinds[what]).items()}


def _suite_summary(file: Path) -> str:
    from bench.config import read_suite

    suite = read_suite(file)
    return suite.description


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def devices(as_json: bool) -> None:
    """Show the devices that are here; for each backend without one, why, and what to do next."""
    from bench import catalogue, probe, units

    found = probe.probe(list(catalogue.plug_ins("backends")))
    if as_json:
        click.echo(json.dumps([_builtins(one) for one in found], indent=2))
        return
    for one in found:
        for device in one.devices:
            memory = units.memory(device.memory_bytes) if device.memory_bytes else "memory unknown"
            facts = ", ".join(f"{key} {value}" for key, value in device.facts.items())
            told = [device.name, device.vendor, memory, " ".join(device.precisions)]
            told += ["simulated: no measurement"] if device.simulated else []
            click.echo(f"{device.address}: {', '.join(filter(None, told))} ({facts})")
        if not one.devices:
            click.echo(f"no {one.reason}")


@commands.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--format",
    "format_name",
    default="table",
    show_default=True,
    help="See `accelmark list reports`.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there, not to stdout."
)
@click.option(
    "--width", type=click.IntRange(60, 500), help="Columns of the table. Default: the terminal's."
)
def report(
    runs: tuple[Path, ...], format_name: str, output: Path | None, width: int | None
) -> None:
    """Print the report of one or more runs (a .jsonl file, or the folder it lies in)."""
    from bench.benchmark_json import read_any

    files = [read_any(path) for path in runs]
    text = _render(format_name, files, width)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)
    damaged = [file.damage for file in files if file.damage]
    if damaged:
        _say(
            f"error: {damaged[0]}. The report above holds the records before it, which are whole. "
            "Run the rest again, or restore the file."
        )
        sys.exit(EXIT_BAD_INPUT)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}). Give a file in a folder that is there."
        ) from error
    _say(f"written: {path}")


@commands.command()
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
    from bench import compare as comparing
    from bench import compare_card

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
        click.echo(json.dumps([compare_card.flat(one) for one in comparisons], indent=2))
    else:
        click.echo(compare_card.render(comparisons, _canvas(width)), nl=False)
    if fail_if_slower is not None:
        slower = [c for one in comparisons for c in comparing.slower_than(one, fail_if_slower)]
        for case in slower:
            _say(f"slower by {1 - (case.ratio or 0):.1%}: {case.case.label}")
        if slower:
            sys.exit(EXIT_SLOWER)
        unjudged = [c for one in comparisons for c in comparing.undecidable(one)]
        for case in unjudged:
            _say(f"not judged ({case.verdict}): {case.case.label}")
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
    from bench.benchmark_json import read_any

    run = read_any(path)
    if run.damage:
        raise RecordError(
            f"{run.damage}. A damaged run is not compared; `accelmark report` shows what is whole "
            "in it. Run the rest again, or restore the file."
        )
    return run


@commands.command()
@click.argument("suite", default="quick")
@click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="BACKEND[:INDEX]",
    help="Once for both sides, or once for each.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set for side B only. May be given several times.",
)
@click.option(
    "--python",
    "pythons",
    multiple=True,
    metavar="PATH",
    help="An interpreter with accelmark installed: once for B, or once for each side.",
)
@click.option("--only", metavar="GLOB", help="Only these cases, e.g. 'llama-*' or '*-train'.")
@click.option(
    "--launches",
    metavar="N",
    default="10",
    show_default=True,
    help="Processes per case and side, or `auto`.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder for the two records.",
)
def ab(
    suite: str,
    devices: tuple[str, ...],
    variables: tuple[str, ...],
    pythons: tuple[str, ...],
    only: str | None,
    launches: str,
    out: Path,
) -> None:
    """Measure SUITE on two sides in turns (ABAB) on this host, and compare B with A.

    The sides differ in --device, --env or --python. With the same --device twice it is an A/A test:
    what it calls FASTER or SLOWER is this machine's noise.
    """
    from bench import compare as comparing
    from bench import compare_card, config, plan
    from bench.record import read
    from bench.run import alternate, begin, run_id, session

    sides = _sides(devices, variables, pythons)
    read_suite = config.read_suite(config.find_suite(suite))
    cases = plan.plan(read_suite)
    if only is not None:
        cases = plan.select(cases, only)
    settings = config.with_launches(read_suite.settings, launches, "--launches")
    identity = run_id()
    chosen = [_choose(side, f"side {letter}: ") for letter, side in zip("AB", sides, strict=True)]
    paths = [
        out / f"{read_suite.name}-{device.backend}-{identity}-{letter}.jsonl"
        for letter, device in zip("ab", chosen, strict=True)
    ]
    with _termination_as_interrupt(), _face(settings) as face, contextlib.ExitStack() as stack:
        sessions = []
        for path, device, side in zip(paths, chosen, sides, strict=True):
            name = f"{identity}{path.stem[-2:]}"
            writer = begin(path, name, read_suite.name, cases, settings, device, _command())
            stack.callback(writer.close)
            sessions.append(
                session(
                    *(writer, cases, settings, device, face),
                    python=side.python,
                    forced=side.forced,
                )
            )
        reason = alternate(*sessions)
    first, second = (read(path) for path in paths)
    comparison = comparing.compare(first, second)
    click.echo(compare_card.render([comparison], _canvas(None)), nl=False)
    for path in paths:
        _say(f"record: {path}")
    if reason == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
    judged = all(case.ratio is not None for case in comparison.cases)
    sys.exit(EXIT_OK if judged else EXIT_INCOMPLETE)


class _SideOptions(NamedTuple):
    """One side of `ab`, or all of `run`."""

    device: str | None = None
    python: str = sys.executable
    forced: Mapping[str, str] = {}


def _sides(
    devices: tuple[str, ...], variables: tuple[str, ...], pythons: tuple[str, ...]
) -> tuple[_SideOptions, _SideOptions]:
    """What the options of `ab` mean; `ComparisonError` if the two sides are not told apart."""
    for option, values in (("--device", devices), ("--python", pythons)):
        if len(values) > 2:
            raise ComparisonError(f"{option} is given {len(values)} times. Two sides: at most two.")
    for variable in variables:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", variable, re.DOTALL):
            raise ComparisonError(f"--env {variable}: write NAME=VALUE, e.g. OMP_NUM_THREADS=1.")
    if not variables and not pythons and len(devices) < 2:
        raise ComparisonError(
            "ab: nothing tells the two sides apart. Give --device twice, --env NAME=VALUE or "
            "--python PATH; the same --device twice is an A/A test."
        )
    for python in pythons:
        if shutil.which(python) is None:
            raise ComparisonError(
                f"--python {python}: no such program. Give the path of an interpreter in whose "
                "environment accelmark is installed."
            )
    device_a, device_b = (devices * 2)[:2] if devices else (None, None)
    python_a, python_b = pythons if len(pythons) == 2 else (sys.executable, *pythons, "")[:2]
    forced = dict(variable.split("=", 1) for variable in variables)
    return (
        _SideOptions(device_a, python_a),
        _SideOptions(device_b, python_b or sys.executable, forced),
    )


def _choose(side: _SideOptions, who: str = "") -> DeviceInfo:
    """The device, and on stderr which one it is and what was passed over."""
    from bench import chips, probe

    chips.chips()  # a bad file of the user's is said now, not after the hours of a run
    chosen, remarks = probe.choose(*side)
    _say(f"{who}device: {chosen.address}, {chosen.name}")
    for remark in remarks:
        _say(f"  passed over {remark}")
    return chosen


@commands.command()
@click.argument("run_path", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--name", help="Of the folder. Default: suite and device.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of published runs.",
)
def publish(run_path: Path, name: str | None, results: Path) -> None:
    """Lay RUN among the published results, without what identifies people or machines.

    It must have ten launches of every case, have run to its end, have passed its numerics, and say
    what it ran on; else every reason is named.
    """
    from bench import catalogue
    from bench import publish as publishing
    from bench.record import read

    card = catalogue.load("reports", "table")
    folder = publishing.publish(read(run_path), results, name, card)
    click.echo((folder / publishing.CARD).read_text(encoding="utf-8"), nl=False)
    _say(f"published: {folder}, and {results / publishing.INDEX} names it")


@commands.command()
def schema() -> None:
    """Print the JSON Schema of a record: of each line of a run's file."""
    from bench.record import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


def _command() -> list[str]:
    from bench.run import command_line

    return command_line("accelmark", sys.argv[1:])


def _builtins(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def _render(format_name: str, runs: list[RunFile], width: int | None = None) -> str:
    from bench import catalogue

    renderer = catalogue.load("reports", format_name)
    text: str = renderer.render(runs, _canvas(width))
    return text


def _canvas(width: int | None) -> Canvas:
    from bench.report import Canvas

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return Canvas(width=width or shutil.get_terminal_size((100, 24)).columns, colour=colour)


@contextlib.contextmanager
def _face(settings: Settings) -> Iterator[Face]:
    """The live display where stdout and stderr are a terminal, else plain lines on stderr."""
    from bench.live import LiveFace, PlainFace

    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield PlainFace(sys.stderr, settings)
        return
    from rich.console import Console

    with LiveFace(Console(stderr=True), settings) as face:
        yield face


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal end a run as Ctrl-C does: workers too, nothing lost."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _say(text: str) -> None:
    click.echo(text, err=True)


def main() -> None:
    """The console script: bad input is one message and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without ± shows ?, and no traceback
            stream.reconfigure(errors="replace")
    try:
        commands(prog_name="accelmark", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except AccelmarkError as error:
        _say(f"error: {error}")
        sys.exit(EXIT_BAD_INPUT)
