"""What a collective's times over sizes say of what joins the devices: a latency and a bandwidth.

The time of an operation is taken for a line: t = latency + bytes / bandwidth, bytes being those
that cross each device's link as nccl-tests counts bus bandwidth. So the latency is that of an
operation of no bytes, all its messages included, and the bandwidth is what bus bandwidth rises to.
Sizes span many powers of ten, so relative residuals are squared. Libraries go about it in another
way from some sizes on; how far the line then misses is said beside it.
Source: Hockney, "The communication challenge for MPP", Parallel Computing 20 (1994).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bench import stats, units
from bench.judging.interval import Interval
from bench.judging.row import UNDISTURBED, Link, Row

SIZE = "size_bytes"
FEWEST_SIZES = 3
"""Two make any line."""
FAR = 0.1
"""From this relative miss on a line is hardly one."""
Point = tuple[float, float]
"""Bytes that cross a link, and the seconds of the operation."""


def with_links(rows: Sequence[Row]) -> list[Row]:
    """Gives each row of a sweep over sizes the line of its sweep."""
    found = {rest: link_of(sweep) for rest, sweep in sweeps(rows)}
    return [
        row
        if row.operation_seconds is None
        else msgspec.structs.replace(row, link=found.get(without_size(row)))
        for row in rows
    ]


def sweeps(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of collectives that differ in nothing but their size, smallest first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        known = row.operation_seconds is not None and row.verdict in UNDISTURBED
        if known and (key := without_size(row)):
            found.setdefault(key, []).append(row)
    return [
        (key, sorted(sweep, key=lambda row: row.case.parameters[SIZE]))
        for key, sweep in found.items()
    ]


def without_size(row: Row) -> str:
    """What the points of a sweep share; empty for a case without a size."""
    parameters = dict(row.case.parameters)
    if type(parameters.pop(SIZE, None)) is not int:
        return ""
    return msgspec.structs.replace(row.case, parameters=parameters).fingerprint


def link_of(sweep: Sequence[Row]) -> Link | None:
    """The line through a sweep; None for too few sizes, or where it is no line that rises.

    Each launch of each size has its own processes and groups; the k-th of all sizes make one line,
    and the interval is over those.
    """
    if len(sweep) < FEWEST_SIZES:
        return None
    points = [_points(row) for row in sweep]
    count = min(map(len, points))
    usual = [statistics.fmean(t for _, t in series[:count]) for series in points]
    lines = [line([series[k] for series in points], usual) for k in range(count)]
    level = next((row.interval.level for row in sweep if row.interval), stats.FIXED_LEVEL)
    latency = Interval.over([one[0] for one in lines], level)
    slope = Interval.over([one[1] for one in lines], level)
    if slope.value <= 0.0 or latency.value <= 0.0:
        return None
    misses = [
        (latency.value + slope.value * series[0][0]) / t - 1
        for series, t in zip(points, usual, strict=True)
    ]
    sizes = [int(row.case.parameters[SIZE]) for row in sweep]
    worst = max(range(len(misses)), key=lambda k: abs(misses[k]))
    return Link(
        latency=latency,
        bandwidth=_inverse(slope),
        launches=count,
        least_bytes=sizes[0],
        most_bytes=sizes[-1],
        miss=abs(misses[worst]),
        missed_bytes=sizes[worst],
    )


def line(points: Sequence[Point], usual: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of t(bytes), least squares of relative residuals. Two points at least,
    of different bytes.

    usual: of each point the seconds that its residual is relative to, the same for all launches: by
    its own, noisy time what happened to be fast would weigh more.
    """
    weighed = [(x, t, 1 / mean**2) for (x, t), mean in zip(points, usual, strict=True)]
    a = sum(w for _, _, w in weighed)
    b, c = sum(x * w for x, _, w in weighed), sum(x * x * w for x, _, w in weighed)
    d, e = sum(t * w for _, t, w in weighed), sum(x * t * w for x, t, w in weighed)
    determinant = a * c - b * b
    return (d * c - e * b) / determinant, (e * a - d * b) / determinant


def _points(row: Row) -> list[Point]:
    """Of each launch."""
    assert row.throughput is not None
    assert row.operation_seconds is not None
    assert row.bus_bytes_per_second is not None
    crossing = row.bus_bytes_per_second * row.operation_seconds
    return [(crossing, row.operation_seconds * row.throughput / rate) for rate in row.rates]


def _inverse(slope: Interval) -> Interval:
    """Bytes/s of seconds a byte; no upper end where the slope may be none."""
    if slope.low is None or slope.high is None:
        return Interval(value=1 / slope.value)
    high = 1 / slope.low if slope.low > 0 else None
    return Interval(value=1 / slope.value, low=1 / slope.high, high=high)


def in_short(link: Link) -> str:
    """The line in a few words; how far it misses, where that is far."""
    found = f"{units.duration(link.latency.value)}, {units.prefixed(link.bandwidth.value, 'B/s')}"
    size = units.memory(link.missed_bytes)
    return found if link.miss <= FAR else f"{found} (off by {link.miss:.0%} at {size})"


def in_words(link: Link) -> str:
    """The line in a line."""
    parts = [
        f"latency {_said(link.latency, units.duration)}",
        f"bus bandwidth {_said(link.bandwidth, lambda v: units.prefixed(v, 'B/s'))}",
    ]
    between = f"{units.memory(link.least_bytes)} to {units.memory(link.most_bytes)}"
    miss = f"off by {link.miss:.0%} at {units.memory(link.missed_bytes)}, at most"
    return f"{', '.join(parts)} ({between}; {miss})"


def _said(interval: Interval, text: Callable[[float], str]) -> str:
    value = text(interval.value)
    if interval.low is None:
        return value
    high = "?" if interval.high is None else text(interval.high)
    return f"{value} ({text(max(0.0, interval.low))} to {high})"
