"""What plots of runs show, as plain data: no colours, no sizes, no library.

Every number that a reader sees beside a mark is already text here; `hover` is lines of text.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bench import stats, units
from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.measured import FAR_OUT
from bench.judging.row import Row
from bench.planning.shapes import ARITHMETIC, BANDWIDTH
from bench.planning.sweep import batch_of, without_batch
from bench.planning.tuning import figures
from bench.planning.usual import given
from bench.records.case import Case
from bench.records.outcome import Flag, Measured
from bench.records.run import Launch
from bench.reports.flat.row import columns
from bench.reports.page.pair import Pair
from bench.reports.page.side import Side, name_of, title_of, variant
from bench.reports.wording import card_notes
from bench.reports.wording.comparison_notes import WORDS, beside
from bench.reports.wording.labels import Label, labels, plain
from bench.reports.wording.rows import ratio, spread, word_of
from bench.reports.wording.systems import spreads
from bench.telemetry.flags import slowed_launches

MANY_CASES = 100
"""A page of more cases than this would grow too large with every launch's trace."""


class TraceLimits(msgspec.Struct, frozen=True):
    """How much of the samples a page holds."""

    points: int
    """Most points that a launch is drawn with; a longer one is thinned to medians of bins."""
    launches: int | None
    """Launches of each case of a run; None for all."""


FLAGS = {
    flag: meaning.replace("a launch's", "its").replace("a launch", "it")
    for flag, meaning in card_notes.FLAGS.items()
}
"""What a flag says of the launch that bears it."""


def ratios(comparison: Comparison | None) -> list[dict[str, Any]]:
    """The ratio plot, a line for each case that has a ratio."""
    if comparison is None:
        return []
    cases = [case for case in comparison.cases if case.ratio is not None]
    called = labels(comparison.base.run.suite, [case.case for case in cases])
    said = [", ".join((WORDS[case.verdict], *beside(comparison, case))) for case in cases]
    return [
        _ratio(case, called[case.case.fingerprint], words)
        for case, words in zip(cases, said, strict=True)
    ]


def _ratio(case: CaseComparison, called: Label, words: str) -> dict[str, Any]:
    """words: its verdict, with what must be known beside it."""
    interval = case.interval
    between = "" if interval is None else f"{ratio(interval.low)} to {ratio(interval.high)}"
    said = "" if case.ratio is None else ratio(case.ratio)
    name = " ".join(filter(None, (name_of(case.case), spreads(case))))
    return {
        **_named(name, case.case, called),
        "ratio": case.ratio,
        **columns(interval, "low", "high"),
        "verdict": case.verdict,
        "text": f"{said} {words}",
        "hover": [case.case.label, f"{said} {between}", words, *case.reasons],
    }


def _named(name: str, case: Case, called: Label) -> dict[str, Any]:
    """A name, all parameters, what tells the case from others first, and its mark: they are cut,
    and where they then read alike it is added."""
    usual = [word for word in map(plain, case.worded(given(case))) if word not in called.parameters]
    return {"label": name, "detail": ", ".join((*called.parameters, *usual)), "mark": called.mark}


def trace_limits(sides: Sequence[Side]) -> TraceLimits:
    """All launches at 60 points, unless the page would grow too large."""
    most = max((len(side.rows) for side in sides), default=0)
    return TraceLimits(40, 3) if most > MANY_CASES else TraceLimits(60, None)


