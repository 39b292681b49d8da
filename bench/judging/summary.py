"""From a run's raw launches to one judged row per case. Computed on every reading, never stored."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from bench import stats, units
from bench.judging import chips
from bench.planning.sweep import Limits
from bench.planning.tuning import Search, Trial, figures, in_words
from bench.precision import PRECISIONS
from bench.records.case import Case, Choice
from bench.records.outcome import DOES_NOT_FIT, Cold, Failed, Flag, Measured, Skipped, Void
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import by_case
from bench.telemetry import energy
from bench.telemetry.flags import flagged, slowed_launches, unhindered

Verdict = Literal["OK", "NOISY", "NO_STEADY_STATE", "THROTTLED", "INVALID"]
Ceiling = Literal["matmul", "memory", "transfer", "host", "input"]
"""What may limit a case: arithmetic, memory bandwidth, the link to the host, the host itself, which
queues its kernels, or the input pipeline, for which it waits."""
INVALID_SHARE = 1 / 3
"""A case is INVALID when more than this share of its launches is excluded."""
FLAGS = {
    "NO_STEADY_STATE": "a launch never became steady",
    "DRIFT": "step times moved by more than 5 % within a launch",
    "HOST_GAP": "the host's wall time and the device's events differ by more than 2 %",
    "CONTENDED": "other work on the host slowed a launch",
    "THROTTLED": "heat, the power supply or protection slowed a launch",
    "POWER_CAPPED": "the device held its clock to its power limit, as it does under heavy load",
    "SHARED_DEVICE": "others had the device open too",
    "ENERGY_DISAGREES": "energy by the counter and by the power differ by more than 5 %",
}
"""What a launch's flag means. NO_STEADY_STATE of many launches is the verdict, said before."""
CEILING_WORKLOAD = "gemm"
"""The workload whose best throughput, at the same arithmetic, is the box's matmul ceiling."""
BANDWIDTH_WORKLOAD = "memory"
"""The workload whose best throughput is the box's memory bandwidth."""
COMPILED = ("graphs", "graph_breaks")
"""What a launch says of its compiler, if it had one; see `bench.records.environment.compiler`."""
TRANSFER_CEILING = "transfer-to-device"
"""The case whose best throughput is the rate at which the host's inputs reach the device."""


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True):
    """Request latency over launches, seconds. A percentile without enough samples is None."""

    name: str
    """`latency`, `TTFT`, `TPOT`."""
    requests: int
    """Fewest requests of any launch."""
    p50: float
    p50_low: float | None
    p50_high: float | None
    p90: float | None
    p99: float | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One case of one run, judged."""

    case: Case
    status: Literal["measured", "void", "skipped", "failed"]
    reason: str
    """Why it is not measured, or why its verdict is not OK; empty where there is nothing to say."""
    sweep_end: bool = False
    """Out of memory at a larger batch than one that was measured: an answer, not a fault."""
    reached: bool = True
    """False for a planned case without a launch."""
    verdict: Verdict | None = None
    unit: str = ""
    throughput: float | None = None
    """Items/s: geometric mean over launches of items / steady wall seconds."""
    interval: stats.Estimate | None = None
    rates: tuple[float, ...] = ()
    """Items/s of each measured launch, in the order they ran."""
    launches: int = 0
    """Measured launches that the figures are made of."""
    excluded: int = 0
    """Launches that failed beside measured ones."""
    exclusion: str = ""
    """Why the first of those failed."""
    hindered: int = 0
    """Measured launches that are left out: something outside the job slowed them, by a flag with
    its cause. Where that is so of all, all are in the figures, and the verdict says it."""
    hindrance: str = ""
    """What slowed the first of those."""
    steps: int = 0
    """Steady steps, all launches."""
    median_sample: float | None = None
    """Seconds a step: median, 25th percentile and least of all steady samples."""
    p25_sample: float | None = None
    least_sample: float | None = None
    within_sd: float | None = None
    """Relative standard deviation of samples within a launch (mean over launches)."""
    between_sd: float | None = None
    """Relative standard deviation between launches; None below two."""
    outliers: int = 0
    flags: tuple[str, ...] = ()
    latency: LatencySummary | None = None
    flop_per_second: float | None = None
    ceiling_fraction: float | None = None
    """Share of the best matmul throughput that this run measured at the same arithmetic."""
    matmul_ceiling: float | None = None
    """That best matmul throughput, FLOP/s."""
    host_fraction: float | None = None
    """Host time to queue a step over the time of a step; None on synchronous devices."""
    input_fraction: float | None = None
    """Share of the steady time in which a step waited for its batch; None without a pipeline."""
    input_wait_seconds: float | None = None
    """That wait, a step."""
    mfu: float | None = None
    """Model FLOP utilization: share of the chip's published dense peak at the same arithmetic."""
    mfu_absent: str = ""
    """Why there is no MFU."""
    mbu: float | None = None
    """Model bandwidth utilization: share of the chip's published memory bandwidth."""
    mbu_absent: str = ""
    """Why there is no MBU."""
    items_per_joule: float | None = None
    """Over the steady blocks of all launches; None where a launch has no energy figure."""
    joule_interval: stats.Estimate | None = None
    """Of the items per joule over launches."""
    energy_source: str = ""
    """Who says so, and how: `SOURCE, counter`, or `SOURCE, power`."""
    energy_scope: str = ""
    """Of what: chip, board, package, shared."""
    energy_absent: str = ""
    """Why there is no energy figure."""
    idle_watts: float | None = None
    """Of the device before the run's first worker had it; the energy above holds it too."""
    not_observable: dict[str, str] = {}
    """What nobody could see of the device meanwhile, and why."""
    bytes_per_second: float | None = None
    bandwidth_fraction: float | None = None
    """Share of the best memory bandwidth that this run measured."""
    bandwidth_ceiling: float | None = None
    """That best bandwidth, bytes/s."""
    transferred_bytes_per_second: float | None = None
    """From the host to the device."""
    transfer_fraction: float | None = None
    """Share of the best transfer to the device that this run measured."""
    transfer_ceiling: float | None = None
    """That best transfer, bytes/s."""
    peak_memory_bytes: int | None = None
    memory_scope: str = ""
    estimated_peak_bytes: int | None = None
    """What the case's tensors need, from shapes; of a CPU's peak the process itself is a part."""
    cold: Cold = Cold()
    """Median over launches."""
    compiler: dict[str, int] = {}
    """What the compiler did, where it was asked: `graphs` that it made, and `graph_breaks`."""
    choice: Choice | None = None
    """Of a tuned case: the choice that the figures are of."""
    trials: tuple[Trial, ...] = ()
    """The launches by which that was found, in the order they ran; no figure is made of them."""
    untried: int = 0
    """Choices that had no launch yet when the run ended, or that a smaller batch ruled out."""

    @property
    def operation(self) -> str:
        """What `flop_per_second` counts: `FLOP`, or `OP` where they are of integers."""
        precision = PRECISIONS.get(self.case.precision)
        return "FLOP" if precision is None else precision.operation

    @property
    def left_out(self) -> str:
        """Launches that are not in the figures, and why; empty if all are."""
        total = self.launches + self.hindered + self.excluded
        parts = []
        if self.excluded:
            parts.append(f"{self.excluded} of {total} launches failed: {self.exclusion}")
        if self.hindrance:
            count = f"{self.hindered} of {total}" if self.hindered else "all"
            parts.append(f"{count} launches slowed from outside: {self.hindrance}")
        return "; ".join(parts)

    @property
    def limit(self) -> tuple[Ceiling, float] | None:
        """The measured ceiling that the case is nearest to, and its share of it.

        Of the host the share is the time that it takes to queue a step: at 100 % the device waits
        for it; of an input pipeline, the time that the step waits for its batch. None where the run
        measured no ceiling.
        """
        shares: list[tuple[Ceiling, float | None]] = [
            ("matmul", self.ceiling_fraction),
            ("memory", self.bandwidth_fraction),
            ("transfer", self.transfer_fraction),
            ("host", self.host_fraction),
            ("input", self.input_fraction),
        ]
        known = [(name, share) for name, share in shares if share is not None]
        return max(known, key=lambda pair: pair[1], default=None)


