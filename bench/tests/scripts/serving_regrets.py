"""What right and wrong slot engines regret, by precision: `serving_gate.REGRETS` is taken from it.

`python -m bench.tests.scripts.serving_regrets [MODEL ...]`: of each model, precision and seed the
worst token of its answers to the gate's load, of the right engine and of one whose slots forget a
token in fifty. A minute a model of two layers on one core.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import msgspec
import torch

from bench.measuring.gates import serving_gate
from bench.measuring.gates.numerics import reference_of
from bench.precision import PRECISIONS
from bench.serving_job import ServingJob
from bench.tests.measuring.gates.wrong_slots import forgetful
from bench.workload import Site
from bench.workloads.serve import ROUTED_PRECISIONS, SERVED, WORKLOAD, ServeParameters

SEEDS = 3


def worst(job: ServingJob, reference: ServingJob, seed: int) -> float:
    """Of the twin's load."""
    requests = serving_gate.of_twin(job, seed).requests
    error = serving_gate.check("", requests, reference.regrets, 1.0).error
    return math.inf if error is None else error


def as_it_is(job: Any) -> Any:
    """Right."""
    return job


def main() -> None:
    """A line a model and precision."""
    for model in sys.argv[1:] or ["tiny-untied-2l", "smollm2-135m-untied-2l"]:
        parameters = ServeParameters(
            model=model,
            slots=3,
            chunk=64,
            input_tokens=252,
            output_tokens=8,
            requests=12,
            concurrency=3,
        )
        for precision in ("bf16", "fp16", "fp32"):
            right: list[float] = []
            wrong: list[float] = []
            if SERVED[model].experts and precision not in ROUTED_PRECISIONS:
                continue
            for seed in range(SEEDS):
                site = Site(device=torch.device("cpu"), precision=PRECISIONS[precision], seed=seed)
                reference = WORKLOAD.build("load", parameters, reference_of(site))
                assert isinstance(reference, ServingJob)
                for found, make in ((right, as_it_is), (wrong, forgetful)):
                    job = WORKLOAD.build("load", parameters, msgspec.structs.replace(site))
                    found.append(worst(make(job), reference, seed))
            print(
                f"{model} {precision}: right {max(right):.2g} at most, "
                f"forgetful {min(wrong):.2g} at least ({SEEDS} seeds)",
                flush=True,
            )


if __name__ == "__main__":
    main()
