"""Whether a step that is spread over other devices is the same work, by what was read of it.

A record keeps what the first rank read, of its own rows and its shards. So two spreads are held to
what both have of the whole:

- the loss of the first step over the global batch, of all that trains: it is the record's witness;
- on one device and under `dp` also weights, gradients (reduced) and the update, as each rank holds
  all of them. Their sums are taken in another order than on one device, which is rounding as any
  other is, so the tolerances are those of two devices.

Shards of `fsdp8` and of `fsdp64` are other elements, and each replica of an inference has rows of
its own. What these compute, the numerics gate holds to one process, on every rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from bench.judging.comparing.equal_work import EqualWork, equal_work, of_launches
from bench.judging.comparing.side import Side
from bench.judging.row import Row
from bench.records.case import Case
from bench.records.outcome import Measured
from bench.records.proof import GRADIENTS, LOSS, UPDATE, Proof, StepReading, Vector

WHOLE = ("none", "dp")
"""Schemes under which each rank holds all weights, gradients and updates."""
TRAIN = "train"
"""A mode that trains, whatever a record without readings says."""


def is_joint(case: Case) -> bool:
    """Whether it is what devices do together (a collective): over other devices, other work."""
    return case.devices > 1 and case.parallelism == "none"


def scheme(case: Case) -> str:
    """How the work is spread, whatever the number: `hsdp` of `hsdp2x4`."""
    return re.sub(r"[\dx]+$", "", case.parallelism)


def trains(sides: tuple[Side, Side], base: Row, other: Row) -> bool:
    """Whether the witness of two rows of one work is its loss over the global batch."""
    return base.case.mode == TRAIN or any(
        LOSS in reading.quantities
        for side, row in zip(sides, (base, other), strict=True)
        for _, outcome in side.measured(row)
        if outcome.proof is not None
        for reading in outcome.proof.readings
    )


def equal_work_of_systems(sides: tuple[Side, Side], base: Row, other: Row) -> EqualWork | None:
    """What the launches of two rows, which may be spread otherwise, say of each other's work.

    None where it is no question: of other work, or where one was not measured.
    """
    if base.work.fingerprint == other.work.fingerprint:
        return equal_work(sides, base, other)
    if base.work.alone.fingerprint != other.work.alone.fingerprint:
        return None
    if not (base.measured and other.measured):
        return None
    pieces = [row.case.parallelism for row in (base, other) if scheme(row.case) not in WHOLE]
    if pieces and not trains(sides, base, other):
        return EqualWork(absent=f"each rank has outputs of its own rows ({', '.join(pieces)})")
    mine, theirs = (
        [
            (seed, _of_the_whole(outcome, gradients=not pieces))
            for seed, outcome in side.measured(row)
        ]
        for side, row in zip(sides, (base, other), strict=True)
    )
    return of_launches(mine, theirs, base.case.precision)


def _of_the_whole(outcome: Measured, *, gradients: bool) -> Proof | None:
    """What a launch of a training says of the whole work; gradients: as well, and the update."""
    proof = outcome.proof
    if proof is None or proof.absent:
        return proof
    kept = (GRADIENTS, UPDATE) if gradients else ()
    readings = [
        StepReading(step=reading.step, quantities=found)
        for reading in proof.readings
        if (found := dict(_quantities(reading, outcome, kept)))
    ]
    if not readings:
        return Proof(absent="nothing was read of its first step")
    return msgspec.structs.replace(
        proof,
        readings=tuple(readings),
        weights=proof.weights if gradients else None,
        wide_weights=proof.wide_weights if gradients else None,
    )


def _quantities(
    reading: StepReading, outcome: Measured, kept: Sequence[str]
) -> Iterator[tuple[str, Vector]]:
    if reading.step == 1 and LOSS in reading.quantities:  # which is of the first rank's rows alone
        yield LOSS, Vector(size=1, norm=outcome.witness[0])
    for name in kept:
        if name in reading.quantities:
            yield name, reading.quantities[name]
