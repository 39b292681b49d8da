"""A run as a document of pytest-benchmark, and back: the same launches in another coat.

pytest-benchmark times rounds of a function. Here a *round* is one launch, a fresh process, and its
time is the launch's steady seconds per item, or per 10^9 of them where an item is one operation or
one byte: its table shows four decimals of a nanosecond, and an operation takes a femtosecond. The
group names the unit. So its `Rounds` are launches, its `StdDev` is the
spread between launches and its `OPS` are items per second, and `pytest-benchmark compare` reads the
document as it stands.

Its `Mean` is the arithmetic mean of seconds per item, so its `OPS` is the harmonic mean of the
launches' throughputs. The cards give the geometric mean, which is a little higher.

Nothing is lost: the launches themselves lie in `extra_info["accelmark"]` of each benchmark, and the
run's header, its end and the launches of cases without a number in the document's own key
`accelmark`: pytest-benchmark warns of any difference in `machine_info`. Reading takes the launches
and ignores the statistics, which are computed from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.errors import RecordError
from bench.judging.summary import summarize
from bench.planning.tuning import figures
from bench.records import runfile
from bench.records.case import Case
from bench.records.environment import section
from bench.records.explained import Explanation
from bench.records.flaws import HEADER, Kind
from bench.records.opened import Opened
from bench.records.outcome import Measured
from bench.records.run import RESTORE, End, Launch, Resumed, RunFile
from bench.records.runfile import UNREADABLE
from bench.telemetry.flags import flagged, slowed_launches, unhindered

if TYPE_CHECKING:
    from _typeshed import StrPath

KEY = "accelmark"
"""Where our part of a document lies: at its top, and in each benchmark's `extra_info`."""
FORMAT_VERSION = "5.3.1"
"""The pytest-benchmark whose storage format this is."""
FILE = "bench/suite/test_workloads.py"
"""The file part of every `fullname`, wherever a run was started: saved runs then match."""
PARTS: dict[str, tuple[Any, Any]] = {
    "resumed": (tuple[Resumed, ...], None),
    "end": (End | None, None),
    "damage": (str | None, None),
    "flaw": (Kind, "damaged"),
    "remedy": (str, RESTORE),
    "explanations": (tuple[Explanation, ...], []),
}
"""Of a run, beside its header and its launches: of which type, and what its absence means."""
PER = ", per "
GIGA_UNITS = {"FLOP": "GFLOP", "OP": "GOP", "B": "GB"}
"""Items too small for pytest-benchmark's table, and what it counts instead: 10^9 of them."""
ADVICE = (
    "Give a record (*.jsonl), or a .json file that `pytest --pyargs bench.suite` saved or "
    "`accelmark report RUN --format pytest-benchmark` printed."
)


def read_any(path: StrPath) -> RunFile:
    """Reads a run from its record or folder (`runfile.read`), or from such a document.

    A document is a file that ends in `.json`, or whose first line is a lone brace; but what begins
    as a record does is one, whatever it is called.
    """
    return runfile.read(path, None if Path(path).is_dir() else _read_opened)


def _read_opened(source: Opened) -> RunFile:
    start = source.file.readline(64)
    source.file.seek(0)
    named = ".json" in Path(source.name).suffixes
    if HEADER.match(start) or not (named or start.rstrip() == b"{"):
        return runfile.read_opened(source)
    try:
        content = msgspec.json.decode(source.file.read())
    except UNREADABLE as error:
        cut = "truncated" in str(error)
        advice = f"It is cut short: copy all of it again. {ADVICE}" if cut else ADVICE
        raise RecordError(f"{source.name}: not JSON ({error}). {advice}") from error
    return from_document(source.name, content)


def names(cases: Iterable[Case]) -> dict[str, str]:
    """A readable name for each case by fingerprint: `llama-decode-bf16[smollm2-135m-batch_1]`."""
    cases = list(cases)
    plain = {case.fingerprint: _name(case) for case in cases}
    count = Counter(plain.values())
    return {
        fingerprint: name if count[name] == 1 else f"{name}-{fingerprint[:6]}"
        for fingerprint, name in plain.items()
    }


def _name(case: Case) -> str:
    execution = case.variant.replace(" ", "-")
    detail = case.detail.replace(", ", "-").replace(" ", "_")
    return f"{case.name}-{case.precision}{execution}[{detail}]"


def full_name(name: str) -> str:
    """What pytest-benchmark matches saved runs by: the same for one case on any machine."""
    return f"{FILE}::{name}"


def group(case: Case, unit: str) -> str:
    """The heading of a table: what its rows are, and what their times are times of.

    unit: the item that throughput counts (`Work.unit`).
    """
    return f"{case.name}{PER}{GIGA_UNITS.get(unit, unit)}"


def round_seconds(outcome: Measured) -> float:
    """One round: the steady wall time of a launch (s) over what it did, in the group's unit."""
    work = outcome.work
    many = 10**9 if work.unit in GIGA_UNITS else 1
    return outcome.steady_seconds * many / (work.items * outcome.steady_steps)


def outcomes_of(launches: Sequence[Launch]) -> list[Measured]:
    """What the rounds of a case are made of: as its figure on the card."""
    measured = [x for x in figures(launches) if isinstance(x.outcome, Measured)]
    slowed = slowed_launches(measured)
    return unhindered([flagged(x, slowed) for x in measured])


def numbered(run: RunFile) -> dict[str, list[Launch]]:
    """The launches of every case that has a number, by fingerprint, in the order of the plan."""
    usable = [row.case.fingerprint for row in summarize(run) if row.measured]
    launches = runfile.by_case(run.launches)
    return {fingerprint: list(launches[fingerprint]) for fingerprint in usable}


