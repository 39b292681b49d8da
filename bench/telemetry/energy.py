"""The energy of a launch: over its steady blocks and nothing else, from a counter or from power.

A hardware counter is preferred: its value is interpolated at the edges of every block, so the gaps
between blocks do not count. Where there is none, or it falls or stands still, power is integrated
over the blocks; where both can be had and disagree, neither is a figure. Counters move
about every 100 ms and are read five times a second at most, so less than 20 s of steady blocks
gives no figure, but says how long it would need.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence

import msgspec

from bench import stats, units
from bench.records.observed import Reading, Telemetry
from bench.records.outcome import Measured
from bench.records.run import BLOCK_STEPS, Launch
from bench.telemetry.figures import MOST_WATTS
from bench.telemetry.rests import rests

LEAST_SECONDS = 20.0
"""Of steady blocks, below which there is no figure."""
SPARE = 1.1
"""Blocks asked for to have those: they come out a little shorter or longer than is asked for."""
LEAST_READINGS = 10
"""Of power within the steady blocks, below which integrating them says little."""
LEAST_IDLE_READINGS = 3
"""Of a device before its first worker, below which its idle power is not known."""
SILENCE_SECONDS = 6.0
"""A source that is silent for longer, amid the blocks, has not seen them."""
DISAGREEMENT = 0.05
"""Counter and integrated power further apart than this are flagged, and neither is a figure."""
Points = Sequence[tuple[float, float]]
"""(seconds, value), in the order of time."""


COUNTER = "energy counter"
"""In `Telemetry.absent`: why a counter that there is was not believed."""
STILL_SECONDS = 3.0
"""A counter that shows the same for longer, amid the steady blocks, is stuck: whatever computes
draws power, and counters move about every 100 ms."""


def with_energy(outcome: Measured, telemetry: Telemetry | str) -> Measured:
    """The outcome with its energy, or with the reason why there is none.

    A counter that cannot be believed gives way to the power; where both can be and they disagree,
    there is no figure.
    """
    if isinstance(telemetry, str):
        return _without(outcome, f"not observable: {telemetry}")
    spans = steady_spans(outcome, telemetry)
    if spans is None:
        return _without(outcome, "not observable: the record does not say when its blocks began")
    power = [(r.at_seconds, r.power_watts) for r in telemetry.readings]
    counted = _counted(telemetry.readings)
    drawn = [(at, watts) for at, watts in power if watts is not None]
    if not counted and not drawn:
        why = telemetry.absent.get("energy") or telemetry.absent.get("power") or "no figure"
        return _without(outcome, f"not observable: {why}")
    needed = LEAST_SECONDS if counted else max(LEAST_SECONDS, LEAST_READINGS * _usual(drawn))
    few = not counted and _within(drawn, spans) < LEAST_READINGS
    if outcome.steady_seconds < (needed if few else LEAST_SECONDS):
        return _without(outcome, too_short(outcome, needed))
    span = telemetry.interval_seconds
    fault = counter_fault(counted, spans, span)
    by_counter = fault or delta(counted, spans, span)
    by_power = integral(drawn, spans, span)
    if by_counter == 0:
        by_counter = fault = "the counter does not move"
    if not isinstance(by_counter, str) and not isinstance(by_power, str):
        apart = by_power / by_counter - 1
        if abs(apart) > DISAGREEMENT:
            return _disagreeing(outcome, by_counter, by_power)
    found = by_power if isinstance(by_counter, str) else by_counter
    if isinstance(found, str):
        why = f"{fault}; {found}" if fault and drawn else fault or found
        return _without(outcome, f"not observable: {why}")
    if not math.isfinite(found):
        return _without(outcome, "not observable: the readings add up to no number")
    if found <= 0:
        return _without(outcome, "not observable: no power is drawn, by what it says")
    method = "power" if isinstance(by_counter, str) else "counter"
    return msgspec.structs.replace(
        outcome, energy_joules=found, energy_absent=None, energy_method=method
    )


def with_fault(outcome: Measured, telemetry: Telemetry) -> Telemetry:
    """The telemetry, with the reason in its `absent` where its counter cannot be believed."""
    spans = steady_spans(outcome, telemetry)
    fault = spans and counter_fault(_counted(telemetry.readings), spans, telemetry.interval_seconds)
    if not fault:
        return telemetry
    why = f"{telemetry.source}: {fault}"
    return msgspec.structs.replace(telemetry, absent={**telemetry.absent, COUNTER: why})


def counter_fault(points: Points, spans: Sequence[tuple[float, float]], interval: float) -> str:
    """Why a counter cannot be believed over the spans and the gaps between them; empty if it can.

    One that falls was reset, or wrapped at a value that nobody knows: what it should have counted
    is not to be had from it.
    """
    first, last = spans[0][0], spans[-1][1]
    still = first
    count = 0
    for (a, before), (b, after) in itertools.pairwise(points):
        if b <= first or a >= last:
            continue
        if after < before:
            return (
                f"the counter fell from {before:.6g} to {after:.6g} J at {b:.1f} s: it was reset, "
                "or wrapped"
            )
        if after - before > MOST_WATTS * (b - a):
            return f"the counter rose by {after - before:.4g} J in {b - a:.1f} s"
        if after > before:
            still, count = b, 0
            continue
        count += 1
        if count >= 2 and min(b, last) - still > max(STILL_SECONDS, 3 * interval):
            return f"the counter stood still at {after:.6g} J for {min(b, last) - still:.1f} s"
    return ""


def _counted(readings: Sequence[Reading]) -> list[tuple[float, float]]:
    return [(r.at_seconds, r.energy_joules) for r in readings if r.energy_joules is not None]


def _disagreeing(outcome: Measured, counter: float, power: float) -> Measured:
    apart = power / counter - 1
    cause = f"power integrated gives {power:.4g} J, {apart:+.0%} of the counter's {counter:.4g} J"
    return msgspec.structs.replace(
        _without(outcome, f"neither is believed: {cause}"),
        flags=(*outcome.flags, "ENERGY_DISAGREES"),
        causes={**outcome.causes, "ENERGY_DISAGREES": cause},
    )


def _without(outcome: Measured, why: str) -> Measured:
    return msgspec.structs.replace(outcome, energy_joules=None, energy_absent=why)


def too_short(outcome: Measured, needed: float) -> str:
    """That the steady blocks were too short for an energy, and what would be long enough.

    needed: seconds of them.
    """
    if rests(outcome):
        return "too short: of a burst the device rests for most of the time"
    tenths = math.floor(round(10 * outcome.steady_seconds, 6))  # less is said than is needed
    had = f"{tenths / 10:.1f} s"
    wanted = f"{math.ceil(round(needed, 6))} s are needed"
    if outcome.served is not None:
        return f"too short: a steady window of {had}, {wanted}; more requests give them"
    why = f" for {LEAST_READINGS} readings of power" if needed > LEAST_SECONDS else ""
    said = f"too short: {had} of steady blocks, {wanted}{why}; "
    steps, block = outcome.steady_steps, SPARE * needed / len(outcome.steady)
    most = steps // len(outcome.steady) if "SHORT_BLOCKS" in outcome.flags else BLOCK_STEPS
    longest = most * outcome.steady_seconds / steps
    if longest < block:
        return f"{said}no block has more than {most:,} steps, which take {units.duration(longest)}"
    block = math.ceil(round(block * 10, 6)) / 10
    return f"{said}block_seconds = {block:g} in the suite's settings gives them"


def steady_spans(outcome: Measured, telemetry: Telemetry) -> list[tuple[float, float]] | None:
    """Start and end of every steady block on the readings' clock, seconds; None if not known."""
    first = telemetry.first_step_seconds
    if first is None or any(block.start_ns is None for block in outcome.steady):
        return None
    starts = [first + (block.start_ns or 0) / 1e9 for block in outcome.steady]
    return [(s, s + b.wall_ns / 1e9) for s, b in zip(starts, outcome.steady, strict=True)]


