"""What a program calls: run a suite, read a run, judge it, compare two, render either.

    import bench

    run = bench.run_suite("smoke", device="cpu", launches=3)
    print(bench.render(run))
    for row in bench.summarize_run(run):
        print(row.case.label, row.throughput, row.unit)
    comparison = bench.compare_runs("results/quick-cpu-xeon-amx-2core", run)
    print(bench.render(comparison))

The command `accelmark` calls these, so that both do the same. Wherever a path is taken, a string
and a `pathlib.Path` will do. A value that cannot be used raises an `AccelmarkError`, whose message
is the whole story (`bench.errors`).
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import catalogue
from bench.errors import AccelmarkError, ComparisonError
from bench.exchange.benchmark_json import read_any
from bench.judging import chips
from bench.judging.comparing import systems
from bench.judging.comparing.at_tpot import compare_at_tpot, limit_seconds
from bench.judging.comparing.compare import Prices, compare, whole
from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.explaining.explained import explain_run
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.planning import plan, suite_file
from bench.planning.explainable import suite_of
from bench.planning.instead import wanted
from bench.records.case import Case
from bench.records.outcome import Failed, Measured, Skipped, Void
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import read
from bench.report import Canvas, Report
from bench.reports._compared import compared
from bench.running import probe, reached
from bench.running.elsewhere import HERE, Elsewhere, elsewhere, require_alone
from bench.running.face import Face, Nobody
from bench.running.header import begin, command_line, run_id
from bench.running.hosts import seating
from bench.running.hosts.placement import require_one_host
from bench.running.resume import require_run, resume
from bench.running.session import open_session

if TYPE_CHECKING:
    from _typeshed import StrPath

    from bench.backend import DeviceInfo
    from bench.running.hosts.leader import Leader

    Runs = RunFile | StrPath
    """A run, or where it lies."""
    Looking = Callable[[], contextlib.AbstractContextManager[object]]
    Watch = Callable[[DeviceInfo, Sequence[str], Settings], contextlib.AbstractContextManager[Face]]
    """Called once the device is chosen, with what is said of the choice; gives who watches."""

__all__ = [
    "AccelmarkError",
    "Case",
    "CaseComparison",
    "Comparison",
    "Failed",
    "Launch",
    "Measured",
    "Prices",
    "Row",
    "RunFile",
    "Settings",
    "Skipped",
    "Void",
    "compare_runs",
    "compare_systems",
    "explain_run",
    "explain_suite",
    "read_run",
    "render",
    "resume_run",
    "run_suite",
    "summarize_run",
]

RUNS = "runs"
"""Folder of the records, where nothing else is asked."""
EXPLANATIONS = 5
"""Of a case, where nothing else is asked: enough for an interval."""


@contextlib.contextmanager
def silent(device: DeviceInfo, remarks: Sequence[str], settings: Settings) -> Iterator[Face]:
    """A watch that says nothing."""
    yield Nobody()


def run_suite(
    suite: StrPath = "quick",
    *,
    device: str | None = None,
    only: str | None = None,
    devices: int | None = None,
    launches: int | str | None = None,
    budget_minutes: float | None = None,
    out: StrPath = RUNS,
    looking: Looking = contextlib.nullcontext,
    watch: Watch = silent,
    command: Sequence[str] | None = None,
    leader: Leader | None = None,
    explain: bool = False,
    framework: str | None = None,
    python: str | None = None,
    precision: str | None = None,
) -> RunFile:
    """Measures a suite, launch by launch, each in a process of its own; gives the run as recorded.

    suite: a shipped suite's name or a .toml file; device: `BACKEND[:INDEX]`, by default the first
    accelerator, else the CPU; only: globs over the cases' names, with commas between; devices:
    over how many of this host the cases are spread that leave it open, by default all of an
    accelerator host's, and two ranks on a CPU; launches: a number, or `auto`; budget_minutes: no
    launch is started that would end later, by default what the suite says; out: the folder of the
    record, which is written line by line and named by the run (`RunFile.path`); looking: entered
    while devices are looked for, which may take a while; watch: who is told how it goes; command:
    the command line that the record holds, by default the one that does the same; leader: of the
    hosts that a launcher has started; explain: whether each case is explained after all launches;
    framework: what computes, by default torch; python: the interpreter of another framework;
    precision: in which every case is measured that has it, by default what the suite says, or has
    instead on a device that lacks it.

    The run may have ended early (`RunFile.end`); `resume_run` goes on. Raises `HostsError`,
    `SuiteError`, `UnknownName`, `DeviceUnavailable` or `OutputError` before it measures.
    """
    read_suite, spread = suite_file.read_suite(suite_file.find_suite(suite)), devices
    is_open = plan.leaves_devices_open(read_suite)
    # What a number of devices rules out (`hsdp` on two) is no fault of a suite that leaves it open.
    if not is_open or devices is not None:
        plan.require(read_suite, devices, wanted(None, precision), only)
    count = None if launches is None else str(launches)
    budget = suite_file.budget("run_suite", budget_minutes) or read_suite.budget_minutes
    settings = suite_file.with_launches(read_suite.settings, count, "--launches")
    with looking():
        where = elsewhere(framework, python)
        require_alone(where, leader, explain=explain)
        chosen, remarks, here = choose(device, leader, where)
    if is_open:
        hosts = seating.ONE if leader is None else leader.hosts
        devices = seating.size(devices, chosen, here, hosts)
    what = plan.whole(read_suite, devices, wanted(chosen, precision), only)
    seating.require_first(what.cases, chosen, what.left_out)
    if command is None:
        given: dict[str, object] = {"device": device, "only": only, "devices": spread}
        given |= {"launches": launches, "budget-minutes": budget_minutes, "explain": explain}
        given |= {"framework": framework, "python": python, "precision": precision}
        command = _as_typed(["run", str(suite)], given, out)
    identity = run_id()
    path = Path(out) / f"{read_suite.name}-{chosen.backend}-{identity}.jsonl"
    with watch(chosen, remarks, settings) as face:
        header = (identity, read_suite.title, what.cases, settings, chosen, command)
        whys = (what.left_out, what.instead, int(explain), read_suite.budget_minutes)
        writer = begin(path, *header, *whys, framework=where.framework)
        with contextlib.closing(writer):
            open_session(
                *(writer, chosen, face, 60 * budget if budget else None),
                here=here,
                leader=leader,
                python=where.python,
            ).run()
    return read(writer.path)


def explain_suite(
    suite: StrPath,
    *,
    device: str | None = None,
    only: str | None = None,
    launches: int = EXPLANATIONS,
    trying: bool = False,
    out: StrPath = RUNS,
    looking: Looking = contextlib.nullcontext,
    watch: Watch = silent,
    command: Sequence[str] | None = None,
    precision: str | None = None,
) -> RunFile:
    """Explains each case of a suite, in so many processes each: operator by operator, how far from
    what this box can do. No launch of it makes a figure.

    suite: a shipped suite's name, a .toml file, or the name of a case (a glob) of the shipped
    suites: of the first that has it; trying: whether known remedies are tried, too; the rest as of
    `run_suite`. `bench.judging.explaining.explained.explain_run` judges it.
    """
    found, pattern = suite_of(str(suite), only)
    plan.require(found, None, wanted(None, precision), pattern)
    settings = suite_file.with_launches(found.settings, suite_file.times(launches), "--launches")
    with looking():
        chosen, remarks, here = choose(device)
    what = plan.whole(found, None, wanted(chosen, precision), pattern)
    if command is None:
        given = {"device": device, "only": only, "launches": launches, "try": trying}
        command = _as_typed(["explain", str(suite)], {**given, "precision": precision}, out)
    identity = run_id()
    path = Path(out) / f"{found.name}-{chosen.backend}-{identity}-explained.jsonl"
    with watch(chosen, remarks, settings) as face:
        whys = (what.left_out, what.instead, launches)
        header = (identity, found.title, what.cases, settings, chosen, command)
        writer = begin(path, *header, *whys, only_explained=True)
        with contextlib.closing(writer):
            open_session(writer, chosen, face, here=here, trying=trying).run()
    return read(writer.path)


def resume_run(
    record: StrPath,
    *,
    budget_minutes: float | None = None,
    looking: Looking = contextlib.nullcontext,
    watch: Watch = silent,
    command: Sequence[str] | None = None,
    leader: Leader | None = None,
    python: str | None = None,
) -> RunFile:
    """Measures what a run that ended early has not; gives the whole run.

    budget_minutes, leader, python: as of `run_suite`. A run that has ended by itself is given as it
    is. Raises `RecordError` where launches of two environments would mix, or where the record is
    none of `run_suite`'s.
    """
    budget = suite_file.budget("resume_run", budget_minutes)
    file = read(record)
    if file.complete:
        return file
    require_run(file)
    budget = budget or file.run.budget_minutes
    address = f"{file.run.device.get('backend')}:{file.run.device.get('index')}"
    where = elsewhere(file.run.framework, python)
    with looking():
        chosen, remarks, here = choose(address, leader, where)
    given = {"resume": record, "budget-minutes": budget_minutes, "python": python}
    typed = command or _as_typed(["run"], given)
    with watch(chosen, remarks, file.run.settings) as face:
        writer = resume(file, chosen, typed, leader.hosts if leader else seating.ONE, here)
        with contextlib.closing(writer):
            file = read(file.path)  # a large one's launches lie in it as it is now
            open_session(
                *(writer, chosen, face, 60 * budget if budget else None),
                done=file,
                here=here,
                leader=leader,
                python=where.python,
            ).run()
    return read(writer.path)


def choose(
    address: str | None, leader: Leader | None = None, where: Elsewhere = HERE
) -> probe.Chosen:
    """The device of that address, what is to be said of the choice, and how many there are: on all
    hosts, where a leader has several, which must have the same; where: what reaches it."""
    if leader is None:
        require_one_host("this")
    chips.chips()  # a bad file of the user's is said now, not after the hours of a run
    chosen = probe.choose_of(address) if where == HERE else reached.choose_by(where, address)
    return chosen._replace(here=leader.agree(chosen.device, chosen.here)) if leader else chosen


def read_run(path: StrPath) -> RunFile:
    """A run from its record, from the folder it lies in, or from what pytest-benchmark saved.

    Raises `RecordError` if it is none; of one that is damaged later on, `RunFile.damage` says how.
    """
    with _without_collection():
        return read_any(path)


def summarize_run(run: Runs) -> list[Row]:
    """One judged row for each planned case, in the plan's order, with a number or without."""
    return summarize(_run(run))


