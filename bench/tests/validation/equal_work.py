"""Does the proof of equal work tell honest work from other work? Both error rates, counted.

    python -m bench.tests.validation.equal_work [--pairs 300] [--seed 1000] [--faults 1]
        [--suite smoke] [--only 'llama-*'] [--stacks eager,layout,avx2] [--device cpu] [--keep FILE]
        [--minutes 25] [--ungated]

Honest pairs: the same case and seed under each two of `--stacks` (see `STACKS`), as two records of
a run of two launches would hold them, of which the first takes the noise. What the numerics gate
makes void on one stack has no figure there, so there is no pair: counted apart, and said; a stack
asks the gate once a case. Planted: each fault of `planted`, beside this, `--faults` seeds a case,
against the honest step. Cases are those of the suite, each at every precision that it is made
for and that the device has. `--device` is one more stack, and where the faults are. `--keep`: what
that file holds is not done again. `--minutes`: no honest pair is begun after so many. `--ungated`:
the gate, which takes longer than a launch, is not asked about honest pairs, so what it would make
void counts.

Printed are both rates, with the exact (Clopper-Pearson) 95 % intervals, how near each quantity of
an honest pair came to its tolerance, and what was refused or missed. Pairs of one case and seed
share launches, and are not independent: those draws are counted too. The exit code is 1 where more
than one honest pair in a thousand was refused, less than 99 % of the faults were caught, or nothing
was looked at of what was asked for. A fault that leaves no proof of its work is neither caught nor
missed, and said.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import catalogue
from bench.judging.comparing.equal_work import Finding, of_launches
from bench.planning import plan, suite_file
from bench.records.case import Case
from bench.tests.validation.launches import STACKS, Ask, Launches, Stack, Told
from bench.tests.validation.planted import FAULTS, LAZY, NOT_TOLD

LEVEL = 0.95
REFUSED, CAUGHT = 0.001, 0.99
"""Most honest pairs refused; least faults caught."""
RUN = 2
"""Launches of a run."""
GATE_SEED = 0
ONLY = "of 'WORKLOAD-MODE PRECISION', with commas between them"


def cases(suite: str, only: str) -> Iterator[Case]:
    """Of a suite, each at every precision that its mode is made for; no tuned ones, and no loads,
    whose proof is that of their answers.

    only: patterns of `WORKLOAD-MODE PRECISION`, with commas between them.
    """
    seen = set()
    for case in plan.plan(suite_file.read_suite(suite_file.find_suite(suite))):
        mode = catalogue.workload(case.workload).modes[case.mode]
        for name in () if mode.serves else mode.precisions:
            one = msgspec.structs.replace(case, precision=name, execution="eager")
            said = f"{one.name} {name}"
            fits = any(fnmatch.fnmatchcase(said, part) for part in only.split(","))
            if fits and not case.space and one.fingerprint not in seen:
                seen.add(one.fingerprint)
                yield one


class Counted:
    """What came of the pairs or of the faults."""

    def __init__(self) -> None:
        self.total = self.told = self.alike = 0
        self.kinds: Counter[str] = Counter()
        self.found: list[str] = []
        self.void: dict[tuple[str, str], str] = {}
        """By case and stack: why there is no figure."""
        self.voided = 0
        """Pairs that are none for it."""
        self.unproved: dict[str, str] = {}
        """What has no proof of its work, and why: neither caught nor missed."""
        self.noted: Counter[tuple[str, bool]] = Counter()
        self.draws: dict[str, bool] = {}
        """Each case and seed, and whether anything of it was told apart."""
        self.nearest: dict[str, tuple[float, str]] = {}
        """By quantity: the largest share of a tolerance, and where."""

    def add(self, kinds: Sequence[str], draw: str, refusal: str, worth_saying: bool) -> None:
        """One comparison; refusal: why the two are not the same work, or empty."""
        self.total += 1
        self.told += bool(refusal)
        self.draws[draw] = self.draws.get(draw, False) or bool(refusal)
        for kind in kinds:
            self.kinds[kind] += 1
            self.noted[kind, bool(refusal)] += 1
        if bool(refusal) is worth_saying:
            self.found.append(f"  {'/'.join(kinds)}: {draw}: {refusal or 'not told'}")

    def note(self, findings: Iterable[Finding], where: str) -> None:
        """How near each quantity of an honest pair came to its tolerance."""
        for finding in findings:
            share = finding.error / finding.most
            if share > self.nearest.get(finding.quantity, (0.0, ""))[0]:
                self.nearest[finding.quantity] = share, where

    def lines(self) -> Iterator[str]:
        """By kind, and what is worth saying."""
        for kind in self.kinds:
            yield f"  {kind}: {self.noted[kind, True]} of {self.kinds[kind]}"
        for quantity, (share, where) in self.nearest.items():
            yield f"  nearest: {quantity} at {share:.0%} of their tolerance ({where})"
        yield from self.found
        for (case, stack), why in self.void.items():
            yield f"  no pair: {case} is void on {stack}: {why}"
        for what, why in self.unproved.items():
            yield f"  neither: {what}: {why}"


class Side(msgspec.Struct, frozen=True):
    """What one stack says of a case: at the seed in question, and in the run's first launch."""

    told: Told
    first: Told


