"""The numerics gate: a device's figure counts only if its numbers are right.

Before timing, the workload's twin (the same code, small) runs where and how the job will be timed,
and again on the CPU in float64, with the same seeded weights and inputs.
"""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING, Any

import msgspec

from bench.precision import REFERENCE
from bench.record import Check, Numerics
from bench.workload import Site, Workload

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCES: dict[str, dict[str, float]] = {
    "bf16": {
        "output": 5e-3,
        "logits": 8e-2,
        "loss": 1e-2,
        "gradient_norm": 5e-2,
        "loss after 2 steps": 1e-1,
    },
    "bf16-amp": {
        "logits": 8e-2,
        "loss": 1e-2,
        "gradient_norm": 5e-2,
        "loss after 2 steps": 1e-2,
    },
    "fp16": {"output": 1e-3, "logits": 1e-2},
    "fp32": {
        "output": 1e-5,
        "logits": 1e-4,
        "loss": 1e-5,
        "gradient_norm": 1e-3,
        "loss after 2 steps": 1e-4,
    },
}
"""Largest relative error by precision and quantity."""


def gate(workload: Workload, mode: str, parameters: Any, site: Site) -> Numerics:
    """Compares the twin at `site` with its float64 reference.

    Relative error of each quantity: norm of the difference over norm of the reference. Raises what
    the device raises.
    """
    import torch

    twin = workload.twin(mode, parameters)
    reference_site = msgspec.structs.replace(site, device=torch.device("cpu"), precision=REFERENCE)
    found = _probe(workload, mode, twin, site)
    expected = _probe(workload, mode, twin, reference_site)
    tolerances = TOLERANCES[site.precision.name]
    checks = tuple(
        Check(
            quantity=quantity,
            error=relative_error(found[quantity], value),
            tolerance=tolerances[quantity],
        )
        for quantity, value in expected.items()
    )
    return Numerics(reference=f"{REFERENCE.name} on cpu", checks=checks)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over norm of what is expected; infinite if a value is not finite."""
    difference = float((found - expected).norm())
    scale = float(expected.norm())
    if not math.isfinite(difference):
        return math.inf
    if difference == 0.0:
        return 0.0
    return difference / scale if scale > 0.0 else math.inf


def _probe(workload: Workload, mode: str, twin: Any, site: Site) -> dict[str, Tensor]:
    """What the twin computes at a site, in float64 on the CPU; the twin is gone afterwards."""
    import torch

    job = workload.build(mode, twin, site)
    values = {
        quantity: value.detach().to("cpu", torch.float64) for quantity, value in job.probe().items()
    }
    del job
    gc.collect()
    return values
