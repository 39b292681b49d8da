"""A judged row as one flat object, for the formats that other programs read."""

from __future__ import annotations

from typing import Any

from bench.judging.interval import Interval
from bench.judging.load import Load
from bench.judging.pairs import Pairs
from bench.judging.row import Efficiency, Link, Row
from bench.judging.served import ServingSummary
from bench.judging.slow import RankTimes
from bench.records.run import RunFile
from bench.reports import _endpoint
from bench.reports._wording import absent
from bench.stats import Estimate

SERVING = {
    "total_rate": "_tokens_per_second",
    "ttft_p50": "_seconds",
    "ttft_p90": "_seconds",
    "ttft_p99": "_seconds",
    "tpot_p50": "_seconds",
    "tpot_p90": "_seconds",
    "tpot_p99": "_seconds",
    "interactivity": "_tokens_per_second",
    "goodput": "_requests_per_second",
    "good_share": "",
    "arrival_rate": "_requests_per_second",
    "occupancy": "",
    "overhead": "_fraction",
}
"""Figures of a load that was served, and the units that their names end in."""


def flat(run: RunFile, row: Row) -> dict[str, Any]:
    """One row without nesting but for `parameters`; units are in the names."""
    return {
        **_of_case(run, row),
        **_of_figure(row),
        **_of_ceilings(row),
        **_of_energy(row),
        **_of_memory(row),
        **_of_latency(row),
        **_endpoint.flat(row.endpoint),
        **_of_serving(row.serving),
        **_of_samples(row),
        **_of_once(row),
    }


def _of_case(run: RunFile, row: Row) -> dict[str, Any]:
    """What was measured, and where."""
    case = row.case
    return {
        "workload": case.workload,
        "mode": case.mode,
        "precision": case.precision,
        "precision_instead": row.instead or None,
        "execution": case.execution,
        "devices": case.devices,
        "parallelism": case.parallelism,
        "parameters": case.parameters,
        "track": case.track,
        "tuned": {key: list(values) for key, values in case.space.items()} or None,
        "choice": row.choice,
        "choices_tried": len(row.trials),
        "fingerprint": case.fingerprint,
        "device": run.run.device.get("name"),
        "backend": run.run.device.get("backend"),
        "run": run.run.run_id,
        "suite": run.run.suite,
    }


def _of_figure(row: Row) -> dict[str, Any]:
    """The throughput, how surely it is known, and of what."""
    return {
        "status": row.status,
        "reached": row.reached,
        "reason": row.reason,
        "verdict": row.verdict,
        "throughput": row.throughput,
        "throughput_per_device": row.throughput_per_device,
        "shared_host": row.shared_host,
        "packages": row.packages,
        "throughput_per_package": row.throughput_per_package,
        **_of_efficiency("strong", row.strong),
        **_of_efficiency("weak", row.weak),
        **_of_ranks(row.ranks),
        **of_interval("exposed_seconds", row.exposed),
        **of_interval("exposed_fraction", row.exposed_fraction),
        "reduced_bytes": row.reduced_bytes,
        "unit": row.unit or None,
        **ends(row.interval, "ci_low", "ci_high"),
        "ci_level": row.interval.level if row.interval else None,
        "launches": row.launches,
        "excluded_launches": row.excluded,
        "exclusion": row.exclusion or None,
        "hindered_launches": row.hindered,
        "hindrance": row.hindrance or None,
        "steps": row.steps,
    }


def _of_ceilings(row: Row) -> dict[str, Any]:
    """How near it came to what its device can do."""
    return {
        "flop_per_second": row.flop_per_second,
        "least_flop_per_second": row.least_flop_per_second,
        "ceiling_fraction": row.ceiling_fraction,
        "matmul_ceiling_flop_per_second": row.matmul_ceiling,
        **_of_load(row.load),
        "mfu": row.mfu,
        "mfu_absent": row.mfu_absent or None,
        "mbu": row.mbu,
        "mbu_absent": row.mbu_absent or None,
        "bytes_per_second": row.bytes_per_second,
        "experts_hit": row.experts_hit,
        "in_cache": row.in_cache or None,
        "bandwidth_fraction": row.bandwidth_fraction,
        "bandwidth_ceiling_bytes_per_second": row.bandwidth_ceiling,
        "bus_bytes_per_second": row.bus_bytes_per_second,
        "operation_seconds": row.operation_seconds,
        **_of_link(row.link),
        **_of_pairs(row.pairs),
        "transferred_bytes_per_second": row.transferred_bytes_per_second,
        "transfer_fraction": row.transfer_fraction,
        "transfer_ceiling_bytes_per_second": row.transfer_ceiling,
        "host_fraction": row.host_fraction,
        "input_wait_fraction": row.input_fraction,
        "input_wait_seconds": row.input_wait_seconds,
        "limit": row.limit[0] if row.limit else None,
        "limit_fraction": row.limit[1] if row.limit else None,
    }


def _of_energy(row: Row) -> dict[str, Any]:
    """Energy and power."""
    return {
        "items_per_joule": row.items_per_joule,
        **ends(row.joule_interval, "items_per_joule_low", "items_per_joule_high"),
        "energy_source": row.energy_source or None,
        "energy_scope": row.energy_scope or None,
        "energy_absent": row.energy_absent or None,
        "idle_watts": row.idle_watts,
        "watts": row.watts,
        "watts_per_package": row.watts_per_package,
    }


def _of_memory(row: Row) -> dict[str, Any]:
    """Bytes that were held."""
    return {
        "peak_memory_bytes": row.peak_memory_bytes,
        "memory_scope": row.memory_scope or None,
        "estimated_peak_bytes": row.estimated_peak_bytes,
    }


