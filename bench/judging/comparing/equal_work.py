"""Whether two launches of one seed did the same work, by what was read of it outside the clock.

Two stacks that do the same work in the same precision agree up to rounding, which depends on the
job: its depth, its batch norms, how many sums it takes. So the tolerance is the case's own, from
its own noise (`bench.records.proof.Noise`), within bounds for its precision; of a case without it
the bound is the widest that honest work has shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from bench.judging.comparing.reasons import Code, Reason
from bench.judging.comparing.side import Side
from bench.judging.row import Row
from bench.records.agreement import (
    ALIKE,
    BOUNDS,
    FACTOR,
    JUMPS,
    NARROW,
    NARROW_PRODUCTS,
    NORM,
    NORM_ONLY,
    SMOOTH,
    Bounds,
    chance,
)
from bench.records.proof import (
    GRADIENTS,
    LOSS,
    OUTPUT,
    UPDATE,
    WEIGHTS,
    WIDE_WEIGHTS,
    Noise,
    Proof,
    Vector,
)

WORDS = {
    OUTPUT: "outputs",
    GRADIENTS: "gradients",
    LOSS: "losses",
    UPDATE: "lengths of the update",
    WEIGHTS: "weights before the first step",
    WIDE_WEIGHTS: "weights of 16 bits or more before the first step",
}
_WEIGHTS = {
    "fp32": 1e-5,
    "tf32": 1e-5,
    "bf16-amp": 1e-5,
    **dict.fromkeys(("fp8", "int8", *NARROW_PRODUCTS), 2e-3),
}
"""Seen 2e-7, and 2e-5 in bf16: normals differ in the last bit between CPUs. Weights that went
through int8 make 1e-3 or more; other weights 1.1."""
_WEIGHTS_NARROW = 2e-4


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of two launches of one seed."""

    quantity: str
    """In words, plural."""
    seed: int
    step: int
    """After which it was read; 0 before the first."""
    error: float
    """Norm of the difference over the larger norm; infinite where there are other elements."""
    most: float
    """The case's tolerance."""

    @property
    def agrees(self) -> bool:
        """Whether the error is within the tolerance."""
        return self.error <= self.most

    @property
    def refusal(self) -> str:
        """Why the two are not the same work."""
        when = f" after step {self.step}" if self.step else ""
        if math.isinf(self.error):
            differ = "have other elements"
        else:
            differ = f"differ by {percent(self.error)}"
        return (
            f"not the same work: the {self.quantity} {differ}{when} at seed {self.seed} (rounding "
            f"explains at most {percent(self.most)})"
        )


class EqualWork(msgspec.Struct, frozen=True, kw_only=True):
    """What two rows' launches say of each other's work."""

    absent: str = ""
    """Why it is not proved; empty where there are findings."""
    findings: tuple[Finding, ...] = ()
    """Of each quantity the worst, over steps and seeds; the one that says most first."""
    seeds: int = 0
    """Launches of equal seed."""
    unmeasured: str = ""
    """On which side no tolerance was measured, and why; empty where it was on both."""

    @property
    def words(self) -> str:
        """For a reader."""
        if self.absent:
            return f"work not proved: {self.absent}"
        refused = [finding.refusal for finding in self.findings if not finding.agrees]
        first = self.findings[0]
        near = f"agree within {percent(first.error)}" if first.error else "are equal"
        said = "; ".join(refused) or f"same work: {first.quantity} {near}"
        return f"{said} ({self.unmeasured})" if self.unmeasured else said

    @property
    def unproved(self) -> str:
        """Why it is not known; empty where it is."""
        return self.words if self.absent else ""

    @property
    def refusals(self) -> Iterator[Reason]:
        """Of each quantity that does not agree."""
        for finding in self.findings:
            if not finding.agrees:
                yield Reason(Code.OTHER_WORK, finding.refusal)

    @property
    def proved(self) -> bool:
        """Whether every quantity agrees, and there is one."""
        return bool(self.findings) and all(finding.agrees for finding in self.findings)


def percent(error: float) -> str:
    """An error with two digits."""
    figure = f"{100 * error:.2g}" if error < 1 else f"{100 * error:.0f}"
    return f"{figure} %" if "e" not in figure else f"{error:.1g}"


def equal_work(sides: tuple[Side, Side], base: Row, other: Row) -> EqualWork | None:
    """What the launches of two rows say of each other's work.

    None where it is no question: of two cases, where one was not measured, and of loads that were
    served, whose every launch has had its own answers read again.
    """
    if base.work.fingerprint != other.work.fingerprint or base.serving or other.serving:
        return None
    if not (base.measured and other.measured):
        return None
    if base.choice != other.choice:
        return EqualWork(absent="each side was tuned to settings, and so to inputs, of its own")
    mine, theirs = (
        [(seed, outcome.proof) for seed, outcome in side.measured(row)]
        for side, row in zip(sides, (base, other), strict=True)
    )
    return of_launches(mine, theirs, base.case.precision)


Proofs = Sequence[tuple[int, Proof | None]]
"""Seed and proof of each launch."""


def of_launches(base: Proofs, other: Proofs, precision: str) -> EqualWork:
    """Of two sides' launches of one work; or which side has no witness, and why."""
    for who, proofs in (("base", base), ("other", other)):
        if not _usable(proofs):
            said = next(
                (proof.absent for _, proof in proofs if proof), "its record is an older one"
            )
            return EqualWork(absent=f"{who} has no witness ({said})")
    return judged(base, other, precision)


def _usable(proofs: Proofs) -> list[tuple[int, Proof]]:
    return [(seed, proof) for seed, proof in proofs if proof is not None and not proof.absent]


