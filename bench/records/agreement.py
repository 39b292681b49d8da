"""How far apart two computations of the same work may be: of two stacks, or of one in two ways.

By precision and quantity of `bench.records.proof`. What rounding does depends on the job, too: its
own noise (`bench.records.proof.Noise`) widens it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from bench.records.proof import GRADIENTS, LOSS, OUTPUT, UPDATE, Vector

NORM = "lengths of the gradients"
NORM_ONLY = 0.4
"""Gradients that rounding alone turns by more than this are compared by their length only."""
LENGTH = 0.4
"""Most of a length: a doubled rate, half a batch and momentum left out all make 0.46 or more."""


class Bounds(NamedTuple):
    """Of a tolerance."""

    least: float
    """No noise makes it less."""
    most: float
    """Where there is no noise to tell; a case's own makes it twice that at the most, and no more
    than that of a length."""


# Largest errors of honest pairs (eager against compile, threads, memory formats, instruction sets,
# two releases of torch; twins and full size, 4,372 comparisons) and of planted faults decide. The
# least is twice or more what two layers have shown, the most twice what thirty layers have. Not all
# of it is smooth: a router that chooses another expert moves an output by more than a rounding.
NARROW_PRODUCTS = ("fp8-row", "fp8-block128", "mxfp8", "mxfp4", "nvfp4", "int4-weights")
NARROW = {  # of bfloat16, where nothing else is said
    # Seen 1.7e-2 in two layers (other operators, of which attention by single operators alone makes
    # 1.1e-2), 4.1e-2 in thirty; a layer less 0.13.
    OUTPUT: Bounds(3.5e-2, 8e-2),
    GRADIENTS: Bounds(3e-2, NORM_ONLY),  # seen 2.9e-2, DLRM 0.1, BERT-base 0.27, ResNet 0.45
    LOSS: Bounds(1.5e-2, 5e-2),  # seen 1e-2, DLRM 3.7e-2
    UPDATE: Bounds(3e-2, LENGTH),  # seen 1e-2, ResNet 0.28; a doubled rate makes 0.46 or more
    NORM: Bounds(5e-2, LENGTH),  # seen 0.18 (ResNet)
}
BOUNDS: dict[str, dict[str, Bounds]] = {
    "bf16": NARROW,
    "bf16-amp": {
        **NARROW,
        LOSS: Bounds(5e-3, 2e-2),  # seen 2.6e-3
        UPDATE: Bounds(5e-3, LENGTH),  # seen 1.8e-3, ResNet 0.12
    },
    "fp16": {OUTPUT: Bounds(3e-3, 1e-2), GRADIENTS: Bounds(3e-3, 1e-2)},
    "fp32": {
        OUTPUT: Bounds(1e-4, 1e-3),  # seen 2.4e-6; a short mantissa makes 1e-3
        # Over kinks: seen once 1.6e-2 (DLRM, batch 64: a unit of a ReLU on the other side, it
        # seems), ResNet 6e-2; another input 1 or more. Coarser products show in the loss.
        GRADIENTS: Bounds(5e-2, 0.1),
        LOSS: Bounds(5e-6, 1e-4),  # seen 1.1e-6
        UPDATE: Bounds(5e-3, 1e-2),  # seen 7e-5, ResNet 7.6e-4
        NORM: Bounds(1e-3, 1e-2),
    },
    "tf32": {
        OUTPUT: Bounds(3e-3, 2e-2),
        GRADIENTS: Bounds(5e-3, NORM_ONLY),
        LOSS: Bounds(2e-3, 1e-2),
        UPDATE: Bounds(3e-3, 5e-2),
        NORM: Bounds(1e-2, 0.1),
    },
    "fp8": {OUTPUT: Bounds(5e-2, 0.3)},
    # Seen 5.4e-2 in two layers (a compiled step, and other operators): where a row's largest value
    # rounds otherwise, all of the row is rounded anew. A layer less 0.4, half a batch 0.2.
    "int8": {OUTPUT: Bounds(0.11, 0.15)},
    # Products by themselves, of values that the host made narrow: the same on both sides, so only
    # the rounding of the results differs. Seen 1.7e-3; the next coarser format makes 2.5e-2.
    **{name: {OUTPUT: Bounds(5e-3, 1e-2)} for name in NARROW_PRODUCTS},
}
SMOOTH = {"fp32": Bounds(2e-4, 2e-3)}
"""Of gradients where no rounding turns a decision: seen 2e-6, after steps of AdamW too. A backward
in bfloat16 makes 5e-3 or more."""
FACTOR = {OUTPUT: 0.6, GRADIENTS: 1.5, LOSS: 2.0, NORM: 0.5, UPDATE: 1.0}
"""Of the noise, in whose terms honest outputs came to 0.1 to 0.4 (a last place is up to two
roundings), DLRM's to 0.6, gradients to 1.2; and a layer less of a model of 135 M to 0.8. A length
in terms of its vector's noise, for its own is a single number, which may happen to be next to
nothing: gradients' came to 0.24, those of updates, of which a narrow weight keeps the largest only,
to 0.4."""
JUMPS = {GRADIENTS: 6.0, LOSS: 8.0}
"""Of the noise in float32, which is taken with 64 units: smooth work comes to 0.05 of it. But where
maxima are taken (ResNet, batch norms of few values) one launch's noise may have none of the jumps
that another's honest error has: gradients' came to 3.5 of it, losses' to 3.6."""
CHANCE = 1.7
"""Of a length, over the root of how many values it rests on: three standard deviations of its error
where rounding turns those values by 1 or more. Of two sums of squares of normal values that have
nothing to do with each other, each resting on n, the roots differ by 1 / sqrt(3 n) of their length:
the variance of a square is two thirds of its mean square. Lengths of ResNet's updates in bf16 rest
on 5 values of 65,536: a narrow weight keeps only what is more than half its last place."""
ALIKE = 2.0
"""The louder side's noise counts for so many times the quieter's at the most: those of honest sides
are within 1.5 of each other, and what makes a step differ from itself (dropout that is left on, a
race) must not widen what it is held to. The noise of a single number may differ by chance. In the
same way few values of the one, where the other has many, count for half of those at the least."""
RECOMPUTED = {"fp32": 1e-3, "fp16": 1e-2, "tf32": 2e-2, "bf16": 5e-2, "bf16-amp": 5e-2}
"""Largest error of an output against the same computed again: no kernel need be deterministic.
Measured of 30 layers in bf16 4e-2 between two machines, and 0 on one host; of batch 256, one output
that is another's makes 9e-2."""
RECOMPUTED_NARROW = 0.1
"""Of products in less than 16 bits."""


def chance(base: Vector, other: Vector, turn: float) -> float:
    """How far apart two lengths may be because few values make them, which rounding turned.

    turn: norm of the difference that rounding alone makes, over the norm. 0 where neither side says
    on how many values it rests; of two that do the fewer, as far as the more bear it out.
    """
    known = [vector.rests_on for vector in (base, other) if vector.rests_on is not None]
    if not known:
        return 0.0
    return CHANCE * min(turn, 1.0) / math.sqrt(max(min(known), max(known) / ALIKE))