def summarize(run: RunFile) -> list[Row]:
    """One row per planned case, in the plan's order; cases that were never reached included."""
    launches = by_case(run.launches)
    limits = Limits()
    rows = []
    for case in run.run.plan:
        of_case = tuple(launches.pop(case.fingerprint, ()))
        for launch in of_case:
            limits.note(case, launch.outcome)
        rows.append(_row(case, of_case, run.run.settings, _why_unreached(run)))
    rows = [_within(row, limits) for row in rows]
    # A launch of a case that was not planned is shown all the same: nothing is dropped.
    rows += [_row(ls[0].case, tuple(ls), run.run.settings, "") for ls in launches.values()]
    device = str(run.run.device.get("name"))
    return _with_ceilings([_with_peak(row, device) for row in rows])


def _within(row: Row, limits: Limits) -> Row:
    """Says of a sweep's points which is the first that did not fit, and which lie beyond it."""
    beyond = None if row.reached else limits.beyond(row.case)
    if beyond is not None:
        return msgspec.structs.replace(row, reached=True, reason=beyond)
    if row.status == "failed" and limits.ends(row.case):
        return msgspec.structs.replace(row, sweep_end=True)
    return row


def _why_unreached(run: RunFile) -> str:
    if run.end is None:
        return "not reached: the run's record ends before it"
    return {
        "budget": "not reached: the time budget was spent",
        "interrupted": "not reached: the run was interrupted",
        "complete": "not run",
    }[run.end.reason]


