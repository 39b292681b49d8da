"""Does the harness tell the truth? Its throughput against a bare hand-written loop, interleaved.

    python -m bench.tests.validation.agreement [--launches 6] [--only 'llama-*']
        [--execution compile] [--precision fp32] [--clock processor]

For each case of `quick` that runs a model, and of each family that is not in it, on the CPU: a
fresh process runs the numerics gate, builds the harness's job and the bare loop's model, and lets
them take turns (AB, BA, AB, ...), a block each, the one timed by the engine and the other by hand.
A launch gives the median over its turns of harness / bare throughput; printed is the geometric mean
over launches with its 95 % t interval. Taking turns within a process, because on a shared machine
two processes differ by more than what is to be shown. Where the memory of either lies is the luck
of a launch, and worth up to 5 % in decode; lest it go with the order in which they are made, that
is turned round in every other launch. A launch that stands far out is named, with the side that
took other than its usual time; it stays in the mean.

Most cases are of bfloat16, which a CPU without arithmetic of it calculates by reference code: there
`--precision fp32` compares the same steps in float32.

Where a machine is shared its speed moves within a turn, by more than what is to be shown. There
`--clock processor`, with `OMP_NUM_THREADS=1`, compares the processor time of the two: what the
harness does besides would show in it, and waiting for others does not.

The bare loops are in `bench/tests/validation/bare/`, with nothing of the harness but the attention
of GPT-OSS and of DeepSeek's decode; and the weights of those two, for an expert that no token goes
to costs next to nothing, and which those are is the weights' work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bench import catalogue, stats
from bench.backend import Device
from bench.measuring.execution import Execution
from bench.measuring.gates import numerics
from bench.measuring.timing.engine import Engine
from bench.measuring.timing.usage import process_usage
from bench.planning import plan, suite_file
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.run import Settings
from bench.tests.small_workloads import model_of
from bench.tests.validation.bare import text, vision
from bench.tests.validation.bare.loop import Loop
from bench.tests.validation.matching import matching
from bench.workload import EXECUTIONS, Job, Site

if TYPE_CHECKING:
    from torch import Tensor

WARMUP_TURNS = 4
TURNS = 12
SUITE = "quick@2"
"""The one of that name with every kind of training."""
GPT_OSS = {"workload": "gpt-oss", "precision": "bf16"}
QWEN3 = {"workload": "qwen3", "precision": "bf16"}
BESIDES = (
    {**QWEN3, "mode": "prefill", "prompt_length": 64},
    {**QWEN3, "mode": "decode", "prompt_length": 64, "new_tokens": 8},
    {**QWEN3, "mode": "embed", "batch_size": 2, "sequence_length": 32},
    {**QWEN3, "mode": "rerank", "batch_size": 2, "sequence_length": 32},
    {**GPT_OSS, "mode": "train", "batch_size": 1, "sequence_length": 256},
    {**GPT_OSS, "mode": "prefill", "prompt_length": 512},
    {**GPT_OSS, "mode": "decode", "batch_size": 4, "prompt_length": 256, "new_tokens": 32},
)
"""Entries as of a suite: the families that it has not, each of its default model."""

INSTEAD = ("fp32",)
"""What every case can be calculated in instead."""
BARE = {**vision.BARE, **text.BARE}
"""By the name of the case."""
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""What the seconds of either side may be of."""
KINDS = {"bf16": "bfloat16", "bf16-amp": "bfloat16", "fp32": "float32"}
"""What a bare loop calculates its products in, by the precision of the case."""


class Turns(NamedTuple):
    """What one launch found."""

    ratio: float
    """Our throughput over theirs: the median over the turns."""
    ours: float
    theirs: float
    """Seconds of a turn of each: medians."""


