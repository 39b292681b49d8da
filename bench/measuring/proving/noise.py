"""A job's own noise: how far rounding alone moves what it computes.

Weights are moved by one rounding, and the step is repeated. That is done twice, with the even rows
of every weight and with the odd ones: two draws that know nothing of each other, whose squares add
up to those of one with all rows where the job is smooth. A single draw of a length, which is one
number, may happen to be next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bench import catalogue
from bench.framework import Tensors
from bench.precision import Precision
from bench.records.proof import Noise, Vector

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job


def taken(
    job: Job,
    device: Device,
    precision: Precision,
    before: Mapping[str, Vector],
    computed: Callable[[], Mapping[str, Vector]],
    kit: Tensors | None = None,
) -> dict[str, Noise] | None:
    """By quantity, of what a step computes; None of a job that repeats no step.

    before: what the last step computed; computed: reads that; kit: of its framework, by default
    torch's. The weights are left as they were;
    what was computed, and what later steps read of it, came of others. Raises what the device
    raises.
    """
    draws = []
    kit = kit or catalogue.framework("torch").tensors
    for rows in range(2):
        with kit.nudged(job.weights(), precision, rows):
            if not job.again():
                return None
            device.synchronize()
            draws.append(computed())
    return {
        name: Noise(
            error=figure(math.hypot(*(was.error(draw[name]) for draw in draws))),
            norm_error=figure(math.hypot(*(was.norm_error(draw[name]) for draw in draws))),
        )
        for name, was in before.items()
        if all(name in draw for draw in draws)
    }


def figure(value: float) -> float:
    """Two digits; what is infinite, or no number, as a figure that no tolerance reaches."""
    return float(f"{value:.1e}") if value < 1e9 else 1e9
