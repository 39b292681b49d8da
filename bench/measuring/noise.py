"""A job's own noise: how far rounding alone moves what it computes.

Weights are moved by one rounding, and the step is repeated. That is done twice, with the even rows
of every weight and with the odd ones: two draws that know nothing of each other, whose squares add
up to those of one with all rows where the job is smooth. A single draw of a length, which is one
number, may happen to be next to nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.measuring.witness import Sample
from bench.precision import Precision
from bench.records.proof import Noise, Vector

if TYPE_CHECKING:
    from torch import Tensor

    from bench.backend import Device
    from bench.workload import Job

AUTOCAST_BIT, SHORT_BIT = 16, 13
"""Of a float32 weight, the last bit of bfloat16, and of a mantissa of 10 bits."""
FULL_BIT = 6
"""Of a float32 weight otherwise: 64 units in the last place. Sums of thousands of products in
another order err by some units, and where a maximum is taken (ReLU, pooling) one that falls to the
other side counts for a thousand: at one unit none does in most launches, at 64 some do in each."""


def taken(job: Job, device: Device, precision: Precision, seed: int) -> dict[str, Noise]:
    """By quantity, of what a step computes.

    The job is left as it was, but for the last gradients. Empty where it repeats no step. Raises
    what the device raises.
    """
    trains = job.training() is not None
    if trains and not job.again():
        return {}
    before = _computed(job, seed)
    draws = []
    for rows in range(2):
        with _nudged(job.weights(), precision, rows):
            if not job.again():
                return {}
            device.synchronize()
            draws.append(_computed(job, seed))
    if not trains:
        job.again()
    device.synchronize()
    return {
        name: Noise(
            error=figure(math.hypot(*(was.error(draw[name]) for draw in draws))),
            norm_error=figure(math.hypot(*(was.norm_error(draw[name]) for draw in draws))),
        )
        for name, was in before.items()
        if all(name in draw for draw in draws)
    }


def figure(value: float) -> float:
    """Two digits; what is infinite as a figure that no tolerance reaches."""
    return float(f"{min(value, 1e9):.1e}")


def _computed(job: Job, seed: int) -> dict[str, Vector]:
    """What there is of the last step, for given tokens where it chose its own; what is finite."""
    found = {}
    for name, tensors in job.forced().items():
        sample = Sample(seed, name, tensors)
        found[name] = sample.vector(sample.gather(tensors))
    return {name: vector for name, vector in found.items() if vector is not None}


@contextlib.contextmanager
def _nudged(weights: Sequence[Tensor], precision: Precision, rows: int) -> Iterator[None]:
    """Moves each weight of the even rows (0) or the odd ones (1) by one rounding, there and exactly
    back, in place.

    The last bit that the precision's products see is turned over: up or down as the bit was, so at
    random. Weights of 8 bits stay, as what they multiply does not.
    """
    import torch

    wide = SHORT_BIT if precision.shortened else AUTOCAST_BIT if precision.autocast else FULL_BIT
    ways = {2: (torch.int16, 1), 4: (torch.int32, 1 << wide)}

    def turn() -> None:
        with torch.no_grad():
            for weight in weights:
                if weight.is_floating_point() and weight.itemsize in ways:
                    word, bit = ways[weight.itemsize]
                    bits = weight.detach().view(word)
                    (bits[rows::2] if bits.dim() else bits).bitwise_xor_(bit)

    turn()
    try:
        yield
    finally:
        turn()
