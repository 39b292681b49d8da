"""From a served load to its figures, in the terms that are standard for serving.

TTFT: from the scheduled arrival to the first token. TPOT: (last - first) / tokens after those that
came with the first, of each request that has some. Interactivity: 1 / TPOT, tokens a second for one
user. Throughput: output tokens a second in the steady window (`bench.records.served.Window`); total
throughput has the input tokens beside them, never instead. Goodput: requests a second that keep
every limit. TTFT is of requests that were admitted within the window, whenever they ended: those
that end after it are those that waited. TPOT is of those that ended in it too: what runs after it
runs beside fewer and fewer others. A percentile is stated only from as many requests of one launch
as `bench.stats.PERCENTILE_SAMPLES` says: 36 for p90, 368 for p99. The statistical unit is the
launch: every interval is over launches.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Callable, Sequence

import msgspec

from bench import stats
from bench.judging.interval import Interval
from bench.records.served import Served, ServedRequest, Window

BEHIND = "requests come faster than they are answered"
BEHIND_SIGMAS = 2.0
"""TTFT may rise within a load by so many standard deviations of when requests come at random. Of
600 simulated loads each at 70 % of what 1, 8 or 32 slots can do, none rises by more; at 90 %, 2 %
where they have 40 requests, and none of 500. Above what they can do, at 125 %, 13 % to 31 % of 40
requests do and 98 % of 500, at 150 % 42 % and all, and at 200 % 86 % or more of any."""
BEHIND_REQUESTS = 12
"""Fewer say nothing of it."""
FILLINGS = 2
"""Of requests that were sent at once, so many times what is answered at a time must end in the
window: within the first filling it is no steady part."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a request must keep to count as good; of each request, not of a percentile."""

    ttft_seconds: float
    tpot_seconds: float

    def kept(self, request: ServedRequest) -> bool:
        """Whether it was answered within both."""
        first, each = ttft(request), tpot(request)
        if request.failed or first is None or first > self.ttft_seconds:
            return False
        if each is None:  # all came at once: it was no more than if the first had taken no time
            whole = ((request.last_ns or 0) - request.due_ns) / 1e9
            return request.tokens == 1 or whole / (request.tokens - 1) <= self.tpot_seconds
        return each <= self.tpot_seconds


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of the requests of one launch, seconds; None where they are too few to say."""

    requests: int
    p50: float | None
    p90: float | None
    p99: float | None


class ServingFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one launch."""

    requests: int
    """Admitted and ended within the steady window."""
    failed: int
    """Of all requests."""
    total_rate: float
    """Input and output tokens a second, all devices together: a prompt counts when its first token
    arrives."""
    ttft: Percentiles
    tpot: Percentiles
    interactivity: float | None
    """Tokens a second for one user: 1 / median TPOT."""
    goodput: float
    """Requests a second that end in the window and keep every limit."""
    good_share: float | None
    """Their share of those that end in it; None if none does."""
    arrival_rate: float | None
    """Requests a second as they were due; None where all were due at once."""
    occupancy: float | None
    """Share of the slots that got a token, over the window's time; None without steps."""
    overhead: float | None
    """Share of the engine's busy time in the window that was not the forward; likewise."""


def ttft(request: ServedRequest) -> float | None:
    """Seconds from the scheduled arrival to the first token; None without one."""
    return None if request.first_ns is None else (request.first_ns - request.due_ns) / 1e9


def tpot(request: ServedRequest) -> float | None:
    """Seconds a token after those that came with the first; None where all came at once."""
    later = request.tokens - request.first_tokens
    if request.first_ns is None or request.last_ns in (None, request.first_ns) or later < 1:
        return None
    return (request.last_ns - request.first_ns) / 1e9 / later


def figures(served: Served, limits: Limits) -> ServingFigures | None:
    """Of one launch; None where the load was too small to have a steady window."""
    window = served.window
    if window is None:
        return None
    ended = [r for r in served.requests if not r.failed and window.holds(r.last_ns)]
    admitted = [r for r in served.requests if not r.failed and window.holds(r.admitted_ns)]
    counted = [r for r in ended if (r.admitted_ns or 0) >= window.start_ns]
    each = percentiles([t for t in map(tpot, counted) if t is not None])
    begun = [r for r in served.requests if window.holds(r.first_ns)]
    good = sum(map(limits.kept, ended))
    return ServingFigures(
        requests=len(counted),
        failed=sum(bool(r.failed) for r in served.requests),
        total_rate=(window.tokens + sum(r.prompt_tokens for r in begun)) / window.seconds,
        ttft=percentiles([t for t in map(ttft, admitted) if t is not None]),
        tpot=each,
        interactivity=1 / each.p50 if each.p50 else None,
        goodput=good / window.seconds,
        good_share=good / len(ended) if ended else None,
        arrival_rate=arrival_rate(served.requests),
        occupancy=_occupancy(served, window),
        overhead=_overhead(served, window),
    )


