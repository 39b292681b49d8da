"""How often the interval of an efficiency is right, on made-up clusters whose truth is known.

`python -m bench.tests.scripts.efficiency [RERUNS]` prints, for each kind of noise and number of
launches, of how many intervals how many hold the truth, over 2 to 1,024 devices together and at the
number of devices where it is least. A rerun is a whole curve of 11 points, launched in turns.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from bench import stats
from bench.judging.ranks.scaling import with_efficiency
from bench.judging.row import Row
from bench.records.run import Settings
from bench.tests.values import make_case

COUNTS = tuple(2**k for k in range(11))
HINDERED: Literal["hindered"] = "hindered"
"""Ten, where the first launches of what takes several devices were slowed from outside: they are
left out, and as many made in their place."""
LOST = 5
"""How many: of more a case would be INVALID."""
Launches = int | Literal["auto", "hindered"]
LAUNCHES: tuple[Launches, ...] = (5, 10, 20, "auto", HINDERED)
DRIFT = 0.05
"""Whole change of the log rate over a session of 20 rounds."""
SLOW_SHARE, SLOWED = 0.10, (0.15, 0.30)
Noise = Callable[[random.Random, int, float], float]
"""Deviation of the log rate of one launch: of so many devices, at that part of 20 rounds."""


def truth(devices: int) -> float:
    """A cluster's efficiency: some is lost with each doubling, and more beyond a node."""
    doublings = math.log2(devices)
    return 1 / (1 + 0.02 * doublings + 0.05 * max(0.0, doublings - 3))


def normal(spread: float) -> Noise:
    """Launches vary alike at every number of devices."""
    return lambda source, devices, when: source.gauss(0.0, spread)


def growing(spread: float) -> Noise:
    """The more devices, the less alike the launches: eight times as much at 1,024 as at one."""
    return lambda source, devices, when: source.gauss(0.0, spread * devices**0.3)


def heavy(spread: float) -> Noise:
    """Student's t with 3 degrees of freedom."""

    def one(source: random.Random, devices: int, when: float) -> float:
        scale = math.sqrt(sum(source.gauss(0.0, 1.0) ** 2 for _ in range(3)) / 3)
        return spread * source.gauss(0.0, 1.0) / scale

    return one


def slowest(spread: float) -> Noise:
    """Skewed: a launch is as slow as the slowest of eight."""
    mean = 1.4236 * spread  # of the largest of eight normals

    def one(source: random.Random, devices: int, when: float) -> float:
        return mean - max(source.gauss(0.0, spread) for _ in range(8))

    return one


def drifting(spread: float) -> Noise:
    """All of the cluster becomes slower while it is measured."""
    return lambda source, devices, when: source.gauss(0.0, spread) - DRIFT * when


def both(first: Noise, second: Noise) -> Noise:
    """The one and the other."""
    return lambda source, devices, when: (
        first(source, devices, when) + second(source, devices, when)
    )


def contaminated(spread: float, fewest: int = 1) -> Noise:
    """One launch in ten of so many devices or more is 15 to 30 % slower, in the truth too."""
    low, high = (1 + s for s in SLOWED)
    mean = (high * math.log(high) - low * math.log(low)) / (high - low) - 1

    def one(source: random.Random, devices: int, when: float) -> float:
        deviation = source.gauss(0.0, spread)
        if devices < fewest:
            return deviation
        slow = source.random() < SLOW_SHARE
        lost = math.log1p(source.uniform(*SLOWED)) if slow else 0.0
        return deviation - lost + SLOW_SHARE * mean

    return one


PROMISED: dict[str, Noise] = {
    "normal, 1 %": normal(0.01),
    "normal, 4 %": normal(0.04),
    "growing, 0.5 to 4 %": growing(0.005),
    "heavy tails, 2 %": heavy(0.02),
    "skewed, 2 %": slowest(0.02),
    "drift of 5 %, 1 %": drifting(0.01),
    "drift of 5 %, 0.3 %": drifting(0.003),
    "drift of 5 %, growing, 0.5 to 4 %": both(growing(0.005), drifting(0.0)),
    "drift of 5 %, heavy tails, 2 %": both(heavy(0.02), drifting(0.0)),
    "one in ten slow, 1 %": contaminated(0.01),
}
"""Of which at least `LEAST` are to be covered."""
LEAST = 0.93
BEYOND = {"one in ten slow of several devices, 1 %": contaminated(0.01, fewest=2)}
"""More than any t interval over ten launches can see; said in the guide."""


