"""A comparison as flat rows, for other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.judging.comparison import CaseComparison, Comparison
from bench.judging.configured import Configured
from bench.judging.differences import Difference
from bench.judging.equal_work import EqualWork
from bench.judging.row import Row
from bench.judging.system import NAMES
from bench.records.run import RunFile
from bench.reports._flat import ends, of_interval
from bench.reports._serving import arrival


def flat(comparison: Comparison) -> dict[str, Any]:
    """For `--json`: a figure that does not exist is null, never zero."""
    return {
        "base": _identity(comparison.base),
        "other": _identity(comparison.other),
        "settings_that_differ": [_flat_difference(d) for d in comparison.configured.settings],
        "settings_compared": list(comparison.configured.compared),
        "settings_not_recorded": list(comparison.configured.not_recorded),
        "chip_doubt": comparison.configured.chip_doubt or None,
        "chip_doubt_code": comparison.configured.doubt_code,
        "geometric_mean_ratio": comparison.geometric_mean,
        "cases_compared": len(comparison.averaged),
        "command_for_the_rest": comparison.command_for_the_rest or None,
        "command_for_the_base": comparison.command_for_the_base or None,
        "cases": [
            _flat_case(case, comparison.configured) | _flat_system(case)
            for case in comparison.cases
        ],
        "differences": [_flat_difference(d) for d in comparison.differences],
    }


def rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """For `--csv`: a row a case, its runs first; what lies in a section bears the section's name.

    Sections that another case has and this one lacks are empty.
    """
    found = []
    for comparison in comparisons:
        whole, runs = flat(comparison), runs_of(comparison.base, comparison.other)
        found += [runs | _one_level(case) for case in whole["cases"]]
    headers = dict.fromkeys(key for row in found for key in row)
    return [{key: row.get(key) for key in headers} for row in found]


def runs_of(base: RunFile, other: RunFile) -> dict[str, Any]:
    """What each row says of its two runs: `base_run`, `other_device`."""
    return {
        f"{who}_{key}": value
        for who, file in zip(NAMES, (base, other), strict=True)
        for key, value in _identity(file).items()
    }


SECTIONS = ("same_work", "base", "other", "system")


def _one_level(case: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in case.items():
        if key not in SECTIONS:
            found[key] = "; ".join(value) if key == "reasons" else value
            continue
        for inner, one in (value or {}).items():
            if inner in NAMES:  # of a system each side's own
                found |= {f"{key}_{inner}_{name}": each for name, each in (one or {}).items()}
            else:
                found[f"{key}_{inner}"] = one
    return found


def _flat_difference(one: Difference) -> dict[str, str]:
    return {"name": one.name, "base": one.base, "other": one.other}


def _identity(file: RunFile) -> dict[str, Any]:
    run = file.run
    return {
        "run": run.run_id,
        "suite": run.suite,
        "device": run.device.get("name"),
        "backend": run.device.get("backend"),
        "started_at": run.started_at,
    }


def _flat_case(case: CaseComparison, configured: Configured) -> dict[str, Any]:
    split, cycle = case.split, case.per_cycle
    chip = None if configured.chip_doubt else split
    return {
        "workload": case.case.workload,
        "mode": case.case.mode,
        "precision": case.case.precision,
        "execution": case.case.execution,
        "parameters": case.case.parameters,
        "track": case.case.track,
        "fingerprint": case.case.fingerprint,
        "tpot_limit_seconds": case.tpot_limit_seconds,
        "verdict": case.verdict,
        "codes": list(case.codes),
        "reasons": list(case.reasons),
        "ratio": case.ratio,
        **ends(case.interval, "ratio_low", "ratio_high"),
        "level": case.interval.level if case.interval else None,
        "p_value_adjusted": case.p_value,
        "not_excluded": case.not_excluded,
        "per_cycle_ratio": cycle.ratio.value if cycle else None,
        **ends(cycle.ratio if cycle else None, "per_cycle_low", "per_cycle_high"),
        "clock_ratio": cycle.clock if cycle else None,
        "clock_remark": case.clock_remark or None,
        "settings_differ": bool(configured.unintended),
        "ceiling": split.ceiling if split else None,
        "ceiling_ratio": split.chip if split else None,
        "share_ratio": split.software if split else None,
        "chip_ratio": chip.chip if chip else None,
        "software_ratio": chip.software if chip else None,
        "per_joule_ratio": case.joule_ratio,
        **ends(case.joule_interval, "per_joule_low", "per_joule_high"),
        "per_currency_unit_ratio": case.price_ratio,
        "same_work": _flat_work(case.same_work),
        "experts_remark": case.experts_remark or None,
        "first_output_gap": case.witness_gap,
        "base": _flat_side(case.base),
        "other": _flat_side(case.other),
    }


def _flat_system(case: CaseComparison) -> dict[str, Any]:
    """Of whole systems: the product, and how each side spreads the work."""
    if case.system is None:
        return {}
    found = case.system.product
    sides = zip(
        NAMES,
        (case.base, case.other),
        (None, None) if found is None else found.efficiencies,
        strict=True,
    )
    return {
        "system": {
            "devices_ratio": found.count if found else None,
            **of_interval("per_device_ratio", found.per_device if found else None),
            **of_interval("one_device_ratio", found.chip if found else None),
            **of_interval("scaling_ratio", found.scaling if found else None),
            "not_split": (found.unsplit or None) if found else None,
            "not_compared": list(case.system.beside),
            **{
                who: None
                if row is None
                else {
                    "devices": row.case.devices,
                    "parallelism": row.case.parallelism,
                    "fingerprint": row.case.fingerprint,
                    **of_interval("efficiency", efficiency),
                }
                for who, row, efficiency in sides
            },
        }
    }


def _flat_work(work: EqualWork | None) -> dict[str, Any] | None:
    if work is None:
        return None
    return {
        "proved": work.proved,
        "absent": work.absent or None,
        "seeds": work.seeds,
        "tolerance_not_measured": work.unmeasured or None,
        "quantities": {
            finding.quantity: {
                "error": finding.error if math.isfinite(finding.error) else None,
                "most": finding.most,
                "seed": finding.seed,
                "step": finding.step,
            }
            for finding in work.findings
        },
    }


def _flat_side(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "devices": row.case.devices,
        "parallelism": row.case.parallelism,
        "load": arrival(row) if row.case.parameters.get("arrival") else None,
        "status": row.status,
        "reached": row.reached,
        "verdict": row.verdict,
        "throughput": row.throughput,
        "unit": row.unit or None,
        **ends(row.interval, "ci_low", "ci_high"),
        "launches": row.launches,
        "flags": list(row.flags),
        "choice": row.choice,
        "ceiling_fraction": row.ceiling_fraction,
        "bandwidth_fraction": row.bandwidth_fraction,
        "mfu": row.mfu,
        "mbu": row.mbu,
        "items_per_joule": row.items_per_joule,
    }
