"""Does a launch that is forked measure what one of its own process does? Both, in turns.

    python -m bench.tests.scripts.forked_launches [--turns 10] [--suite quick] [--only GLOB]

Each turn launches every case once forked and once by a process of its own, in changing order
(ABBA). Printed for each case: the ratio of throughputs with its 95 % interval, each side's standard
deviation between launches (a fork whose launches were not independent would have the smaller), peak
memory, and the seconds that a launch took besides its warm-up and its blocks.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

from bench import catalogue, stats
from bench.measuring.messages import Request
from bench.planning import plan, selected, suite_file
from bench.records.case import Case
from bench.records.outcome import Measured
from bench.records.run import Settings
from bench.running import launcher, scratch
from bench.running.stems import Stems

SETTINGS = Settings(warmup_limit_seconds=10.0, steady_limit_seconds=3.0)


class Turn(NamedTuple):
    """One launch that was measured."""

    forked: bool
    outcome: Measured
    besides: float
    """Seconds without warm-up and blocks."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--only", default="*")
    arguments = parser.parse_args()
    cases = plan.plan(suite_file.read_suite(suite_file.find_suite(arguments.suite)))
    found: dict[str, list[Turn]] = {}
    folder = scratch.made()
    backend = catalogue.backend("cpu")
    stems = Stems.of(backend, sys.executable, None if folder is None else str(folder))
    try:
        for turn in range(arguments.turns):
            for case in selected.select(cases, arguments.only):
                for forked in (turn % 2 == 0, turn % 2 == 1):
                    one = launched(case, turn, stems if forked else None, str(folder))
                    if one is not None:
                        found.setdefault(f"{case.name} {case.precision}", []).append(one)
    finally:
        if stems is not None:
            stems.close()
        scratch.gone(folder)
    for name, turns in found.items():
        sys.stdout.write(f"{name}: {words(turns)}\n")


def launched(case: Case, turn: int, stems: Stems | None, folder: str) -> Turn | None:
    """One launch; None where it measured nothing."""
    request = Request(
        case=case, backend="cpu", index=0, settings=SETTINGS, samples=10, seed=turn, scratch=folder
    )
    given = catalogue.backend("cpu").worker_environment()
    with contextlib.closing(launcher.launch_together([request], given, stems=stems)) as launches:
        finished = next(launches)
    outcome = finished.report.outcome
    if not isinstance(outcome, Measured):
        sys.stderr.write(f"{case.label}: {outcome}\n")
        return None
    timed = sum(block.wall_ns for block in (*outcome.warmup, *outcome.steady)) / 1e9
    return Turn(stems is not None, outcome, finished.seconds - timed)


def words(turns: Sequence[Turn]) -> str:
    """What both sides of a case say."""
    own, forked = ([turn for turn in turns if turn.forked is kind] for kind in (False, True))
    rates = [[turn.outcome.throughput for turn in side] for side in (own, forked)]
    found = stats.welch(rates[0], rates[1], 0.95)
    ratio = "no interval" if found is None else _interval(found.ratio)
    spread = " and ".join(f"{_deviation(side):.1%}" for side in rates)
    memory = " and ".join(
        f"{statistics.median(turn.outcome.memory.peak_bytes or 0 for turn in side) / 2**20:.0f}"
        for side in (own, forked)
    )
    besides = " and ".join(
        f"{statistics.median(turn.besides for turn in side):.1f}" for side in (own, forked)
    )
    return (
        f"forked / own {ratio}; own and forked: deviation {spread}, memory {memory} MiB, besides "
        f"the work {besides} s"
    )


def _interval(found: stats.Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _deviation(rates: Sequence[float]) -> float:
    return statistics.stdev(map(math.log, rates)) if len(rates) > 1 else math.nan


if __name__ == "__main__":
    main()
