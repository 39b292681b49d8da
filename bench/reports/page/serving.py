"""What the page shows of served loads, as plain data: `bench.reports.page.plots` has the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench import units
from bench.judging.interval import Interval
from bench.judging.row import Row
from bench.judging.served import ServingSummary, serving_curves
from bench.reports.flat.row import of_interval
from bench.reports.page.side import Side
from bench.reports.wording import serving as serving_words

Point = Callable[[Side, Row], "dict[str, Any] | None"]


def panels(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """Both kinds, a panel for each engine and kind of requests, all runs laid over one another."""
    yield from _panels(
        sides, _front_point, "tok/s each user", "output tok/s a device", lambda serving: None
    )
    tail = all(
        row.serving.ttft_p99 is not None
        for side in sides
        for row in side.measured
        if row.serving and row.case.parameters.get("arrival") == "poisson"
    )
    yield from _panels(
        sides,
        lambda side, row: _queue_point(side, row, "ttft_p99" if tail else "ttft_p50"),
        "requests/s as they came",
        "TTFT p99, s" if tail else "TTFT p50, s",
        lambda serving: serving.limits.ttft_seconds,
    )


def tables(sides: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """Every figure, as cells, of each run, engine and kind of requests."""
    for side in sides:
        for curve in serving_curves(side.measured):
            yield {
                "title": f"{side.label}, {serving_words.title(curve)}",
                "headings": serving_words.HEADINGS,
                "lines": list(serving_words.lines(curve)),
                "words": "; ".join(serving_words.legend([curve])),
            }


def _panels(
    sides: Sequence[Side],
    point: Point,
    x: str,
    y: str,
    limit: Callable[[ServingSummary], float | None],
) -> Iterator[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        for curve in serving_curves(side.measured):
            points = [p for row in curve.points if (p := point(side, row)) is not None]
            if not points:
                continue
            serving = curve.points[0].serving
            assert serving is not None
            at = limit(serving)
            panel = found.setdefault(
                curve.case.fingerprint,
                {
                    "title": serving_words.title(curve),
                    "x": x,
                    "y": y,
                    "limit": at,
                    "limit_text": "" if at is None else f"limit {units.duration(at)}",
                    "curves": [],
                },
            )
            line = front(points) if at is None else sorted(points, key=lambda p: p["x"])
            panel["curves"].append(
                {
                    "run": side.number - 1,
                    "points": points,
                    "line": [[p["x"], p["y"]] for p in line],
                }
            )
    yield from found.values()


def front(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that no other beats in both ways, by x: more of either costs some of the other."""
    found: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: (-p["x"], -p["y"])):
        if not found or point["y"] > found[-1]["y"]:
            found.append(point)
    return found[::-1]


def _front_point(side: Side, row: Row) -> dict[str, Any] | None:
    serving, each = row.serving, row.throughput_per_device
    if serving is None or serving.interactivity is None or each is None:
        return None
    user, interval, devices = serving.interactivity, row.interval, row.case.devices
    return {
        **of_interval("x", user),
        "y": each,
        "y_low": interval.low / devices if interval else None,
        "y_high": interval.high / devices if interval else None,
        "label": _short(row),
        "hover": side.hover(
            row,
            f"{units.rate(each, 'tok')} a device, {units.rate(user.value, 'tok')} each user",
            serving_words.arrival(row),
        ),
    }


def _queue_point(side: Side, row: Row, figure: str) -> dict[str, Any] | None:
    serving = row.serving
    if serving is None or row.case.parameters.get("arrival") != "poisson":
        return None
    first: Interval | None = getattr(serving, figure)
    if first is None or serving.arrival_rate is None:
        return None
    return {
        **of_interval("x", serving.arrival_rate),
        **of_interval("y", first),
        "label": _short(row),
        "hover": side.hover(
            row, f"TTFT {units.duration(first.value)} at {serving_words.arrival(row)}"
        ),
    }


def _short(row: Row) -> str:
    """`8` in flight; `2.0/s`; `all`."""
    given = row.case.parameters
    if given.get("arrival") == "poisson":
        return f"{given.get('rate')}/s"
    return str(given.get("concurrency") or "all")
