"""Are launches that other work slows flagged, and the others not? Real ones, beside a CPU hog.

    python -m bench.tests.scripts.hog [--turns 10] [--hogs 1] [--only GLOB]

Each turn launches every case once on a quiet machine and once beside a process that does nothing
but compute, in changing order (ABBA), with one thread and with as many as there are cores. A launch
is *slowed* if its throughput lies more than 10 % below the median of the quiet ones of its case and
thread count. Printed, for each place and number of threads: how many were slowed, how many of those
bear the flag CONTENDED (wanted beside the hog: 95 % or more), and how many of the others do (15 %
or less); then what a comparison of the quiet launches with the others says, all cases together.

A quiet launch that was slowed was not slowed by anything that this machine can see: on a virtual
one, by a neighbour who takes memory bandwidth or clock. A script and no test: what it measures is
the machine too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import catalogue
from bench.judging.comparing.compare import compare
from bench.measuring.messages import Request
from bench.planning import plan, suite_file
from bench.records.case import Case
from bench.records.outcome import Measured
from bench.records.run import Settings
from bench.running import launcher
from bench.tests.validation.matching import matching
from bench.tests.values import make_file, make_launches

SUITE = """
description = "Small work of three kinds"

[[case]]
workload = "gemm"
precision = "fp32"
shape = "512x512x512"

[[case]]
workload = "memory"
mode = "triad"
precision = "fp32"
size_bytes = 33554432

[[case]]
workload = "bert"
mode = "infer"
precision = "fp32"
model = "tiny"
batch_size = 4
sequence_length = 64
"""
SETTINGS = Settings(launches=10, warmup_limit_seconds=5.0, steady_limit_seconds=2.0)
SLOWED = 0.9
"""Of the quiet launches' median."""
HOG = "while True: pass"


class Turn(NamedTuple):
    """One launch that was measured."""

    case: str
    threads: int
    beside_hog: bool
    outcome: Measured

    @property
    def flagged(self) -> bool:
        """Whether it says that other work slowed it."""
        return "CONTENDED" in self.outcome.flags

    @property
    def words(self) -> str:
        """Its cause, or what was counted where there is none."""
        return self.outcome.causes.get("CONTENDED") or str(self.outcome.contention)


def slowed(turns: list[Turn], found: list[Turn]) -> list[Turn]:
    """Those of `turns` that are slower than the quiet ones of their kind in all that was found."""
    quiet: dict[tuple[str, int], list[float]] = {}
    for turn in found:
        if not turn.beside_hog:
            quiet.setdefault(turn[:2], []).append(turn.outcome.throughput)
    return [t for t in turns if t.outcome.throughput < SLOWED * statistics.median(quiet[t[:2]])]


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Processes that compute for nothing meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", HOG]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(case: Case, threads: int, seed: int) -> Measured | None:
    """One launch with so many threads; None if it failed."""
    request = Request(case=case, backend="cpu", index=0, settings=SETTINGS, samples=10, seed=seed)
    variables = dict(catalogue.backend("cpu").worker_environment())
    forced = {"OMP_NUM_THREADS": str(threads)}
    with contextlib.closing(
        launcher.launch_together([request], variables, forced=forced)
    ) as finished:
        outcome = next(finished).report.outcome
    return outcome if isinstance(outcome, Measured) else None


def take_turns(cases: list[Case], turns: int, count: int) -> list[Turn]:
    """Every case quiet and beside the hogs, in turn, a line on stderr each."""
    found = []
    for turn in range(turns):
        for case in cases:
            for threads in sorted({1, os.cpu_count() or 1}):
                for beside in (False, True) if turn % 2 == 0 else (True, False):
                    with hogs(count if beside else 0):
                        outcome = measure(case, threads, turn)
                    if outcome is None:
                        continue
                    found.append(Turn(case.name, threads, beside, outcome))
                    place = "beside a hog" if beside else "quiet"
                    print(
                        f"turn {turn + 1}: {case.name}, {threads} threads, {place}: "
                        f"{outcome.throughput:.4g} {outcome.causes.get('CONTENDED', '')}",
                        file=sys.stderr,
                        flush=True,
                    )
    return found


def verdicts(cases: list[Case], found: list[Turn], threads: int) -> list[str]:
    """What one comparison of the quiet launches with the others says, a line a case."""
    sides = []
    for beside in (False, True):
        chosen = [t for t in found if (t.threads, t.beside_hog) == (threads, beside)]
        launches = [
            launch
            for case in cases
            for launch in make_launches(case, [t.outcome for t in chosen if t.case == case.name])
        ]
        settings = Settings(launches=max(len(chosen) // len(cases), 1))
        sides.append(make_file(cases, launches, settings=settings))
    base, other = sides
    return [
        f"{row.case.name}: {row.verdict}"
        + ("" if row.ratio is None else f" {row.ratio:.3f}")
        + ("" if row.interval is None else f" ({row.interval.low:.3f} to {row.interval.high:.3f})")
        + f" {'; '.join(row.reasons)}".rstrip()
        for row in compare(base, other).cases
    ]


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--hogs", type=int, default=1)
    parser.add_argument("--only", default="*", metavar="GLOB")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hog.toml"
        path.write_text(SUITE, encoding="utf-8")
        suite = suite_file.read_suite(path)
    every = plan.plan(suite)
    cases = matching(parser, "--only", arguments.only, every, lambda case: case.name)
    found = take_turns(cases, arguments.turns, arguments.hogs)
    print(f"load average {os.getloadavg()[0]:.1f}; {len(found)} launches")
    for threads in sorted({turn.threads for turn in found}):
        for beside in (False, True):
            group = [t for t in found if (t.threads, t.beside_hog) == (threads, beside)]
            slow = slowed(group, found)
            rest = [t for t in group if t not in slow]
            place = "beside the hog" if beside else "quiet"
            print(
                f"{threads} threads, {place}: {len(group)} launches; {len(slow)} slowed, "
                f"{sum(t.flagged for t in slow)} of them flagged; {len(rest)} not, "
                f"{sum(t.flagged for t in rest)} of them flagged"
            )
            for turn in (t for t in group if t.flagged != (t in slow)):
                print(f"  {turn.case}: {turn.words}")
        print(
            f"quiet against hog, {threads} threads:", *verdicts(cases, found, threads), sep="\n  "
        )


if __name__ == "__main__":
    main()