def compare_runs(
    base: Runs, other: Runs, prices: Prices | None = None, *, tpot_ms: float | None = None
) -> Comparison:
    """Each case of `other` against the same of `base`: ratio, interval and verdict, or why none.

    prices: what an hour of each side's device costs; tpot_ms: of served loads alone, the best of
    each side within this median TPOT, whatever the load. Raises `ComparisonError` if the two have
    nothing in common, or are the same run: one compared with its own copy is EQUIVALENT whatever
    it measured. Raises `RecordError` for a damaged run: a ratio of half a run would pass for the
    whole.
    """
    _require(prices)
    with _without_collection():
        if tpot_ms is not None:
            return compare_at_tpot(_whole(base), _whole(other), limit_seconds(tpot_ms), prices)
        return compare(_whole(base), _whole(other), prices)


def compare_systems(
    base: Runs,
    other: Runs,
    prices: Prices | None = None,
    devices: tuple[int | str, int | str] = ("", ""),
) -> Comparison:
    """Whole systems: the same work at equal global batch, on however many devices each side has.

    prices: what an hour of one device of each side costs; devices: of base and other, a number or
    a spread (`fsdp64`); by default the largest number that the side measured. Of each case
    `CaseComparison.system` has the ratio as count x chip x scaling. Raises as `compare_runs` does.
    """
    _require(prices)
    mine, theirs = map(str, devices)
    with _without_collection():
        return systems.compare_systems(_whole(base), _whole(other), prices, (mine, theirs))


