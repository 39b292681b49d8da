"""An explained step as a trace that Chrome, Perfetto and TensorBoard show.

Trace Event Format: complete events (`ph` X), times in microseconds. A row of the trace is a case;
operators follow one another as they were measured, so that its length is theirs and not the step's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.judging.explaining.explained import ExplainedCase
from bench.records.run import RunFile


def traced(run: RunFile, found: Sequence[ExplainedCase]) -> dict[str, Any]:
    """The first account of each case that counts, as the format's JSON."""
    cases = [case for case in found if case.accounts]
    events = [event for place, case in enumerate(cases, 1) for event in _events(place, case)]
    return {
        "displayTimeUnit": "ms",
        "otherData": {"device": str(run.run.device.get("name")), "run": run.run.run_id},
        "traceEvents": events,
    }


def _events(place: int, case: ExplainedCase) -> list[dict[str, Any]]:
    """A case's; of one whose calls are not known each, its operators one after the other."""
    account = case.accounts[0]
    calls = list(zip(account.order, account.call_ns, strict=True)) or [
        (k, round(op.ns)) for k, op in enumerate(account.operators) if op.ns is not None
    ]
    name = {"name": f"{case.case.label} ({case.how}, {case.verdict})"}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": place, "name": "thread_name", "args": name}
    ]
    at_ns = 0
    for index, ns in calls:
        op = account.operators[index]
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": place,
                "ts": at_ns / 1e3,
                "dur": ns / 1e3,
                "name": op.name,
                "cat": op.kind,
                "args": {"operands": op.operands, "precision": op.precision},
            }
        )
        at_ns += ns
    return events
