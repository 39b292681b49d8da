"""A suite as pytest items, each launch as a round of pytest-benchmark.

    pytest --pyargs bench.suite --accelmark-suite quick --benchmark-autosave

Launches of different cases must take turns, or drift of the machine would hit one and spare
another. So nothing is measured item by item: before the first item runs, one session measures every
case that was selected, as `accelmark run` does, and says so line by line. Each item then replays
its own launches to pytest-benchmark on a clock that only they move: a round is a launch, and its
time is seconds per item of work. pytest-benchmark's table, its saved files, `--benchmark-compare`
and `--benchmark-compare-fail` work unmodified, and `accelmark compare` reads the saved files.

`Mean` is the arithmetic mean of seconds per item over launches, so `OPS` is the harmonic mean of
their throughputs; accelmark's own card, printed below, gives the geometric mean, a little higher.

In every other pytest run this plugin does nothing, and imports nothing of accelmark but itself.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from bench.measuring.worker import Progress
    from bench.planning.suite_file import Suite
    from bench.records.case import Case
    from bench.records.run import Launch, RunFile, Settings  # noqa: F401 - RunFile: in a string

FUNCTION = "accelmark_workload"
"""A module's function of this name becomes one item for every case of the suite."""
DEFAULT_SUITE = "quick"
KEY = "accelmark"
"""As in `bench.exchange.benchmark_json`, which is not imported before it is needed."""
OPTIONS = ("suite", "device", "only", "launches", "out")
XDIST = (
    "accelmark cannot measure under pytest-xdist: items that run side by side take each other's "
    "cores and device, and pytest-benchmark disables itself. Run without -n, or with -n 0."
)
SECONDS = (("", 1.0), ("m", 1e3), ("u", 1e6), ("n", 1e9), ("p", 1e12), ("f", 1e15))
PER_SECOND = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3), ("", 1.0))
"""Prefixes of a table's units: one FLOP takes a picosecond, and less."""

CASE = pytest.StashKey["Case"]()
CLOCK = pytest.StashKey["ItemClock"]()
PLAN = pytest.StashKey["Plan"]()
RUN = pytest.StashKey["RunFile"]()
COMPARED = pytest.StashKey[list[dict[str, Any]]]()
"""The saved runs that `--benchmark-compare` names."""
RECORD = pytest.StashKey[Path]()
"""The run's record, where it is kept."""


class ItemClock:
    """Seconds that pass only by what a launch took for one item of its work."""

    __name__ = "seconds per item"

    def __init__(self) -> None:
        self.now = 0.0
        self._rounds: Iterator[float] = iter(())

    def __call__(self) -> float:
        """Seconds since the round began."""
        return self.now

    def load(self, rounds: Sequence[float]) -> None:
        """What the next rounds will last; a profiler that calls once more starts them again."""
        self._rounds = itertools.cycle(rounds)

    def start(self) -> None:
        """Back to zero before each round, so that no sum rounds its time."""
        self.now = 0.0

    def replay(self) -> None:
        """One launch passes."""
        self.now += next(self._rounds)


class Plan:
    """The cases that the options name; the suite is read when it is first asked for."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @functools.cached_property
    def suite(self) -> Suite:
        """The suite as it stands."""
        from bench.planning import suite_file

        name = self._config.getoption("accelmark_suite") or DEFAULT_SUITE
        with _usage_errors():
            return suite_file.read_suite(suite_file.find_suite(name))

    @functools.cached_property
    def names(self) -> dict[str, Case]:
        """Every case by the name of its item, in the order of the suite."""
        from bench.exchange import benchmark_json
        from bench.planning import plan

        only = self._config.getoption("accelmark_only")
        with _usage_errors():
            cases = plan.plan(self.suite)
            if only is not None:
                cases = plan.select(cases, only)
        names = benchmark_json.names(cases)
        return {names[case.fingerprint]: case for case in cases}

    @functools.cached_property
    def settings(self) -> Settings:
        """How they are measured: the suite's way, but for `--accelmark-launches`."""
        from bench.planning import suite_file

        given = self._config.getoption("accelmark_launches")
        if _benchmarks_disabled(self._config):
            given = "1"
        with _usage_errors():
            return suite_file.with_launches(self.suite.settings, given, "--accelmark-launches")


