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
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import stats, units
from bench.compare import CaseComparison, CompareVerdict, Comparison, compare
from bench.compare_card import WORDS
from bench.errors import ComparisonError, MissingPackage
from bench.precision import PRECISIONS
from bench.record import Block, Launch, Measured, RunFile
from bench.report import Canvas, Report
from bench.summary import BANDWIDTH_WORKLOAD, CEILING_WORKLOAD, Row, summarize

TRACE_POINTS = 60
"""Most points that a launch is drawn with; a longer one is thinned to medians of bins."""
MANY_CASES = 100
TRACE_LAUNCHES = 3
"""Launches drawn of each case of a run where there are more than `MANY_CASES` cases."""
MOST_VALUES = 3
"""A fact that took more values than this within one run is given by its first ones."""
NONE = "—"
JUDGED: tuple[CompareVerdict, ...] = ("FASTER", "SLOWER", "EQUIVALENT")
"""The verdicts that say something of the two devices."""
FLAGS = {
    "NO_STEADY_STATE": "it never became steady",
    "DRIFT": "step times moved by more than 5 %",
    "HOST_GAP": "the host's wall time and the device's events differ by more than 2 %",
}
"""What a flag says of the launch that bears it."""


class HtmlReport(Report):
    """A self-contained page; two or more runs are compared, the first is the base."""

    def render(self, runs: Sequence[RunFile], canvas: Canvas) -> str:
        """The page as text; `MissingPackage` without plotly or jinja2."""
        plotly, environment = _plotly(), _jinja()
        sides = [_Side(number, run) for number, run in enumerate(runs, start=1)]
        pairs = [_Pair(sides[0], other) for other in sides[1:]]
        plots = {
            "runs": [side.label for side in sides],
            "panels": list(_panels(sides)),
            "ratios": [pair.plot() for pair in pairs],
            "roofline": _roofline(sides),
            "sweeps": list(_sweeps(sides)),
            "traces": list(_traces(sides)),
        }
        script, style = _text("html.js"), _text("html.css")
        page: str = environment.get_template("html.j2").render(
            title=_title(sides),
            policy=_policy(plotly, script),
            sides=sides,
            pairs=pairs,
            numberless=[(side, row) for side in sides for row in side.rows if _numberless(row)],
            plots=plots,
            columns=_columns(sides),
            count=sum(len(side.rows) for side in sides),
            measured=sum(len(side.measured) for side in sides),
            word=_word,
            looks=_looks,
            spoken=_spoken,
            flags=[
                (f, FLAGS[f]) for f in FLAGS if any(f in r.flags for s in sides for r in s.rows)
            ],
            trace_points=TRACE_POINTS,
            thinned_launches=TRACE_LAUNCHES if _many(sides) else None,
            style=_trusted(style),
            script=_trusted(script),
            plotly=_trusted(plotly),
            data=_trusted(_json(plots)),
        )
        return page if page.endswith("\n") else page + "\n"


class _Side:
    """One run as the page needs it."""

    def __init__(self, number: int, file: RunFile) -> None:
        self.number = number
        self.file = file
        self.rows = summarize(file)
        self.device = f"{file.run.device.get('name')} ({file.run.device.get('backend')})"
        self.label = f"{number}: {file.run.device.get('name')}"
        self.launches: dict[str, list[Launch]] = {}
        for launch in file.launches:
            self.launches.setdefault(launch.fingerprint, []).append(launch)

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.status == "measured"]

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
        found = Counter((_word(row), _looks(row)) for row in self.rows)
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

    def __init__(self, base: _Side, other: _Side) -> None:
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
        said = [f"{_spoken(verdict)} in {counts[verdict]}" for verdict in WORDS if counts[verdict]]
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

    def plot(self) -> list[dict[str, Any]]:
        """What the ratio plot draws: one entry a compared case."""
        return [_ratio_mark(case) for case in self.compared]


def _ratio_mark(case: CaseComparison) -> dict[str, Any]:
    interval = case.interval
    words = _spoken(case.verdict)
    between = "" if interval is None else f"{interval.low:.3f} to {interval.high:.3f}"
    return {
        "label": _name(case.case.name, case.case),
        "detail": case.case.detail,
        "ratio": case.ratio,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "verdict": case.verdict,
        "text": f"{case.ratio:.3f} {words}",
        "hover": [case.case.label, f"{case.ratio:.3f} {between}", words, *case.reasons],
    }


def _spoken(verdict: CompareVerdict) -> str:
    return WORDS[verdict].replace("\n", " ")


def _title(sides: Sequence[_Side]) -> str:
    suites = " and ".join(dict.fromkeys(side.file.run.suite for side in sides)) or "no run"
    devices = list(dict.fromkeys(side.device for side in sides))
    runs = "" if len(sides) == 1 else f", {len(sides)} runs"
    return f"accelmark {suites} on {' and '.join(devices)}{runs}"


