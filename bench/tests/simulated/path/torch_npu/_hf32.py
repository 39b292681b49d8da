"""HF32, to Ascend what TF32 is to NVIDIA: float32 products from operands with a short mantissa.

CANN's manual: the range of float32, and 11 bits of mantissa (float16 has 10). Two switches turn it
on, `torch.npu.conv.allow_hf32` (on by default) and `torch.npu.matmul.allow_hf32` (off).
"""

from __future__ import annotations

from typing import Any

import torch

from ._settings import SETTINGS

MANTISSA_BITS = 11
DROPPED_BITS = 23 - MANTISSA_BITS


class Switch:
    """`torch.npu.conv` or `torch.npu.matmul`."""

    def __init__(self, allow_hf32: bool) -> None:
        self.allow_hf32 = allow_hf32


CONVOLUTION = Switch(allow_hf32=True)
MATMUL = Switch(allow_hf32=False)

_SWITCH_OF = {
    **dict.fromkeys(("convolution", "convolution_backward"), CONVOLUTION),
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "addbmm", "addmv", "mv", "dot"), MATMUL),
}


def operands(operator: str, arguments: Any) -> Any:
    """The CPU arguments of an operator as the matrix unit reads them.

    Copies are rounded, never the arguments themselves. What is added to a product (`addmm`) is
    rounded too, which the real unit does not do: it makes the simulated one no better.
    """
    switch = _SWITCH_OF.get(operator)
    if switch is None:
        return arguments
    hf32 = switch.allow_hf32 or "hf32" in SETTINGS.broken
    return tuple(_read(a, hf32) if isinstance(a, torch.Tensor) else a for a in arguments)


def _read(tensor: torch.Tensor, hf32: bool) -> torch.Tensor:
    """An operand as the matrix unit reads it."""
    if tensor.dtype == torch.float32 and hf32:
        return round_mantissa(tensor)
    if tensor.dtype == torch.float16 and "bfloat-for-half" in SETTINGS.broken:
        return tensor.bfloat16().half()
    return tensor


def round_mantissa(tensor: torch.Tensor) -> torch.Tensor:
    """To the nearest number with 11 bits of mantissa; ties away from zero."""
    bits = tensor.contiguous().view(torch.int32)
    half = 1 << (DROPPED_BITS - 1)
    rounded = bits.add(half).bitwise_and_(-1 << DROPPED_BITS).view(torch.float32)
    return torch.where(tensor.isfinite(), rounded, tensor)
