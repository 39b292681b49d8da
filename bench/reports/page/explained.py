"""Explained cases of a page: a bar of classes for each, and its operators under the box's roofs.

Drawn as SVG where the page is made: it needs no script, and reads without colours by its titles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from bench.judging.explaining.explained import ExplainedCase, OperatorRow, explain_run
from bench.records.run import RunFile
from bench.reports.page.side import Side
from bench.reports.wording.operators import called, launched, ms

WIDTH, HEIGHT = 640.0, 300.0
"""Of the roofline's field, in SVG units."""
LEAST_RADIUS, RADIUS = 2.0, 40.0
"""Of a dot: the least, and that of a whole step; its area is the operator's share."""
COLOURS: dict[str, str] = {
    "matmul": "#0072b2",
    "convolution": "#56b4e9",
    "attention": "#009e73",
    "normalization": "#e69f00",
    "elementwise": "#f0e442",
    "reduction": "#d55e00",
    "gather and scatter": "#cc79a7",
    "optimizer": "#7f5fa8",
    "copy": "#8c8c8c",
    "communication": "#3d3d3d",
    "other": "#b8b8b8",
    "freeing": "#d9d9d9",
    "host": "#ededed",
}
"""Okabe and Ito's, which eyes of every kind tell apart; greys for what is no work on numbers."""


def explained(sides: Sequence[Side]) -> list[dict[str, Any]]:
    """Each case of each side that was to be explained, in the plans' order, with what is wrong."""
    return [
        {
            "title": f"{side.label}, " * (len(sides) > 1) + case.case.label + part(case, side.file),
            "reason": f"{case.verdict}: {case.reason}" if case.reason else "",
            "bar": list(bar(case)),
            "roofline": roofline(case),
        }
        for side in sides
        for case in explain_run(side.file)
    ]


def part(case: ExplainedCase, run: RunFile) -> str:
    """`, 2 of 5 launches` of what was not explained as often as it was to be; else empty."""
    of = run.run.explanations
    return f", {launched(case, of)}" if 0 < case.launches < of else ""


def bar(case: ExplainedCase) -> Iterator[dict[str, Any]]:
    """Parts of a step beside each other, in percent of it; a host below 0 has no width."""
    if case.step_ms is None or case.freeing_ms is None or case.host_ms is None:
        return
    parts: list[tuple[str, float]] = [(row.kind, row.ms.value) for row in case.classes]
    parts += [("freeing", case.freeing_ms.value), ("host", max(0.0, case.host_ms.value))]
    whole = sum(value for _, value in parts) or 1.0
    at = 0.0
    for name, value in parts:
        width = 100 * value / whole
        yield {
            "x": f"{at:.3f}%",
            "width": f"{width:.3f}%",
            "fill": COLOURS[name],
            "words": f"{name} {ms(value)} ms, {value / case.step_ms.value:.1%}",
        }
        at += width


def roofline(case: ExplainedCase) -> dict[str, Any]:
    """Operators as dots: FLOP a byte across, FLOP/s upwards, both logarithmic; and the roofs."""
    points = [(row, *place) for row in case.operators if (place := _place(row))]
    roofs = {n: v for n, v in case.ceilings.items() if " " in n}
    read = case.ceilings.get("read")
    if not points or not roofs or not read:
        return {}
    across = [x for _, x, _ in points] + [math.log10(v / read) for v in roofs.values()]
    upwards = [y for _, _, y in points] + [math.log10(v) for v in roofs.values()]
    left, right = min(across) - 0.5, max(across) + 0.5
    low, high = min(upwards) - 0.5, max(upwards) + 0.5

    def at(x: float, y: float) -> tuple[str, str]:
        column, row = (x - left) / (right - left), (y - low) / (high - low)
        return f"{WIDTH * column:.1f}", f"{HEIGHT * (1 - row):.1f}"

    lines = []
    for name, value in roofs.items():
        top, knee = math.log10(value), math.log10(value / read)
        start = (left, math.log10(read) + left)
        corners = [at(*start), at(knee, top), at(right, top)]
        lines.append({"points": " ".join(",".join(corner) for corner in corners), "words": name})
    dots = []
    for row, x, y in points:
        column, line = at(x, y)
        radius = max(LEAST_RADIUS, RADIUS * math.sqrt(row.share or 0.0))
        words = f"{called(row)}: {row.share or 0.0:.1%} of the step"
        if row.times_bound is not None:
            words += f", {row.times_bound:.1f} times its bound"
        dots.append(
            {
                "x": column,
                "y": line,
                "r": f"{radius:.1f}",
                "fill": COLOURS[row.kind],
                "words": words,
            }
        )
    return {
        "view": f"0 0 {WIDTH:g} {HEIGHT:g}",
        "lines": lines,
        "dots": dots,
        "unplaced": sum(1 for row in case.operators if row.ms) - len(points),
    }


def _place(row: OperatorRow) -> tuple[float, float] | None:
    """Logarithms of FLOP a byte and FLOP/s; None of what has no FLOP, bytes or time."""
    if not row.flop or not row.least_bytes or row.ms is None or not row.ms.value:
        return None
    return math.log10(row.flop / row.least_bytes), math.log10(row.flop / row.ms.value * 1e3)
