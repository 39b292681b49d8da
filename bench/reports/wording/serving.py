"""How a load was served, in cells: a small table for each engine, a line a concurrency or rate."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bench import stats, units
from bench.judging.comparing.comparison import CaseComparison
from bench.judging.interval import Interval
from bench.judging.row import Row
from bench.judging.served import OVERHEAD_LIMIT, ServingCurve, ServingSummary, no_tpot
from bench.planning.arrivals import Lengths, offline
from bench.reports.wording.labels import name_of, plain
from bench.reports.wording.rows import word_of

HEADINGS = (
    *("arrival", "output", "each user", "TTFT", "p99", "TPOT", "p99"),
    *("goodput", "slots busy", "engine", "verdict"),
)
DROPS = (0, 0, 2, 0, 3, 0, 4, 1, 6, 5, 0)
"""What is left out first where a terminal is too narrow: the highest."""
DRAWN_AS_ASKED = 0.01
"""A mean length that is off by no more of what was asked is not worth a word."""


class Line(NamedTuple):
    """What is said of one point, a cell under each of `HEADINGS`; empty where there is nothing."""

    arrival: str
    output: str
    user: str
    ttft: str
    ttft_p99: str
    tpot: str
    tpot_p99: str
    goodput: str
    busy: str
    engine: str
    verdict: str


def title(curve: ServingCurve) -> str:
    """`serve-load bf16, tiny-untied, slots 8, chunk 64, input 128, output 64`."""
    return f"{name_of(curve.case)}, {plain(curve.case.detail)}"


def lines(curve: ServingCurve) -> Iterator[Line]:
    """A line a point, the thinnest load first."""
    return map(line, curve.points)


def line(row: Row) -> Line:
    """What is said of one point."""
    serving = row.serving
    assert serving is not None
    assert row.throughput is not None
    return Line(
        arrival=arrival(row),
        output=units.rate(row.throughput, "tok"),
        user=_rate(serving.interactivity, "tok"),
        ttft=_time(serving.ttft_p50),
        ttft_p99=_time(serving.ttft_p99),
        tpot=_time(serving.tpot_p50),
        tpot_p99=_time(serving.tpot_p99),
        goodput=_rate(serving.goodput, "req"),
        busy=_share(serving.occupancy),
        engine=_share(serving.overhead),
        verdict=word_of(row),
    )


def arrival(row: Row) -> str:
    """`8 at once`; `2 req/s (2.55)`, nominal and as they were due; `all at once`."""
    given = row.case.parameters
    if given.get("arrival") == "closed":
        return f"{given.get('concurrency')} at once"
    if given.get("arrival") == "poisson":
        due = row.serving and row.serving.arrival_rate
        realised = f" ({units.significant(due.value)})" if due else ""
        return f"{given.get('rate')} req/s{realised}"
    return "all at once"


def at_limit(case: CaseComparison) -> Iterator[str]:
    """At which loads two sides are compared, where each has taken its best within a limit."""
    if case.tpot_limit_seconds is None:
        return
    sides = [("base", case.base), ("other", case.other)]
    loads = [f"{who} {arrival(row)}" for who, row in sides if row is not None]
    limit = units.duration(case.tpot_limit_seconds)
    yield "; ".join([f"the most of each at a median TPOT of {limit} or less", *loads])


def legend(curves: Sequence[ServingCurve]) -> list[str]:
    """What the words mean, and what is missing and why; a sentence each."""
    if not curves:
        return []
    rows = [row for curve in curves for row in curve.points]
    said = [
        "Serving: output tokens in the steady window; TTFT from the scheduled arrival; medians; "
        f"goodput: requests that keep {_limits(rows)}"
    ]
    devices = max(row.case.devices for row in rows)
    if devices > 1:
        said.append(f"output and goodput are of all {devices} devices together")
    said += _means(rows)
    said += _absent([row.serving for row in rows if row.serving])
    overheads = [row.serving.overhead for row in rows if row.serving and row.serving.overhead]
    if slow := sum(one.value > OVERHEAD_LIMIT for one in overheads):
        said.append(
            f"the engine's own time is over {OVERHEAD_LIMIT:.0%} in {slow} of {len(rows)}: "
            "the host is in those figures"
        )
    return said


def _means(rows: Sequence[Row]) -> Iterator[str]:
    """Of lengths that were drawn, where they are not as asked: what is longest is cut."""
    found: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        given: dict[str, Any] = row.case.parameters
        if not given.get("length_sigma"):
            continue
        lengths = Lengths(
            input_tokens=given["input_tokens"],
            output_tokens=given["output_tokens"],
            sigma=given["length_sigma"],
        )
        drawn = offline(given["requests"], lengths, given.get("length_seed", 0)).requests
        for what, asked, each in (
            ("prompts", lengths.input_tokens, [one.prompt_tokens for one in drawn]),
            ("answers", lengths.output_tokens, [one.new_tokens for one in drawn]),
        ):
            mean = statistics.fmean(each)
            if abs(mean - asked) > DRAWN_AS_ASKED * asked:
                found.setdefault((what, asked), []).append(mean)
    for (what, asked), means in found.items():
        there = " to ".join(dict.fromkeys(map(units.significant, (min(means), max(means)))))
        yield f"{what} as drawn have a mean of {there} tokens, of {asked} asked"


def _absent(points: Sequence[ServingSummary]) -> Iterator[str]:
    """Which figures of time are missing, and why: where there are no requests, and where there are
    too few for a p99; of TTFT and TPOT in one sentence where it is the same of both."""

    def where(count: int) -> str:
        return f" in {count} of {len(points)}" if count < len(points) else ""

    without = Counter((one.ttft_requests > 0, why) for one in points if (why := no_tpot(one)))
    for (timed, why), count in without.items():
        yield f"no {'TPOT' if timed else 'TTFT or TPOT'}{where(count)}: {why}"
    needed = stats.PERCENTILE_SAMPLES[99]
    ttft = [one.ttft_requests for one in points if one.ttft_p99 is None and one.ttft_requests]
    tpot = [one.tpot_requests for one in points if one.tpot_p99 is None and one.tpot_requests]
    for which, few in (("", ttft),) if ttft == tpot else (("TTFT ", ttft), ("TPOT ", tpot)):
        if few:
            there = " to ".join(map(str, sorted({min(few), max(few)})))
            needs = f"it needs {needed} requests a launch, there are {there}"
            yield f"no {which}p99{where(len(few))}: {needs}"


def _limits(rows: Sequence[Row]) -> str:
    found = {row.serving.limits: None for row in rows if row.serving}
    return " or ".join(
        f"TTFT {units.duration(one.ttft_seconds)} and TPOT {units.duration(one.tpot_seconds)}"
        for one in found
    )


def _time(figure: Interval | None) -> str:
    return "" if figure is None else units.duration(figure.value)


def _rate(figure: Interval | None, what: str) -> str:
    return "" if figure is None else units.rate(figure.value, what)


def _share(figure: Interval | None) -> str:
    return "" if figure is None else f"{figure.value:.1%}"