def _of_latency(row: Row) -> dict[str, Any]:
    """The time of a request."""
    latency = row.latency
    return {
        "latency_name": latency.name if latency else None,
        "latency_p50_seconds": latency.p50 if latency else None,
        "latency_p50_low_seconds": latency.p50_low if latency else None,
        "latency_p50_high_seconds": latency.p50_high if latency else None,
        "latency_p90_seconds": latency.p90 if latency else None,
        "latency_p99_seconds": latency.p99 if latency else None,
        "latency_absent": absent(latency) if latency else None,
        "requests_per_launch": latency.requests if latency else None,
    }


def _of_samples(row: Row) -> dict[str, Any]:
    """Steps, and what was seen wrong with them."""
    return {
        "step_median_seconds": row.median_sample,
        "step_p25_seconds": row.p25_sample,
        "step_least_seconds": row.least_sample,
        "within_launch_relative_sd": row.within_sd,
        "between_launch_relative_sd": row.between_sd,
        "outliers": row.outliers,
        "flags": list(row.flags),
    }


def _of_once(row: Row) -> dict[str, Any]:
    """What happens once, and what the step ran through."""
    return {
        "import_seconds": row.cold.import_seconds,
        "numerics_seconds": row.cold.numerics_seconds,
        "build_seconds": row.cold.build_seconds,
        "first_step_seconds": row.cold.first_step_seconds,
        "warm_numerics_seconds": row.warm.numerics_seconds,
        "warm_build_seconds": row.warm.build_seconds,
        "warm_first_step_seconds": row.warm.first_step_seconds,
        "compiled_graphs": row.compiler.get("graphs"),
        "graph_breaks": row.compiler.get("graph_breaks"),
        "optimizer_passed_over": row.optimizer_passed_over or None,
        "operators": (row.executed and row.executed.operators) or None,
        "kernels": (row.executed and row.executed.kernels) or None,
        "operators_absent": (row.executed and row.executed.absent) or None,
        "expert_tokens": list(row.executed.expert_tokens) or None if row.executed else None,
    }


def _of_load(load: Load | None) -> dict[str, float | bool | None]:
    return {
        "sustained": None if load is None else load.sustained,
        "load_seconds": None if load is None else load.seconds,
        "load_clock_mhz": None if load is None else load.clock_mhz,
        "load_watts": None if load is None else load.watts,
        "load_celsius": None if load is None else load.celsius,
    }


def _of_serving(serving: ServingSummary | None) -> dict[str, Any]:
    """Of a load that was served: each figure with its interval; what the limits of good were."""
    if serving is None:
        return {}
    found: dict[str, Any] = {
        "serving_requests_per_launch": serving.requests,
        "serving_failed_requests": serving.failed,
        "serving_ttft_limit_seconds": serving.limits.ttft_seconds,
        "serving_tpot_limit_seconds": serving.limits.tpot_seconds,
        "serving_loads": list(serving.loads),
        "serving_schedules": list(serving.schedules),
    }
    for name, unit in SERVING.items():
        found |= of_interval(f"serving_{name}{unit}", getattr(serving, name))
    return found


def _of_pairs(pairs: Pairs | None) -> dict[str, float | str | None]:
    return {
        "pairs_median_bytes_per_second": None if pairs is None else pairs.median,
        "pairs_slowest_share": None if pairs is None else pairs.slowest_share,
        "pairs_slowest": None if pairs is None else " ".join(map(str, pairs.slowest)),
    }


def _of_ranks(ranks: RankTimes | None) -> dict[str, Any]:
    """One value a rank, in their order, but of the slow ones: an empty list where none is."""
    told = ranks is not None and not ranks.absent
    return {
        "slow_ranks": [one.rank for one in ranks.slow] if ranks and told else None,
        "slow_ranks_longer": [one.longer for one in ranks.slow] if ranks and told else None,
        "slow_ranks_absent": ranks.absent or None if ranks else None,
        "rank_compute_seconds": ranks.compute or None if ranks else None,
        "rank_wait_seconds": ranks.wait_seconds or None if ranks else None,
    }


def _of_link(link: Link | None) -> dict[str, float | None]:
    """The line of a collective's sweep over sizes, in each of its rows."""
    latency, bus = (None, None) if link is None else (link.latency, link.bandwidth)
    return {
        "link_latency_seconds": None if latency is None else latency.value,
        **ends(latency, "link_latency_low_seconds", "link_latency_high_seconds"),
        "link_bus_bytes_per_second": None if bus is None else bus.value,
        **ends(bus, "link_bus_low_bytes_per_second", "link_bus_high_bytes_per_second"),
        "link_largest_miss": None if link is None else link.miss,
    }


def _of_efficiency(kind: str, found: Efficiency | None) -> dict[str, float | None]:
    """Beside the same work on fewer devices, and on how many."""
    return {
        **of_interval(f"{kind}_efficiency", found),
        f"{kind}_efficiency_against_devices": None if found is None else found.against,
    }


def of_interval(name: str, found: Interval | None) -> dict[str, float | None]:
    """A figure and the ends of its interval, under names that begin alike."""
    return {
        name: None if found is None else found.value,
        **ends(found, f"{name}_low", f"{name}_high"),
    }


def ends(
    found: Interval | Estimate | None, low: str = "low", high: str = "high"
) -> dict[str, float | None]:
    """The ends of an interval, under those names."""
    return {low: found.low if found else None, high: found.high if found else None}
