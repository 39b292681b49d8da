"""Two runs to compare: how tests make them, and every pair that is refused, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bench.judging.comparing.comparison import CaseComparison, Comparison
from bench.records.case import Case
from bench.records.outcome import Outcome, Void
from bench.records.run import End, RunFile, Settings
from bench.tests.values import (
    BAD_NUMERICS,
    failed,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)

CASE = make_case(workload="bert", mode="train", parameters={"batch_size": 8, "length": 128})
FIXED = Settings(launches=10)
AUTO = Settings(launches="auto")


def steps(seconds: Sequence[float], **changes: Any) -> list[Outcome]:
    """One launch of each of these step times."""
    return [make_measured([s], **changes) for s in seconds]


TEN = (-1.5, -1.0, -0.6, -0.3, 0.0, 0.1, 0.3, 0.6, 1.0, 1.4)
"""Deviations of ten launches from their mean; standard deviation 0.91."""


def ten(seconds: float, spread: float) -> list[float]:
    return [seconds * (1 + spread * z) for z in TEN]


def run(seconds: Sequence[float], case: Case = CASE, **changes: Any) -> RunFile:
    """A run of one case with these step times, a launch each."""
    return make_file([case], make_launches(case, steps(seconds)), **{"settings": FIXED, **changes})


def runs(*cases: tuple[Case, Sequence[Outcome]], **changes: Any) -> RunFile:
    """A run of several cases."""
    launches = [launch for case, outcomes in cases for launch in make_launches(case, outcomes)]
    return make_file([case for case, _ in cases], launches, **{"settings": FIXED, **changes})


def only(comparison: Comparison) -> CaseComparison:
    (case,) = comparison.cases
    return case


FAST, SLOW = ten(0.010, 0.01), ten(0.011, 0.01)
FULL = make_case(workload="bert", mode="train", precision="fp32", parameters=CASE.parameters)
GEMM = make_case(parameters={"shape": "2x2x2"})
NEAR = ten(0.01 / 1.028, 0.03)
"""2.8 % faster, spread by 3 %: p = 0.033 alone."""


def changed(**changes: Any) -> Case:
    return msgspec.structs.replace(CASE, **changes)


def parameter(name: str, value: Any) -> RunFile:
    return run(SLOW, changed(parameters={**CASE.parameters, name: value}))


def seen(environment: dict[str, Any], case: Case = CASE) -> RunFile:
    """A run whose workers saw this."""
    launches = [
        make_launch(outcome, case, launch=k, order=k, environment=environment)
        for k, outcome in enumerate(steps(SLOW))
    ]
    return make_file([case], launches, settings=FIXED)


WRONG = Void(reason="numerics: " + BAD_NUMERICS.complaint, numerics=BAD_NUMERICS)
SIMULATED = {"backend": "cpu", "index": 0, "name": "Fake CPU", "simulated": True}
REFUSED: dict[str, tuple[RunFile, str]] = {
    "batch": (parameter("batch_size", 16), "batch_size differs (8, 16)"),
    "sequence length": (parameter("length", 512), "length differs (128, 512)"),
    "optimizer": (parameter("optimizer", "sgd"), "optimizer differs (none, sgd)"),
    "type of a value": (parameter("batch_size", 8.0), "batch_size differs (8, 8.0)"),
    "precision": (run(SLOW, changed(precision="fp16")), "precision differs (bf16, fp16)"),
    "execution": (run(SLOW, changed(execution="compile")), "execution differs (eager, compile)"),
    "version": (run(SLOW, changed(version=2)), "workload version differs (1, 2)"),
    "world size": (run(SLOW, changed(devices=8)), "device count differs (1, 8)"),
    "parallelism": (run(SLOW, changed(parallelism="ddp")), "parallelism differs (none, ddp)"),
    "numerics": (
        runs((CASE, [*steps(SLOW), WRONG])),
        "other is void: numerics: output off by 0.5 (tolerance 0.01)",
    ),
    "simulated device": (run(SLOW, device=SIMULATED), "other: a simulated device"),
    "simulated worker": (seen({"device": SIMULATED}), "other: a simulated device"),
    "record schema": (run(SLOW, schema=2), "record schema differs (1, 2)"),
    "timing mode": (
        run(SLOW, settings=Settings(launches=10, timing="step")),
        "timing mode differs (block, step)",
    ),
    "unit": (
        runs((CASE, steps(SLOW, unit="token"))),
        "unit of throughput differs (image/s, token/s)",
    ),
    "out of memory": (
        runs((CASE, [failed("oom", "no memory")])),
        "other is failed: oom in measure: no memory",
    ),
    "never reached": (
        runs((CASE, []), end=End(reason="budget", finished_at="x")),
        "other is not reached: too long for what the time budget left",
    ),
}
