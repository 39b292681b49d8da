"""Whether what was compiled or recorded computes what the step says, at the sizes that are timed.

A compiler makes other code for other sizes: it splits sums or loops over them, pads strides, widens
indices; a recording may read what lay there once, or lack a kernel. So that the gate's twin is
right proves nothing of what is timed, nor does it that this gives the same twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.proving.noise import figure, taken
from bench.records.agreement import (
    BOUNDS,
    FACTOR,
    JUMPS,
    NARROW,
    NORM,
    NORM_ONLY,
    Bounds,
    chance,
)
from bench.records.execution import is_compiled, is_recorded
from bench.records.proof import GRADIENTS, LOSS, OUTPUT, Noise, Vector
from bench.records.reason import of_error, reason
from bench.workload import Job

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.precision import Precision

WIDER = 2.0
"""Times what two stacks of one case may differ by. What is looked for is far off: rows that were
not computed make 0.2 and more of a batch of 32, and no sound device may be called wrong."""
FIRM = 3.6
"""Times the noise of the step as it is written that its compiled gradients in bfloat16 may differ
by, where no rounding turns a decision: thrice what honest pairs of all kinds have shown. Those of
one device (inductor, five tiny models) came to 0.4 of it, products in four bits to 7 and more, and
in fp8 to 2.6 to 3.9: these are not told for certain."""
FEW = 10
"""Values on which gradients rest that are not held to that: what rounding does to fewer is chance,
in two draws as in one pair."""
WORDS = {OUTPUT: "outputs", GRADIENTS: "gradients", LOSS: "losses"}
THEN = 'ask for execution = "eager", or try another version of what compiled or recorded it'
CANNOT = "the job has no other way to compute the same quantities"
OTHERS = "the {} of the step as it is written are other ones, or more of them"
NO_NOISE = "the job's own noise is not known"
ROUTED = "experts"
"""A fact of models of which a rounding may choose another expert."""
SEVERAL = "several devices do the step, and all would wait for one that cannot"


class Written(NamedTuple):
    """What was found."""

    errors: Mapping[str, float] = {}
    """By quantity, of the timed step against the same as it is written."""
    absent: str = ""
    """Why nobody looked, or at what not; empty where somebody did, and of eager steps."""
    complaints: Sequence[str] = ()


def held(
    job: Job,
    device: Device,
    precision: Precision,
    execution: str,
    noise: Mapping[str, Noise],
    computed: Callable[..., Mapping[str, Vector]],
    *,
    alone: bool,
) -> Written:
    """Of a job of torch with the noise that was just taken of it; leaves its steps as they are, but
    that training which is recorded takes its last one anew.

    Not after the timing: of these weights and given tokens the noise is known, and a loss that has
    come down to nothing is all rounding. computed: reads the given outputs, or else those of the
    last step; alone: whether one device does the step. Whatever it cannot do here is no fault: the
    timed step has less in memory.
    """
    import torch

    if not alone or not noise:
        return Written(absent=NO_NOISE if alone else SEVERAL)
    trains = job.training() is not None
    # Asking whether it goes back takes it back: so here only whether its class may. And what a
    # recorded job computes again by default is its replay, which would be held to itself.
    missing = type(job).back is Job.back if trains else type(job).as_written is Job.as_written
    if missing and is_recorded(execution):
        return Written(absent=CANNOT)
    eagerly = torch.compiler.set_stance if is_compiled(execution) else nullcontext
    try:
        if trains and not is_recorded(execution):  # whose last gradients are of nudged weights
            job.again()
        timed = computed()
        with eagerly("force_eager"):
            written = computed(job.as_written())
            quiet = _quiet(job, device, precision, execution, noise, written, computed)
        if trains and is_recorded(execution):  # which `again` does not replay
            timed = {}
            if job.back():
                job.step()
                timed = computed()
        found = _judged(precision.name, noise, timed, written, quiet)
    except Exception as error:  # noqa: BLE001 - whatever it is, the timed step did not do it
        found = Written(absent=f"the device refused it: {reason(of_error(error))}")
    with suppress(Exception):
        device.release_memory()
    return found


def _quiet(
    job: Job,
    device: Device,
    precision: Precision,
    execution: str,
    noise: Mapping[str, Noise],
    written: Mapping[str, Vector],
    computed: Callable[..., Mapping[str, Vector]],
) -> Mapping[str, Noise]:
    """The noise of gradients as they are written: what a compiler makes coarse is louder, and must
    not widen what it is held to; a recording alone makes none. Nothing where a rounding may turn
    what a step decides."""
    training = job.training()
    smooth = training is not None and not training.kinks and ROUTED not in job.facts
    if smooth and precision.name == "bf16":
        with suppress(RuntimeError, MemoryError):  # it needs more room than the step alone
            if is_compiled(execution):
                noise = taken(job, device, precision, written, computed) or {}
            return {name: noise[name] for name in noise if name == GRADIENTS}
    return {}


def _judged(
    precision: str,
    noise: Mapping[str, Noise],
    timed: Mapping[str, Vector],
    written: Mapping[str, Vector],
    quiet: Mapping[str, Noise],
) -> Written:
    """quiet: of what is held to no more than `FIRM` times this."""
    errors, complaints, others = {}, [], []
    for name in (name for name in timed if name in written and name in noise):
        pair = timed[name], written[name]
        error, most = compared(name, precision, quiet.get(name, noise[name]), pair)
        if math.isinf(error):  # other weights have a gradient: zeros that one way leaves out
            others.append(WORDS.get(name, name))
            continue
        said = ""
        if name in quiet and min(vector.rests_on or FEW for vector in pair) >= FEW:
            firm = FIRM * quiet[name].error
            most = min(most, max(WIDER * NARROW[name].least, firm))
            said = f", of a noise of {quiet[name].error:.2g} as written" if most == firm else ""
        errors[name] = figure(error)
        if error > most:
            complaints.append(
                f"the {WORDS.get(name, name)} of the timed step differ by {error:.2g} from "
                f"those of the same step as it is written (at most {most:.2g}{said}), at the "
                f"sizes that are timed: {THEN}"
            )
    absent = OTHERS.format(" and ".join(others)) if others else "" if errors else CANNOT
    return Written(errors, absent, complaints)


def compared(
    name: str, precision: str, noise: Noise, pair: tuple[Vector, Vector]
) -> tuple[float, float]:
    """How far apart they are, and how far they may be: as far as any honest pair, or as rounding
    alone moves this very step. Gradients that rounding turns are told by their length."""
    factors = _factors(precision)
    by_norm = name == GRADIENTS and factors[GRADIENTS] * noise.error > NORM_ONLY
    one, other = pair
    if by_norm:
        most = widest(NORM, precision, noise)
        return one.norm_error(other), max(most, WIDER * chance(one, other, noise.error))
    return one.error(other), widest(name, precision, noise)


def widest(name: str, precision: str, noise: Noise) -> float:
    """How far apart the same work of one launch may be, by what of it."""
    bounds: Mapping[Any, Bounds] = BOUNDS.get(precision, NARROW)
    most = bounds.get(name, bounds[OUTPUT]).most
    return WIDER * max(most, _factors(precision).get(name, 1.0) * noise.error)


def _factors(precision: str) -> dict[str, float]:
    return FACTOR | JUMPS if precision == "fp32" else FACTOR
