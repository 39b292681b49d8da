"""Is a model on several ranks the same model? Each family and parallelism, at 2 and at 4 ranks.

    python -m bench.tests.scripts.sharded [--ranks 2,4] [--only 'llama fsdp*'] [--precision fp32]

Every rank passes the numerics gate on the smallest model of each family, once more with what only
several devices have: in float64 within 1e-10 of one process, element by element; in the given
precision no further from float64 than twice what one process is. Printed are the worst of all
ranks, and 1 is the exit code where any of them failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from bench import units
from bench.measuring.gates import rank_numerics
from bench.precision import PRECISIONS
from bench.ranks import Ranks
from bench.records import parallelism
from bench.tests.measuring.proving.wrong_workloads import parameters
from bench.tests.rank_processes import together
from bench.tests.small_workloads import WORKLOADS, site
from bench.tests.validation.matching import matching

SHOWN = (
    *(
        "in float64 loss",
        "in float64 gradients",
        "in float64 update",
        "in float64 gradients by rows",
    ),
    *("gradients", "update", "reduced gradients"),
)
MODES = {"train": "", "lora": "-lora"}
"""What trains, and what its name ends in."""
SEED = 5
BESIDES = {
    ("resnet50", "dp"): "batch_statistics=synchronized",
    ("llama", "fsdp"): "mixed_precision=policy",
    ("llama", "hsdp"): "mixed_precision=policy",
}
"""What a family is tried with once more, by its scheme."""
POLICIES = "bf16-amp"
"""The precision that a policy of mixed precision is of."""


def tried(ranks: int, precision: str) -> list[str]:
    """`llama fsdp2`: every family that trains over so many ranks, how, and with what besides."""
    found = []
    for name, workload in WORKLOADS.items():
        for mode, ending in MODES.items():
            declared = workload.modes.get(mode)
            if declared is None or precision not in declared.precisions:
                continue
            for scheme in declared.schemes[1:]:
                if scheme == "hsdp" and ranks < 4:
                    continue
                case = f"{name}{ending} {parallelism.parse(scheme, ranks)}"
                found.append(case)
                besides = BESIDES.get((name, scheme), "") if mode == "train" else ""
                if besides and ("policy" not in besides or precision == POLICIES):
                    found.append(f"{case} {besides}")
    return found


def gates(ranks: Ranks, precision: str, *cases: str) -> dict[str, Any]:
    """Of each case what one rank was told, and its own checks."""
    found = {}
    for case in cases:
        name, how, *besides = case.split()
        execution = "compile" if "compile" in besides else "eager"
        mode = next(mode for mode in ("lora", "train") if name.endswith(MODES[mode]))
        name = name.removesuffix(MODES[mode])
        there = msgspec.structs.replace(ranks, parallelism=parallelism.parse(how))
        at = site(PRECISIONS[precision], seed=SEED)
        at = msgspec.structs.replace(at, ranks=there, execution=execution)
        pairs = (word.split("=") for word in besides if "=" in word)
        given = parameters(name, mode, **{k: int(v) if v.isdigit() else v for k, v in pairs})
        judged = rank_numerics.gate(WORKLOADS[name], mode, given, at)
        checks = {
            check.quantity: (check.error, check.tolerance) for check in judged.numerics.checks
        }
        found[case] = (judged.complaint, checks)
    return found


def main() -> int:
    """Prints a line a case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--only", default="*")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true", help="in fp32; it takes minutes")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.ranks.split(",")]
    every = [(size, case) for size in sizes for case in tried(size, arguments.precision)]
    if arguments.compile:
        every = [one for one in every if "synchronized" not in one[1]]
    chosen = matching(parser, "--only", arguments.only, every, lambda one: one[1])
    wrong = 0
    for size in dict.fromkeys(size for size, _ in chosen):
        compiled = " compile" if arguments.compile else ""
        cases = [f"{case}{compiled}" for of, case in chosen if of == size]
        target = "bench.tests.scripts.sharded:gates"
        with tempfile.TemporaryDirectory() as folder:
            told = together(size, target, Path(folder), arguments.precision, *cases)
        for case in cases:
            complaint, checks = told[0][case]
            shown = [
                f"{quantity} {checks[quantity][0]:.1e} of {checks[quantity][1]:.1e}"
                for quantity in SHOWN
                if quantity in checks and checks[quantity][0] is not None
            ]
            print(f"{case}: {complaint or 'right'}; {', '.join(shown)}", flush=True)
            wrong += bool(complaint)
    print(f"wrong: {units.counted(wrong, 'case')}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
