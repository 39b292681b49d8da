"""The row of a case that was measured: its launches' figures, their interval and the verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bench import stats, units
from bench.judging import cold
from bench.judging.clocks import CLOCKS_SET, clocks_set
from bench.judging.interval import Interval
from bench.judging.load import load_of
from bench.judging.ranks.exchanged import exposed, reduced
from bench.judging.ranks.pairs import pairs
from bench.judging.ranks.slow import rank_times
from bench.judging.row import LatencySummary, Row, Verdict
from bench.judging.served import arrives_at_a_rate, summarized
from bench.judging.serving import BEHIND, falls_behind
from bench.planning.least_flop import least_flop
from bench.records.case import Case
from bench.records.environment import UNSEARCHED, section
from bench.records.execution import NOT_ITS_POOL, is_recorded
from bench.records.outcome import Flag, Measured
from bench.records.run import Launch, Settings
from bench.telemetry import energy, joined
from bench.telemetry.flags import (
    flagged,
    observed_clock,
    slowed_launches,
    slowest_clock,
    unhindered,
)

INVALID_SHARE = 1 / 3
"""A case is INVALID when more than this share of its launches is excluded."""
FAR_OUT = "FAR_OUT"
"""The flag of a case, not of a launch: one of them stands far from the others, without a cause."""
PASSED_OVER = "optimizer passed over"
"""What a job says where an implementation of its optimizer is wrong on the device."""
SPREAD = (
    "parallelism",
    "accumulation",
    "gradient checkpointing",
    "mixed precision",
    "weights gathered as",
    "gradients reduced as",
    "batch statistics",
    "compiled",
)
"""What a job says of how several devices train together, in the card's order."""
ALLOCATED = ("device allocator", "device allocator since its start")
"""Scopes of what tensors had, of which a replay's are none."""
COMPILED = ("graphs", "graph_breaks")
"""What a launch says of its compiler, if it had one; see `bench.records.environment.compiler`."""


def measured_row(case: Case, launches: Sequence[Launch], excluded: int, settings: Settings) -> Row:
    """Of measured launches of one case; excluded: how many failed beside them."""
    slowed = slowed_launches(launches)
    measured = [x.outcome for x in launches if isinstance(x.outcome, Measured)]
    flagged_outcomes = [_steady(case, flagged(x, slowed)) for x in launches]
    outcomes = unhindered(flagged_outcomes)
    kept = {id(outcome) for outcome in outcomes}
    clean = [x for x, o in zip(launches, flagged_outcomes, strict=True) if id(o) in kept]
    rates = [o.throughput for o in outcomes]
    level = stats.level(settings.launches)
    interval = stats.log_estimate(rates, level)
    throughput = stats.geometric_mean(rates)
    seen: set[str] = {flag for outcome in flagged_outcomes for flag in outcome.flags}
    far = _far_out(clean, rates)
    seen |= {FAR_OUT for _ in far} | {CLOCKS_SET for x in launches if clocks_set(x)}
    verdict, reason = _verdict(outcomes, len(measured), excluded, slowed, interval, settings)
    source, scope = energy.said_by(launches)
    return Row(
        case=case,
        status="measured",
        verdict=verdict,
        reason=reason,
        unit=f"{outcomes[0].work.unit}/s",
        throughput=throughput,
        interval=interval,
        rates=tuple(rates),
        rounds=tuple(launch.launch for launch in clean),
        load=load_of(case, clean),
        clocks_mhz=tuple(map(observed_clock, clean)),
        slowest_clocks_mhz=tuple(map(slowest_clock, clean)),
        launches=len(outcomes),
        excluded=excluded,
        hindered=len(measured) - len(outcomes),
        hindrance=next(iter(slowed.values()), ("", ""))[1],
        between_sd=_relative_sd(rates) if len(rates) > 1 else None,
        flags=tuple(sorted(seen)),
        far_out=far,
        flag_ranks=_flag_ranks(measured),
        latency=_latency(outcomes, level),
        serving=summarized(case, outcomes, level),
        **_steps(outcomes),
        **_counted(case, outcomes, throughput),
        **_ranks(case, launches, outcomes),
        **exposed(outcomes, level),
        **reduced(launches),
        **_memory(case, outcomes),
        estimated_peak_bytes=estimated_peak_bytes(launches),
        cold=cold.of_first(launches),
        warm=cold.of_others(launches),
        compiler=_compiler(launches),
        optimizer_passed_over=_passed_over(launches),
        spread=_spread(launches),
        executed=next((x.executed for x in measured if x.executed), None),
        packages=joined.packages_of(measured),
        items_per_joule=energy.items_per_joule(outcomes),
        joule_rates=energy.of_launches(outcomes),
        joule_interval=energy.interval(outcomes, level),
        energy_source=source,
        energy_scope=scope,
        energy_absent=energy.why_absent(outcomes),
        not_observable=energy.not_observable(launches),
        idle_watts=joined.idle_watts(launches),
        watts=energy.watts(outcomes),
    )


