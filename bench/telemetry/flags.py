"""What outside the job slowed a launch: throttling, a power cap, others on the device."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from bench import stats, units
from bench.records.observed import THROTTLING, Reading, Reason, Telemetry
from bench.records.outcome import Flag, Measured
from bench.records.run import Launch
from bench.telemetry import standstill
from bench.telemetry.energy import steady_spans
from bench.telemetry.figures import refused
from bench.telemetry.rests import rests

HINDERED: frozenset[Flag] = frozenset({"CONTENDED", "QUOTA", "STOPPED", "THROTTLED"})
"""Flags that name a cause outside the job: such a launch is left out of its case's figures."""
CLOCK_SHARE = 0.95
"""A launch whose clock is below this share of the fastest tenth of its case's is throttled."""
LEAST_CLOCKS = 10
"""Readings of a case's clock, below which there is no fastest tenth."""
LEAST_CLOCKS_OF_LAUNCH = 3
"""Readings of a launch's clock, below which it is not known."""


def with_flags(outcome: Measured, telemetry: Telemetry | str) -> Measured:
    """The outcome with the flags that its telemetry gives it, each with its cause."""
    if isinstance(telemetry, str):
        return outcome
    found = {**_hindered(steady_readings(outcome, telemetry)), **_shared(telemetry)}
    return msgspec.structs.replace(
        outcome, flags=(*outcome.flags, *found), causes={**outcome.causes, **found}
    )


def hindered(outcome: Measured) -> bool:
    """Whether something outside the job slowed the launch, as far as it shows by itself."""
    return not HINDERED.isdisjoint(outcome.flags) or bool(standstill.recorded(outcome))


def unhindered(outcomes: Sequence[Measured]) -> list[Measured]:
    """The launches that make up a figure: those that nothing slowed, or all if none is such."""
    return [o for o in outcomes if not hindered(o)] or list(outcomes)


def steady_readings(outcome: Measured, telemetry: Telemetry) -> list[Reading]:
    """Those from the first steady block to the last, and the nearest ones before and after."""
    spans = steady_spans(outcome, telemetry)
    if spans is None:
        return []
    edge = telemetry.interval_seconds
    first, last = spans[0][0] - edge, spans[-1][1] + edge
    return [r for r in telemetry.readings if first <= r.at_seconds <= last]


def _hindered(readings: Sequence[Reading]) -> dict[Flag, str]:
    """By the reasons that the device gives. None given is not observable, and flags nothing.

    A slowdown by hardware that is seen once and has no other reason beside it may be a change of
    clocks on the way to a new state, so it takes two looks.
    """
    known = [r for r in readings if r.reasons is not None]
    counts = Counter(word for r in known for word in r.reasons or ())
    throttled = [word for word in THROTTLING if counts[word]]
    if throttled == ["hardware slowdown"] and counts["hardware slowdown"] < 2:
        throttled = []
    found: dict[Flag, str] = {}
    if throttled:
        words = ", ".join(f"{w} in {counts[w]} of {len(known)} readings" for w in throttled)
        hot = [r.temperature_celsius for r in known if set(throttled) & set(r.reasons or ())]
        hottest = max(filter(None, hot), default=None)
        found["THROTTLED"] = words + (f", up to {hottest:.0f} °C" if hottest else "")
    if counts["power cap"]:
        capped = [r.power_watts for r in known if "power cap" in (r.reasons or ())]
        watts = [power for power in capped if power is not None]
        at = f", at {statistics.median(watts):.0f} W" if watts else ""
        found["POWER_CAPPED"] = f"power cap in {counts['power cap']} of {len(known)} readings{at}"
    return found


def _shared(telemetry: Telemetry) -> dict[Flag, str]:
    if not telemetry.others:
        return {}
    held = telemetry.others_bytes
    memory = "" if held is None else f" with {units.memory(held)}"
    return {"SHARED_DEVICE": f"other processes on the device: {telemetry.others}{memory}"}


Clocks = Mapping[int, Counter[float]]
"""Of one launch, by rank: at which clock, MHz, how many readings of its device were. Of a rank
beyond the first a launch has the median alone, which then stands for all its readings."""


def clocks_of(launch: Launch) -> Clocks:
    """Readings at which a device held to its power limit, or idled, are left out; and so are clocks
    that are not of this device alone."""
    if not isinstance(launch.outcome, Measured):
        return {}
    found = {0: Counter(_clocks(launch))}
    for share in launch.outcome.ranks[1:]:
        found[share.rank] = Counter()
        if share.watched and share.watched.clock_mhz is not None and share.watched.clocks:
            found[share.rank][share.watched.clock_mhz] = share.watched.clocks
    return found


def slow_clocks(launches: Mapping[int, Clocks]) -> dict[int, str]:
    """Launches of one case, by number, whose clock lies below the fastest tenth of the case's, by
    more than it jitters.

    Of the same case only: other work runs at other clocks by rights. Of several devices each is
    held against itself.
    """
    several = any(len(clocks) > 1 for clocks in launches.values())
    slow: dict[int, str] = {}
    jitter = 0.0  # also of the other ranks, of whose launches there is the median alone
    for rank in sorted({rank for clocks in launches.values() for rank in clocks}):
        found = {number: clocks.get(rank, Counter()) for number, clocks in launches.items()}
        series = {k: one for k, one in found.items() if one.total() >= LEAST_CLOCKS_OF_LAUNCH}
        if sum(one.total() for one in series.values()) < LEAST_CLOCKS:
            continue
        medians = {k: statistics.median(clocks.elements()) for k, clocks in series.items()}
        jitter = max(jitter, _jitter(series, medians))
        for number, words in _slow(series, medians, jitter).items():
            slow.setdefault(number, f"rank {rank}: {words}" if several else words)
    return slow