def falls_behind(served: Served) -> bool:
    """Whether requests at random came faster than they were answered: TTFT is of the run's length.

    By all that were answered after the first `ramp` in their order, also after the window: the
    slower a server is, the fewer end in it. In thirds as they were due the median TTFT rises from
    each to the next, and from the first to the last by more than `BEHIND_SIGMAS` of the time that
    chance may move as many requests as were due between the middles of those two.
    """
    requests = [r for r in served.requests[served.ramp :] if not r.failed]
    known = sorted((r.due_ns / 1e9, t) for r in requests if (t := ttft(r)) is not None)
    count, third = len(known), len(known) // 3
    if count < BEHIND_REQUESTS:
        return False
    parts = (known[:third], known[third : count - third], known[count - third :])
    first, middle, last = (statistics.median(seconds for _, seconds in part) for part in parts)
    between = (known[-1][0] - known[0][0]) / (count - 1)
    chance = between * math.sqrt(count - third)
    return first < middle < last and last - first > BEHIND_SIGMAS * chance


def unfilled(served: Served) -> str:
    """Why a load that was sent at once has no steady part, and how many requests give one; empty
    where it has one, and of other loads.

    How many are answered at a time is seen between first and last tokens, and of answers of one
    token by how long the first one took of all the time (of others that may be a slow start). Where
    those are all, it may be any number more.
    """
    answered = [r for r in served.requests if not r.failed] if served.sent_at_once else []
    if not answered:
        return ""
    begun, ended = (sorted(getattr(r, at) for r in answered) for at in ("first_ns", "last_ns"))
    due, count = answered[0].due_ns, len(answered)
    held = max(n - bisect.bisect_right(ended, ns) for n, ns in enumerate(begun, 1))
    if held <= 0:
        held = max(round(count * (ended[0] - due) / (ended[-1] - due or 1)), 1)
    window = served.window
    if window is not None and sum(map(window.holds, ended)) >= FILLINGS * held:
        return ""
    why = f"no steady window: all {count} requests were sent at once, and the server answered"
    if held >= count:
        return (
            f"{why} them all at a time: how many it can is not known. Give --requests "
            f"{2 * FILLINGS} times that (its slots)"
        )
    enough = max(2 * FILLINGS * held, count + 1)
    return f"{why} {held} at a time. Give --requests {enough} or more"


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """Of one launch's requests; see the head of this file for how many each needs."""
    return Percentiles(
        requests=len(seconds),
        p50=stats.percentile(seconds, 50),
        p90=stats.percentile(seconds, 90),
        p99=stats.percentile(seconds, 99),
    )


def arrival_rate(requests: Sequence[ServedRequest]) -> float | None:
    """Requests a second as they were due, which is never quite the rate that was drawn from.

    None where all were due at once.
    """
    due = [request.due_ns for request in requests]
    span = max(due) - min(due)
    return (len(due) - 1) / (span / 1e9) if span else None


def over_launches(
    launches: Sequence[ServingFigures],
    of: Callable[[ServingFigures], float | None],
    level: float,
) -> Interval | None:
    """Geometric mean over launches with its interval; None where a launch cannot say the figure.

    level: of the interval. A figure that is 0 somewhere has a plain mean and no interval.
    """
    values = [of(launch) for launch in launches]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if min(known) <= 0:
        return Interval(value=statistics.fmean(known))
    return Interval.on_logs(known, level)


def _occupancy(served: Served, window: Window) -> float | None:
    """Of each step the time that lies in the window; between steps no slot gets a token."""
    steps = served.steps
    if steps is None:
        return None
    taken = sum(
        max(0, min(start + wall, window.end_ns) - max(start, window.start_ns)) * rows
        for start, wall, rows in zip(steps.start_ns, steps.wall_ns, steps.decode_rows, strict=True)
    )
    return taken / 1e9 / window.seconds / steps.slots


def _overhead(served: Served, window: Window) -> float | None:
    """Of the steps that begin in the window."""
    steps = served.steps
    if steps is None:
        return None
    columns = zip(steps.start_ns, steps.wall_ns, steps.forward_ns, strict=True)
    inside = [one for one in columns if window.start_ns <= one[0] <= window.end_ns]
    busy = sum(wall for _, wall, _ in inside)
    return 1 - sum(forward for *_, forward in inside) / busy if busy else None