def _steps(outcomes: Sequence[Measured]) -> dict[str, Any]:
    """Fields of a row: how long its steps took, and what they waited for."""
    series = [o.samples for o in outcomes]
    samples = [s for one in series for s in one]
    steps, waited = sum(o.steady_steps for o in outcomes), _waited(outcomes)
    quarters = statistics.quantiles(samples, n=4, method="inclusive") if samples[1:] else samples
    return {
        "steps": steps,
        "median_sample": (median := statistics.median(samples)),
        "p25_sample": quarters[0],
        "least_sample": min(samples),
        "within_sd": statistics.fmean(_relative_sd(one) for one in series),
        "outliers": sum(stats.outliers(one) for one in series),
        "host_fraction": _host_fraction(outcomes, median),
        "input_fraction": waited and waited / sum(o.steady_seconds for o in outcomes),
        "input_wait_seconds": waited and waited / steps,
    }


def _counted(case: Case, outcomes: Sequence[Measured], throughput: float) -> dict[str, Any]:
    """Fields of a row: what is counted of a step, per second; None where it is not counted."""
    work = outcomes[0].work

    def per_second(count: float | None) -> float | None:
        return None if count is None else throughput * count / work.items

    return {
        "flop_per_second": per_second(work.flop),
        "least_flop_per_second": per_second(least_flop(case, work)),
        "bytes_per_second": per_second(_mean([o.work.moved_bytes for o in outcomes])),
        "experts_hit": _mean([o.work.experts_hit for o in outcomes]),
        "bus_bytes_per_second": per_second(work.bus_bytes),
        "operation_seconds": work.operations and work.items / throughput / work.operations,
        "transferred_bytes_per_second": per_second(work.transferred_bytes),
    }


def _ranks(case: Case, launches: Sequence[Launch], outcomes: Sequence[Measured]) -> dict[str, Any]:
    """Fields of a row: what its ranks share, compute and exchange."""
    worlds = [world for x in launches if (world := section(x.environment, "world"))]
    shared = True in (world.get("shared_host") for world in worlds)
    whys = [why for world in worlds if isinstance(why := world.get("silent_absent"), str)]
    return {
        "shared_host": case.devices > 1 and shared,
        "pairs": pairs(outcomes, worlds[0].get("machines") if worlds else None),
        "ranks": rank_times(case, outcomes, shared=shared, why=whys[0] if whys else ""),
    }


def _steady(case: Case, outcome: Measured) -> Measured:
    """With the flag that its requests give it, where they came at random."""
    served, flag = outcome.served, "NO_STEADY_STATE"
    if served is None or not arrives_at_a_rate(case) or not falls_behind(served):
        return outcome
    return msgspec.structs.replace(
        outcome, flags=(*outcome.flags, flag), causes={**outcome.causes, flag: BEHIND}
    )


def _far_out(launches: Sequence[Launch], rates: Sequence[float]) -> dict[int, float]:
    """Launches that stand far from the rest, by number: their share of the median rate."""
    usual = statistics.median(rates)
    return {launches[i].launch: rates[i] / usual for i in stats.far_out(rates)}


def _flag_ranks(outcomes: Sequence[Measured]) -> dict[str, tuple[int, ...]]:
    """Whose a flag is in any launch, where it is not that of all ranks."""
    found: dict[str, set[int]] = {}
    for outcome in outcomes:
        for share in outcome.ranks:
            for flag in share.flags:
                found.setdefault(flag, set()).add(share.rank)
    most = max(len(outcome.ranks) for outcome in outcomes)
    return {flag: tuple(sorted(ranks)) for flag, ranks in found.items() if len(ranks) < most}


def _mean(counts: Sequence[float | None]) -> float | None:
    """Of launches, whose tokens go to experts of their own; None where one has not counted."""
    found = [count for count in counts if count is not None]
    return statistics.fmean(found) if len(found) == len(counts) else None


def _memory(case: Case, outcomes: Sequence[Measured]) -> dict[str, Any]:
    """The most of the launches that count the same as the first, and what they count.

    Older records have of a recorded step what its tensors had: that is said, as it is no peak.
    """
    scope = outcomes[0].memory.scope
    most = max(o.memory.peak_bytes for o in outcomes if o.memory.scope == scope)
    if is_recorded(case.execution) and scope in ALLOCATED:
        scope = f"{scope}, {NOT_ITS_POOL}"
    return {"peak_memory_bytes": most, "memory_scope": scope}


def estimated_peak_bytes(launches: Sequence[Launch]) -> int | None:
    """What the case's tensors need, from shapes; None where no launch says it."""
    return next((x.estimated_peak_bytes for x in launches if x.estimated_peak_bytes), None)


