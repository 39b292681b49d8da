"""The precisions, what each means, and the tolerance to which a device must compute in it.

A name means one thing on every device: `fp32` has TF32/HF32 off and `tf32` has it on, `bf16` keeps
weights, activations and optimizer state in bfloat16, `bf16-amp` keeps float32 master weights under
bfloat16 autocast. `fp8` and `int8` are for inference: the matrices of a model's blocks, and what
they multiply, are 8 bits wide (`bench.quantized_product`); all else is as in `bf16`. The formats
whose elements share scales block by block (`fp8-row` to `int4-weights`) are of products by
themselves, and multiply what `bench.quantized_product` encodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import torch


ELEMENT_BYTES = {
    "float8_e4m3fn": 1,
    "int8": 1,
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float64": 8,
}
ELEMENT_BITS = {
    **{name: 8 * count for name, count in ELEMENT_BYTES.items()},
    "float8_e8m0fnu": 8,
    "float4_e2m1fn_x2": 4,
    "uint4": 4,
}
"""Of one element, by torch's names; those of 4 bits lie two to a byte."""

Block = tuple[int, int]
"""Rows and columns of an operand that share a scale; 0 stands for all of them."""


class Scales(msgspec.Struct, frozen=True, kw_only=True):
    """Which elements of a product's two operands, [M, K] and [N, K], share a scale."""

    dtype: str
    """torch dtype name of a scale."""
    rows: Block | None
    """Of the first operand; None where it is not quantized: the weights alone are."""
    matrix: Block
    whole: bool = False
    """Whether each operand has a float32 scale of the whole of it besides."""

    def count(self, block: Block, rows: int, columns: int) -> int:
        """How many scales an operand of so many rows and columns has."""
        high, wide = block[0] or rows, block[1] or columns
        return -(-rows // high) * -(-columns // wide)


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """How a number format is used in a step."""

    name: str
    weights: str
    """torch dtype name of parameters and inputs."""
    autocast: str | None = None
    """torch dtype name under `torch.autocast`, or None for no autocast."""
    shortened: bool = False
    """Whether float32 products are computed with a short mantissa: the switch is on."""
    quantized: str | None = None
    """torch dtype name of both operands of a quantized product; None where nothing is."""
    scales: Scales | None = None
    """How the elements of a product's operands share scales; None where its workload says it."""
    operation: str = "FLOP"
    """What a multiplication or an addition is called: those of integers are `OP`."""
    arithmetic: str
    """Name of the matrix arithmetic: cases share a measured matmul ceiling by it."""
    summary: str

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of parameters and inputs."""
        import torch

        dtype: torch.dtype = getattr(torch, self.weights)
        return dtype

    @property
    def element_bytes(self) -> int:
        """Size of a parameter or an input, known without torch."""
        return ELEMENT_BYTES[self.weights]

    @property
    def tried(self) -> bool:
        """Whether only a product (`bench.backends._trial`) tells that a device has it."""
        return self.shortened or self.quantized is not None

    @property
    def matrix_bytes(self) -> int:
        """Size of an element of a matrix that this precision quantizes, if it quantizes any.

        Raises KeyError for elements of half a byte: `operand_bytes` counts those.
        """
        return ELEMENT_BYTES[self.quantized or self.weights]

    def operand_bytes(self, rows: int, columns: int, matrix: bool) -> int:
        """Bytes of an operand of a product, with its scales where `scales` says which it has.

        Not with what an operator reads beyond the format: torch's of `int4-weights` wants a zero
        beside each scale, 3 % more bytes of the matrix, and another device's may want none.
        matrix: of the second operand, [N, K], not of the first, [M, K].
        """
        if self.scales is None:
            return rows * columns * self.matrix_bytes
        block = self.scales.matrix if matrix else self.scales.rows
        if block is None:
            return rows * columns * self.element_bytes
        bits = rows * columns * ELEMENT_BITS[str(self.quantized)]
        bits += self.scales.count(block, rows, columns) * ELEMENT_BITS[self.scales.dtype]
        bits += ELEMENT_BITS["float32"] if self.scales.whole else 0
        return -(-bits // 8)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The torch dtype of autocast, or None."""
        import torch

        return None if self.autocast is None else getattr(torch, self.autocast)


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision(
            name="bf16",
            weights="bfloat16",
            arithmetic="bf16",
            summary="bfloat16 weights, activations and optimizer state",
        ),
        Precision(
            name="bf16-amp",
            weights="float32",
            autocast="bfloat16",
            arithmetic="bf16",
            summary="float32 master weights, bfloat16 autocast",
        ),
        Precision(name="fp16", weights="float16", arithmetic="fp16", summary="float16 throughout"),
        Precision(
            name="fp32", weights="float32", arithmetic="fp32", summary="float32, TF32/HF32 off"
        ),
        Precision(
            name="tf32",
            weights="float32",
            shortened=True,
            arithmetic="tf32",
            summary="float32, matrix products from 10-bit mantissas (TF32/HF32 on)",
        ),
        Precision(
            name="fp8",
            weights="bfloat16",
            quantized="float8_e4m3fn",
            arithmetic="fp8",
            summary="bfloat16, but the blocks' matrices times activations in e4m3, scaled by row",
        ),
        Precision(
            name="int8",
            weights="bfloat16",
            quantized="int8",
            operation="OP",
            arithmetic="int8",
            summary="bfloat16, but the blocks' matrices times activations in int8, scaled by row",
        ),
        Precision(
            name="fp8-row",
            weights="bfloat16",
            quantized="float8_e4m3fn",
            scales=Scales(dtype="float32", rows=(1, 0), matrix=(1, 0)),
            arithmetic="fp8",
            summary="products of e4m3, a float32 scale for each row of both operands",
        ),
        Precision(
            name="fp8-block128",
            weights="bfloat16",
            quantized="float8_e4m3fn",
            scales=Scales(dtype="float32", rows=(1, 128), matrix=(128, 128)),
            arithmetic="fp8",
            summary="products of e4m3, a float32 scale for each 1 x 128 by 128 x 128",
        ),
        Precision(
            name="mxfp8",
            weights="bfloat16",
            quantized="float8_e4m3fn",
            scales=Scales(dtype="float8_e8m0fnu", rows=(1, 32), matrix=(1, 32)),
            arithmetic="mxfp8",
            summary="products of e4m3, a power of two as scale for each 32",
        ),
        Precision(
            name="mxfp4",
            weights="bfloat16",
            quantized="float4_e2m1fn_x2",
            scales=Scales(dtype="float8_e8m0fnu", rows=(1, 32), matrix=(1, 32)),
            arithmetic="mxfp4",
            summary="products of e2m1, a power of two as scale for each 32",
        ),
        Precision(
            name="nvfp4",
            weights="bfloat16",
            quantized="float4_e2m1fn_x2",
            scales=Scales(dtype="float8_e4m3fn", rows=(1, 16), matrix=(1, 16), whole=True),
            arithmetic="nvfp4",
            summary="products of e2m1, a scale in e4m3 for each 16 and one in float32 for all",
        ),
        Precision(
            name="int4-weights",
            weights="bfloat16",
            quantized="uint4",
            scales=Scales(dtype="bfloat16", rows=None, matrix=(1, 128)),
            arithmetic="bf16",
            summary="products of bfloat16 by weights of 4 bits, a bfloat16 scale for each 128",
        ),
    )
}
"""The precisions a suite may name."""

REFERENCE = Precision(
    name="fp64", weights="float64", arithmetic="fp64", summary="the CPU reference of the gate"
)
"""What the numerics gate computes its reference in; no suite may name it. The gate's copy says what
the precision of the case quantizes, so that the reference knows the products of those values: see
`reference`.
"""


def reference(precision: Precision) -> Precision:
    """`REFERENCE`, of the values that a precision quantizes to."""
    return msgspec.structs.replace(
        REFERENCE, quantized=precision.quantized, scales=precision.scales
    )
