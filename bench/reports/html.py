"""One page with pictures for engineers and managers; opens offline, loads nothing.

`html.j2` is the page, `html.css` its looks, and `html.js` draws the plots with plotly from the data
that this file puts beside them. A record is another's text and is never trusted: jinja2 escapes it,
the data lie in a JSON block without `<`, and the page's Content-Security-Policy runs no script but
the two whose hashes it names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import units
from bench.errors import ComparisonError, MissingPackage
from bench.judging.compare import compare
from bench.judging.comparison import CaseComparison, CompareVerdict, Comparison
from bench.judging.curves import curves
from bench.judging.row import Row
from bench.judging.tracks import tuned
from bench.records.run import RunFile
from bench.report import Canvas, Report
from bench.reports import _plots
from bench.reports._comparison import WORDS
from bench.reports._plots import FLAGS, Side, name_of, spoken, word_of
from bench.reports._wording import first_step, next_step, tail

MOST_VALUES = 3
"""A fact that took more values than this within one run is given by its first ones."""
NONE = "—"
JUDGED: tuple[CompareVerdict, ...] = ("FASTER", "SLOWER", "EQUIVALENT")
"""The verdicts that say something of the two devices."""


class HtmlReport(Report):
    """A self-contained page; two or more runs are compared, the first is the base."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """The page as text; `MissingPackage` without plotly or jinja2."""
        plotly, environment = _plotly(), _jinja()
        sides = [_Head(number, run) for number, run in enumerate(runs, start=1)]
        pairs = [_Pair(sides[0], other) for other in sides[1:]]
        drawn = {
            "runs": [side.label for side in sides],
            "panels": list(_plots.panels(sides)),
            "ratios": [[_plots.ratio_mark(case) for case in pair.compared] for pair in pairs],
            "roofline": _plots.roofline(sides),
            "sweeps": list(_plots.sweeps(sides)),
            "traces": list(_plots.traces(sides)),
        }
        script = _text("html.js")
        page: str = environment.get_template("html.j2").render(
            title=_title(sides),
            policy=_policy(plotly, script),
            sides=sides,
            next=next_step(runs[0], sides[0].rows),
            pairs=pairs,
            rows=_in_order(sides),
            plots=drawn,
            curves=[
                f"{side.label}, {curve.title}: {curve.words}"
                for side in sides
                for curve in curves(side.rows)
            ],
            tuned=[
                (f"{side.label}, {found.title}: {found.best}", found.beside)
                for side in sides
                for found in tuned(side.rows)
            ],
            columns=_columns(sides),
            word=word_of,
            looks=_looks,
            spoken=spoken,
            flags=FLAGS,
            limits=_plots.trace_limits(sides),
            style=_text("html.css"),
            script=script,
            plotly=plotly,
            data=_json(drawn),
        )
        # A record's path came from the reader's file system and need not be text.
        return page.encode("utf-8", "replace").decode() + "\n"


class _Head(Side):
    """One run as the page's text needs it."""

    @property
    def ending(self) -> str:
        """How the run ended, where it did not do all that was planned."""
        if self.file.end is None:
            return "unfinished: the record stops before the end"
        reasons = {"budget": "ended by its time budget", "interrupted": "interrupted"}
        return reasons.get(self.file.end.reason, "")

    @property
    def counts(self) -> str:
        """`27 launches of 9 cases, 2026-11-21`."""
        launches = units.counted(len(self.file.launches), "launch")
        cases = units.counted(len(self.rows), "case")
        return f"{launches} of {cases}, {self.file.run.started_at[:10]}"

    @property
    def words(self) -> list[tuple[str, int, str]]:
        """Each verdict with its number of cases and its class of looks, in the rows' order."""
        found = Counter((word_of(row), _looks(row)) for row in self.rows)
        return [(word, count, looks) for (word, looks), count in found.items()]

    @property
    def outcome(self) -> str:
        """What came of the run, as a sentence."""
        cases = units.counted(len(self.rows), "case")
        said = ", ".join(f"{count} {word}" for word, count, _ in self.words)
        return f"{len(self.measured)} of {cases} measured: {said}."

    @property
    def provenance(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Everything that the record says of how it came about, by section."""
        return list(_provenance(self))


class _Pair:
    """The base and one other run, compared; or why that is not possible."""

    def __init__(self, base: _Head, other: _Head) -> None:
        self.base, self.other = base, other
        self.comparison: Comparison | None = None
        self.refusal = ""
        try:
            self.comparison = compare(base.file, other.file)
        except ComparisonError as error:
            self.refusal = str(error)

    @property
    def compared(self) -> list[CaseComparison]:
        cases = self.comparison.cases if self.comparison else ()
        return [c for c in cases if c.ratio is not None]

    @property
    def refused(self) -> list[CaseComparison]:
        """Cases without a ratio."""
        cases = self.comparison.cases if self.comparison else ()
        return [c for c in cases if c.ratio is None]

    @property
    def sentence(self) -> str:
        """Who is faster, in how many cases; or that it cannot be said."""
        if self.comparison is None:
            return f"Run {self.other.number} cannot be compared with run {self.base.number}."
        counts = Counter(c.verdict for c in self.comparison.cases)
        total = units.counted(len(self.comparison.cases), "case")
        who = f"Run {self.other.number} ({self.other.file.run.device.get('name')})"
        said = [f"{spoken(verdict)} in {counts[verdict]}" for verdict in WORDS if counts[verdict]]
        if any(counts[verdict] for verdict in JUDGED):
            return f"{who} against run {self.base.number}, {total}: {', '.join(said)}."
        few = next((c.reasons[0] for c in self.comparison.cases if c.verdict == "NO_INTERVAL"), "")
        return (
            f"Whether run {self.other.number} or run {self.base.number} is faster cannot be said "
            f"of any of {total}: {', '.join(said)}{f' ({few})' if few else ''}."
        )

    @property
    def mean(self) -> str:
        """The geometric mean of the ratios, which is no verdict."""
        mean = self.comparison.geometric_mean if self.comparison else None
        if mean is None:
            return ""
        cases = units.counted(len(self.compared), "case")
        return (
            f"Geometric mean of the throughput ratios of {cases}: {mean:.3f} "
            "(a summary, no verdict)."
        )


def _title(sides: Sequence[_Head]) -> str:
    suites = " and ".join(dict.fromkeys(side.file.run.suite for side in sides)) or "no run"
    devices = list(dict.fromkeys(side.device for side in sides))
    runs = "" if len(sides) == 1 else f", {len(sides)} runs"
    return f"accelmark {suites} on {' and '.join(devices)}{runs}"


def _looks(row: Row) -> str:
    """CSS class: how grave it is."""
    if row.status == "skipped":
        return "warn"
    if row.status != "measured":
        return "bad"
    return {"OK": "good", "NOISY": "warn"}.get(str(row.verdict), "bad")


def _why(row: Row) -> str:
    """Everything that must be known beside the figures of a row."""
    parts = [row.reason]
    parts.append(row.left_out)
    parts += [flag for flag in row.flags if flag != row.verdict]
    return "; ".join(part for part in dict.fromkeys(parts) if part)


# The table


class Cell(msgspec.Struct, frozen=True):
    """What a cell shows, and by what its column sorts: the number, or else the text."""

    text: str
    value: float | None = None
    note: str = ""
    looks: str = ""


class Column(msgspec.Struct, frozen=True):
    """A column of the table: its head and its cell for each row of the page."""

    title: str
    numeric: bool
    cells: list[Cell]


def _columns(sides: Sequence[_Head]) -> list[Column]:
    """The columns in which any row has something to show."""
    rows = _in_order(sides)
    found = []
    for title, numeric, cell in COLUMNS:
        cells = [cell(side, row) for side, row in rows]
        if title in ALWAYS or any(c.text != NONE for c in cells):
            found.append(Column(title, numeric, cells))
    return found if len(sides) > 1 else [column for column in found if column.title != "run"]


def _in_order(sides: Sequence[_Head]) -> list[tuple[_Head, Row]]:
    """Every row of every run; the runs' rows of one case lie beside each other."""
    place: dict[str, int] = {}
    rows = [(side, row) for side in sides for row in side.rows]
    for _, row in rows:
        place.setdefault(row.case.fingerprint, len(place))
    return sorted(rows, key=lambda pair: (place[pair[1].case.fingerprint], pair[0].number))


def _number(value: float | None, text: Callable[[float], str], note: str = "") -> Cell:
    return Cell(NONE) if value is None else Cell(text(value), value, note)


def _case_cell(_: _Head, row: Row) -> Cell:
    return Cell(name_of(row.case), note=f"({row.case.detail})")


def _throughput_cell(_: _Head, row: Row) -> Cell:
    item = row.unit.removesuffix("/s")
    return _number(row.throughput, lambda v: units.rate(v, item))


def _interval_cell(_: _Head, row: Row) -> Cell:
    if row.throughput is None:
        return Cell(NONE)
    note = units.counted(row.launches, "launch")
    if row.interval is None:
        return Cell("no interval", note=note)
    return Cell(units.spread(row.interval.half_width), row.interval.half_width, note)


def _latency_cell(_: _Head, row: Row) -> Cell:
    if row.latency is None:
        return Cell(NONE)
    note = f"{row.latency.name}, {tail(row.latency)}"
    return Cell(units.duration(row.latency.p50), row.latency.p50, note)


def _share(value: float | None) -> Cell:
    return _number(value, lambda v: f"{v:.0%}" if v >= 0.1 else f"{v:.1%}")


def _bytes_cell(_: _Head, row: Row) -> Cell:
    share = row.bandwidth_fraction
    note = "" if share is None else f"{_share(share).text} of bandwidth"
    return _number(row.bytes_per_second, lambda v: units.prefixed(v, "B/s"), note)


def _first_step_cell(_: _Head, row: Row) -> Cell:
    return Cell(first_step(row) or NONE, row.cold.first_step_seconds if first_step(row) else None)


def _limit_cell(_: _Head, row: Row) -> Cell:
    if row.limit is None:
        return Cell(NONE)
    ceiling, share = row.limit
    return Cell(_share(share).text, share, ceiling)


def _memory_cell(_: _Head, row: Row) -> Cell:
    if row.peak_memory_bytes is None:
        return Cell(NONE)
    return Cell(units.memory(row.peak_memory_bytes), row.peak_memory_bytes, row.memory_scope)


COLUMNS: tuple[tuple[str, bool, Callable[[_Head, Row], Cell]], ...] = (
    ("case", False, _case_cell),
    (
        "run",
        False,
        lambda side, row: Cell(
            str(side.number), side.number, str(side.file.run.device.get("name"))
        ),
    ),
    ("verdict", False, lambda _, row: Cell(word_of(row), note=_why(row), looks=_looks(row))),
    ("throughput", True, _throughput_cell),
    ("interval", True, _interval_cell),
    ("p50", True, _latency_cell),
    (
        "FLOP/s",
        True,
        lambda _, row: _number(row.flop_per_second, lambda v: units.rate(v, row.operation)),
    ),
    ("of matmul", True, lambda _, row: _share(row.ceiling_fraction)),
    ("MFU", True, lambda _, row: _share(row.mfu)),
    ("MBU", True, lambda _, row: _share(row.mbu)),
    ("limit", True, _limit_cell),
    ("first step", True, _first_step_cell),
    ("bytes/s", True, _bytes_cell),
    ("peak memory", True, _memory_cell),
    (
        "items per joule",
        True,
        lambda _, row: _number(row.items_per_joule, units.significant),
    ),
)
ALWAYS = ("case", "verdict", "throughput")


# Provenance


def _provenance(side: _Head) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    run, launches = side.file.run, side.file.launches
    seeds = list(dict.fromkeys(str(launch.seed) for launch in launches))
    yield (
        "Run",
        [
            ("run", run.run_id),
            ("file", Path(side.file.path).name),
            ("suite", run.suite),
            ("command", " ".join(run.command)),
            ("started", run.started_at),
            ("finished", side.file.end.finished_at if side.file.end else NONE),
            ("ended", side.ending or "complete"),
            ("damage", side.file.damage or "none"),
            ("seeds of the launches", ", ".join(seeds) or NONE),
            ("record schema", str(run.schema)),
        ],
    )
    yield "Settings", _facts([msgspec.to_builtins(run.settings)])
    yield "Device", _facts([run.device])
    yield "Host", _facts([run.host])
    environments = [launch.environment for launch in launches]
    stack = [
        {k: v for k, v in environment.items() if k not in ("variables", "device")}
        for environment in environments
    ]
    yield "Stack, as the launches saw it", _facts(stack)
    yield "Environment variables", _facts([{"": e.get("variables")} for e in environments])


def _facts(descriptions: Sequence[Any]) -> list[tuple[str, str]]:
    """Free descriptions as flat rows; a fact of several values names them."""
    found: dict[str, list[str]] = {}
    for description in descriptions:
        for name, value in _flat(description, ""):
            values = found.setdefault(name, [])
            if value not in values:
                values.append(value)
    return [
        (name, ", ".join(values[:MOST_VALUES]) + (", ..." if len(values) > MOST_VALUES else ""))
        for name, values in found.items()
    ]


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif value is not None:
        yield name or "value", str(value)


# The page's parts


def _plotly() -> str:
    try:
        return _plotly_source()
    except ImportError as error:
        raise _missing(error) from error


@functools.cache
def _plotly_source() -> str:
    from plotly.offline import get_plotlyjs

    return _one_newline(get_plotlyjs())


def _jinja() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise _missing(error) from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _missing(error: ImportError) -> MissingPackage:
    return MissingPackage(
        f"the report `html` needs plotly and jinja2 ({error}). Install them: "
        "pip install 'plotly>=6' 'jinja2>=3.1'; or choose another format: accelmark list reports"
    )


def _text(name: str) -> str:
    return _one_newline((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _one_newline(text: str) -> str:
    """As a browser reads it: the hash of a script is that of its text after this."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _policy(*scripts: str) -> str:
    """Content-Security-Policy: nothing is loaded, and no script runs but these."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{h}'" for h in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """JSON that cannot end the script element it lies in, nor begin another."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


REPORT = HtmlReport()
