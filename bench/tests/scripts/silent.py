"""Is exposed communication read back? A library of known latency, real and silent blocks in turns.

    python -m bench.tests.scripts.silent [--launches 5] [--only fsdp2] [--latency 0.01]

Each launch is two fresh processes (four for hsdp), joined by `bench/tests/fabric`: as it is; so
that every operation takes so many seconds more; and so that a process waits for as long by itself,
and sends nothing. How many operations a step has is counted, so what is planted is known. What it
adds to exposed communication must be within 15 % of that where gradients are reduced, within 30 %
where weights are gathered too; and its interval over launches must cover the truth, which lies
between that and what waiting alone makes a step longer: a processor that has waited computes more
slowly for a while. For a machine with idle cores (or `chrt -r 1`): ranks that wait for a core wait
for one another too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import msgspec

from bench import api, catalogue, stats
from bench.measuring.ranks.edges import Together
from bench.measuring.ranks.hush import Hush
from bench.measuring.timing.blocks import BlockTimer
from bench.measuring.timing.silent_blocks import taken
from bench.precision import PRECISIONS
from bench.ranks import Ranks
from bench.records.outcome import Measured
from bench.records.parallelism import parse
from bench.records.run import Settings
from bench.tests.fabric.fabric import Fabric
from bench.tests.measuring.proving.wrong_workloads import parameters
from bench.tests.rank_processes import together
from bench.tests.scripts.collectives import FOLDER, joined_by
from bench.tests.small_workloads import WORKLOADS, site

LATENCY = 0.010
"""Seconds of an operation: below, processes that wake up late make the wire slower than planted."""
CASES = {
    "dp2": ("llama", 0.15),
    "fsdp2": ("llama", 0.30),
    "hsdp2x2": ("llama", 0.30),
    "dlrm-hybrid2": ("dlrm", 0.30),
}
"""Workload of each parallelism, and how far from the truth what is found may lie, relatively."""
WARM_UP = 3
SMALL: dict[str, dict[str, int]] = {
    "llama": {"batch_size": 4, "sequence_length": 8},
    "dlrm": {},
}
"""Little to compute: ranks that share two cores with others wait for their turn, which is noise."""
STEPS = 4
"""In each block."""


def launch(ranks: Ranks, parallelism: str, latency: str) -> dict[str, Any]:
    """On one rank: operations of a step, and what the pairs of blocks said."""
    import torch
    import torch.distributed as dist

    sys.path.insert(0, str(FOLDER))
    import fabric_library  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    library = fabric_library.register(json.dumps(asdict(Fabric(at_once=0.0, on_top=True))))
    group: Any = dist.new_group(backend=library)
    there = msgspec.structs.replace(ranks, group=group, parallelism=parse(parallelism))
    at = msgspec.structs.replace(site(PRECISIONS["fp32"], seed=5), ranks=there)
    name = CASES[parallelism][0]
    job = WORKLOADS[name].build("train", parameters(name, "train", **SMALL[name]), at)
    for _ in range(WARM_UP):
        job.step()
    before = fabric_library.carried()
    job.step()
    operations = fabric_library.carried() - before
    backend = catalogue.backend("cpu")
    device, edges, settings = backend.open(0, PRECISIONS["fp32"]), Together(there), Settings()
    timer = BlockTimer(job, device, settings, time.perf_counter_ns, edges=edges)
    found: dict[str, Any] = {"operations": operations, "absent": ""}
    for name, planted in (
        ("own", {}),
        ("with", {"latency": float(latency)}),
        ("waiting", {"latency": float(latency), "dry": True}),
    ):
        fabric_library.change(**planted)
        pairs = taken(
            *(job, device, settings, (timer.block(STEPS),)),
            *(Hush("cpu", there.control), edges, lambda: None),
        )
        if pairs.silent is None:
            return {**found, "absent": pairs.absent}
        found[name] = median(pairs.silent.exposed_seconds)
    return found


TRAINING = """
[settings]
launches = 1
warmup_limit_seconds = 0.1
block_seconds = 0.001
steady_limit_seconds = 0.1

[[case]]
workload = "dlrm"
mode = "train"
rows = 50
precision = "fp32"
parallelism = "dlrm-hybrid2"
batch_size = 4
"""


def whole(folder: Path, latency: float) -> str:
    """What is wrong with the silent blocks of a whole launch over that library; empty if nothing.

    Its all-to-alls and its reduction take what the wire takes; in a silent block none is on it.
    """
    suite = folder / "training.toml"
    suite.write_text(TRAINING, encoding="utf-8")
    with joined_by(Fabric(latency=latency, multiplies=True)):
        (launch,) = api.run_suite(suite, device="fabric", out=folder).launches
    outcome = launch.outcome
    if not isinstance(outcome, Measured):
        return outcome.reason
    silent = outcome.silent
    if silent is None:
        return f"no silent blocks: {launch.environment['world']}"
    slowest = zip(*(share.silent_ns for share in outcome.ranks), strict=True)
    checks = {
        "real blocks took less than the wire": min(silent.real_ns) > silent.steps * latency * 1e9,
        "silent blocks took no less": min(silent.silent_ns) < min(silent.real_ns),
        "ranks disagree": tuple(map(max, slowest)) == silent.silent_ns,
    }
    return "; ".join(what for what, right in checks.items() if not right)


def judged(told: list[dict[str, Any]], latency: float, within: float) -> tuple[str, bool]:
    """What is found of so many launches, in words; and whether it is right."""
    truth = latency * fmean(one["operations"] for one in told)
    added = [one["with"] - one["own"] for one in told]
    mean, waiting = fmean(added), fmean(one["waiting"] for one in told)
    half = stats.t_quantile(0.975, len(told) - 1) * stdev(added) / len(told) ** 0.5
    near = abs(mean / truth - 1) <= within
    covers = mean - half <= max(truth, waiting) and mean + half >= truth
    said = (
        f"{1e3 * truth:.1f} ms planted, {1e3 * mean:.2f} ± {1e3 * half:.2f} found "
        f"({mean / truth:.3f}, {'near' if near else 'FAR'}, {'covers' if covers else 'MISSES'}); "
        f"waiting alone {1e3 * waiting:.2f}, the library itself "
        f"{1e3 * fmean(one['own'] for one in told):.2f}"
    )
    return said, near and covers


def main() -> int:
    """Prints a line a parallelism."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--latency", type=float, default=LATENCY)
    parser.add_argument("--only", default="dp2,fsdp2", help=f"some of {','.join(CASES)}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = whole(Path(folder), arguments.latency)
    print(f"a whole launch: {said or 'as it must be'}", flush=True)
    wrong = int(bool(said))
    for parallelism in arguments.only.split(","):
        found = []
        for _ in range(arguments.launches):
            target = "bench.tests.scripts.silent:launch"
            words = (parallelism, str(arguments.latency))
            with tempfile.TemporaryDirectory() as folder:
                told = together(parse(parallelism).devices, target, Path(folder), *words)[0]
            if told["absent"]:
                print(f"{parallelism}: {told['absent']}", flush=True)
            else:
                found.append(told)
        said, right = judged(found, arguments.latency, CASES[parallelism][1])
        print(f"{parallelism}: {said}", flush=True)
        wrong = wrong or not right
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
