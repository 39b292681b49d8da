"""Operands of products in narrow formats: elements that share scales, block by block.

What is here is on the host and the same for every device; how a device wants it is
`bench.quantized_product.Products`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bench.precision import Block, Precision

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = {"float8_e4m3fn": 448.0, "int8": 127.0, "float4_e2m1fn_x2": 6.0, "uint4": 7.0}
"""Largest value of each type that is used (int8's -128 is not: the scale is symmetric; of 4 bits
without a sign 8 stands for zero, and -8 is not used)."""
LEAST = 2.0**-100
"""Least magnitude of a block, for one of zeros."""
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Values of e2m1 by their code; the fourth bit is the sign."""
ZERO = 8
"""What stands for zero in 4 bits without a sign."""


class Operand(NamedTuple):
    """One side of a product, on the host, as its format says and in no device's order."""

    element: str
    """torch's name of what an element is."""
    codes: Tensor
    """[R, K]: the elements themselves; of 4 bits their codes, a byte each."""
    scales: Tensor | None
    """[R / rows, K / columns] of the format's block."""
    whole: Tensor | None
    """A scale of all of it, or None."""
    block: Block

    def exactly(self) -> Tensor:
        """The values that it stands for, [R, K], in float64."""
        values = _values_of(self.codes, self.element)
        if self.scales is None:
            return values
        rows, columns = values.shape
        high, wide = self.block[0] or rows, self.block[1] or columns
        scales = self.scales.double()
        if self.whole is not None:
            scales = scales * self.whole.double()
        spread = scales.repeat_interleave(high, 0).repeat_interleave(wide, 1)
        return values * spread

    def taken(self, rows: Sequence[int]) -> Operand:
        """Some of its rows alone, each with its scales."""
        index = list(rows)
        if self.scales is None:
            return self._replace(codes=self.codes[index])
        high = self.block[0] or len(self.codes)
        scales = self.scales[[row // high for row in index]]
        return self._replace(codes=self.codes[index], scales=scales, block=(1, self.block[1]))

    def packed(self) -> Tensor:
        """The elements, two of 4 bits to a byte, the first in the lower half."""
        import torch

        if self.element != "float4_e2m1fn_x2":
            return self.codes
        return (self.codes[:, ::2] | self.codes[:, 1::2] << 4).view(torch.float4_e2m1fn_x2)

    @property
    def shared(self) -> Tensor:
        """Its scales, of an operand that has them."""
        assert self.scales is not None
        return self.scales


def encode(values: Tensor, precision: Precision, matrix: bool) -> Operand:
    """float32 [R, K] in the format of an operand, on the host, to the nearest of its values.

    Scales are as large as the largest value of their block needs, rounded as each format says: up
    to e8m0 as OCP's Microscaling Formats 1.0, section 6.3, has it (the exponent of the largest
    value less that of the largest element), so that a value above the largest element is cut.

    matrix: the second operand, [N, K]. Raises ValueError where a block does not divide it.
    """
    import torch

    scales = precision.scales
    block = None if scales is None else scales.matrix if matrix else scales.rows
    if scales is None or block is None:
        return Operand(precision.weights, values.to(precision.dtype), None, None, (1, 1))
    rows, columns = values.shape
    high, wide = block[0] or rows, block[1] or columns
    if rows % high or columns % wide:
        raise ValueError(f"{precision.name}: {rows} x {columns} is not made of {high} x {wide}")
    element = str(precision.quantized)
    tiles = values.float().view(rows // high, high, columns // wide, wide)
    largest = tiles.abs().amax((1, 3)).clamp(min=LEAST)
    whole = None
    if scales.dtype == "float8_e8m0fnu":
        exponent = largest.log2().floor() - torch.tensor(LARGEST[element]).log2().floor()
        kept = exponent.exp2().to(torch.float8_e8m0fnu)
    else:
        needed = largest / LARGEST[element]
        if scales.whole:
            whole = needed.amax() / LARGEST[scales.dtype]
            needed = needed / whole
        kept = needed.to(getattr(torch, scales.dtype))
    wide_scale = kept.float() if whole is None else kept.float() * whole
    # A scale that rounds to zero belongs to values that are next to nothing beside the others.
    scaled = (tiles / wide_scale.clamp(min=LEAST)[:, None, :, None]).view(rows, columns)
    return Operand(element, _codes(scaled, element), kept, whole, block)


def _codes(scaled: Tensor, element: str) -> Tensor:
    import torch

    largest = LARGEST[element]
    scaled = scaled.clamp(-largest, largest)
    if element == "uint4":
        return (scaled.round() + ZERO).to(torch.uint8)
    if element == "float4_e2m1fn_x2":
        table = torch.tensor(E2M1)
        nearest = torch.bucketize(scaled.abs(), (table[1:] + table[:-1]) / 2)
        return (nearest + 8 * torch.signbit(scaled)).to(torch.uint8)
    return scaled.to(getattr(torch, element))


def _values_of(codes: Tensor, element: str) -> Tensor:
    """The elements in float64."""
    import torch

    if element == "float4_e2m1fn_x2":
        table = torch.tensor([*E2M1, *(-value for value in E2M1)], dtype=torch.float64)
        return table[codes.long()]
    return codes.double() - (ZERO if element == "uint4" else 0)
