"""The product of 8-bit operands: how values become 8 bits wide, and what multiplies them.

Both operands are scaled row by row, so that the largest value of a row is the largest that 8 bits
hold. Sums are float32 for fp8 (e4m3) and exact for int8; what comes out is bfloat16.

torch's own operators do the products, `_scaled_mm` and `_int_mm`: torchao ends in the same two, but
each of its releases serves three of torch's, and it refuses fp8 on the CPU, where the numbers of
these products are tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LARGEST = {"float8_e4m3fn": 448.0, "int8": 127.0}
"""Largest value of each type that is used (int8's -128 is not: the scale is symmetric)."""
LEAST = 2.0**-100
"""Least magnitude of a row, for a row of zeros."""


def quantize(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows [M, K] in 8 bits, to nearest, and their scales [M, 1] in float32.

    A value is its 8 bits times its row's scale.
    """
    import torch

    largest = LARGEST[name_of(dtype)]
    wide = values.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=LEAST) / largest
    scaled = (wide / scale).clamp(-largest, largest)
    if dtype == torch.int8:
        scaled = scaled.round()
    return scaled.to(dtype), scale


def multiply(rows: Tensor, row_scale: Tensor, matrix: Tensor, matrix_scale: Tensor) -> Tensor:
    """[M, K] by a matrix [N, K], both in 8 bits with scales [M, 1] and [1, N]: bfloat16 [M, N]."""
    import torch

    if rows.dtype == torch.int8:
        sums = torch._int_mm(rows, matrix.t())
        return (sums.float() * row_scale * matrix_scale).to(torch.bfloat16)
    return torch._scaled_mm(
        rows, matrix.t(), scale_a=row_scale, scale_b=matrix_scale, out_dtype=torch.bfloat16
    )


def name_of(dtype: torch.dtype) -> str:
    """`int8` of `torch.int8`."""
    return str(dtype).removeprefix("torch.")
