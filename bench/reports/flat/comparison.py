"""A comparison as flat rows, for other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.judging.comparing.configured import Configured
from bench.judging.comparing.equal_work import EqualWork
from bench.judging.comparing.system import NAMES
from bench.judging.row import Row
from bench.records.run import RunFile
from bench.reports.flat.row import columns, of_interval
from bench.reports.wording.serving import arrival


def flat(comparison: Comparison) -> dict[str, Any]:
    """For `--json`: a figure that does not exist is null, never zero."""
    return {
        "base": _identity(comparison.base),
        "other": _identity(comparison.other),
        "settings_that_differ": list(map(msgspec.structs.asdict, comparison.configured.settings)),
        "settings_compared": list(comparison.configured.compared),
        "settings_not_recorded": list(comparison.configured.not_recorded),
        **columns(comparison.configured, "chip_doubt", "chip_doubt_code=doubt_code"),
        "geometric_mean_ratio": comparison.geometric_mean,
        "cases_compared": len(comparison.averaged),
        **columns(comparison, "command_for_the_rest", "command_for_the_base"),
        "cases": [
            _flat_case(case, comparison.configured) | _flat_system(case)
            for case in comparison.cases
        ],
        "differences": list(map(msgspec.structs.asdict, comparison.differences)),
    }


def rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """For `--csv`: a row a case, its runs first; what lies in a section bears its name."""
    found = []
    for comparison in comparisons:
        whole, runs = flat(comparison), runs_of(comparison.base, comparison.other)
        found += [runs | _one_level(case) for case in whole["cases"]]
    return found


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
    chip = None if configured.chip_doubt else case.split
    work = ("workload", "mode", "precision", "execution", "parameters", "track", "fingerprint")
    return {
        **columns(case.case, *work),
        **columns(case, "tpot_limit_seconds", "verdict"),
        "codes": list(case.codes),
        "reasons": list(case.reasons),
        **columns(
            case,
            *("ratio", "ratio_low=interval.low", "ratio_high=interval.high"),
            *("level=interval.level", "p_value_adjusted=p_value", "not_excluded"),
            *("per_cycle_ratio=per_cycle.ratio.value", "per_cycle_low=per_cycle.ratio.low"),
            *("per_cycle_high=per_cycle.ratio.high", "clock_ratio=per_cycle.clock"),
            "clock_remark",
        ),
        "settings_differ": bool(configured.unintended),
        **columns(case.split, "ceiling", "ceiling_ratio=chip", "share_ratio=software"),
        **columns(chip, "chip_ratio=chip", "software_ratio=software"),
        **columns(case, "per_joule_ratio=joule_ratio", "per_joule_low=joule_interval.low"),
        **columns(case, "per_joule_high=joule_interval.high"),
        **columns(case, "per_currency_unit_ratio=price_ratio"),
        "same_work": _flat_work(case.same_work),
        **columns(case, "experts_remark", "first_output_gap=witness_gap"),
        "base": _flat_side(case.base),
        "other": _flat_side(case.other),
    }


def _flat_system(case: CaseComparison) -> dict[str, Any]:
    """Of whole systems: the product, and how each side spreads the work."""
    if case.system is None:
        return {}
    found = case.system.product
    efficiencies = (None, None) if found is None else found.efficiencies
    sides = zip(NAMES, (case.base, case.other), efficiencies, strict=True)
    return {
        "system": {
            **columns(found, "devices_ratio=count"),
            **of_interval("per_device_ratio", found.per_device if found else None),
            **of_interval("one_device_ratio", found.chip if found else None),
            **of_interval("scaling_ratio", found.scaling if found else None),
            **columns(found, "not_split=unsplit"),
            "not_compared": list(case.system.beside),
            **{
                who: None
                if row is None
                else columns(row.case, "devices", "parallelism", "fingerprint")
                | of_interval("efficiency", efficiency)
                for who, row, efficiency in sides
            },
        }
    }


def _flat_work(work: EqualWork | None) -> dict[str, Any] | None:
    if work is None:
        return None
    return {
        **columns(work, "proved", "absent", "seeds", "tolerance_not_measured=unmeasured"),
        "quantities": {
            finding.quantity: {
                "error": finding.error if math.isfinite(finding.error) else None,
                **columns(finding, "most", "seed", "step"),
            }
            for finding in work.findings
        },
    }


def _flat_side(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        **columns(row.case, "devices", "parallelism"),
        "load": arrival(row) if row.case.parameters.get("arrival") else None,
        **columns(row, "status", "reached", "verdict", "throughput", "unit"),
        **columns(row, "ci_low=interval.low", "ci_high=interval.high", "launches"),
        "flags": list(row.flags),
        **columns(row, "choice", "ceiling_fraction", "bandwidth_fraction", "mfu", "mbu"),
        **columns(row, "mfu_of", "mbu_of", "items_per_joule"),
    }
