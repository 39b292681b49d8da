"""The next step of a comparison one side of which ended early."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.judging.comparing.compare import compare
from bench.records.run import End, RunFile, Settings
from bench.report import Canvas
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import CASE, FAST, GEMM, SLOW, run, runs, steps, ten
from bench.tests.values import failed

INTERRUPTED = End(reason="interrupted", finished_at="x")
GO_ON = "go on with it, where it was made: accelmark run --resume fake.jsonl"
ALL = "of the other not every case was reached; "
MADE = "of the other not every launch was made; "
SLOWED: dict[str, Any] = {"flags": ("CONTENDED",)}
BOTH = runs((CASE, steps(FAST)), (GEMM, steps(FAST)))
WIDE = ten(0.0101, 0.03)
OF_AB: dict[str, Any] = {"command": ("accelmark", "ab", "fake")}


def early(*cases: Any, **changes: Any) -> RunFile:
    """A run of both cases that was interrupted."""
    found = runs(*cases, **changes)
    header = msgspec.structs.replace(found.run, plan=(CASE, GEMM))
    return msgspec.structs.replace(found, run=header, end=INTERRUPTED)


def last(base: RunFile, other: RunFile) -> str:
    return render([compare(base, other)], Canvas(width=200)).splitlines()[-1]


@pytest.mark.parametrize(
    ("other", "step"),
    [
        (early(), ALL + GO_ON),
        (early((CASE, steps(SLOW))), ALL + GO_ON),
        (early((CASE, steps(SLOW[:3]))), ALL + GO_ON),
        (early((CASE, steps(SLOW, **SLOWED))), ALL + "end other work, then " + GO_ON),
        (early((CASE, [failed()] * 2)), ALL + "see why bert-train has no number, then " + GO_ON),
        (early((CASE, steps(SLOW[:3])), (GEMM, steps(SLOW[:2]))), MADE + GO_ON),
        (
            early((CASE, steps(SLOW[:3], **SLOWED)), (GEMM, steps(SLOW))),
            MADE + "end other work, then " + GO_ON,
        ),
        (
            early((CASE, steps(SLOW[:3])), (GEMM, steps(SLOW[:2])), settings=Settings(launches=3)),
            "for verdicts, on both machines: accelmark run fake --launches 10",
        ),
        (early((CASE, steps(SLOW[:8])), (GEMM, steps(SLOW))), "the pictures"),
        (early((CASE, steps(WIDE[1:9])), (GEMM, steps(FAST))), MADE + GO_ON),
        (runs((CASE, steps(WIDE)), (GEMM, steps(FAST))), "narrower intervals"),
        (early((CASE, steps(SLOW[:2], flags=("QUOTA",)))), "for verdicts, on both machines"),
    ],
)
def test_a_side_that_ended_early_goes_on_where_that_may_give_a_verdict(
    other: RunFile, step: str
) -> None:
    assert last(BOTH, other).startswith(f"Next: {step}")
    if step.startswith("of the other"):
        assert last(other, BOTH).startswith(f"Next: {step.replace('other', 'base', 1)}")


def test_no_side_goes_on_for_another_reason() -> None:
    """Of another precision, and none of one `ab` alone."""
    other = early()
    plan = tuple(msgspec.structs.replace(case, precision="fp32") for case in (CASE, GEMM))
    other = msgspec.structs.replace(other, run=msgspec.structs.replace(other.run, plan=plan))
    assert last(BOTH, other).startswith("Next: run the same suite on both")
    sides = run(FAST, run_id="one-a", **OF_AB), early(run_id="one-b", **OF_AB)
    assert last(*sides) == "Next: see why above, then the same accelmark ab --launches 10"
