"""Accounts of a step, of known figures."""

from __future__ import annotations

import itertools
from typing import Any

from bench.judging.explaining.explained import ExplainedCase, explain_run
from bench.records.case import Case
from bench.records.explained import (
    Account,
    Ceilings,
    Explained,
    Explanation,
    Kind,
    Operator,
    Profile,
    Unexplained,
)
from bench.records.run import End, RunFile
from bench.tests.values import make_case, make_run

MS = 1e6
CEILINGS = Ceilings(
    bytes_per_second={"read": 20e9, "copy": 40e9, "write": 10e9},
    flop_per_second={"matmul bf16": 1e12},
    launch_ns=1000.0,
)


def operator(name: str, kind: Kind, ms: float, **changes: Any) -> Operator:
    """An operator that takes so long in all, once a step."""
    fields: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "calls": 1,
        "operands": "bf16[64,64]",
        "ns": ms * MS,
        "read_bytes": 0,
        "written_bytes": 0,
    }
    return Operator(**{**fields, **changes})


MM = operator("aten::mm", "matmul", 60.0, precision="bf16", flop=20_000_000_000, calls=2)
"""Bound: 20 ms of arithmetic."""
ADD = operator("aten::add_", "elementwise", 20.0, read_bytes=300_000_000, written_bytes=100_000_000)
"""Bound: 200 MB copied in 5 ms, and 200 MB more read in 10 ms."""
SGD = operator("aten::_fused_sgd_", "optimizer", 4.0, read_bytes=10**8, written_bytes=10**8)
"""Bound: 5 ms, which it beats."""
VIEWS = operator("aten::view", "other", 2.0, operands="", calls=500)


def account(scale: float = 1.0, **changes: Any) -> Explained:
    """100 ms of step: 86 of operators, 4 of freeing, 10 of the host; all times scaled."""
    step = round(100 * MS * scale)
    operators = tuple(
        operator(
            op.name,
            op.kind,
            (op.ns or 0) * scale / MS,
            **{
                name: getattr(op, name)
                for name in (
                    "calls",
                    "operands",
                    "precision",
                    "flop",
                    "read_bytes",
                    "written_bytes",
                )
            },
        )
        for op in (MM, ADD, SGD, VIEWS)
    )
    fields: dict[str, Any] = {
        "how": "tape in order",
        "step_ns": (step, step),
        "freeing_ns": 4 * MS * scale,
        "call_floor_ns": 1200.0,
        "operators": operators,
        "ceilings": CEILINGS,
        "profile": Profile(
            step_ns=110 * MS,
            kinds={"matmul": 60 * MS, "elementwise": 25 * MS, "optimizer": 5 * MS},
            calls={"aten::mm": 2.0, "aten::add_": 1.0, "aten::_fused_sgd_": 1.0},
        ),
        "order": (0, 1, 0),
        "call_ns": (30_000_000, 20_000_000, 30_000_000),
    }
    return Explained(**{**fields, **changes})


def explanation(found: Account, case: Case | None = None, number: int = 0) -> Explanation:
    """A line of a record."""
    case = case or make_case()
    return Explanation(
        case=case,
        fingerprint=case.fingerprint,
        number=number,
        seed=number,
        started_at="2026-01-01T00:00:00.000+00:00",
        seconds=5.0,
        environment={"threads": 1, "variables": {}, "variables_looked_for": ["OMP_*"]},
        account=found,
    )


NUMBERS = itertools.count(1)
"""Of runs, each of its own."""
REFUSED = Unexplained(reason="tape and replay need 8.0 GiB beside the job")


def explained_file(*accounts: Account, case: Case | None = None, path: str = "x.jsonl") -> RunFile:
    """A run that explains one case so often, and does nothing else."""
    case = case or make_case()
    return RunFile(
        path=path,
        run=make_run(
            [case],
            run_id=f"20260101T000000Z-{next(NUMBERS):04x}",
            explanations=len(accounts),
            only_explained=True,
        ),
        launches=(),
        explanations=tuple(explanation(one, case, k) for k, one in enumerate(accounts)),
        end=End(reason="complete", finished_at="2026-01-01T00:01:00.000+00:00"),
    )


def judged(*accounts: Account) -> ExplainedCase:
    """The one case of a run that explained it so."""
    (found,) = explain_run(explained_file(*accounts))
    return found
