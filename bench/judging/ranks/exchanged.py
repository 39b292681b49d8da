"""What the devices of a step exchange: how long it waits for that, and how much it is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.judging.interval import Interval
from bench.records.environment import section
from bench.records.outcome import Measured
from bench.records.run import Launch

REDUCED = "gradients reduced as"
"""What a job says of it."""
COUNT = "parameters reduced"
"""What a job says of how many have a gradient that is; older records do not."""
PARAMETERS = "parameters"
STAYING = ("trained", "tables")
"""Facts of jobs, some of whose parameters no rank exchanges."""
FORMATS = {"float32": ("fp32", 4), "bfloat16": ("bf16", 2), "float16": ("fp16", 2)}
"""Of what is reduced: the precision of the collective that carries the same, and bytes an element.
"""


def exposed(outcomes: Sequence[Measured], level: float) -> dict[str, Any]:
    """Fields of a row: seconds a step that it waits for communication, and their share of the step.

    Of each launch the median of its pairs of blocks (`bench.records.silent`), then t over launches.
    """
    found = [outcome.silent for outcome in outcomes if outcome.silent is not None]
    if not found:
        return {}
    seconds = [statistics.median(one.exposed_seconds) for one in found]
    steps = [statistics.median(one.real_ns) / 1e9 / one.steps for one in found]
    shares = [part / step for part, step in zip(seconds, steps, strict=True)]
    return {
        "exposed": Interval.over(seconds, level),
        "exposed_fraction": Interval.over(shares, level),
    }


def reduced(launches: Sequence[Launch]) -> dict[str, Any]:
    """Fields of a row: how many bytes of gradients are reduced a step, and in which precision;
    nothing where its job does not say so, or has them in several formats."""
    for launch in launches:
        job = section(launch.environment, "job")
        precision, width = FORMATS.get(str(job.get(REDUCED)), ("", 0))
        old = None if any(name in job for name in STAYING) else job.get(PARAMETERS)
        count = str(job.get(COUNT, old))
        if width and count.isdecimal():
            return {"reduced_bytes": int(count) * width, "reduced_as": precision}
    return {}
