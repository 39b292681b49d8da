"""An explained run as flat rows: one for each step, each class of operators and each operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.judging.explaining.explained import ClassRow, ExplainedCase, OperatorRow
from bench.judging.explaining.remedies import helped, measured
from bench.judging.interval import Interval
from bench.records.run import RunFile
from bench.reports.flat.row import columns, of_interval

KEYS = (
    *("level", "name", "class", "operands", "fuses", "calls", "ms", "ms_low", "ms_high", "share"),
    *("flop", "least_bytes", "bound_ms", "bound_by", "times_bound", "above_bound_ms"),
    *("own_ceiling_fraction", "replayed_share", "profiled_share", "coverage", "operators_ms"),
    *("freeing_ms", "host_ms", "flags", "absent", "ceilings", "tried"),
)
"""Of a row, beside its run and its case."""


def rows(run: RunFile, found: Sequence[ExplainedCase]) -> list[dict[str, Any]]:
    """All rows, which have the same keys; a figure that does not exist is None, never zero."""
    return [
        {
            "case": case.case.label,
            "fingerprint": case.case.fingerprint,
            "run": run.run.run_id,
            "device": run.run.device.get("name"),
            "backend": run.run.device.get("backend"),
            **columns(case, "verdict", "reason", "launches", "how", "choice"),
            **row,
        }
        for case in found
        for row in _of_case(case)
    ]


def _of_case(case: ExplainedCase) -> Iterator[dict[str, Any]]:
    yield {
        **_row("step", "", case.step_ms),
        **columns(case, "coverage=coverage.value", "operators_ms=operators_ms.value"),
        **columns(case, "freeing_ms=freeing_ms.value", "host_ms=host_ms.value"),
        "flags": " ".join(case.flags) or None,
        "ceilings": case.ceilings or None,
        "tried": [
            {
                "remedy": t.remedy,
                "helped": helped(t, measured(case.tried)),
                "absent": t.absent or None,
            }
            for t in case.tried
        ],
    }
    for one in case.classes:
        yield _of_class(one)
    for operator in case.operators:
        yield _of_operator(operator)


def _of_class(row: ClassRow) -> dict[str, Any]:
    return {
        **_row("class", row.kind, row.ms),
        "class": row.kind,
        **columns(row, "share", "bound_ms", "times_bound", "above_bound_ms=above_ms"),
        **columns(row, "replayed_share", "profiled_share"),
        "flags": " ".join(row.flags) or None,
    }


def _of_operator(row: OperatorRow) -> dict[str, Any]:
    return {
        **_row("operator", row.name, row.ms),
        "class": row.kind,
        "fuses": " ".join(row.fuses) or None,
        **columns(row, "operands", "calls", "share", "flop", "least_bytes", "bound_ms"),
        **columns(row, "bound_by", "times_bound", "above_bound_ms=above_ms"),
        **columns(row, "own_ceiling_fraction", "absent"),
        "flags": " ".join(row.flags) or None,
    }


def _row(level: str, name: str, ms: Interval | None) -> dict[str, Any]:
    """What every row has; the rest of the keys is None until its own say otherwise."""
    found = {"level": level, "name": name or None, **of_interval("ms", ms)}
    return dict.fromkeys(KEYS) | found