def render(
    what: Runs | Comparison | Sequence[Runs] | Sequence[Comparison],
    format: str = "table",
    *,
    width: int = 100,
    colour: bool = False,
    wide: bool = False,
    beside_record: bool = False,
) -> str:
    """Runs, or comparisons of them, as text that ends in a newline.

    format: of runs one of `accelmark list reports`, of comparisons `table`, `json` or `csv`; width:
    columns of a table; wide: everything of every case, rather than a line; beside_record: for who
    typed the records' paths, so that a command to type next has them. Raises `UnknownName` for
    another format, or one of a package's that fails, and `MissingPackage` where a format needs a
    package that is not installed.
    """
    canvas = Canvas(width=width, colour=colour, wide=wide, beside_record=beside_record)
    several: list[Any] = [what] if _is_one(what) else list(what)  # type: ignore[arg-type]
    comparisons = [one for one in several if isinstance(one, Comparison)]
    if comparisons and len(comparisons) == len(several):
        return compared(comparisons, format, canvas)
    if comparisons:
        raise ComparisonError("render: give runs or comparisons, not both.")
    report: Report = catalogue.load("reports", format)
    runs = [_run(one) for one in several]
    with catalogue.blamed("reports", format):
        return report.render(runs, canvas)


def _is_one(what: object) -> bool:
    return isinstance(what, RunFile | Comparison | str | os.PathLike)


def _run(run: Runs) -> RunFile:
    return run if isinstance(run, RunFile) else read_run(run)


def _require(prices: Prices | None) -> None:
    if not isinstance(prices, Prices | None):
        raise ComparisonError(f"prices: give bench.Prices(base=, other=), not {prices!r}.")


def _whole(run: Runs) -> RunFile:
    return whole(_run(run))


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


def _as_typed(words: list[str], given: Mapping[str, object], out: StrPath = RUNS) -> list[str]:
    """The command line that does the same. given: options by name; a switch is True or False."""
    for name, value in {**given, "out": None if str(out) == RUNS else out}.items():
        if value is not None and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return command_line("accelmark", words)
