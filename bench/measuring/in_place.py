"""torch tensors changed in place for a moment, and exactly back: weights, or an input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.framework import rounding_bit
from bench.precision import Precision

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def nudged(weights: Sequence[Tensor], precision: Precision, rows: int) -> Iterator[None]:
    """Moves each weight of the even rows (0) or the odd ones (1) by one rounding, there and exactly
    back, in place.

    The last bit that the precision's products see is turned over: up or down as the bit was, so at
    random. Weights of 8 bits stay, as what they multiply does not.
    """
    import torch

    kinds = {2: torch.int16, 4: torch.int32}

    def turn() -> None:
        with torch.no_grad():
            for weight in weights:
                bit = rounding_bit(precision, weight.itemsize)
                if weight.is_floating_point() and bit is not None:
                    word = kinds[weight.itemsize]
                    bits = weight.detach().view(word)
                    turned = torch.tensor(1 << bit, dtype=word, device=bits.device)  # not every one
                    (bits[rows::2] if bits.dim() else bits).bitwise_xor_(turned)  # takes a number

    turn()
    try:
        yield
    finally:
        turn()


@contextlib.contextmanager
def altered(tensor: Tensor) -> Iterator[bool]:
    """Another input in the same place, and exactly back: see `turn`.

    Gives whether there is a difference.
    """
    import torch

    if tensor.dim() == 0:
        yield False
        return
    before = tensor.detach()[:1].clone()
    turn(tensor)
    try:
        yield not torch.equal(_bits(before), _bits(tensor.detach()[:1]))
    finally:
        turn(tensor)


def turn(tensor: Tensor) -> None:
    """Negates it, or puts integers in reverse order; done twice, it is what it was."""
    import torch

    with torch.no_grad():
        held = tensor.detach()
        if held.is_floating_point() and held.itemsize == 1:
            held.view(torch.uint8).bitwise_xor_(
                torch.tensor(128, dtype=torch.uint8, device=held.device)
            )
        elif held.is_floating_point() or (held.is_signed() and held.itemsize == 1):
            held.neg_()
        else:
            held.copy_(held.flip(-1))


def _bits(tensor: Tensor) -> Tensor:
    import torch

    return tensor.contiguous().view(torch.uint8)