def delta(points: Points, spans: Sequence[tuple[float, float]], interval: float) -> float | str:
    """What a counter rose by over the spans together, interpolated at their edges; or why not."""
    why = _gap(points, spans, interval)
    if why:
        return why
    return sum(_at(points, end) - _at(points, start) for start, end in spans)


def integral(points: Points, spans: Sequence[tuple[float, float]], interval: float) -> float | str:
    """Joules of the power over the spans together, straight between readings; or why not."""
    if (within := _within(points, spans)) < LEAST_READINGS:
        first, last = spans[0][0], spans[-1][1]
        return f"{within} readings of power in {last - first:.0f} s: {LEAST_READINGS} are needed"
    why = _gap(points, spans, interval)
    if why:
        return why
    energy = [0.0]
    for (a, watts_a), (b, watts_b) in itertools.pairwise(points):
        energy.append(energy[-1] + (b - a) * (watts_a + watts_b) / 2)
    sums = [(at, joules) for (at, _), joules in zip(points, energy, strict=True)]
    return sum(_at(sums, end) - _at(sums, start) for start, end in spans)


def _within(points: Points, spans: Sequence[tuple[float, float]]) -> int:
    """How many there are from the first of the spans to the last."""
    return sum(spans[0][0] <= at <= spans[-1][1] for at, _ in points)