def judged(base: Proofs, other: Proofs, precision: str) -> EqualWork:
    """Of two sides' launches of one case."""
    held = dict(_usable(other))
    shared = [(seed, proof, held[seed]) for seed, proof in _usable(base) if seed in held]
    if not shared:
        return EqualWork(absent="no launch of the one has the seed of one of the other")
    sides = {"base": [proof for _, proof in base], "other": [proof for _, proof in other]}
    noise = settled(*(loudest(p.noise for p in proofs if p) for proofs in sides.values()))
    worst: dict[str, Finding] = {}
    for seed, one, two in shared:
        for finding in _compared(seed, one, two, precision, noise):
            known = worst.get(finding.quantity)
            if known is None or finding.error / finding.most > known.error / known.most:
                worst[finding.quantity] = finding
    if not worst:
        return EqualWork(absent="no step of the one was read that was read of the other")
    telling = dict.fromkeys([WORDS[OUTPUT], WORDS[GRADIENTS], NORM, *WORDS.values(), *worst])
    found = [worst[quantity] for quantity in telling if quantity in worst]
    return EqualWork(findings=tuple(found), seeds=len(shared), unmeasured=_unmeasured(sides))


def _unmeasured(sides: Mapping[str, Sequence[Proof | None]]) -> str:
    """Where no launch has the job's own noise, and why; empty where each side has it."""
    why = {who: said for who, proofs in sides.items() if (said := _no_noise(proofs))}
    if not why:
        return ""
    if len(why) == len(sides) and len(set(why.values())) == 1:
        return f"tolerance not measured on either side: {next(iter(why.values()))}"
    return "tolerance not measured on " + ", on ".join(
        f"{who}: {said}" for who, said in why.items()
    )


def _no_noise(proofs: Iterable[Proof | None]) -> str:
    """Why no launch of a side has the job's own noise; empty where one has."""
    held = [proof for proof in proofs if proof is not None]
    if any(proof.noise for proof in held):
        return ""
    return next((p.no_noise for p in held if p.no_noise), "no launch came to it")


def loudest(noises: Iterable[Mapping[str, Noise]]) -> dict[str, Noise]:
    """Of each quantity the largest noise that a launch has."""
    found: dict[str, Noise] = {}
    for noise in noises:
        for name, mine in noise.items():
            other = found.get(name, mine)
            found[name] = Noise(
                error=max(mine.error, other.error),
                norm_error=max(mine.norm_error, other.norm_error),
            )
    return found


def settled(base: Mapping[str, Noise], other: Mapping[str, Noise]) -> dict[str, Noise]:
    """Of two sides' noise the louder, as far as the quieter bears it out; see `ALIKE`."""
    both = loudest((base, other))
    for name in base.keys() & other.keys() - {LOSS}:
        most = ALIKE * min(base[name].error, other[name].error)
        both[name] = msgspec.structs.replace(both[name], error=min(both[name].error, most))
    return both


def _compared(
    seed: int, base: Proof, other: Proof, precision: str, noise: Mapping[str, Noise]
) -> Iterator[Finding]:
    usual = _WEIGHTS.get(precision, _WEIGHTS_NARROW)
    for words, mine, there, most in (
        (WORDS[WEIGHTS], base.weights, other.weights, usual),
        (WORDS[WIDE_WEIGHTS], base.wide_weights, other.wide_weights, _WEIGHTS_NARROW),
    ):
        if mine is not None and there is not None:
            error = mine.error(there)
            yield Finding(quantity=words, seed=seed, step=0, error=error, most=most)
    smooth = not (base.kinks or other.kinks)
    readings = {reading.step: reading.quantities for reading in other.readings}
    for reading in base.readings:
        if reading.step not in readings:  # a warm-up that its limit ended before the third step
            continue
        theirs = readings[reading.step]
        for name in dict.fromkeys((*reading.quantities, *theirs)):
            pair = reading.quantities.get(name), theirs.get(name)
            words, error, most = _one(name, pair, precision, noise, smooth)
            yield Finding(quantity=words, seed=seed, step=reading.step, error=error, most=most)


def _one(
    name: str,
    pair: tuple[Vector | None, Vector | None],
    precision: str,
    noise: Mapping[str, Noise],
    smooth: bool,
) -> tuple[str, float, float]:
    """A quantity in words, its error and its tolerance; a quantity of one side only is infinite."""
    base, other = pair
    bounds = BOUNDS.get(precision, NARROW)
    own = noise.get(GRADIENTS if name == UPDATE else name)
    by_norm = name == UPDATE or (name == GRADIENTS and _turned(own, bounds))
    key = NORM if by_norm and name == GRADIENTS else name if name in WORDS else OUTPUT
    least, most = bounds.get(key, bounds[OUTPUT])
    if smooth and key == GRADIENTS:
        least, most = SMOOTH.get(precision, (least, most))
    if own is not None:
        factors = FACTOR | JUMPS if precision == "fp32" else FACTOR
        wanted = factors.get(key, 1.0) * own.error
        most = min(max(wanted, least), most if by_norm else 2 * most)
    words = NORM if key == NORM else WORDS.get(name, name)
    if base is None or other is None:
        return words, math.inf, most
    if by_norm:
        turn = bounds.get(GRADIENTS, bounds[OUTPUT]).most if own is None else own.error
        most = max(most, chance(base, other, turn))
    return words, base.norm_error(other) if by_norm else base.error(other), most


def _turned(noise: Noise | None, bounds: Mapping[str, Bounds]) -> bool:
    """Whether gradients say something by their length only."""
    if noise is None:
        return bounds.get(GRADIENTS, Bounds(0, 0)).most >= NORM_ONLY
    return FACTOR[GRADIENTS] * noise.error > NORM_ONLY
