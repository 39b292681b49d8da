"""A served case over its launches: the figures of `bench.judging.serving`, with their intervals.

Cases that differ in nothing but how requests arrive are one curve, a point for each.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bench import units
from bench.judging.endpoint import each_once
from bench.judging.interval import Interval
from bench.judging.serving import Limits, figures, over_launches
from bench.records.outcome import Measured
from bench.records.served import SATURATED

if TYPE_CHECKING:
    from bench.judging.row import Row
    from bench.records.case import Case

ARRIVALS = ("arrival", "concurrency", "rate", "requests")
"""Parameters that say how requests come, and how many: what differs along a curve."""
EDGES = 1.05
"""Two that keep up with one rate differ by less: in where the edges of their windows lie."""
FIGURES = (
    *("ttft.p50", "ttft.p90", "ttft.p99", "tpot.p50", "tpot.p90", "tpot.p99", "total_rate"),
    *("interactivity", "goodput", "good_share", "arrival_rate", "occupancy", "overhead"),
)
"""Of `ServingFigures`, those that are taken over launches."""
OVERHEAD_LIMIT = 0.03
"""Share of an engine's busy time outside the forward above which the host is in its figures."""


class ServingSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Of one case; a figure is None where a launch cannot say it."""

    limits: Limits
    requests: int
    """Fewest in the steady window of any launch."""
    ttft_requests: int
    tpot_requests: int
    """Fewest of any launch that those figures are of."""
    failed: int
    """Of all launches."""
    total_rate: Interval | None
    ttft_p50: Interval | None
    ttft_p90: Interval | None
    ttft_p99: Interval | None
    tpot_p50: Interval | None
    tpot_p90: Interval | None
    tpot_p99: Interval | None
    interactivity: Interval | None
    goodput: Interval | None
    good_share: Interval | None
    arrival_rate: Interval | None
    occupancy: Interval | None
    overhead: Interval | None
    loads: tuple[str, ...]
    """Digests of what was asked, each once: launches of one case have one."""
    schedules: tuple[str, ...]
    """Likewise of what the engine did: one, but of Poisson arrivals; none of a server."""


def summarized(case: Case, outcomes: Sequence[Measured], level: float) -> ServingSummary | None:
    """None of work that is no load. Reads the limits from the case's parameters."""
    served = [outcome.served for outcome in outcomes if outcome.served is not None]
    if not served or len(served) < len(outcomes):
        return None
    limits = limits_of(case.parameters)
    launches = [one for one in (figures(s, limits) for s in served) if one is not None]
    return ServingSummary(
        limits=limits,
        requests=min(one.requests for one in launches),
        ttft_requests=min(one.ttft.requests for one in launches),
        tpot_requests=min(one.tpot.requests for one in launches),
        failed=sum(one.failed for one in launches),
        **{
            name.replace(".", "_"): over_launches(launches, operator.attrgetter(name), level)
            for name in FIGURES
        },
        loads=each_once(one.load for one in served),
        schedules=each_once(one.schedule for one in served),
    )


def limits_of(parameters: Mapping[str, Any]) -> Limits:
    """As the case states them."""
    return Limits(
        ttft_seconds=parameters["ttft_limit_ms"] / 1e3,
        tpot_seconds=parameters["tpot_limit_ms"] / 1e3,
    )


class ServingCurve(msgspec.Struct, frozen=True, kw_only=True):
    """One engine and one kind of requests, as they come denser: fewest first."""

    points: tuple[Row, ...]
    saturated: tuple[Row, ...] = ()
    """Loads that were given up, as ever more requests waited: measured, and without a figure."""

    @property
    def case(self) -> Case:
        """What the points have in common."""
        return without_arrival(self.points[0].case)


def serving_curves(rows: Iterable[Row]) -> Iterator[ServingCurve]:
    """Of a run's rows those with figures; a single point is a curve too."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.serving is not None or (row.status == "skipped" and _is_saturated(row.reason)):
            found.setdefault(without_arrival(row.work).fingerprint, []).append(row)
    for loads in found.values():
        points = sorted((row for row in loads if row.serving is not None), key=density)
        if points:
            saturated = tuple(row for row in loads if row.serving is None)
            yield ServingCurve(points=tuple(points), saturated=saturated)


def rate_given(base: Row, other: Row) -> bool:
    """Whether their figures are of the rate at which requests came, and not of who answered."""
    if not arrives_at_a_rate(base.case) or density(base) != density(other):
        return False
    if any(map(unsteady, (base, other))):
        return False
    ratio = (other.throughput or 0.0) / (base.throughput or math.inf)
    return 1 / EDGES < ratio < EDGES


def arrives_at_a_rate(case: Case) -> bool:
    """Whether its requests come when they were to come, whoever answers."""
    return case.parameters.get("arrival") == "poisson"


def without_arrival(case: Case) -> Case:
    """The case without how its requests come."""
    rest = {name: value for name, value in case.parameters.items() if name not in ARRIVALS}
    return msgspec.structs.replace(case, parameters=rest)


def best_within(curve: Sequence[Row], tpot_seconds: float) -> Row | None:
    """The point of most throughput of those whose median TPOT keeps the limit; None if none. A
    load that falls behind keeps none for long."""
    kept = [row for row in curve if keeps(row, tpot_seconds) and not unsteady(row)]
    return max(kept, key=lambda row: row.throughput or 0.0, default=None)


def keeps(row: Row, tpot_seconds: float) -> bool:
    """Whether its median TPOT keeps the limit."""
    found = row.serving.tpot_p50 if row.serving else None
    return found is not None and found.value <= tpot_seconds


def no_tpot(one: ServingSummary) -> str:
    """Why a launch has no request with a TPOT; empty where each has one."""
    if one.tpot_requests:
        return ""
    if not one.ttft_requests:
        return "all requests were sent before the steady part"
    whole = "each answer came in one piece"
    return whole if one.requests else "no request began and ended in the steady part"


def in_doubt(row: Row, tpot_seconds: float) -> str:
    """Its median TPOT, `30.1 ms ±0.9%`, where the interval holds the limit; else empty."""
    found = row.serving.tpot_p50 if row.serving else None
    if not found or not (found.low or math.inf) <= tpot_seconds <= (found.high or 0.0):
        return ""
    about = units.spread(math.log((found.high or 0.0) / found.value))
    return f"{units.duration(found.value)} {about}"


def unsteady(row: Row) -> bool:
    """Whether requests come faster than they are answered, by the figures of too many launches or
    in those that were given up for it: the others' figures are those of luck."""
    given_up = row.verdict == "INVALID" and _is_saturated(row.exclusion)
    return given_up or row.verdict == "NO_STEADY_STATE"


def _is_saturated(reason: str) -> bool:
    return reason.startswith(f"{SATURATED}:")


def density(row: Row) -> tuple[str, float]:
    """How requests come, and how densely."""
    given = row.case.parameters
    dense = given.get("rate") or given.get("concurrency") or 0
    return str(given.get("arrival")), float(dense)