def _usual(points: Points) -> float:
    """Seconds from one to the next, of most: a source that costs the host more is read less often
    than it could be."""
    return statistics.median([b - a for (a, _), (b, _) in itertools.pairwise(points)] or [0.0])


def _gap(points: Points, spans: Sequence[tuple[float, float]], interval: float) -> str:
    """Why the points do not cover the spans; empty if they do. At each end two intervals may be
    missing, or as much as lies between two of the points."""
    first, last = spans[0][0], spans[-1][1]
    silent = max(
        (b - a for (a, _), (b, _) in itertools.pairwise(points) if b > first and a < last),
        default=0.0,
    )
    if silent > SILENCE_SECONDS:
        return f"the source was silent for {silent:.0f} s"
    edge = max(2 * interval, silent)
    if len(points) < 2 or points[0][0] > first + edge or points[-1][0] < last - edge:
        return "the readings do not reach over the steady blocks"
    return ""


def _at(points: Points, at: float) -> float:
    """The value at a time, on the line through its neighbours."""
    right = min(max(bisect.bisect_left(points, at, key=lambda p: p[0]), 1), len(points) - 1)
    (a, before), (b, after) = points[right - 1], points[right]
    return before if b == a else before + (after - before) * (at - a) / (b - a)


def idle_watts(readings: Sequence[Reading]) -> float | None:
    """Power of a device that nobody of ours has open: the median, or a counter's rise.

    None below `LEAST_IDLE_READINGS` of them, or less than a second of a counter.
    """
    if len(readings) < LEAST_IDLE_READINGS:
        return None
    watts = [r.power_watts for r in readings if r.power_watts is not None]
    if watts:
        return statistics.median(watts)
    counted = _counted(readings)
    if not counted or counted[-1][0] - counted[0][0] < 1:
        return None
    if any(b < a for (_, a), (_, b) in itertools.pairwise(counted)):
        return None  # reset, or wrapped: no figure, and least of all one below zero
    return (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])


def _believed(outcome: Measured) -> float | None:
    """Its energy; None where its two sources disagree, as in records that kept the counter's."""
    return None if "ENERGY_DISAGREES" in outcome.flags else outcome.energy_joules


def why_absent(outcomes: Sequence[Measured]) -> str:
    """Why a launch has no energy, of the first that has none; empty if all have it."""
    for outcome in outcomes:
        if _believed(outcome) is None:
            return outcome.energy_absent or outcome.causes.get("ENERGY_DISAGREES", "")
    return ""