def _jitter(series: Mapping[int, Counter[float]], medians: Mapping[int, float]) -> float:
    """MHz, standard deviation of readings about their launch's median, by the median absolute one:
    where a clock falls once, as by heat, most readings lie beside the median all the same."""
    off = [abs(mhz - medians[k]) for k, clocks in series.items() for mhz in clocks.elements()]
    return stats.NORMAL_MAD * statistics.median(off) * len(off) / (len(off) - len(series))


def _slow(
    series: Mapping[int, Counter[float]], medians: Mapping[int, float], jitter: float
) -> dict[int, str]:
    """Launches of one device whose clock lies below the fastest tenth of all its readings, by more
    than its readings jitter; or below that of its launches' medians, by more than those do, each
    as often as it has readings: the first launches are short, and run while a device is cool.

    A sound device whose clock jitters by 5 % is flagged in few runs so, and one of up to 2 % that
    throttles in every launch, after its first seconds, is found (simulated).
    """
    readings = sorted(mhz for clocks in series.values() for mhz in clocks.elements())
    usual = sorted(medians[k] for k, clocks in series.items() for _ in range(clocks.total()))
    slow: dict[int, str] = {}
    for number, clock in medians.items():
        noise = jitter / math.sqrt(series[number].total())
        for of_all, least in ((readings, 2.5 * jitter + 3 * noise), (usual, 7 * noise)):
            top = of_all[math.floor(0.9 * len(of_all))]
            if clock < CLOCK_SHARE * top and top - clock > least:
                words = f"clock {clock:.0f} MHz, {clock / top:.0%} of the case's {top:.0f} MHz"
                slow.setdefault(number, words)
    return slow


def slowed_launches(launches: Sequence[Launch]) -> dict[int, tuple[Flag, str]]:
    """Of launches that something outside the job slowed: by their numbers, the flag and cause."""
    slow = slow_clocks({launch.launch: clocks_of(launch) for launch in launches})
    found: dict[int, tuple[Flag, str]] = {
        number: ("THROTTLED", cause) for number, cause in slow.items()
    }
    for launch in launches:
        if isinstance(launch.outcome, Measured):
            if stopped := standstill.recorded(launch.outcome):
                found[launch.launch] = ("STOPPED", stopped)
            for flag in sorted(HINDERED.intersection(launch.outcome.flags)):
                cause = launch.outcome.causes.get(flag, flag)
                found[launch.launch] = (flag, cause)
    return dict(sorted(found.items()))


def flagged(launch: Launch, slowed: Mapping[int, tuple[Flag, str]]) -> Measured:
    """The launch's outcome, with the flag that only the whole case, or its samples, show."""
    assert isinstance(launch.outcome, Measured)
    flag, _ = slowed.get(launch.launch, (None, ""))
    if flag is None or flag in launch.outcome.flags:
        return launch.outcome
    return msgspec.structs.replace(launch.outcome, flags=(*launch.outcome.flags, flag))


def observed_clock(launch: Launch) -> float | None:
    """MHz that the device ran at while a launch was measured, the median; None if not observable.

    At a power limit too: it is the clock that the work had. A device that idles has no clock of the
    work's, and one that is shared none of its own.
    """
    clocks = _clocks(launch, lawful=frozenset({"idle"}))
    clocks = [mhz for mhz in clocks if mhz > 0 and not refused("clock", mhz)]
    return statistics.median(clocks) if len(clocks) >= LEAST_CLOCKS_OF_LAUNCH else None


def slowest_clock(launch: Launch) -> float | None:
    """MHz of the device that ran at the lowest clock, of those that did the step together; None if
    rank 0's is not known. Another's is of the readings at which it did not hold to its power limit,
    and is left out where those are few."""
    clocks = [observed_clock(launch)]
    for one in launch.outcome.ranks if isinstance(launch.outcome, Measured) else ():
        if one.rank and one.watched and one.watched.clocks >= LEAST_CLOCKS_OF_LAUNCH:
            clocks.append(one.watched.clock_mhz)
    return None if clocks[0] is None else min(mhz for mhz in clocks if mhz is not None)


LAWFUL: frozenset[Reason] = frozenset({"power cap", "idle"})
"""Reasons for a low clock that are no throttling."""


def _clocks(launch: Launch, lawful: frozenset[Reason] = LAWFUL) -> list[float]:
    telemetry = launch.telemetry
    if not isinstance(launch.outcome, Measured) or telemetry is None or telemetry.scope == "shared":
        return []
    if rests(launch.outcome):
        return []
    return own_clocks(steady_readings(launch.outcome, telemetry), lawful)


def own_clocks(readings: Sequence[Reading], lawful: frozenset[Reason] = LAWFUL) -> list[float]:
    """MHz of those at which the clock was not low for a lawful reason."""
    return [
        r.clock_mhz
        for r in readings
        if r.clock_mhz is not None and not lawful & set(r.reasons or ())
    ]
