"""Are launches that other work slows flagged, and the others not? Real ones, beside a CPU hog.

    python -m bench.tests.hog [--turns 10] [--hogs 1] [--only GLOB]

Each turn launches every case once on a quiet machine and once beside a process that does nothing
but compute, in changing order (ABBA). A launch is *slowed* if its throughput lies more than 10 %
below the median of the fastest quarter of its case and thread count. Printed: how many of the
slowed launches bear the flag CONTENDED (wanted: 95 % or more), how many of the others do (15 % or
less), and what a comparison of the quiet run with the other would say. A script and no test: what
it measures is the machine too.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import catalogue, config, launcher, plan
from bench.case import Case
from bench.compare import compare
from bench.record import Measured, Settings
from bench.tests.fakes import make_file, make_launches
from bench.worker import Request

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


def fastest(turns: list[Turn]) -> float:
    """Median of the fastest quarter, items/s."""
    rates = sorted((t.outcome.throughput for t in turns), reverse=True)
    return statistics.median(rates[: max(len(rates) // 4, 1)])


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


def verdicts(cases: list[Case], found: list[Turn]) -> list[str]:
    """What a comparison of the quiet launches with the others says, a line a case and threads."""
    lines = []
    for case in cases:
        for threads in sorted({turn.threads for turn in found}):
            sides = []
            for beside in (False, True):
                outcomes = [
                    t.outcome
                    for t in found
                    if (t.case, t.threads, t.beside_hog) == (case.name, threads, beside)
                ]
                settings = Settings(launches=max(len(outcomes), 1))
                sides.append(make_file([case], make_launches(case, outcomes), settings=settings))
            base, other = sides
            (row,) = compare(base, other).cases
            ratio = "" if row.ratio is None else f" ({row.ratio:.3f})"
            why = "; ".join(row.reasons)
            lines.append(f"{case.name} {threads} threads: {row.verdict}{ratio} {why}")
    return lines


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
        suite = config.read_suite(path)
    cases = [c for c in plan.plan(suite) if fnmatch.fnmatchcase(c.name, arguments.only)]
    found = take_turns(cases, arguments.turns, arguments.hogs)
    best = {key: fastest([t for t in found if t[:2] == key]) for key in {t[:2] for t in found}}
    slowed = [t for t in found if t.outcome.throughput < SLOWED * best[t[:2]]]
    others = [t for t in found if t not in slowed]
    print(f"load average {os.getloadavg()[0]:.1f}; {len(found)} launches")
    print(f"slowed by more than 10 %: {len(slowed)}, flagged {sum(t.flagged for t in slowed)}")
    print(f"not slowed: {len(others)}, flagged {sum(t.flagged for t in others)}")
    for turn in (t for t in found if t.flagged != (t in slowed)):
        share = turn.outcome.throughput / best[turn[:2]]
        print(f"  {turn.case} {turn.threads} threads, {share:.2f} of the fastest: {turn.words}")
    print("quiet against hog:", *verdicts(cases, found), sep="\n  ")


if __name__ == "__main__":
    main()