def _name(name: str, case: Any) -> str:
    execution = "" if case.execution == "eager" else f" {case.execution}"
    return f"{name} {case.precision}{execution}"


def _word(row: Row) -> str:
    """The verdict of a measured row, the status of any other: one word for each row."""
    if row.status == "measured":
        return str(row.verdict).replace("_", " ")
    return row.status.upper() if row.reached else "UNREACHED"


def _looks(row: Row) -> str:
    """CSS class: how grave it is."""
    if row.status == "skipped":
        return "warn"
    if row.status != "measured":
        return "bad"
    return {"OK": "good", "NOISY": "warn"}.get(str(row.verdict), "bad")


def _numberless(row: Row) -> bool:
    return row.status != "measured"


def _why(row: Row) -> str:
    """Everything that must be known beside the figures of a row."""
    parts = [row.reason]
    if row.excluded:
        parts.append(f"{row.excluded} of {row.launches + row.excluded} launches failed")
    parts.append(row.exclusion)
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


def _columns(sides: Sequence[_Side]) -> list[Column]:
    """The columns in which any row has something to show."""
    rows = _in_order(sides)
    found = []
    for title, numeric, cell in COLUMNS:
        cells = [cell(side, row) for side, row in rows]
        if title in ALWAYS or any(c.text != NONE for c in cells):
            found.append(Column(title, numeric, cells))
    return found if len(sides) > 1 else [column for column in found if column.title != "run"]


def _in_order(sides: Sequence[_Side]) -> list[tuple[_Side, Row]]:
    """Every row of every run; the runs' rows of one case lie beside each other."""
    place: dict[str, int] = {}
    rows = [(side, row) for side in sides for row in side.rows]
    for _, row in rows:
        place.setdefault(row.case.fingerprint, len(place))
    return sorted(rows, key=lambda pair: (place[pair[1].case.fingerprint], pair[0].number))


def _number(value: float | None, text: Callable[[float], str], note: str = "") -> Cell:
    return Cell(NONE) if value is None else Cell(text(value), value, note)


def _case_cell(_: _Side, row: Row) -> Cell:
    return Cell(_name(row.case.name, row.case), note=f"({row.case.detail})")


def _throughput_cell(_: _Side, row: Row) -> Cell:
    item = row.unit.removesuffix("/s")
    return _number(row.throughput, lambda v: units.rate(v, item))


def _interval_cell(_: _Side, row: Row) -> Cell:
    if row.throughput is None:
        return Cell(NONE)
    note = units.counted(row.launches, "launch")
    if row.interval is None:
        return Cell("no interval", note=note)
    return Cell(units.spread(row.interval.half_width), row.interval.half_width, note)


def _latency_cell(_: _Side, row: Row) -> Cell:
    if row.latency is None:
        return Cell(NONE)
    tail = [
        f"p{percent} {units.duration(value)}"
        for percent, value in ((90, row.latency.p90), (99, row.latency.p99))
        if value is not None
    ]
    note = ", ".join([row.latency.name, *tail])
    return Cell(units.duration(row.latency.p50), row.latency.p50, note)


def _share(value: float | None) -> Cell:
    return _number(value, lambda v: f"{v:.0%}" if v >= 0.1 else f"{v:.1%}")


def _bytes_cell(_: _Side, row: Row) -> Cell:
    share = row.bandwidth_fraction
    note = "" if share is None else f"{_share(share).text} of bandwidth"
    return _number(row.bytes_per_second, lambda v: units.prefixed(v, "B/s"), note)


def _memory_cell(_: _Side, row: Row) -> Cell:
    if row.peak_memory_bytes is None:
        return Cell(NONE)
    return Cell(units.memory(row.peak_memory_bytes), row.peak_memory_bytes, row.memory_scope)


COLUMNS: tuple[tuple[str, bool, Callable[[_Side, Row], Cell]], ...] = (
    ("case", False, _case_cell),
    (
        "run",
        False,
        lambda side, row: Cell(
            str(side.number), side.number, str(side.file.run.device.get("name"))
        ),
    ),
    ("verdict", False, lambda _, row: Cell(_word(row), note=_why(row), looks=_looks(row))),
    ("throughput", True, _throughput_cell),
    ("interval", True, _interval_cell),
    ("p50", True, _latency_cell),
    (
        "FLOP/s",
        True,
        lambda _, row: _number(row.flop_per_second, lambda v: units.prefixed(v, "FLOP/s")),
    ),
    ("of matmul", True, lambda _, row: _share(row.ceiling_fraction)),
    ("MFU", True, lambda _, row: _share(row.mfu)),
    ("bytes/s", True, _bytes_cell),
    ("peak memory", True, _memory_cell),
    (
        "items per joule",
        True,
        lambda _, row: _number(row.items_per_joule, units.significant),
    ),
)
ALWAYS = ("case", "verdict", "throughput")


