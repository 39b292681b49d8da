"""A small job under watch on the CPU."""

from __future__ import annotations

from typing import Any

from bench import catalogue
from bench.measuring.proving.watch import READ_AFTER, Watch
from bench.planning.plan import parameters_of
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.proof import Proof
from bench.tests.small_workloads import build, site


def opened(name: str, mode: str, *, precision: str = "fp32", **how: Any) -> tuple[Watch, Any]:
    """Before its first step."""
    asked = PRECISIONS[precision]
    job: Any = build(name, mode, site(asked, seed=1))
    watch = Watch(job, catalogue.backend("cpu").open(0, asked), asked, 1, **how)
    watch.start()
    return watch, job


def proof_of(case: Case, seed: int) -> Proof:
    """What torch leaves of the first steps of a case on the CPU."""
    asked, workload = PRECISIONS[case.precision], catalogue.workload(case.workload)
    parameters = parameters_of(case, workload)
    job = workload.build(case.mode, parameters, site(asked, seed=seed))
    watch = Watch(job, catalogue.backend("cpu").open(0, asked), asked, seed, thorough=True)
    watch.start()
    for step in range(1, READ_AFTER[-1] + 1):
        job.step()
        watch.after(step)
    return watch.proof