def to_document(run: RunFile) -> dict[str, Any]:
    """The whole document, as builtins."""
    launches = numbered(run)
    name = names([*run.run.plan, *(x.case for x in run.launches)])
    return {
        "machine_info": _machine_info(run.run.host),
        "commit_info": _commit_info(run.run.host),
        "benchmarks": [_benchmark(name[f], of_case) for f, of_case in launches.items()],
        "datetime": run.end.finished_at if run.end else run.run.started_at,
        "version": FORMAT_VERSION,
        KEY: envelope(run, launches),
    }


def envelope(run: RunFile, elsewhere: Collection[str]) -> dict[str, Any]:
    """The document's own part: all but the launches of the cases with a benchmark of their own."""
    content: dict[str, Any] = msgspec.to_builtins(
        {
            "run": run.run,
            **{name: getattr(run, name) for name in PARTS},
            "order": [(x.fingerprint, x.launch) for x in run.launches],
            "launches": [x for x in run.launches if x.fingerprint not in elsewhere],
        }
    )
    return content


def extra_info(launches: Sequence[Launch]) -> dict[str, Any]:
    """What the benchmark of one case carries: its launches, those that failed included."""
    content: dict[str, Any] = msgspec.to_builtins({"launches": launches})
    return content


def _benchmark(name: str, launches: Sequence[Launch]) -> dict[str, Any]:
    case = launches[0].case
    measured = outcomes_of(launches)
    rounds = [round_seconds(outcome) for outcome in measured]
    return {
        "group": group(case, measured[0].work.unit),
        "name": name,
        "fullname": full_name(name),
        "params": dict(case.parameters),
        "param": case.detail,
        "extra_info": {KEY: extra_info(launches)},
        "options": {
            "disable_gc": False,
            "timer": "seconds per item",
            "min_rounds": len(rounds),
            "max_time": 0.0,
            "min_time": 0.0,
            "precision": None,
            "warmup": False,
        },
        "stats": {**statistics_of(rounds), "data": rounds, "iterations": 1},
    }


def statistics_of(rounds: Sequence[float]) -> dict[str, Any]:
    """The figures that pytest-benchmark has of its rounds, as it computes them."""
    from pytest_benchmark.stats import Stats

    found = Stats()
    for seconds in rounds:
        found.update(seconds)
    return {**found.as_dict(), "stddev": float(found.stddev)}


def _machine_info(host: Mapping[str, Any]) -> dict[str, Any]:
    """What pytest-benchmark says of a machine, as far as a record knows it; never its host name."""
    implementation, _, version = str(host.get("python", "")).partition(" ")
    system, _, release = str(host.get("system", "")).partition(" ")
    return {
        "machine": host.get("machine"),
        "processor": host.get("cpu"),
        "python_implementation": implementation,
        "python_implementation_version": version,
        "python_version": version,
        "system": system,
        "release": release,
        "cpu": {"brand_raw": host.get("cpu"), "count": host.get("logical_cores")},
    }


def _commit_info(host: Mapping[str, Any]) -> dict[str, Any]:
    """The commit of accelmark, where the run was made from a clone of it."""
    known = section(host, "git")
    return {
        "id": known.get("commit", "unversioned"),
        "time": None,
        "author_time": None,
        "dirty": bool(known.get("changed", False)),
        "project": KEY,
        "branch": "(unknown)",
    }


def from_document(place: str, document: Any) -> RunFile:
    """The run that a document holds; `RecordError`, starting with `place`, if it holds none.

    Benchmarks that are not ours are passed over: a session may have others beside.
    """
    own = document.get(KEY) if isinstance(document, dict) else None
    if not isinstance(own, dict) or not isinstance(document.get("benchmarks"), list):
        raise RecordError(f"{place}: JSON, but not a pytest-benchmark run of accelmark. {ADVICE}")
    run = runfile.header(place, own.get("run"), ADVICE)
    try:
        parts = {
            name: msgspec.convert(own.get(name, absent), kind)
            for name, (kind, absent) in PARTS.items()
        }
        order = msgspec.convert(own.get("order"), list[tuple[str, int]])
        launches = _launches(place, own, document["benchmarks"])
    except UNREADABLE as error:
        raise RecordError(f"{place}: not a valid record ({error}). {ADVICE}") from error
    if len(set(order)) < len(order) or set(order) != set(launches):
        raise RecordError(
            f"{place}: its run names {len(order)} launches, and it holds {len(launches)}. "
            f"It was changed by hand. {ADVICE}"
        )
    return RunFile(
        path=place,
        run=run,
        launches=tuple(launches[key] for key in order),
        passing=True,
        **parts,
    )


def _launches(
    place: str, own: Mapping[str, Any], benchmarks: Sequence[Any]
) -> dict[tuple[str, int], Launch]:
    found: dict[tuple[str, int], Launch] = {}
    for part in (own, *_parts(benchmarks)):
        for launch in msgspec.convert(part.get("launches"), list[Launch]):
            key = launch.fingerprint, launch.launch
            if key in found:
                again = f"holds launch {launch.launch + 1} of {launch.case.label} twice"
                raise RecordError(f"{place}: {again}. {ADVICE}")
            found[key] = launch
    return found


def _parts(benchmarks: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Our part of each benchmark that has one."""
    for benchmark in benchmarks:
        extra = benchmark.get("extra_info") if isinstance(benchmark, dict) else None
        part = extra.get(KEY) if isinstance(extra, dict) else None
        if isinstance(part, dict):
            yield part
