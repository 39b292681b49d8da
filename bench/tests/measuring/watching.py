"""A small job under watch on the CPU."""

from __future__ import annotations

from typing import Any

from bench import catalogue
from bench.measuring.watch import Watch
from bench.precision import PRECISIONS
from bench.tests.small_workloads import build, site


def opened(name: str, mode: str, *, precision: str = "fp32", **how: Any) -> tuple[Watch, Any]:
    """Before its first step."""
    asked = PRECISIONS[precision]
    job: Any = build(name, mode, site(asked, seed=1))
    watch = Watch(job, catalogue.backend("cpu").open(0, asked), asked, 1, **how)
    watch.start()
    return watch, job
