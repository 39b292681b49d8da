"""How often the statistics are right, on made-up machines whose truth is known.

`python -m bench.tests.scripts.truth` prints the figures of thousands of reruns; `test_truth.py`
asserts what can be argued of fewer. Everything goes through `bench.judging`, from launches as a
worker would have left them.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from bench import stats
from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import CompareVerdict
from bench.judging.summary import summarize
from bench.records.case import Case
from bench.records.outcome import Block
from bench.records.run import Launch, RunFile, Settings
from bench.tests.values import make_case, make_file, make_launch, make_measured

Kind = Literal["normal", "contaminated", "drift"]
Population = Callable[[random.Random, int], float]
"""Deviation of log throughput of the launch of this number."""

SLOW_SHARE, SLOWED = 0.10, (0.15, 0.30)
DRIFT = 0.05
"""Whole change of speed over a session of 20 launches."""
CASES = tuple(make_case(parameters={"shape": f"{k}x1x1"}) for k in range(1, 9))
TEMPLATE = make_measured([0.01])


def population(kind: Kind, spread: float) -> Population:
    """Launches of a machine; spread: SD of log throughput between launches."""

    def one(source: random.Random, launch: int) -> float:
        deviation = source.gauss(0.0, spread)
        if kind == "contaminated" and source.random() < SLOW_SHARE:
            deviation -= math.log1p(source.uniform(*SLOWED))  # a step takes 15 to 30 % longer
        if kind == "drift":
            deviation -= DRIFT * launch / stats.LOOKS[-1]
        return deviation

    return one


def truth(kind: Kind, launches: int) -> float:
    """Mean log throughput of launches in this number, which the interval is about.

    Of a drifting machine it is the mean over the session that was measured.
    """
    if kind == "contaminated":
        low, high = (1 + s for s in SLOWED)
        mean = (high * math.log(high) - low * math.log(low)) / (high - low) - 1
        return -SLOW_SHARE * mean
    if kind == "drift":
        return -DRIFT * (launches - 1) / 2 / stats.LOOKS[-1]
    return 0.0


def launches(rates: Sequence[float], case: Case) -> list[Launch]:
    """One launch at each log rate, of steps of about 10 ms."""
    found = []
    for k, rate in enumerate(rates):
        wall = round(1e7 / math.exp(rate))
        steady = (Block(wall_ns=wall, step_ns=(wall,)),)
        outcome = msgspec.structs.replace(TEMPLATE, steady=steady)
        found.append(make_launch(outcome, case, launch=k, order=k, started_at="x"))
    return found


def draw(source: random.Random, one: Population, settings: Settings) -> list[float]:
    """Log rates of one case's launches: a fixed number, or until a look says enough."""
    if settings.launches != "auto":
        return [one(source, k) for k in range(settings.launches)]
    rates: list[float] = []
    while True:
        rates.append(one(source, len(rates)))
        if stats.enough_launches([math.exp(r) for r in rates], settings.target_half_width):
            return rates


def session(
    source: random.Random, one: Population, settings: Settings, cases: int = 1, change: float = 0.0
) -> RunFile:
    """A run of some cases; change: added to the log rate of the first."""
    found: list[Launch] = []
    for k, case in enumerate(CASES[:cases]):
        rates = draw(source, one, settings)
        found += launches([r + change * (k == 0) for r in rates], case)
    return make_file(CASES[:cases], found, settings=settings)


def covered(seed: int, kind: Kind, spread: float, settings: Settings, reruns: int) -> float:
    """Share of reruns in which the interval of the row holds the truth."""
    source, hits = random.Random(seed), 0
    one = population(kind, spread)
    for _ in range(reruns):
        (row,) = summarize(session(source, one, settings))
        assert row.interval is not None
        expected = 100 * math.exp(truth(kind, row.launches))
        hits += row.interval.low <= expected <= row.interval.high
    return hits / reruns


def verdicts(
    seed: int,
    kind: Kind,
    spread: float,
    settings: Settings,
    reruns: int,
    cases: int = 1,
    change: float = 0.0,
) -> dict[CompareVerdict, float]:
    """Share of comparisons in which any of the cases had this verdict.

    change: true difference of log throughput of the first case; verdicts of the others then do not
    count.
    """
    source = random.Random(seed)
    one = population(kind, spread)
    found: dict[CompareVerdict, float] = {}
    for _ in range(reruns):
        base = session(source, one, settings, cases)
        other = session(source, one, settings, cases, change)
        judged = compare(base, other).cases[: 1 if change else None]
        for verdict in {case.verdict for case in judged}:
            found[verdict] = found.get(verdict, 0.0) + 1 / reruns
    return found


def told_apart(found: Mapping[CompareVerdict, float]) -> float:
    """Share of comparisons with a FASTER or a SLOWER."""
    return found.get("FASTER", 0.0) + found.get("SLOWER", 0.0)


FIXED = Settings(launches=10)
AUTO = Settings(launches="auto", target_half_width=0.02)
KINDS: tuple[Kind, ...] = ("normal", "contaminated", "drift")
SPREADS = (0.01, 0.02, 0.03, 0.04)


def main() -> None:
    """Prints the table."""
    reruns = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    print(f"{reruns} reruns a figure")
    print(
        "| population | SD | covers, 10 | covers, auto | A/A, 10 | A/A, auto "
        "| A/A 8 cases, 10 | A/A 8 cases, auto |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        for spread in SPREADS:
            figures = [
                covered(1, kind, spread, FIXED, reruns),
                covered(2, kind, spread, AUTO, reruns),
                told_apart(verdicts(3, kind, spread, FIXED, reruns)),
                told_apart(verdicts(4, kind, spread, AUTO, reruns)),
                told_apart(verdicts(5, kind, spread, FIXED, reruns // 4, cases=8)),
                told_apart(verdicts(5, kind, spread, AUTO, reruns // 4, cases=8)),
            ]
            print(f"| {kind} | {spread:.0%} | " + " | ".join(f"{f:.1%}" for f in figures) + " |")
            sys.stdout.flush()
    print("\n| population | SD | 5 % slower, 10 | 5 % faster, 10 | 10 % slower, 10 | 5 %, auto |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        for spread in SPREADS:
            figures = [
                told_apart(verdicts(6, kind, spread, FIXED, reruns, change=math.log(0.95))),
                told_apart(verdicts(7, kind, spread, FIXED, reruns, change=math.log(1.05))),
                told_apart(verdicts(8, kind, spread, FIXED, reruns, change=math.log(0.90))),
                told_apart(verdicts(9, kind, spread, AUTO, reruns, change=math.log(0.95))),
            ]
            print(f"| {kind} | {spread:.0%} | " + " | ".join(f"{f:.1%}" for f in figures) + " |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