def items_per_joule(outcomes: Sequence[Measured]) -> float | None:
    """Geometric mean over launches, of which the interval is; None where one has no energy."""
    each = of_launches(outcomes) if watts(outcomes) else ()
    found = stats.geometric_mean(each) if each else 0.0
    # Its reciprocal is shown too; both are numbers, or neither is one.
    return found if found and math.isfinite(1 / found) else None


def watts(outcomes: Sequence[Measured]) -> float | None:
    """Mean power over the steady blocks of all these launches; None where one has no energy."""
    joules = [j for o in outcomes if (j := _believed(o)) is not None]
    if len(joules) < len(outcomes):
        return None
    found = sum(joules) / sum(o.steady_seconds for o in outcomes)
    return found if math.isfinite(found) else None


def of_launches(outcomes: Sequence[Measured]) -> tuple[float, ...]:
    """Items per joule of each launch; nothing where one has no energy, or no number."""
    joules = [_believed(o) for o in outcomes]
    if None in joules:
        return ()
    pairs = zip(outcomes, joules, strict=True)
    each = tuple(o.work.items * o.steady_steps / j for o, j in pairs if j)
    return each if all(0 < x < math.inf for x in each) else ()


def interval(outcomes: Sequence[Measured], level: float) -> stats.Estimate | None:
    """Of items per joule; None where a launch has no energy or they are too few."""
    return stats.log_estimate(of_launches(outcomes), level)


def said_by(launches: Sequence[Launch]) -> tuple[str, str]:
    """Who says the energy and how, each way that any launch took; and of what."""
    ways: dict[str, list[str]] = {}
    scopes = []
    for launch in launches:
        if isinstance(launch.outcome, Measured) and launch.telemetry is not None:
            method = launch.outcome.energy_method
            if method is not None:
                scopes.append(launch.telemetry.scope)
                methods = ways.setdefault(launch.telemetry.source, [])
                methods += [] if method in methods else [method]
    said = [f"{source}, {' and '.join(methods)}" for source, methods in ways.items()]
    return "; ".join(said), scopes[0] if scopes else ""


def not_observable(launches: Sequence[Launch]) -> dict[str, str]:
    """What nobody could see of the device, and why, by the last launch in which nobody could; of
    `telemetry` nothing was seen. "in 2 of 10 launches: " stands before it where that is not of all.

    Of several devices: of the first, and whose are those of which nothing was seen at all.
    """
    seen = [x.telemetry for x in launches if x.telemetry is not None]
    ranks = _unseen_ranks(launches)
    whys: dict[str, list[str]] = {}
    for what, why in (pair for telemetry in seen for pair in telemetry.absent.items()):
        whys.setdefault(what, []).append(why)
    found = {what: _told(of, len(seen)) for what, of in whys.items()}
    unseen = [x.telemetry_absent for x in launches if x.telemetry is None and x.telemetry_absent]
    if unseen and not ranks:
        found["telemetry"] = _told(unseen, len(launches))
    return found | ranks


def _told(whys: Sequence[str], launches: int) -> str:
    few = f"in {len(whys)} of {launches} launches: " if len(whys) < launches else ""
    return few + whys[-1]


def _unseen_ranks(launches: Sequence[Launch]) -> dict[str, str]:
    """Of several devices; nothing where all are unseen for one reason, which is no rank's."""
    outcomes = [x.outcome for x in launches if isinstance(x.outcome, Measured)]
    whys: dict[str, set[int]] = {}
    for share in (share for outcome in outcomes for share in outcome.ranks):
        if share.watched is not None and share.watched.absent_because:
            whys.setdefault(share.watched.absent_because, set()).add(share.rank)
    if len(whys) == 1 and [len(ranks) for ranks in whys.values()] == [len(outcomes[0].ranks)]:
        return {}
    return {f"telemetry of {units.ranks(sorted(ranks))}": why for why, ranks in whys.items()}
