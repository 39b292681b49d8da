"""The precisions, what each means, and the tolerance to which a device must compute in it.

A name means one thing on every device: `fp32` has TF32/HF32 off and `tf32` has it on, `bf16` keeps
weights, activations and optimizer state in bfloat16, `bf16-amp` keeps float32 master weights under
bfloat16 autocast. `fp8` and `int8` are for inference: the matrices of a model's blocks, and what
they multiply, are 8 bits wide (`bench.quantized_product`); all else is as in `bf16`.
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
        """Size of an element of a matrix that this precision quantizes, if it quantizes any."""
        return ELEMENT_BYTES[self.quantized or self.weights]

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
    )
}
"""The precisions a suite may name."""

REFERENCE = Precision(
    name="fp64", weights="float64", arithmetic="fp64", summary="the CPU reference of the gate"
)
"""What the numerics gate computes its reference in; no suite may name it. The gate's copy says what
the precision of the case quantizes, so that the reference knows the products of those values.
"""
