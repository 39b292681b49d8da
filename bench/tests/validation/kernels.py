"""Does the harness tell the truth of a single kernel? As `agreement`, for products and attention.

    python -m bench.tests.validation.kernels [--launches 6] [--only 'gemm-*']

The kinds that torch has on a CPU, at small sizes; the bare loops are in `bare/kernels.py`.
"""

from __future__ import annotations

from typing import Any

from bench import catalogue
from bench.measuring.timing.engine import Engine
from bench.measuring.timing.usage import process_usage
from bench.planning import plan
from bench.planning.suite_file import Suite
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.run import Settings
from bench.tests.validation.agreement import TURNS, Turns, in_turns, script
from bench.tests.validation.bare.kernels import BARE
from bench.workload import Site

HEADS = {"heads": 16, "kv_heads": 4, "head_dim": 64}
LATENT = {"heads": 16, "head_dim": 64, "latent_dim": 256, "rotary_dim": 32}
ENTRIES: tuple[dict[str, Any], ...] = (
    {"workload": "gemm", "precision": "int4-weights", "shape": ["1x2048x2048", "64x2048x2048"]},
    {"workload": "gemm", "precision": "int8", "shape": ["16x2048x2048", "512x1024x1024"]},
    {
        "workload": "gemm",
        "mode": "grouped",
        "precision": "bf16",
        "shape": "256x1024x1024",
        "experts": 8,
    },
    {**HEADS, "workload": "attention", "mode": "prefill", "context_length": 1024},
    {**HEADS, "workload": "attention", "mode": "decode", "context_length": 8192},
    {**LATENT, "workload": "attention", "mode": "latent-decode", "context_length": 4096},
)
"""As a suite would have them."""


def cases() -> tuple[Case, ...]:
    """Of `ENTRIES`, in bf16 where they say nothing else."""
    entries = tuple({"precision": "bf16", **entry} for entry in ENTRIES)
    suite = Suite(
        name="kernels", source=__name__, description="", settings=Settings(), entries=entries
    )
    return plan.plan(suite)


def take_turns(case: Case, turns: int = TURNS) -> Turns:
    """Of the harness and the bare loop of a case, in this process."""
    precision = PRECISIONS[case.precision]
    backend = catalogue.backend("cpu")
    device = backend.open(0, precision)
    workload = catalogue.workload(case.workload)
    site = Site(device=device.torch_device, precision=precision, seed=0, products=backend.products)
    job = workload.build(case.mode, plan.parameters_of(case, workload), site)
    engine = Engine(job, device, Settings(), usage=process_usage())
    loop = BARE[f"{case.name} {case.precision}"](case.parameters)
    return in_turns(lambda: engine.block(loop.steps).wall_ns / 1e9, loop.seconds, turns)


def main() -> None:
    """The script."""
    script("bench.tests.validation.kernels", __doc__, {"eager": cases()}, take_turns)


if __name__ == "__main__":
    main()