def panels(sides: Sequence[Side], pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    """Throughput: a panel for each kind of work, as only there the bars have one unit."""
    cases: dict[str, Case] = {}
    for side in sides:
        for row in side.measured:
            cases.setdefault(row.work.fingerprint, row.case)
    suite = sides[0].file.run.suite if sides else ""
    called = labels(suite, list(cases.values()))
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    compared = {
        (pair.other.number, case.other.case.fingerprint)
        for pair in pairs
        for case in pair.compared
        if case.other
    }
    for side in sides:
        for row in side.measured:
            slots = found.setdefault((row.case.name, row.unit), {})
            work = row.work.fingerprint
            case = cases[work]
            named = _named(variant(case), case, called[case.fingerprint])
            bars = slots.setdefault(work, {**named, "bars": []})["bars"]
            beside = bool(bars) and bars[0]["run"] == 0 < side.number - 1
            apart = beside and (side.number, row.case.fingerprint) not in compared
            bars.append(_bar(side, row, apart=apart))
    for (name, unit), slots in found.items():
        yield {"title": name, "unit": unit, "slots": list(slots.values())}


def _bar(side: Side, row: Row, *, apart: bool) -> dict[str, Any]:
    """apart: not to be compared with that of the base above it."""
    figure = f"{row.rate}, {spread(row.interval)}, {units.counted(row.launches, 'launch')}"
    word = f"{word_of(row)}, not comparable".removeprefix("OK, ") if apart else word_of(row)
    return {
        "run": side.number - 1,
        "value": row.throughput,
        **columns(row.interval, "low", "high"),
        "text": row.rate,
        "word": word,
        "hover": [row.case.label, side.label, figure, word],
    }


def roofline(sides: Sequence[Side]) -> dict[str, Any]:
    """Points (FLOP per byte, FLOP/s), roofs, and in words what is missing and why."""
    points: list[dict[str, Any]] = []
    unplaced: dict[str, list[str]] = {}
    for side in sides:
        for row in side.measured:
            why = _why_unplaced(row)
            name = name_of(row.case)
            if not why:
                points.append(_point(side, row))
            elif name not in unplaced.setdefault(why, []):
                unplaced[why].append(name)
    roofs = [roof for side in sides for roof in _roofs(side)]
    return {
        "points": points,
        "roofs": [r for r in roofs if r["matmul"] or r["bandwidth"]],
        "missing": [text for side in sides for text in _missing_ceilings(side)],
        "unplaced": [{"why": why, "names": names} for why, names in unplaced.items()],
    }


def _why_unplaced(row: Row) -> str:
    if row.flop_per_second is None:
        return "its work is not arithmetic, no FLOP are counted"
    if row.bytes_per_second is None:
        return "the bytes that a step must move are not counted"
    if row.shared_host:
        return "its ranks share a host: no roof is that of one"
    return ""


def _matmul_ceilings(side: Side) -> dict[str, float | None]:
    """Of each arithmetic that the run's cases use; some rows have none for reasons of their own."""
    rows = [row for row in side.measured if row.flop_per_second is not None]
    known = {row.arithmetic: row.matmul_ceiling for row in rows if row.matmul_ceiling is not None}
    return {row.arithmetic: known.get(row.arithmetic) for row in rows}


def _bandwidth_ceiling(side: Side) -> float | None:
    return next((r.bandwidth_ceiling for r in side.rows if r.bandwidth_ceiling is not None), None)


def _roofs(side: Side) -> Iterator[dict[str, Any]]:
    bandwidth = _bandwidth_ceiling(side)
    operations = {row.arithmetic: row.operation for row in side.measured}
    for arithmetic, matmul in _matmul_ceilings(side).items():
        yield {
            "run": side.number - 1,
            "arithmetic": arithmetic,
            "matmul": matmul,
            "matmul_text": None if matmul is None else units.rate(matmul, operations[arithmetic]),
            "bandwidth": bandwidth,
            "bandwidth_text": None if bandwidth is None else units.prefixed(bandwidth, "B/s"),
        }


def _missing_ceilings(side: Side) -> Iterator[str]:
    run = f"Run {side.number}"
    for arithmetic, matmul in _matmul_ceilings(side).items():
        if matmul is None:
            yield (
                f"{run} has no {arithmetic} matmul ceiling: it measured no usable "
                f"{ARITHMETIC} case in that arithmetic."
            )
    if side.measured and _bandwidth_ceiling(side) is None:
        yield (f"{run} has no memory bandwidth ceiling: it measured no usable {BANDWIDTH} case.")


def _point(side: Side, row: Row) -> dict[str, Any]:
    flop, moved = row.flop_per_second, row.bytes_per_second
    assert flop is not None
    assert moved is not None
    each, several = flop / row.case.devices, row.case.devices > 1
    return {
        "run": side.number - 1,
        "intensity": flop / moved,
        "flop": each,
        "label": name_of(row.case),
        "hover": side.hover(
            row,
            f"{units.rate(each, row.operation)}{' a device' if several else ''} at "
            f"{units.significant(flop / moved)} {row.operation}/B",
        ),
    }


def sweeps(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """Cases of a run that differ in nothing but their batch size."""
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        for row in side.measured:
            case = row.work
            if row.latency is None or batch_of(case) is None:
                continue
            rest = without_batch(case)
            panel = found.setdefault(
                rest.fingerprint,
                {
                    "title": title_of(rest),
                    "unit": row.unit,
                    "latency": row.latency.name,
                    "curves": {},
                },
            )
            panel["curves"].setdefault(side.number - 1, []).append(_sweep_point(side, row))
    for panel in found.values():
        curves = [
            {"run": run, "points": sorted(points, key=lambda p: p["batch"])}
            for run, points in panel["curves"].items()
            if len(points) > 1
        ]
        if curves:
            yield {**panel, "curves": curves}


def _sweep_point(side: Side, row: Row) -> dict[str, Any]:
    latency = row.latency
    assert latency is not None
    p50 = f"{latency.name} p50 {units.duration(latency.p50)}"
    return {
        "batch": batch_of(row.case),
        "throughput": row.throughput,
        **columns(row.interval, "low", "high"),
        "ms": latency.p50 * 1e3,
        "ms_low": None if latency.p50_low is None else latency.p50_low * 1e3,
        "ms_high": None if latency.p50_high is None else latency.p50_high * 1e3,
        "hover": side.hover(row, row.rate, p50),
    }


def traces(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """For each case with samples: its launches of every run, in the order they ran."""
    # A load that was served has one sample a launch, and plots of its own.
    works = [pair for side in sides for pair in side.works.items()]
    cases = {key: row.case for key, row in works if row.serving is None}
    limits = trace_limits(sides)
    for fingerprint, case in cases.items():
        shown, total = [], 0
        for side in sides:
            launches = figures(side.launches.get(fingerprint, ()))
            slowed = slowed_launches(launches)
            total += len(launches)
            for launch in launches[: limits.launches]:
                row, slow = side.works[fingerprint], slowed.get(launch.launch)
                shown.append(_trace(side, row, launch, slow, limits.points))
        if any(trace["steady"]["ms"] for trace in shown):
            yield {"case": case.label, "total": total, "launches": shown}


def _trace(
    side: Side, row: Row, launch: Launch, slow: tuple[Flag, str] | None, points: int
) -> dict[str, Any]:
    """slow: the flag that the launch has beside the others of its case, or by its samples."""
    outcome, number = launch.outcome, launch.launch
    trace: dict[str, Any] = {"run": side.number - 1, "launch": number + 1}
    if not isinstance(outcome, Measured):
        status = type(outcome).__name__.upper()
        why = outcome.message if hasattr(outcome, "message") else outcome.reason
        none = _thinned([], 0)
        return {**trace, "warmup": none, "steady": none, "words": f"{status}: {why}"}
    samples = outcome.samples
    warmup = [block.sample_seconds for block in outcome.warmup]
    causes: dict[str, str] = dict([slow] if slow else [])
    causes |= {flag: outcome.causes.get(flag, "") for flag in outcome.flags}
    if number in row.far_out:
        causes[FAR_OUT] = f"{ratio(row.far_out[number])} of the median"
    parts = [
        f"{len(warmup)} warm-up and {len(samples)} steady samples",
        f"steady median {units.duration(statistics.median(samples))}",
        units.counted(stats.outliers(samples), "outlier"),
        *(f"{flag}: {_meaning(flag, cause)}" for flag, cause in causes.items()),
    ]
    if row.rounds and number not in row.rounds:
        parts.append("left out of the figure")
    if len(warmup) + len(samples) > points:
        parts.append(f"drawn as {points} medians of bins")
    early, late = _shares(len(warmup), len(samples), points)
    return {
        **trace,
        "warmup": _thinned(warmup, early),
        "steady": _thinned(samples, late),
        "words": "; ".join(parts),
    }


def _meaning(flag: str, cause: str) -> str:
    return FLAGS.get(flag, "flagged") + (f" ({cause})" if cause else "")


def _shares(warmup: int, steady: int, points: int) -> tuple[int, int]:
    """How many of the points each part is drawn with."""
    total = warmup + steady
    if total <= points or not warmup:
        return warmup, min(steady, points)
    early = min(max(round(points * warmup / total), 1), points - 1)
    return early, min(steady, points - early)


def _thinned(seconds: Sequence[float], points: int) -> dict[str, Any]:
    """How many samples there were, and the medians, in ms, of `points` equal bins of them.

    Four significant digits: finer than the plot can show, and a third of the bytes.
    """
    edges = [i * len(seconds) // points for i in range(points + 1)] if points else []
    bins = [seconds[low:high] for low, high in itertools.pairwise(edges)]
    medians = [float(f"{statistics.median(b) * 1e3:.4g}") for b in bins]
    return {"samples": len(seconds), "ms": medians}