# What the plots draw


def _many(sides: Sequence[_Side]) -> bool:
    return max((len(side.rows) for side in sides), default=0) > MANY_CASES


def _panels(sides: Sequence[_Side]) -> Iterator[dict[str, Any]]:
    """Throughput: a panel for each kind of work, as only there the bars have one unit."""
    panels: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for side in sides:
        for row in side.measured:
            slots = panels.setdefault((row.case.name, row.unit), {})
            slot = slots.setdefault(
                row.case.fingerprint,
                {"label": _name("", row.case).strip(), "detail": row.case.detail, "bars": []},
            )
            slot["bars"].append(_bar(side, row))
    for (name, unit), slots in panels.items():
        yield {"title": name, "unit": unit, "slots": list(slots.values())}


def _bar(side: _Side, row: Row) -> dict[str, Any]:
    assert row.throughput is not None
    interval = row.interval
    figure = units.rate(row.throughput, row.unit.removesuffix("/s"))
    spread = "no interval" if interval is None else units.spread(interval.half_width)
    launches = units.counted(row.launches, "launch")
    return {
        "run": side.number - 1,
        "value": row.throughput,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "text": figure,
        "word": _word(row),
        "hover": [row.case.label, side.label, f"{figure}, {spread}, {launches}", _word(row)],
    }


def _arithmetic(row: Row) -> str:
    precision = PRECISIONS.get(row.case.precision)
    return row.case.precision if precision is None else precision.arithmetic


def _roofline(sides: Sequence[_Side]) -> dict[str, Any]:
    """Points (FLOP per byte, FLOP/s), roofs, and in words what is missing and why."""
    points, roofs, missing = [], [], []
    unplaced: dict[str, list[str]] = {}
    for side in sides:
        arithmetics: dict[str, float | None] = {}
        bandwidth = max((r.bandwidth_ceiling or 0.0 for r in side.rows), default=0.0) or None
        for row in side.measured:
            if row.flop_per_second is not None:
                arithmetics.setdefault(_arithmetic(row), row.matmul_ceiling)
            if row.flop_per_second is None:
                why = "its work is not arithmetic, no FLOP are counted"
            elif row.bytes_per_second is None:
                why = "the bytes that a step must move are not counted"
            else:
                points.append(_point(side, row, row.flop_per_second, row.bytes_per_second))
                continue
            names = unplaced.setdefault(why, [])
            name = _name(row.case.name, row.case)
            if name not in names:
                names.append(name)
        run = f"Run {side.number}" if len(sides) > 1 else "This run"
        for arithmetic, matmul in arithmetics.items():
            roofs.append(
                {
                    "run": side.number - 1,
                    "arithmetic": arithmetic,
                    "matmul": matmul,
                    "matmul_text": matmul and units.prefixed(matmul, "FLOP/s"),
                    "bandwidth": bandwidth,
                    "bandwidth_text": bandwidth and units.prefixed(bandwidth, "B/s"),
                }
            )
            if matmul is None:
                missing.append(
                    f"{run} has no {arithmetic} matmul ceiling: it has no usable "
                    f"{CEILING_WORKLOAD} case in that arithmetic."
                )
        if bandwidth is None and side.measured:
            missing.append(
                f"{run} has no memory bandwidth ceiling: it has no usable "
                f"{BANDWIDTH_WORKLOAD} case."
            )
    return {
        "points": points,
        "roofs": [r for r in roofs if r["matmul"] or r["bandwidth"]],
        "missing": missing,
        "unplaced": [{"why": why, "names": names} for why, names in unplaced.items()],
    }


def _point(side: _Side, row: Row, flop: float, moved: float) -> dict[str, Any]:
    name = _name(row.case.name, row.case)
    return {
        "run": side.number - 1,
        "intensity": flop / moved,
        "flop": flop,
        "label": name,
        "hover": [
            row.case.label,
            side.label,
            f"{units.prefixed(flop, 'FLOP/s')} at {units.significant(flop / moved)} FLOP/B",
            _word(row),
        ],
    }


def _sweeps(sides: Sequence[_Side]) -> Iterator[dict[str, Any]]:
    """Cases of a run that differ in nothing but their batch size."""
    panels: dict[str, dict[str, Any]] = {}
    for side in sides:
        for row in side.measured:
            case = row.case
            if row.latency is None or not isinstance(case.parameters.get("batch_size"), int):
                continue
            others = {k: v for k, v in case.parameters.items() if k != "batch_size"}
            rest = msgspec.structs.replace(case, parameters=others)
            panel = panels.setdefault(
                rest.fingerprint,
                {
                    "title": _name(rest.name, rest) + (f" ({rest.detail})" if rest.detail else ""),
                    "unit": row.unit,
                    "latency": row.latency.name,
                    "curves": {},
                },
            )
            panel["curves"].setdefault(side.number - 1, []).append(_sweep_point(side, row))
    for panel in panels.values():
        curves = [
            {"run": run, "points": sorted(points, key=lambda p: p["batch"])}
            for run, points in panel["curves"].items()
            if len(points) > 1
        ]
        if curves:
            yield {**panel, "curves": curves}