class Lines:
    """A line for each launch, as `accelmark run` prints where there is no terminal."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings

    def say(self, text: str) -> None:
        """Prints a line, wherever the dots of pytest stand."""
        reporter = self._config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(text)

    def turn(self, side: str) -> None:
        """Nothing: there is one side."""

    def starts(self, case: Case, launch: int, seconds_left: float | None) -> None:
        """Nothing: the line is printed when the launch ends."""

    def progress(self, progress: Progress) -> None:
        """Nothing: a log is not a screen."""

    def ends(self, launch: Launch, rates: Sequence[float]) -> None:
        """The launch and what came of it."""
        from bench import units
        from bench.commands import live

        text = live.describe(launch, rates, self._settings)
        seconds = units.duration(launch.seconds)
        self.say(f"{launch.case.label} launch {launch.launch + 1} ({seconds}): {text}")


# --- Options and collection ----------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `accelmark run`, under a prefix."""
    group = parser.getgroup("accelmark", "accelmark: cases of a suite as benchmarks")
    add = group.addoption
    add("--accelmark-suite", metavar="SUITE", help="A shipped suite or a .toml file. [quick]")
    add(
        "--accelmark-device",
        action="append",
        metavar="BACKEND[:INDEX]",
        help="Default: the first accelerator, else cpu.",
    )
    add("--accelmark-only", metavar="GLOB", help="Only these cases, e.g. 'llama-*' or '*-train'.")
    add(
        "--accelmark-launches",
        metavar="N",
        help="Processes per case, or `auto`: until the interval is narrow.",
    )
    add("--accelmark-out", metavar="DIR", help="Keep the run's record (.jsonl) in this folder.")


def pytest_configure(config: pytest.Config) -> None:
    """Reads what the options name, if there are any: what is wrong is said before all else."""
    config.stash[PLAN] = Plan(config)
    given = [name for name in OPTIONS if config.getoption(f"accelmark_{name}") is not None]
    asked = any(re.search(r"bench[./\\]suite\b", argument) for argument in config.args)
    if (given or asked) and _distributed(config):
        raise pytest.UsageError(XDIST)
    if given:
        _ = config.stash[PLAN].names, config.stash[PLAN].settings, _device(config)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> list[pytest.Item] | None:
    """One item for every case of the suite."""
    if name != FUNCTION:
        return None
    items: list[pytest.Item] = []
    for case_name, case in collector.config.stash[PLAN].names.items():
        item = pytest.Function.from_parent(collector, name=case_name, callobj=obj)
        item.stash[CASE] = case
        item.stash[CLOCK] = ItemClock()
        if collector.config.pluginmanager.hasplugin("benchmark"):
            item.add_marker(pytest.mark.benchmark(timer=item.stash[CLOCK]))
        items.append(item)
    return items


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuses what would end in a number that means something else."""
    config = session.config
    cases = _cases(session)
    if not cases or config.getoption("collectonly") or hasattr(config, "workerinput"):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(
            "bench.suite needs pytest-benchmark, and it is not installed or is switched off "
            "(-p no:benchmark). Install or allow it, or use `accelmark run`."
        )
    if _distributed(config):
        raise pytest.UsageError(XDIST)
    for document in config.stash.get(COMPARED, ()):
        _refuse_incomparable(config.stash[PLAN], cases, document)


def _cases(session: pytest.Session) -> list[Case]:
    """The cases of the items that will run."""
    return [
        item.stash[CASE]
        for item in session.items
        if CASE in item.stash and item.get_closest_marker("skip") is None
    ]


def _benchmarks_disabled(config: pytest.Config) -> bool:
    """`--benchmark-disable`: run everything once, measure nothing."""
    disabled = config.getoption("benchmark_disable", False)
    return bool(disabled and not config.getoption("benchmark_enable", False))


def _device(config: pytest.Config) -> str | None:
    """The one device of this session, as it was named."""
    named = sorted(set(config.getoption("accelmark_device") or ()))
    if len(named) > 1:
        raise pytest.UsageError(
            f"--accelmark-device {' and '.join(named)}: one session measures on one device. Run "
            "pytest once for each, with --benchmark-save, and compare: `accelmark compare A B`."
        )
    return named[0] if named else None


def _distributed(config: pytest.Config) -> bool:
    return config.getoption("dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Bad input is one message of pytest's, in the words of this command line."""
    from bench.errors import AccelmarkError

    try:
        yield
    except AccelmarkError as error:
        raise pytest.UsageError(_translated(str(error))) from None


