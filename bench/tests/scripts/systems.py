"""How often the factors of two whole systems are right, on made-up clusters whose truth is known.

`python -m bench.tests.scripts.systems` prints which share of reruns have intervals that hold the
true ratio, chip and scaling, and exits with 1 where one is under the aim. Everything goes through
`bench.judging`, from launches as workers would have left them.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Mapping, Sequence

from bench.judging.comparing.systems import compare_systems
from bench.judging.interval import Interval
from bench.records.run import RunFile, Settings
from bench.tests.judging.two_systems import on
from bench.tests.scripts.truth import AUTO, FIXED, Kind, draw, launches, population
from bench.tests.values import make_file

AIM = 0.93
TRUTH = {"ratio": 896 / 720, "chip": 0.2, "scaling": 7 / 9}
"""Eight devices of 1 that keep 0.9, against sixty-four of 0.2 that keep 0.7."""
RATES = ({"none": 1.0, "dp8": 7.2}, {"none": 0.2, "fsdp64": 8.96})
"""Of the base and the other, by spread."""
KINDS: tuple[Kind, ...] = ("normal", "drift")
SPREADS: tuple[Sequence[float], ...] = (
    (0.01, 0.01, 0.01, 0.01),
    (0.03, 0.03, 0.03, 0.03),
    (0.005, 0.04, 0.01, 0.02),
)
"""Standard deviations of log throughput: of the base's two numbers of devices, of the other's."""


def session(
    source: random.Random, kind: Kind, rates: Mapping[str, float], spreads: Sequence[float],
    settings: Settings,
) -> RunFile:  # fmt: skip
    """A run of one work on these numbers of devices."""
    found = []
    for (spread, rate), deviation in zip(rates.items(), spreads, strict=True):
        drawn = draw(source, population(kind, deviation), settings)
        found += launches([math.log(rate) + x for x in drawn], on(spread))
    return make_file([on(spread) for spread in rates], found, settings=settings)


def covered(
    seed: int, kind: Kind, spreads: Sequence[float], settings: Settings, reruns: int
) -> dict[str, float]:
    """Share of reruns in which the interval of each factor holds the truth.

    Of runs that drift, of the scaling alone: as a side's numbers of devices take turns, it is what
    it was. Two runs at different times are different machines, which ratio and chip say rightly.
    """
    source = random.Random(seed)
    hits = dict.fromkeys(TRUTH if kind == "normal" else ["scaling"], 0)
    for _ in range(reruns):
        base, other = (
            session(source, kind, rates, two, settings)
            for rates, two in zip(RATES, (spreads[:2], spreads[2:]), strict=True)
        )
        (case,) = compare_systems(base, other).cases
        assert case.system is not None and case.system.product is not None
        assert case.interval is not None
        found = case.system.product
        ratio = Interval(value=0.0, low=case.interval.low, high=case.interval.high)
        factors = {"ratio": ratio, "chip": found.chip, "scaling": found.scaling}
        for name in hits:
            one = factors[name]
            assert one is not None and one.low is not None and one.high is not None
            hits[name] += one.low <= TRUTH[name] <= one.high
    return {name: count / reruns for name, count in hits.items()}


def short(shares: Mapping[str, float]) -> list[str]:
    """The factors that are covered less often than is aimed at."""
    return [f"{name} {share:.1%}" for name, share in shares.items() if share < AIM]


def main() -> None:
    """Prints the table."""
    reruns = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    complaints: list[str] = []
    print(f"{reruns} reruns a figure; an interval of 95 %, of `auto` 98 %")
    print("| population | SD, four groups | launches | ratio | chip | scaling |")
    print("|---|---|---|---|---|---|")
    for seed, kind in enumerate(KINDS):
        for spreads in SPREADS:
            for settings in (FIXED, AUTO):
                shares = covered(seed, kind, spreads, settings, reruns)
                sds = ", ".join(f"{sd:.1%}" for sd in spreads)
                figures = " | ".join(f"{shares[n]:.1%}" if n in shares else "" for n in TRUTH)
                print(f"| {kind} | {sds} | {settings.launches} | {figures} |")
                sys.stdout.flush()
                complaints += [f"{kind}, {sds}: {said}" for said in short(shares)]
    if complaints:
        sys.exit(f"under {AIM:.0%}: {'; '.join(complaints)}")


if __name__ == "__main__":
    main()
