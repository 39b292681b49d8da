"""How well work scales, in words and cells: a small table for each curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench import units
from bench.judging.interval import Interval
from bench.judging.ranks.scaling import Scaling
from bench.judging.row import Efficiency, Row
from bench.planning.sweep import BATCH
from bench.reports.wording.labels import name_of, plain
from bench.reports.wording.rows import share, word_of

DROPS = (0, 1, 5, 0, 2, 3, 4, 0)
"""What is left out first where a terminal is too narrow: the highest."""
FINE = 0.01
"""Below this half-width a percentage has a decimal."""


class Line(NamedTuple):
    """What is said of one point, a cell under each heading; empty where there is nothing."""

    devices: str
    throughput: str
    each: str
    efficiency: str
    exposed: str
    fabric: str
    energy: str
    verdict: str


HEADINGS = Line._fields


def title(curve: Scaling) -> str:
    """`llama-train bf16-amp dp, strong (batch 16 together), against 1 device`."""
    batch = curve.work.parameters.get(BATCH)
    whose = "each" if curve.kind == "weak" else "together"
    of_it = "" if batch is None else f" (batch {batch} {whose})"
    parts = [name(curve), f"{curve.kind}{of_it}"]
    if curve.against:
        parts.append(f"against {units.counted(curve.against, 'device')}")
    return ", ".join(parts)


def name(curve: Scaling) -> str:
    """`llama-train bf16-amp dp`."""
    return f"{name_of(curve.work)} {curve.scheme}"


def lines(curve: Scaling) -> list[Line]:
    """A line a point, fewest devices first; without verdicts where all are OK."""
    found = [line(curve, *point) for point in zip(curve.points, curve.fabric, strict=True)]
    fine = all(one.verdict == "OK" for one in found)
    return [one._replace(verdict="") for one in found] if fine else found


def line(curve: Scaling, row: Row, fabric: float | None = None) -> Line:
    """What is said of one point; fabric: seconds that its gradients alone take."""
    item = plain(row.item)
    each, joules = row.throughput_per_device, row.items_per_joule
    return Line(
        devices=_devices(row),
        throughput=plain(row.rate),
        each="" if each is None else units.rate(each, item),
        efficiency=_efficiency(curve, row),
        exposed=exposed(row),
        fabric="" if fabric is None else units.duration(fabric),
        energy="" if joules is None else units.joules(1 / joules, item),
        verdict=word_of(row),
    )


def _devices(row: Row) -> str:
    """How many; of several dimensions which: `8 (2x4)`."""
    sizes = row.case.parallelism.lstrip("abcdefghijklmnopqrstuvwxyz-")
    return f"{row.case.devices} ({sizes})" if "x" in sizes else str(row.case.devices)


def _efficiency(curve: Scaling, row: Row) -> str:
    found = curve.efficiency(row)
    if found is None:
        return ""
    if found == Efficiency(value=1.0, against=row.case.devices):
        return "1"  # by definition; another split of as many devices has a figure
    return percent(found)


def percent(interval: Interval) -> str:
    """`93% (91 to 95%)`; with a decimal where the interval is so narrow; `93%, no interval`."""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.0%}, no interval"
    digits = 1 if interval.high - interval.low < 2 * FINE else 0
    low, high = (f"{100 * end:.{digits}f}" for end in (interval.low, interval.high))
    return f"{interval.value:.{digits}%} ({low} to {high}%)"


def exposed(row: Row) -> str:
    """`3.2 ms, 8.1%` of a step; of what noise does not tell from none, what it is under."""
    seconds, fraction = row.exposed, row.exposed_fraction
    if seconds is None or fraction is None:
        return ""
    if seconds.low is not None and seconds.high is not None and seconds.low <= 0:
        return f"under {units.duration(seconds.high)}" if seconds.high > 0 else "none seen"
    return f"{units.duration(max(seconds.value, 0.0))}, {share(max(fraction.value, 0.0))}"


def legend(curves: Sequence[Scaling]) -> list[str]:
    """What the words mean that stand on curves, a sentence each."""
    if not curves:
        return []
    said = ["efficiency: throughput a device, over that of the fewest"]
    points = [row for curve in curves for row in curve.points]
    if any(row.exposed for row in points):
        said.append("exposed: communication that a step waits for")
    if any(time is not None for curve in curves for time in curve.fabric):
        said.append("fabric: its gradients by this run's all-reduce, alone")
    return [f"Scaling: {'; '.join(said)}"]