def _row(case: Case, launches: Sequence[Launch], settings: Settings, unreached: str) -> Row:
    if not case.space:
        return _judged(case, launches, settings, unreached)
    search = Search(case, launches)
    row = _judged(case, figures(launches), settings, unreached)
    if not row.reached and search.next is None and search.best is None:
        row = _nothing_worked(case, search.trials)
    elif not row.reached:
        tried = f"{len(search.trials)} choices tried, {search.left} left"
        row = msgspec.structs.replace(row, reason=f"{unreached}; {tried}")
    final = next((launch.choice for launch in reversed(launches) if not launch.search), None)
    same = [launch for launch in launches if launch.choice == final]
    return msgspec.structs.replace(
        row,
        choice=final,
        trials=search.trials,
        untried=search.choices - len(search.trials),
        estimated_peak_bytes=_estimated_peak_bytes(same),
    )


def _nothing_worked(case: Case, trials: Sequence[Trial]) -> Row:
    """Of a tuned case no choice of which could be measured: skipped if the device can do none."""
    broken = [trial for trial in trials if trial.status in ("void", "failed")]
    full = [trial for trial in trials if trial.status == "does not fit"]
    first = (broken or full or trials)[0]
    reason = f"none of {units.counted(len(trials), 'choice')} ran; {in_words(first.choice)}: "
    if broken:
        return Row(case=case, status="failed", reason=reason + first.why)
    fit = f"{DOES_NOT_FIT}: " if full else ""
    return Row(case=case, status="skipped", reason=fit + reason + first.why)


def _judged(case: Case, launches: Sequence[Launch], settings: Settings, unreached: str) -> Row:
    """The row that the launches make; those of a search are not among them."""
    voids = [o for o in (x.outcome for x in launches) if isinstance(o, Void)]
    if voids:  # one wrong result is enough: no number of this case is used
        return Row(case=case, status="void", reason=voids[0].reason)
    measured = [x for x in launches if isinstance(x.outcome, Measured)]
    others = [x.outcome for x in launches if isinstance(x.outcome, Skipped | Failed)]
    if measured:
        row = _measured_row(case, measured, len(others), settings)
        return msgspec.structs.replace(row, exclusion=others[0].reason if others else "")
    if others:
        status: Literal["skipped", "failed"] = (
            "skipped" if isinstance(others[0], Skipped) else "failed"
        )
        return Row(case=case, status=status, reason=others[0].reason)
    return Row(case=case, status="skipped", reason=unreached, reached=False)