class Compared(NamedTuple):
    """Two sides of one case and seed."""

    refusal: str = ""
    """Why they are not the same work; empty where nothing says so."""
    absent: str = ""
    """Why that is not known; empty where it is."""
    findings: tuple[Finding, ...] = ()
    """What it rests on."""


def compared(base: Side, other: Side, seed: int, precision: str) -> Compared:
    """Whether `other` is the work of `base`. Each side's tolerance is its first launch's."""
    if complaint := base.told.complaint or other.told.complaint:
        return Compared(refusal=complaint)
    found = of_launches(
        [(-1, base.first.proof), (seed, base.told.proof)],
        [(-2, other.first.proof), (seed, other.told.proof)],
        precision,
    )
    if found.absent:
        return Compared(absent=found.words)
    return Compared(refusal="" if found.proved else found.words, findings=found.findings)


def exact(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Clopper-Pearson interval of a rate, by bisection on the binomial distribution.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    tail = (1 - level) / 2

    def at_most(k: int, p: float) -> float:
        if p in (0.0, 1.0):
            return float(p == 0.0 or k >= total)
        logs = (
            math.lgamma(total + 1)
            - math.lgamma(i + 1)
            - math.lgamma(total - i + 1)
            + i * math.log(p)
            + (total - i) * math.log1p(-p)
            for i in range(k + 1)
        )
        return sum(map(math.exp, logs))

    def solved(below: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) else (low, middle)
        return low

    low = 0.0 if count == 0 else solved(lambda p: 1 - at_most(count - 1, p) < tail)
    high = 1.0 if count == total else solved(lambda p: at_most(count, p) > tail)
    return low, high


def sentence(what: str, count: int, total: int) -> str:
    """A rate with its counts."""
    if not total:
        return f"{what}: none of none"
    low, high = exact(count, total)
    return f"{what}: {count} of {total} = {count / total:.2%} (95 % {low:.2%} to {high:.2%})"


def honest(
    chosen: Sequence[Case],
    stacks: Mapping[str, Stack],
    pairs: int,
    seed: int,
    launches: Launches,
    minutes: float = math.inf,
    gated: bool = True,
) -> Counted:
    """So many pairs, runs and cases and stacks in turn, on fresh seeds; none begun too late."""
    counted = Counted()
    until = time.monotonic() + 60 * minutes
    while counted.total < pairs and time.monotonic() < until:
        before = counted.total
        for case in chosen:
            if counted.total >= pairs or time.monotonic() >= until:
                break
            found = {
                name: sides
                for name, stack in stacks.items()
                if (not gated or _passes(counted, case, name, stack, launches))
                and (sides := _run_of(case, stack, seed, launches))
            }
            for (one, base), (two, other) in itertools.combinations(found.items(), 2):
                _add_pairs(counted, case, seed, {one: base, two: other}, pairs)
            if found:
                said = f"{case.label} seed {seed}: {counted.told} of {counted.total} pairs"
                print(said, file=sys.stderr, flush=True)
        seed += RUN
        if counted.total == before:
            break
    return counted


def _passes(counted: Counted, case: Case, name: str, stack: Stack, launches: Launches) -> bool:
    """Whether a stack has a figure of that case; if the gate is what says no, that is counted."""
    told = launches.told(Ask(case=case, seed=GATE_SEED, stack=stack, gate=True))
    if told is not None and told.gate:
        counted.void[case.label, name] = told.gate
        counted.voided += RUN
    return told is not None and not told.gate


def _run_of(case: Case, stack: Stack, seed: int, launches: Launches) -> list[Side]:
    """A run's launches of a case; none where the stack cannot run it."""
    told = [
        launches.told(Ask(case=case, seed=seed + number, stack=stack, thorough=number == 0))
        for number in range(RUN)
    ]
    return [Side(one, told[0]) for one in told if one is not None and told[0] is not None]


def _add_pairs(
    counted: Counted, case: Case, seed: int, sides: Mapping[str, Sequence[Side]], most: int
) -> None:
    """Those of two stacks, launch by launch."""
    for number, (base, other) in enumerate(zip(*sides.values(), strict=False)):
        if counted.total < most:
            found = compared(base, other, seed + number, case.precision)
            draw = f"{case.label} seed {seed + number}"
            # Honest work that has no proof is not known to be the same: a reader has lost a figure.
            counted.add([*sides], draw, found.refusal or found.absent, worth_saying=True)
            counted.note(found.findings, f"{'/'.join(sides)}: {draw}")
            counted.alike += base.told.proof.readings == other.told.proof.readings


def planted(
    chosen: Sequence[Case],
    faults: Sequence[str],
    seeds: int,
    seed: int,
    device: str,
    launches: Launches,
) -> Counted:
    """Every fault that a case can have, on so many seeds."""
    counted = Counted()
    for case in chosen:
        for number in range(seed, seed + RUN * seeds, RUN):
            ask = Ask(case=case, seed=number, thorough=True)
            gate = launches.told(Ask(case=case, seed=GATE_SEED, gate=True))
            base = launches.told(ask)
            if gate is None or gate.gate or base is None or base.complaint:
                continue  # wrong already: it says nothing
            if base.proof.absent:
                counted.unproved[case.label] = base.proof.absent
                continue
            for name in faults:
                there = msgspec.structs.replace(ask, stack=Stack(device=device), fault=name)
                other = launches.told(there)
                if other is not None:
                    sides = Side(base, base), Side(other, other)
                    found, draw = (
                        compared(*sides, number, case.precision),
                        f"{case.label} seed {number}",
                    )
                    if found.absent:
                        counted.unproved[f"{name}: {draw}"] = found.absent
                    else:
                        counted.add([name], draw, found.refusal, worth_saying=False)
        if seeds:
            print(f"{case.label}: {counted.told} of {counted.total} faults", file=sys.stderr)
    return counted


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=300, help="honest pairs, at most")
    parser.add_argument("--faults", type=int, default=1, help="seeds of each planted fault")
    parser.add_argument("--seed", type=int, default=1000, help="the first")
    parser.add_argument("--suite", default="smoke")
    parser.add_argument("--only", default="*", metavar="GLOBS", help=ONLY)
    parser.add_argument("--stacks", default="eager,layout,avx2,plain", help=", ".join(STACKS))
    parser.add_argument("--device", default="cpu", help="one more stack, and where the faults are")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of honest pairs, at most")
    parser.add_argument("--ungated", action="store_true", help="count what the gate makes void")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="of launches, as JSON lines")
    arguments = parser.parse_args()
    chosen = list(cases(arguments.suite, arguments.only))
    stacks = {name: STACKS[name] for name in arguments.stacks.split(",")}
    device, seed, seeds = arguments.device, arguments.seed, arguments.faults
    if device != "cpu":
        stacks[device] = Stack(device=device)
    with Launches(arguments.keep) as launches:
        bounds = arguments.pairs, seed, launches, arguments.minutes, not arguments.ungated
        good = honest(chosen, stacks, *bounds)
        bad = planted(chosen, [*FAULTS, LAZY], seeds, seed, device, launches)
        small = planted(chosen, [*NOT_TOLD], min(seeds, 1), seed, device, launches)
    print(sentence("honest pairs refused", good.told, good.total))
    print(f"  alike to the last digit that is kept: {good.alike}; launches void: {good.voided}")
    print(sentence("  cases and seeds of which one was", sum(good.draws.values()), len(good.draws)))
    print(*good.lines(), sep="\n")
    print(sentence("faults caught", bad.told, bad.total), *bad.lines(), sep="\n")
    print(sentence("not to be told, and told", small.told, small.total))
    nothing = [
        f"{what} was looked at: nothing is said of them"
        for what, asked, counted in (
            ("no honest pair", arguments.pairs, good),
            ("no fault", seeds, bad),
        )
        if asked and not counted.total
    ]
    print(*nothing, sep="\n", end="\n" if nothing else "")
    wrong = good.told > REFUSED * good.total or bad.told < CAUGHT * bad.total
    sys.exit(int(bool(nothing) or wrong))


if __name__ == "__main__":
    main()