def _host_fraction(outcomes: Sequence[Measured], step_seconds: float) -> float | None:
    series = [o.queue_ns for o in outcomes]
    known = [ns for queued in series if queued is not None for ns in queued]
    if not known or None in series:
        return None
    return statistics.median(known) / 1e9 / step_seconds


def _waited(outcomes: Sequence[Measured]) -> float | None:
    """Seconds in which steady steps waited for their batches; None where they lay ready."""
    waits = [block.input_wait_ns for outcome in outcomes for block in outcome.steady]
    known = [ns for ns in waits if ns is not None]
    return None if len(known) < len(waits) else sum(known) / 1e9


def _relative_sd(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    return math.sqrt(stats.variance(values)) / statistics.fmean(values)


def _verdict(
    outcomes: Sequence[Measured],
    measured: int,
    excluded: int,
    slowed: Mapping[int, tuple[Flag, str]],
    interval: stats.Estimate | None,
    settings: Settings,
) -> tuple[Verdict, str]:
    """The gravest thing that is wrong, with its figures; later checks assume the earlier passed.

    measured: launches with a number, of which `outcomes` make up the figure.
    """
    total = measured + excluded
    hot = [cause for flag, cause in slowed.values() if flag == "THROTTLED"]
    if len(hot) > INVALID_SHARE * total:
        return "THROTTLED", f"{len(hot)} of {total} launches throttled"
    if excluded + len(slowed) > INVALID_SHARE * total:
        parts = [f"{excluded} of {total} launches failed"] if excluded else []
        parts += [f"{len(slowed)} of {total} launches were slowed from outside"] if slowed else []
        return "INVALID", ", ".join(parts)
    unsteady = [o for o in outcomes if "NO_STEADY_STATE" in o.flags]
    if len(unsteady) > INVALID_SHARE * len(outcomes):
        cause = unsteady[0].causes.get("NO_STEADY_STATE", "")
        words = f"{len(unsteady)} of {len(outcomes)} launches never became steady"
        return "NO_STEADY_STATE", f"{words}: {cause}" if cause else words
    if interval is None:
        few = f"no interval: {len(outcomes)} of at least {stats.MINIMUM_LAUNCHES} launches"
        return "FEW_LAUNCHES", few
    if interval.half_width > settings.target_half_width:
        return "NOISY", (
            f"interval of {_beyond(interval.half_width, settings.target_half_width)} after "
            f"{len(outcomes)} launches, target ±{100 * settings.target_half_width:g}%"
        )
    return "OK", ""


def _beyond(half_width: float, target: float) -> str:
    """An interval that is wider than the target, with the digits that it takes to look so."""
    percent, digits = 100 * half_width, 2
    while float(f"{percent:.{digits}g}") <= 100 * target and digits < 9:
        digits += 1
    alike = digits > 2 and half_width <= units.SYMMETRIC
    return f"±{percent:.{digits}g}%" if alike else units.spread(half_width)


def _latency(outcomes: Sequence[Measured], level: float) -> LatencySummary | None:
    launches = [o.latencies for o in outcomes]
    series = [s for s in launches if s is not None]
    if not series or len(series) < len(launches):
        return None
    medians = [statistics.median(s) for s in series]
    if min(medians) <= 0:  # shorter than the clock can tell
        return None
    p50 = Interval.on_logs(medians, level)
    return LatencySummary(
        name=outcomes[0].latency_name or "",
        requests=min(len(s) for s in series),
        p50=p50.value,
        p50_low=p50.low,
        p50_high=p50.high,
        p90=_over_launches(series, 90),
        p99=_over_launches(series, 99),
    )


def _over_launches(series: Sequence[Sequence[float]], percent: int) -> float | None:
    values = [stats.percentile(s, percent) for s in series]
    known = [v for v in values if v]
    return stats.geometric_mean(known) if len(known) == len(values) else None


def _compiler(launches: Sequence[Launch]) -> dict[str, int]:
    """Of the launch with the most breaks; nothing where a launch says it otherwise."""
    found = []
    for launch in launches:
        said = section(launch.environment, "compiler")
        if all(isinstance(said.get(name), int) for name in COMPILED):
            found.append({name: said[name] for name in (*COMPILED, UNSEARCHED) if name in said})
    return max(found, key=lambda one: one["graph_breaks"], default={})


def _passed_over(launches: Sequence[Launch]) -> str:
    said = (section(launch.environment, "job").get(PASSED_OVER) for launch in launches)
    return next((str(words) for words in said if words), "")


def _spread(launches: Sequence[Launch]) -> str:
    """As the first launch that says it; launches of one case are spread alike."""
    jobs = (section(launch.environment, "job") for launch in launches)
    job = next((job for job in jobs if job.get(SPREAD[0])), {})
    said = [(name, job.get(name)) for name in SPREAD]
    words = [str(fact) if name == SPREAD[0] else f"{name} {fact}" for name, fact in said if fact]
    return "; ".join(words)