def _measured_row(case: Case, launches: Sequence[Launch], excluded: int, settings: Settings) -> Row:
    slowed = slowed_launches(launches)
    measured = [x.outcome for x in launches if isinstance(x.outcome, Measured)]
    outcomes = unhindered([flagged(x, slowed) for x in launches])
    rates = [o.throughput for o in outcomes]
    level = stats.LOOK_LEVEL if settings.launches == "auto" else stats.FIXED_LEVEL
    interval = stats.log_estimate(rates, level)
    throughput = stats.geometric_mean(rates)
    work = outcomes[0].work
    series = [o.samples for o in outcomes]
    samples = [s for one in series for s in one]
    flags = sorted({flag for x in launches for flag in flagged(x, slowed).flags})
    verdict, reason = _verdict(outcomes, len(measured), excluded, slowed, interval, settings)
    waited = _waited(outcomes)
    return Row(
        case=case,
        status="measured",
        verdict=verdict,
        reason=reason,
        unit=f"{work.unit}/s",
        throughput=throughput,
        interval=interval,
        rates=tuple(rates),
        launches=len(outcomes),
        excluded=excluded,
        hindered=len(measured) - len(outcomes),
        hindrance=next(iter(slowed.values()), ("", ""))[1],
        steps=sum(o.steady_steps for o in outcomes),
        median_sample=statistics.median(samples),
        p25_sample=statistics.quantiles(samples, n=4)[0] if len(samples) > 1 else samples[0],
        least_sample=min(samples),
        within_sd=statistics.fmean(_relative_sd(one) for one in series),
        between_sd=_relative_sd(rates) if len(rates) > 1 else None,
        outliers=sum(stats.outliers(one) for one in series),
        flags=tuple(flags),
        latency=_latency(outcomes, level),
        flop_per_second=_rate(throughput, work.items, work.flop),
        bytes_per_second=_rate(throughput, work.items, work.moved_bytes),
        transferred_bytes_per_second=_rate(throughput, work.items, work.transferred_bytes),
        peak_memory_bytes=max(o.memory.peak_bytes for o in outcomes),
        memory_scope=outcomes[0].memory.scope,
        estimated_peak_bytes=_estimated_peak_bytes(launches),
        cold=_median_cold(launches),
        compiler=_compiler(launches),
        items_per_joule=energy.items_per_joule(outcomes),
        joule_interval=energy.interval(outcomes, level),
        energy_source=energy.said_by(launches)[0],
        energy_scope=energy.said_by(launches)[1],
        energy_absent=next((o.energy_absent for o in outcomes if o.energy_absent), ""),
        not_observable=energy.not_observable(launches),
        idle_watts=next((t.idle_watts for t in (x.telemetry for x in launches) if t), None),
        host_fraction=_host_fraction(outcomes, statistics.median(samples)),
        input_fraction=waited and waited / sum(o.steady_seconds for o in outcomes),
        input_wait_seconds=waited and waited / sum(o.steady_steps for o in outcomes),
    )


def _rate(throughput: float, items: int, count: int | None) -> float | None:
    """What a step has of something, per second; None where it is not counted."""
    return None if count is None else throughput * count / items


def _estimated_peak_bytes(launches: Sequence[Launch]) -> int | None:
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
    unsteady = sum("NO_STEADY_STATE" in o.flags for o in outcomes)
    if unsteady > INVALID_SHARE * len(outcomes):
        return "NO_STEADY_STATE", f"{unsteady} of {len(outcomes)} launches never became steady"
    if interval is None:
        return (
            "NOISY",
            f"no interval: {len(outcomes)} of at least {stats.MINIMUM_LAUNCHES} launches",
        )
    if interval.half_width > settings.target_half_width:
        return "NOISY", (
            f"interval of {units.spread(interval.half_width)} after {len(outcomes)} launches, "
            f"target ±{settings.target_half_width:.0%}"
        )
    return "OK", ""