def _translated(text: str) -> str:
    return re.sub(rf"--({'|'.join(OPTIONS)})\b", r"--accelmark-\1", text)


# --- Measuring -----------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Before the first item of ours: everything is measured, one launch of each case in turn."""
    ours = CASE in item.stash and item.get_closest_marker("skip") is None
    if ours and RUN not in item.config.stash and not _distributed(item.config):
        with _usage_errors():
            _measure(item.session)


def _measure(session: pytest.Session) -> None:
    """Runs the session of this pytest run and keeps what came of it.

    Raises `KeyboardInterrupt` if it was interrupted: what was measured is on disk by then.
    """
    from bench.records import runfile
    from bench.running import probe
    from bench.running.session import begin, command_line, open_session, run_id

    config = session.config
    plan = config.stash[PLAN]
    lines = Lines(config, plan.settings)
    device, remarks = probe.choose(_device(config))
    lines.say(f"device: {device.address}, {device.name}")
    for remark in remarks:
        lines.say(f"  passed over {_translated(remark)}")
    kept = config.getoption("accelmark_out")
    folder = Path(kept or tempfile.mkdtemp(prefix="accelmark-"))
    identity = run_id()
    path = folder / f"{plan.suite.name}-{device.backend}-{identity}.jsonl"
    cases = tuple({case.fingerprint: case for case in _cases(session)}.values())
    typed = command_line("pytest", [str(word) for word in config.invocation_params.args])
    writer = begin(path, identity, plan.suite.name, cases, plan.settings, device, typed)
    with contextlib.closing(writer):
        reason = open_session(writer, cases, plan.settings, device, lines).run()
    config.stash[RUN] = runfile.read(path)
    if kept or reason == "interrupted":
        config.stash[RECORD] = path
    else:
        shutil.rmtree(folder, ignore_errors=True)
    if reason == "interrupted":
        raise KeyboardInterrupt


def replay(item: pytest.Item, benchmark: BenchmarkFixture) -> None:
    """Gives the launches of an item's case to pytest-benchmark, or says why there is no number."""
    from bench.exchange import benchmark_json
    from bench.judging.summary import summarize

    if RUN not in item.config.stash:
        _fail(benchmark, XDIST)
    run, case, clock = item.config.stash[RUN], item.stash[CASE], item.stash[CLOCK]
    row = next(r for r in summarize(run) if r.case.fingerprint == case.fingerprint)
    if row.status == "skipped" or row.sweep_end:
        pytest.skip(row.reason)
    if row.status != "measured":
        _fail(benchmark, f"{row.status}: {row.reason}")
    launches = [x for x in run.launches if x.fingerprint == case.fingerprint]
    outcomes = benchmark_json.outcomes_of(launches)
    clock.load([benchmark_json.seconds_per_item(outcome) for outcome in outcomes])
    benchmark.fullname = benchmark_json.full_name(item.name)
    benchmark.group = benchmark_json.group(case, outcomes[0].work.unit)
    benchmark.param, benchmark.params = case.detail, dict(case.parameters)
    benchmark.extra_info[KEY] = benchmark_json.extra_info(launches)
    benchmark.pedantic(clock.replay, setup=clock.start, rounds=len(outcomes), iterations=1)


class _NoNumber(Exception):
    """Raised through pytest-benchmark, so that it knows that the fixture was used, and in vain."""