def curve(source: random.Random, noise: Noise, settings: Settings, lost: int = 0) -> list[Row]:
    """The rows of one session, each case launched once a round until it has enough.

    lost: how many first launches of several devices are left out.
    """
    rates: dict[int, list[float]] = {devices: [] for devices in COUNTS}
    finished: set[int] = set()
    for launch in range(stats.LOOKS[-1] + lost):
        for place, devices in enumerate(COUNTS):
            if devices in finished or (launch < lost and devices > 1):
                continue
            when = (launch + place / len(COUNTS)) / stats.LOOKS[-1]
            deviation = noise(source, devices, when)
            rates[devices].append(100 * devices * truth(devices) * math.exp(deviation))
            if _enough(rates[devices], settings):
                finished.add(devices)
    return [
        _row(devices, of_it, settings, lost if devices > 1 else 0)
        for devices, of_it in rates.items()
    ]


def _enough(rates: list[float], settings: Settings) -> bool:
    if settings.launches == "auto":
        return stats.enough_launches(rates, settings.target_half_width)
    return len(rates) >= settings.launches


def _row(devices: int, rates: list[float], settings: Settings, first: int) -> Row:
    level = stats.LOOK_LEVEL if settings.launches == "auto" else stats.FIXED_LEVEL
    return Row(
        case=make_case(devices=devices, parallelism="none" if devices == 1 else f"dp{devices}"),
        status="measured",
        reason="",
        verdict="OK",
        throughput=stats.geometric_mean(rates),
        interval=stats.log_estimate(rates, level),
        rates=tuple(rates),
        rounds=tuple(range(first, first + len(rates))),
        launches=len(rates),
        hindered=first,
    )


def covered(
    seed: int,
    noise: Noise,
    launches: Launches,
    reruns: int,
    expected: Callable[[int], float] = truth,
) -> dict[int, int]:
    """Of each number of devices, in how many reruns the interval holds what is expected."""
    source, hits = random.Random(seed), Counter(dict.fromkeys(COUNTS[1:], 0))
    lost = LOST if launches == HINDERED else 0
    settings = Settings(launches=10 if launches == HINDERED else launches)
    for _ in range(reruns):
        for row in with_efficiency(curve(source, noise, settings, lost))[1:]:
            found = row.strong
            assert found is not None and found.low is not None and found.high is not None
            hits[row.case.devices] += found.low <= expected(row.case.devices) <= found.high
    return hits


class Figure(NamedTuple):
    """Of one kind of cluster at one number of launches: how often the intervals hold the truth."""

    share: float
    text: str
    """With counts, and of the worst point."""


def figures(noise: Noise, reruns: int) -> Iterator[Figure]:
    """For each number of launches."""
    for seed, launches in enumerate(LAUNCHES):
        hits = covered(seed, noise, launches, reruns)
        worst = min(hits, key=lambda devices: hits[devices])
        total = sum(hits.values())
        share = total / (reruns * len(hits))
        least = f"least {hits[worst] / reruns:.1%} at {worst}"
        yield Figure(share, f"{share:.1%} ({total}; {least})")


def main() -> None:
    """Prints the table."""
    reruns = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{reruns} curves a figure, {reruns * (len(COUNTS) - 1)} intervals")
    print("| clusters | " + " | ".join(f"{n} launches" for n in LAUNCHES) + " |")
    print("|---|" + "---|" * len(LAUNCHES))
    broken = []
    for name, noise in {**PROMISED, **BEYOND}.items():
        found = list(figures(noise, reruns))
        print(f"| {name} | {' | '.join(one.text for one in found)} |", flush=True)
        if name in PROMISED and any(one.share < LEAST for one in found):
            broken.append(name)
    sys.exit(f"under {LEAST:.0%}: {'; '.join(broken)}" if broken else 0)


if __name__ == "__main__":
    main()