def sides(case: Case, bare_first: bool = False) -> tuple[Job, Device, Loop]:
    """The harness's job of a case, on its device, and the bare loop, both executed as it says.

    Ours as in a launch, behind its numerics gate: what that leaves in the process is ours, too.
    bare_first: whether the bare loop is made before all that.
    """
    precision, backend = PRECISIONS[case.precision], catalogue.backend("cpu")
    device, workload = backend.open(0, precision), catalogue.workload(case.workload)
    execution = Execution(case.execution, backend, device)
    site = Site(
        device=device.torch_device,
        precision=precision,
        seed=0,
        execution=case.execution,
        compiler=execution.compiler,
    )
    parameters = plan.parameters_of(case, workload)
    loop = bare(case) if bare_first else None
    verdict = numerics.gate(workload, case.mode, parameters, site, backend.library_switches)
    if not verdict.passed:
        raise SystemExit(f"{case.label}: the numerics gate says {verdict.complaint}")
    execution.gated()
    job = workload.build(case.mode, parameters, site)
    loop = loop or bare(case)
    if loop.routed is not None:
        loop.routed_as(model_of(job), trained_on(job) if loop.tokens else [])
    if case.execution == "compile":
        loop.compile()
    return job, device, loop


def bare(case: Case) -> Loop:
    """The bare loop of a case, not compiled yet; in each launch it reads the same tokens."""
    import torch

    torch.manual_seed(0)
    return BARE[case.name](case.parameters, getattr(torch, KINDS[case.precision]))


def trained_on(job: Any) -> list[Tensor]:
    """The tokens of a training job's batches."""
    return [tokens for tokens, _ in job._batches.items]


def take_turns(case: Case, turns: int = TURNS, number: int = 0, clock: str = "wall") -> Turns:
    """Of the harness and the bare loop of a case, in this process. clock: of `CLOCKS`.

    number: of the launch; in every other one the bare loop is made first.
    """
    job, device, loop = sides(case, bare_first=number % 2 == 1)
    engine = Engine(job, device, Settings(), usage=process_usage())

    def by_harness() -> float:
        # What goes before a pass reads all weights. Of both, or one begins with the other's cache.
        if loop.before_pass is not None:
            job.again()
        block = engine.block(loop.steps)
        if clock == "wall":
            return block.wall_ns / 1e9
        assert block.step_cpu_ns is not None
        return sum(block.step_cpu_ns) / 1e9

    return in_turns(by_harness, lambda: loop.seconds(CLOCKS[clock]), turns)


def in_turns(ours: Callable[[], float], theirs: Callable[[], float], turns: int = TURNS) -> Turns:
    """By turns (AB, BA, AB, ...) of two sides, which say how many seconds each of theirs took."""
    pairs = []
    for turn in range(WARMUP_TURNS + turns):
        if turn % 2:
            their_seconds, our_seconds = theirs(), ours()
        else:
            our_seconds, their_seconds = ours(), theirs()
        pairs.append((our_seconds, their_seconds))
    counted = pairs[WARMUP_TURNS:]
    return Turns(
        ratio=statistics.median(theirs / ours for ours, theirs in counted),
        ours=statistics.median(ours for ours, _ in counted),
        theirs=statistics.median(theirs for _, theirs in counted),
    )


def run_launches(
    script: str, cases: Sequence[Case], launches: int, options: Sequence[str]
) -> dict[str, list[Turns]]:
    """What each launch found, by case; a launch is a process of the script with `--launch` and its
    number, from 0, and these options."""
    variables = catalogue.backend("cpu").worker_environment()
    found: dict[str, list[Turns]] = {case.label: [] for case in cases}
    for launch in range(launches):
        for case in cases:
            output = subprocess.run(
                [sys.executable, "-m", script, "--launch", str(launch), *options],
                input=msgspec.json.encode(case),
                stdout=subprocess.PIPE,
                check=True,
                env={**variables, **os.environ},
            ).stdout
            of_it = msgspec.json.decode(output.splitlines()[-1], type=Turns)
            found[case.label].append(of_it)
            print(f"launch {launch + 1}: {case.label} {of_it.ratio:.3f}", file=sys.stderr)
    return found