def _latency(outcomes: Sequence[Measured], level: float) -> LatencySummary | None:
    launches = [o.latencies for o in outcomes]
    series = [s for s in launches if s is not None]
    if not series or len(series) < len(launches):
        return None
    medians = [statistics.median(s) for s in series]
    p50 = stats.log_estimate(medians, level)
    return LatencySummary(
        name=outcomes[0].latency_name or "",
        requests=min(len(s) for s in series),
        p50=stats.geometric_mean(medians),
        p50_low=p50.low if p50 else None,
        p50_high=p50.high if p50 else None,
        p90=_over_launches(series, 90),
        p99=_over_launches(series, 99),
    )


def _over_launches(series: Sequence[Sequence[float]], percent: int) -> float | None:
    values = [stats.percentile(s, percent) for s in series]
    known = [v for v in values if v is not None]
    return stats.geometric_mean(known) if len(known) == len(values) else None


def _compiler(launches: Sequence[Launch]) -> dict[str, int]:
    """Of the launch with the most breaks; nothing where a launch says it otherwise."""
    found = []
    for launch in launches:
        said = launch.environment.get("compiler")
        if isinstance(said, dict) and all(isinstance(said.get(name), int) for name in COMPILED):
            found.append({name: said[name] for name in COMPILED})
    return max(found, key=lambda one: one["graph_breaks"], default={})


def _median_cold(launches: Sequence[Launch]) -> Cold:
    def median(field: str) -> float | None:
        values = [v for v in (getattr(x.cold, field) for x in launches) if v is not None]
        return statistics.median(values) if values else None

    return Cold(**{field: median(field) for field in Cold.__struct_fields__})


def _with_peak(row: Row, device: str) -> Row:
    """Adds the shares of the chip's published peaks; what a trusted one rules out is void."""
    if row.status != "measured":
        return row
    streams = row.case.workload == BANDWIDTH_WORKLOAD
    found = chips.shares(
        device, _arithmetic(row), row.flop_per_second, row.bytes_per_second, streams
    )
    if found.impossible:
        return Row(
            case=row.case,
            status="void",
            reason=found.impossible,
            choice=row.choice,
            trials=row.trials,
            untried=row.untried,
        )
    return msgspec.structs.replace(
        row,
        mfu=found.mfu,
        mfu_absent=found.mfu_absent,
        mbu=found.mbu,
        mbu_absent=found.mbu_absent,
    )


def _with_ceilings(rows: list[Row]) -> list[Row]:
    """Adds to each row its shares of the box's own measured ceilings."""
    matmul: dict[str, float] = {}
    bandwidth = transfer = 0.0
    for row in rows:
        if row.verdict not in ("OK", "NOISY"):
            continue
        if row.case.workload == CEILING_WORKLOAD and row.flop_per_second is not None:
            arithmetic = _arithmetic(row)
            matmul[arithmetic] = max(matmul.get(arithmetic, 0.0), row.flop_per_second)
        if row.case.workload == BANDWIDTH_WORKLOAD and row.bytes_per_second is not None:
            bandwidth = max(bandwidth, row.bytes_per_second)
        if row.case.name == TRANSFER_CEILING and row.throughput is not None:
            transfer = max(transfer, row.throughput)
    return [_with_shares(row, matmul.get(_arithmetic(row)), bandwidth, transfer) for row in rows]


def _with_shares(row: Row, matmul: float | None, bandwidth: float, transfer: float) -> Row:
    """matmul, bandwidth, transfer: the ceilings; nothing or zero where none was measured."""
    changes: dict[str, float] = {}
    if row.flop_per_second is not None and matmul:
        changes |= {"ceiling_fraction": row.flop_per_second / matmul, "matmul_ceiling": matmul}
    if row.bytes_per_second is not None and bandwidth:
        share = row.bytes_per_second / bandwidth
        changes |= {"bandwidth_fraction": share, "bandwidth_ceiling": bandwidth}
    if row.transferred_bytes_per_second is not None and transfer:
        share = row.transferred_bytes_per_second / transfer
        changes |= {"transfer_fraction": share, "transfer_ceiling": transfer}
    return msgspec.structs.replace(row, **changes)


def _arithmetic(row: Row) -> str:
    """What shares a ceiling; a precision that only a newer version knows is one of its own."""
    precision = PRECISIONS.get(row.case.precision)
    return row.case.precision if precision is None else precision.arithmetic