def _sweep_point(side: _Side, row: Row) -> dict[str, Any]:
    latency, interval = row.latency, row.interval
    assert latency is not None
    assert row.throughput is not None
    figure = units.rate(row.throughput, row.unit.removesuffix("/s"))
    p50 = f"{latency.name} p50 {units.duration(latency.p50)}"
    return {
        "batch": row.case.parameters["batch_size"],
        "throughput": row.throughput,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "ms": latency.p50 * 1e3,
        "ms_low": None if latency.p50_low is None else latency.p50_low * 1e3,
        "ms_high": None if latency.p50_high is None else latency.p50_high * 1e3,
        "hover": [row.case.label, side.label, figure, p50, _word(row)],
    }


def _traces(sides: Sequence[_Side]) -> Iterator[dict[str, Any]]:
    """For each case with samples: its launches of every run, in the order they ran."""
    cases = {row.case.fingerprint: row.case for side in sides for row in side.rows}
    most = TRACE_LAUNCHES if _many(sides) else None
    for fingerprint, case in cases.items():
        shown = [
            _trace(side, launch)
            for side in sides
            for launch in side.launches.get(fingerprint, [])[:most]
        ]
        total = sum(len(side.launches.get(fingerprint, ())) for side in sides)
        if any(trace["steady"] for trace in shown):
            yield {"case": case.label, "total": total, "launches": shown}


def _trace(side: _Side, launch: Launch) -> dict[str, Any]:
    outcome = launch.outcome
    trace: dict[str, Any] = {"run": side.number - 1, "launch": launch.launch + 1}
    if not isinstance(outcome, Measured):
        status = type(outcome).__name__.upper()
        why = outcome.message if hasattr(outcome, "message") else outcome.reason
        return {**trace, "warmup": [], "steady": [], "words": f"{status}: {why}"}
    samples = outcome.samples
    warmup = [block.sample_seconds for block in outcome.warmup]
    parts = [
        f"{len(warmup)} warm-up and {len(samples)} steady samples",
        f"steady median {units.duration(statistics.median(samples))}",
        units.counted(stats.outliers(samples), "outlier"),
        *(f"{flag}: {FLAGS.get(flag, 'flagged')}" for flag in outcome.flags),
    ]
    if len(warmup) + len(samples) > TRACE_POINTS:
        parts.append(f"drawn as {TRACE_POINTS} medians of bins")
    early, late = _thinned(outcome.warmup, outcome.steady)
    return {**trace, "warmup": early, "steady": late, "words": "; ".join(parts)}


def _thinned(
    warmup: Sequence[Block], steady: Sequence[Block]
) -> tuple[list[list[float]], list[list[float]]]:
    """[0-based sample index, ms] of both parts, `TRACE_POINTS` points in all at most."""
    total = len(warmup) + len(steady)
    share = TRACE_POINTS
    if total > TRACE_POINTS and warmup:
        share = min(max(round(TRACE_POINTS * len(warmup) / total), 1), TRACE_POINTS - 1)
    rest = TRACE_POINTS - min(share, len(warmup))
    return _bins(warmup, 0, share), _bins(steady, len(warmup), rest)


def _bins(blocks: Sequence[Block], first: int, most: int) -> list[list[float]]:
    count = min(len(blocks), most)
    edges = [i * len(blocks) // count for i in range(count + 1)] if count else []
    return [
        [
            first + (low + high - 1) / 2,
            _rounded(statistics.median(b.sample_seconds for b in blocks[low:high]) * 1e3),
        ]
        for low, high in itertools.pairwise(edges)
    ]


def _rounded(value: float) -> float:
    """Four significant digits: finer than the plot, and a third of the bytes."""
    return float(f"{value:.4g}")


# Provenance


def _provenance(side: _Side) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    run, launches = side.file.run, side.file.launches
    # The file's name came from the reader's system and need not be text.
    name = Path(side.file.path).name.encode("utf-8", "replace").decode()
    seeds = list(dict.fromkeys(str(launch.seed) for launch in launches))
    yield (
        "Run",
        [
            ("run", run.run_id),
            ("file", name),
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


def _trusted(text: str) -> Any:
    """Ours, or made safe by `_json`: not escaped again."""
    from markupsafe import Markup

    return Markup(text)


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