def remarks(launches: Sequence[Turns]) -> list[str]:
    """Of each launch whose ratio stands far out: how long either side took, by its own usual."""
    usual = [
        statistics.median(side)
        for side in ([x.ours for x in launches], [x.theirs for x in launches])
    ]
    return [
        f"launch {i + 1} stands far out at {launches[i].ratio:.2f}: ours took "
        f"{launches[i].ours / usual[0]:.2f} of its usual time, the other "
        f"{launches[i].theirs / usual[1]:.2f}"
        for i in stats.far_out([launch.ratio for launch in launches])
    ]


def sentence(ratios: Sequence[float]) -> str:
    """The geometric mean of the launches' ratios, with its interval."""
    estimate = stats.log_estimate(ratios, stats.FIXED_LEVEL)
    spread = f"95 % {estimate.low:.3f} to {estimate.high:.3f}" if estimate else "no interval"
    return f"{stats.geometric_mean(ratios):.3f} ({spread}, {len(ratios)} launches)"


def script(
    name: str,
    text: str | None,
    cases: Mapping[str, Sequence[Case]],
    launch: Callable[..., Turns],
    precisions: Sequence[str] = (),
    clocks: Sequence[str] = (),
) -> None:
    """A script that compares two sides of each case: its options, and what it prints.

    name: its module; text: its docstring; cases: by execution; launch: of one case in this process,
    in so many turns, and if there are clocks by its number and by one of them; precisions: those
    that any case can have instead of its own; clocks: names of them, the first where none is asked
    for.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--turns", type=int, default=TURNS, help="that count in a launch")
    parser.add_argument("--execution", default="eager", choices=[*cases])
    if precisions:
        parser.add_argument("--precision", choices=precisions, help="instead of each case's own")
    if clocks:
        parser.add_argument("--clock", choices=clocks, default=clocks[0])
    parser.add_argument("--launch", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(precision=None)
    arguments = parser.parse_args()
    clock = [arguments.clock] if clocks else []
    if arguments.launch is not None:
        case = msgspec.json.decode(sys.stdin.buffer.read(), type=Case)
        which = [arguments.launch, *clock] if clocks else []
        print(msgspec.json.encode(launch(case, arguments.turns, *which)).decode())
        return
    there = in_precision(cases[arguments.execution], arguments.precision)
    chosen = matching(parser, "--only", arguments.only, there, lambda case: case.label)
    options = ["--turns", str(arguments.turns), *(["--clock", *clock] if clock else [])]
    found = run_launches(name, chosen, arguments.launches, options)
    for label, launches in found.items():
        print(f"{label}: {sentence([one.ratio for one in launches])}")
        for remark in remarks(launches):
            print(f"  {remark}")


def in_precision(cases: Sequence[Case], precision: str | None) -> list[Case]:
    """The same cases in it, or in their own for None."""
    return [msgspec.structs.replace(case, precision=precision or case.precision) for case in cases]


def compared(execution: str) -> list[Case]:
    """The models of SUITE and BESIDES in an execution; without those that cannot be executed so."""
    suite = suite_file.read_suite(suite_file.find_suite(SUITE))
    besides = msgspec.structs.replace(suite, entries=BESIDES)
    eager = [
        msgspec.structs.replace(case, execution=execution)
        for case in (*plan.plan(suite), *plan.plan(besides))
        if case.name in BARE and case.execution == "eager"
    ]
    return [
        case
        for case in eager
        if execution in catalogue.workload(case.workload).modes[case.mode].executions
    ]


def main() -> None:
    """The script."""
    cases = {execution: compared(execution) for execution in EXECUTIONS}
    script("bench.tests.validation.agreement", __doc__, cases, take_turns, INSTEAD, [*CLOCKS])


if __name__ == "__main__":
    main()