def _fail(benchmark: BenchmarkFixture, reason: str) -> NoReturn:
    def refuse() -> None:
        raise _NoNumber

    with contextlib.suppress(_NoNumber):
        benchmark.pedantic(refuse)
    pytest.fail(reason, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    """Prints accelmark's own card below the table, also where a regression was found."""
    try:
        return (yield)
    finally:
        if RUN in config.stash:
            from bench import catalogue
            from bench.report import Canvas

            width = shutil.get_terminal_size((100, 24)).columns
            card = catalogue.load("reports", "table").render(
                [config.stash[RUN]], Canvas(width=max(width, 60))
            )
            terminalreporter.section("accelmark")
            for line in card.splitlines():
                terminalreporter.write_line(line)
            if RECORD in config.stash:
                terminalreporter.write_line(f"record: {config.stash[RECORD]}")


# --- Hooks of pytest-benchmark -------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: object, output_json: dict[str, Any]
) -> None:
    """Adds to a saved document what its benchmarks do not carry: the whole run is then in it."""
    if RUN not in config.stash:
        return
    from bench.exchange import benchmark_json

    parts = [b["extra_info"].get(KEY) for b in output_json["benchmarks"]]
    elsewhere = {part["launches"][0]["fingerprint"] for part in parts if part is not None}
    output_json[KEY] = benchmark_json.envelope(config.stash[RUN], elsewhere)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, compared_benchmark: dict[str, Any]
) -> None:
    """Remembers a run to compare with; judged when it is known what will be run."""
    config.stash.setdefault(COMPARED, []).append(compared_benchmark)


def _refuse_incomparable(plan: Plan, cases: Sequence[Case], document: dict[str, Any]) -> None:
    """`pytest.UsageError` for a saved run whose numbers are not of the same work."""
    from bench.errors import RecordError
    from bench.exchange import benchmark_json
    from bench.judging.comparability import unequal

    place = f"--benchmark-compare, run of {document.get('datetime', 'an unknown time')}"
    try:
        saved = benchmark_json.from_document(place, document)
    except RecordError as error:
        raise pytest.UsageError(f"not comparable: {error}") from None
    reasons = []
    if saved.run.settings.timing != plan.settings.timing:
        reasons.append(f"timing mode differs ({saved.run.settings.timing}, {plan.settings.timing})")
    names = {case.fingerprint: name for name, case in plan.names.items()}
    entries = {
        part["launches"][0]["fingerprint"]: benchmark["fullname"]
        for benchmark in document["benchmarks"]
        if (part := benchmark["extra_info"].get(KEY)) is not None
    }
    theirs = {x.fingerprint: x.case for x in saved.launches}
    by_name = {full_name: theirs[fingerprint] for fingerprint, full_name in entries.items()}
    met = False
    for case in cases:
        name = names[case.fingerprint]
        other = by_name.get(benchmark_json.full_name(name))
        met = met or other is not None
        if other is not None and other.fingerprint != case.fingerprint:
            reasons.append(f"{name}: " + "; ".join(unequal(other, case)))
    if not met:
        reasons.append("it measured none of these cases")
    if reasons:
        raise pytest.UsageError(
            f"not comparable: {place}: {'. '.join(reasons)}. Compare with a run of the same suite "
            "and version, or drop --benchmark-compare."
        )


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_scale_unit(
    config: pytest.Config,
    unit: str,
    benchmarks: Sequence[dict[str, Any]],
    best: dict[str, float],
    worst: dict[str, float],
) -> tuple[str, float] | None:
    """Prefixes down to femto and up to peta for tables of ours; other tables as ever."""
    chosen = config.getoption("benchmark_time_unit") not in (None, "auto")
    if (
        not all(KEY in benchmark["extra_info"] for benchmark in benchmarks)
        or config.getoption("benchmark_histogram")  # its titles know pytest-benchmark's units only
        or (chosen and unit == "seconds")
    ):
        return None
    if unit == "seconds":
        fits = (pair for pair in SECONDS if best["min"] * pair[1] >= 1)
        return next(fits, SECONDS[-1])
    prefix, factor = next((p for p in PER_SECOND if worst["ops"] >= p[1]), PER_SECOND[-1])
    return prefix, 1 / factor
