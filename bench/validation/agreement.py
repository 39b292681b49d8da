"""Does the harness tell the truth? Its throughput against a bare hand-written loop, interleaved.

    python -m bench.validation.agreement [--launches 6] [--only 'llama-*']

For each case of `quick` that runs a model, on the CPU: a fresh process builds the harness's job and
the bare loop's model, and lets them take turns (AB, BA, AB, ...), a block each, the one timed by
the engine and the other by hand. A launch gives the median over its turns of
harness / bare throughput; printed is the geometric mean over launches with its 95 % t interval.
Taking turns within a process, because on a shared machine two processes differ by more than what
is to be shown.

The bare loops are in `bench/validation/bare/`, with nothing of the harness.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec

from bench import catalogue, stats
from bench.measuring.engine import Engine
from bench.measuring.usage import process_usage
from bench.planning import plan, suite_file
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.run import Settings
from bench.validation.bare import text, vision
from bench.workload import Site

WARMUP_TURNS = 4
TURNS = 12
SUITE = "quick@2"
"""The one of that name with every kind of training."""

BARE = {**vision.BARE, **text.BARE}
"""By the name of the case."""


def take_turns(case: Case, turns: int = TURNS) -> float:
    """Median of harness / bare throughput over the turns of this process."""
    precision = PRECISIONS[case.precision]
    device = catalogue.backend("cpu").open(0, precision)
    workload = catalogue.workload(case.workload)
    site = Site(device=device.torch_device, precision=precision, seed=0)
    job = workload.build(case.mode, plan.parameters_of(case, workload), site)
    engine = Engine(job, device, Settings(), usage=process_usage())
    loop = BARE[case.name](case.parameters)

    def by_harness() -> float:
        return engine.block(loop.steps).wall_ns / 1e9

    return median_ratio(by_harness, loop.seconds, turns)


def median_ratio(
    ours: Callable[[], float], theirs: Callable[[], float], turns: int = TURNS
) -> float:
    """Median over turns (AB, BA, AB, ...) of our throughput over theirs, from seconds a turn."""
    ratios = []
    for turn in range(WARMUP_TURNS + turns):
        if turn % 2:
            their_seconds, our_seconds = theirs(), ours()
        else:
            our_seconds, their_seconds = ours(), theirs()
        ratios.append(their_seconds / our_seconds)
    return statistics.median(ratios[WARMUP_TURNS:])


def run_launches(
    script: str, cases: Sequence[Case], launches: int, turns: int
) -> dict[str, list[float]]:
    """The ratio of each launch, by case; a launch is a process of the script with `--launch`."""
    variables = catalogue.backend("cpu").worker_environment()
    ratios: dict[str, list[float]] = {case.label: [] for case in cases}
    for launch in range(launches):
        for case in cases:
            output = subprocess.run(
                [sys.executable, "-m", script, "--launch", "--turns", str(turns)],
                input=msgspec.json.encode(case),
                stdout=subprocess.PIPE,
                check=True,
                env={**variables, **os.environ},
            ).stdout
            ratio = float(output.splitlines()[-1])
            ratios[case.label].append(ratio)
            print(f"launch {launch + 1}: {case.label} {ratio:.3f}", file=sys.stderr)
    return ratios


def sentence(ratios: Sequence[float]) -> str:
    """The geometric mean of the launches' ratios, with its interval."""
    estimate = stats.log_estimate(ratios, stats.FIXED_LEVEL)
    spread = f"95 % {estimate.low:.3f} to {estimate.high:.3f}" if estimate else "no interval"
    return f"{stats.geometric_mean(ratios):.3f} ({spread}, {len(ratios)} launches)"


def script(
    name: str, text: str | None, cases: Sequence[Case], ratio: Callable[[Case, int], float]
) -> None:
    """A script that compares two sides of each case: its options, and what it prints.

    name: its module; text: its docstring; ratio: of one case in this process, from so many turns.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--turns", type=int, default=TURNS, help="that count in a launch")
    parser.add_argument("--launch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.launch:
        case = msgspec.json.decode(sys.stdin.buffer.read(), type=Case)
        print(ratio(case, arguments.turns))
        return
    chosen = [case for case in cases if fnmatch.fnmatchcase(case.label, arguments.only)]
    found = run_launches(name, chosen, arguments.launches, arguments.turns)
    for label, ratios in found.items():
        print(f"{label}: {sentence(ratios)}")


def main() -> None:
    """The script."""
    suite = suite_file.read_suite(suite_file.find_suite(SUITE))
    cases = [case for case in plan.plan(suite) if case.name in BARE]
    script("bench.validation.agreement", __doc__, cases, take_turns)


if __name__ == "__main__":
    main()
