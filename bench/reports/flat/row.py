"""A judged row as one flat object, for the formats that other programs read."""

from __future__ import annotations

from typing import Any

from bench.judging.interval import Interval
from bench.judging.ranks.slow import RankTimes
from bench.judging.row import Efficiency, LatencySummary, Row
from bench.judging.served import ServingSummary
from bench.records.executed import Executed
from bench.records.run import RunFile
from bench.reports.wording import endpoint
from bench.reports.wording.rows import absent

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

ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))
"""What the names of a figure and of its interval's ends end in, and their attributes."""


def flat(run: RunFile, row: Row) -> dict[str, Any]:
    """One row without nesting but for `parameters`; units are in the names."""
    return {
        **_of_case(run, row),
        **_of_figure(row),
        **_of_ceilings(row),
        **columns(row, "items_per_joule", "items_per_joule_low=joule_interval.low"),
        **columns(row, "items_per_joule_high=joule_interval.high", "energy_source"),
        **columns(row, "energy_scope", "energy_absent"),
        "not_observable": "; ".join(f"{a}: {why}" for a, why in row.not_observable.items()) or None,
        **columns(row, "idle_watts", "watts", "watts_per_package", "peak_memory_bytes"),
        **columns(row, "memory_scope", "estimated_peak_bytes"),
        **_of_latency(row.latency),
        **endpoint.flat(row.endpoint),
        **_of_serving(row.serving),
        **_of_samples(row),
        **_of_once(row),
    }


def columns(value: object, *names: str) -> dict[str, Any]:
    """Attributes of a value: each under its own name, or as `name=attribute` under another.

    `load.seconds` is one of an attribute. None for an empty text, and of what is not there.
    """
    each = (words.partition("=") for words in names)
    return {name: _attribute(value, path or name) for name, _, path in each}


def _attribute(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return None if value == "" else value


def _of_case(run: RunFile, row: Row) -> dict[str, Any]:
    """What was measured, and where."""
    case = row.case
    return {
        **columns(case, "workload", "mode", "precision"),
        **columns(row, "precision_instead=instead"),
        **columns(case, "execution", "devices", "parallelism", "parameters", "track"),
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
        **columns(row, "status", "reached"),
        "reason": row.reason,
        **columns(row, "verdict", "throughput", "throughput_per_device", "shared_host"),
        **columns(row, "packages", "throughput_per_package"),
        **_of_efficiency("strong", row.strong),
        **_of_efficiency("weak", row.weak),
        **_of_ranks(row.ranks),
        **of_interval("exposed_seconds", row.exposed),
        **of_interval("exposed_fraction", row.exposed_fraction),
        **columns(row, "reduced_bytes", "unit"),
        **columns(row, "ci_low=interval.low", "ci_high=interval.high", "ci_level=interval.level"),
        **columns(row, "launches", "excluded_launches=excluded", "exclusion"),
        **columns(row, "hindered_launches=hindered", "hindrance", "steps"),
    }


def _of_ceilings(row: Row) -> dict[str, Any]:
    """How near it came to what its device can do."""
    return {
        **columns(
            row,
            *("flop_per_second", "least_flop_per_second", "ceiling_fraction"),
            *("matmul_ceiling_flop_per_second=matmul_ceiling", "sustained=load.sustained"),
            *("load_seconds=load.seconds", "load_clock_mhz=load.clock_mhz"),
            *("load_watts=load.watts", "load_celsius=load.celsius"),
            *("mfu", "mfu_of", "mfu_absent", "mbu", "mbu_of", "mbu_absent", "bytes_per_second"),
            *("experts_hit", "in_cache", "bandwidth_fraction"),
            "bandwidth_ceiling_bytes_per_second=bandwidth_ceiling",
            *("bus_bytes_per_second", "operation_seconds"),
            *(f"link_latency{end}_seconds=link.latency.{of}" for end, of in ENDS),
            *(f"link_bus{end}_bytes_per_second=link.bandwidth.{of}" for end, of in ENDS),
            *("link_largest_miss=link.miss", "pairs_median_bytes_per_second=pairs.median"),
            "pairs_slowest_share=pairs.slowest_share",
        ),
        "pairs_slowest": " ".join(map(str, row.pairs.slowest)) if row.pairs else None,
        **columns(row, "transferred_bytes_per_second", "transfer_fraction"),
        **columns(row, "transfer_ceiling_bytes_per_second=transfer_ceiling", "host_fraction"),
        **columns(row, "input_wait_fraction=input_fraction", "input_wait_seconds"),
        "limit": row.limit[0] if row.limit else None,
        "limit_fraction": row.limit[1] if row.limit else None,
    }


def _of_latency(latency: LatencySummary | None) -> dict[str, Any]:
    """The time of a request."""
    percentiles = ("p50", "p50_low", "p50_high", "p90", "p99")
    return {
        **columns(latency, "latency_name=name"),
        **columns(latency, *(f"latency_{name}_seconds={name}" for name in percentiles)),
        "latency_absent": absent(latency) if latency else None,
        **columns(latency, "requests_per_launch=requests"),
    }


def _of_samples(row: Row) -> dict[str, Any]:
    """Steps, and what was seen wrong with them."""
    return {
        **columns(row, "step_median_seconds=median_sample", "step_p25_seconds=p25_sample"),
        **columns(row, "step_least_seconds=least_sample", "within_launch_relative_sd=within_sd"),
        **columns(row, "between_launch_relative_sd=between_sd", "outliers"),
        "flags": list(row.flags),
    }


def _of_once(row: Row) -> dict[str, Any]:
    """What happens once, and what the step ran through."""
    again = ("numerics_seconds", "build_seconds", "first_step_seconds")
    ran = row.executed or Executed()
    return {
        **columns(row.cold, "import_seconds", *again),
        **columns(row.warm, *(f"warm_{name}={name}" for name in again)),
        "compiled_graphs": row.compiler.get("graphs"),
        "graph_breaks": row.compiler.get("graph_breaks"),
        "optimizer_passed_over": row.optimizer_passed_over or None,
        "operators": ran.operators or None,
        "kernels": ran.kernels or None,
        "operators_absent": ran.absent or None,
        "expert_tokens": list(ran.expert_tokens) or None,
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


def _of_ranks(ranks: RankTimes | None) -> dict[str, Any]:
    """One value a rank, in their order, but of the slow ones: an empty list where none is."""
    slow = None if ranks is None or ranks.absent else ranks.slow
    return {
        "slow_ranks": None if slow is None else [one.rank for one in slow],
        "slow_ranks_longer": None if slow is None else [one.longer for one in slow],
        **columns(ranks, "slow_ranks_absent=absent"),
        "rank_compute_seconds": ranks.compute or None if ranks else None,
        "rank_wait_seconds": ranks.wait_seconds or None if ranks else None,
    }


def _of_efficiency(kind: str, found: Efficiency | None) -> dict[str, Any]:
    """Beside the same work on fewer devices, and on how many."""
    name = f"{kind}_efficiency"
    return of_interval(name, found) | columns(found, f"{name}_against_devices=against")


def of_interval(name: str, found: Interval | None) -> dict[str, float | None]:
    """A figure and the ends of its interval, under names that begin alike."""
    return columns(found, *(f"{name}{end}={of}" for end, of in ENDS))
