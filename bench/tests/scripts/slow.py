"""Is the slow chip found, and nobody else named? Simulated launches of many ranks.

    python -m bench.tests.scripts.slow [--ranks 64] [--launches 10] [--runs 1000]

Chips that differ by themselves, hosts whose ranks go alike, launches that drift, and noise of
several kinds; one rank is 5 to 10 % slow, or none is. In each kind the slow one must be found (and
nobody else named) in 95 % of the runs, of eight ranks or more (among four, 5 % may be how chips are
anyway), and somebody named in at most 5 % of those without one.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable

from bench.judging.ranks.slow import slow_ranks

CHIPS, HOSTS = 0.005, 0.004
"""Relative standard deviations between chips and between hosts: what stays over launches."""
DRIFT = 0.02
"""From launch to launch, of all ranks alike."""
OF_A_HOST = 8
LEAST, MOST = 0.05, 0.10
"""How slow the slow one is."""
FOUND, NAMED = 0.95, 0.05
Noise = Callable[[random.Random], float]


def normal(draw: random.Random) -> float:
    """1 % of a launch, well behaved."""
    return draw.gauss(0, 0.01)


def heavy(draw: random.Random) -> float:
    """Student's t of three degrees of freedom, of scale 0.7 %: now and then 5 %."""
    chi = sum(draw.gauss(0, 1) ** 2 for _ in range(3)) / 3
    return 0.007 * draw.gauss(0, 1) / math.sqrt(chi)


def struck(draw: random.Random) -> float:
    """Well behaved, but one launch of twenty is 3 to 20 % slow for some other reason."""
    return draw.gauss(0, 0.007) + (draw.uniform(0.03, 0.2) if draw.random() < 0.05 else 0.0)


def skewed(draw: random.Random) -> float:
    """Never faster than the chip is, and often a little slower."""
    return draw.expovariate(1 / 0.01)


KINDS: dict[str, Noise] = {one.__name__: one for one in (normal, heavy, struck, skewed)}
UNEVEN = 3
"""Times `CHIPS`: as chips differ under a power limit. Nobody must be named there either; that one
is found is not asked for, as one that is 5 % slow is no exception."""


def launches(
    draw: random.Random, ranks: int, count: int, noise: Noise, slow: dict[int, float], spread: float
) -> list[list[float]]:
    """Of each rank, in each launch, its computing over the launch's median."""
    hosts = [draw.gauss(0, HOSTS) for _ in range(-(-ranks // OF_A_HOST))]
    own = [
        draw.gauss(0, spread) + hosts[rank // OF_A_HOST] + math.log1p(slow.get(rank, 0.0))
        for rank in range(ranks)
    ]
    found = []
    for _ in range(count):
        drift, beside = draw.gauss(0, DRIFT), [draw.gauss(0, HOSTS) for _ in hosts]
        times = [
            math.exp(drift + beside[rank // OF_A_HOST] + own[rank] + noise(draw))
            for rank in range(ranks)
        ]
        middle = statistics.median(times)
        found.append([time / middle for time in times])
    return [list(of_rank) for of_rank in zip(*found, strict=True)]


def tried(
    kind: str, ranks: int, count: int, runs: int, seed: int = 0, spread: float = CHIPS
) -> tuple[int, int]:
    """Runs in which the slow one was found and nobody else named; and those without a slow one in
    which somebody was."""
    draw, found, named = random.Random(f"{kind} {ranks} {count} {seed}"), 0, 0
    for _ in range(runs):
        slow = draw.randrange(ranks)
        planted = {slow: draw.uniform(LEAST, MOST)}
        said = slow_ranks(launches(draw, ranks, count, KINDS[kind], planted, spread))
        found += [one.rank for one in said] == [slow]
        named += bool(slow_ranks(launches(draw, ranks, count, KINDS[kind], {}, spread)))
    return found, named


def main() -> int:
    """Prints a line a kind of noise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--launches", type=int, default=10)
    parser.add_argument("--runs", type=int, default=500)
    arguments = parser.parse_args()
    wrong = 0
    print(f"{arguments.ranks} ranks, {arguments.launches} launches, {arguments.runs} runs a kind")
    for kind in KINDS:
        runs = arguments.runs
        for spread in (CHIPS, UNEVEN * CHIPS):
            found, named = tried(kind, arguments.ranks, arguments.launches, runs, spread=spread)
            usual = spread == CHIPS and arguments.ranks >= OF_A_HOST
            right = (found >= FOUND * runs or not usual) and named <= NAMED * runs
            print(
                f"{kind}, chips ±{spread:.1%}: found {found} of {runs}, "
                f"falsely named {named} of {runs}{'' if right else '  WRONG'}",
                flush=True,
            )
            wrong += not right
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
