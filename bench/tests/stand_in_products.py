"""What stands in for torch's products of narrow values on a CPU, which has most of them not.

The layouts are checked, and undone, by torch's own rules (aten/src/ATen/native/cuda/ScaledBlas.cpp
and GroupedBlas.cpp), element by element and by no code of ours. Tests only.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.quantized_product import Products

if TYPE_CHECKING:
    from bench.quantized_product import ByExperts

functions: Any = functional
kinds, swizzles = functions.ScalingType, functions.SwizzleType
scaled_rows = torch._scaled_mm
TABLE = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch with products that it has on other devices. By the test's own patches: another set of
    them, undone first, would have those put the stand-in back."""
    monkeypatch.setattr(functional, "scaled_mm", scaled_mm)
    monkeypatch.setattr(functional, "scaled_grouped_mm", scaled_grouped_mm)
    stand_in_for_rows(monkeypatch)


def stand_in_for_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """For fp8 with scales of rows, of which an older torch (2.11) has only one for all on a CPU."""
    if not takes_scales_of_rows():
        monkeypatch.setattr(torch, "_scaled_mm", scaled_by_rows)


@functools.cache
def takes_scales_of_rows() -> bool:
    """Whether torch's own product of fp8 does so here."""
    ones, scales = torch.ones((16, 16)).to(torch.float8_e4m3fn), torch.ones((16, 1))
    try:
        scaled_rows(ones, ones.t(), scale_a=scales, scale_b=scales.t(), out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


def scaled_by_rows(
    a: Tensor,
    b: Tensor,
    *,
    scale_a: Tensor,
    scale_b: Tensor,
    out_dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """`torch._scaled_mm`, of a scale for each row of both operands, or one for each."""
    shapes = [tuple(scale.shape) for scale in (scale_a, scale_b)]
    refuse(shapes in ([(), ()], [(len(a), 1), (1, b.shape[1])]), f"scales of {shapes}")
    found = ((a.float() * scale_a) @ (b.float() * scale_b)).to(out_dtype)
    return found if out is None else out.copy_(found)


def refuse(good: bool, why: str) -> None:
    """As TORCH_CHECK_VALUE does."""
    if not good:
        raise ValueError(why)


def values_of(tensor: Tensor) -> Tensor:
    """Of elements that lie one after the other in their rows: float32 [R, K]."""
    refuse(tensor.is_contiguous(), "elements of a row must lie side by side")
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.float()
    refuse(tensor.dtype == torch.float4_e2m1fn_x2, f"no product of {tensor.dtype}")
    octets = tensor.view(torch.uint8).int()
    codes = torch.stack((octets & 15, octets >> 4), -1).flatten(-2)
    magnitude = torch.tensor(TABLE)[codes & 7]
    return torch.where(codes >= 8, -magnitude, magnitude)


def up(number: int, to: int) -> int:
    return -(-number // to) * to


def untiled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Scales [R, C] out of tiles of 128 x 4: cuBLAS documentation, block scaling factors."""
    refuse(scales.is_contiguous(), "scales should be contiguous")
    refuse(scales.numel() == up(rows, 128) * up(columns, 4), f"scales of {scales.numel()} elements")
    r, c = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    tile = (r // 128) * (up(columns, 4) // 4) + c // 4
    inside = (r % 32) * 16 + (r % 128 // 32) * 4 + c % 4
    return scales.flatten().float()[tile * 512 + inside]


def scaled(elements: Tensor, scales: list[Tensor], recipe: Any, swizzle: Any) -> Tensor:
    """Values [R, K] of one operand, the second one turned over."""
    values = values_of(elements)
    rows, columns = values.shape
    given = swizzle if isinstance(swizzle, list) else [swizzle]
    if recipe == kinds.RowWise:
        refuse(scales[0].numel() == rows and scales[0].dtype == torch.float32, "RowWise scales")
        return values * scales[0].reshape(rows, 1)
    if recipe == kinds.BlockWise1x128:
        blocks = columns // 128
        refuse(tuple(scales[0].shape) == (rows, blocks), f"scales {tuple(scales[0].shape)}")
        refuse(scales[0].stride()[0] == 1 and scales[0].stride()[1] in (rows, 1), "outer-dim-major")
        return values * scales[0].repeat_interleave(128, 1)
    if recipe == kinds.BlockWise128x128:
        padded = up(columns // 128, 4)
        refuse(tuple(scales[0].shape) == (padded, rows // 128), f"{tuple(scales[0].shape)}")
        refuse(scales[0].stride() in ((1, padded), (1, 1)), "near-inner-dim-major")
        spread = scales[0].t()[:, : columns // 128].repeat_interleave(128, 0)
        return values * spread.repeat_interleave(128, 1)
    refuse(given[0] == swizzles.SWIZZLE_32_4_4, "scales must be swizzled to SWIZZLE_32_4_4 format")
    if recipe == kinds.BlockWise1x32:
        refuse(scales[0].dtype == torch.float8_e8m0fnu, f"scales of {scales[0].dtype}")
        return values * untiled(scales[0], rows, columns // 32).repeat_interleave(32, 1)
    refuse(recipe == [kinds.BlockWise1x16, kinds.TensorWise], "Invalid scaling configuration.")
    refuse(len(given) == 2 and given[1] == swizzles.NO_SWIZZLE, "swizzle must have 2 values")
    refuse(scales[0].dtype == torch.float8_e4m3fn, f"scales of {scales[0].dtype}")
    spread = untiled(scales[0], rows, columns // 16).repeat_interleave(16, 1)
    return values * spread * scales[1]


def scaled_mm(
    a: Tensor,
    b: Tensor,
    scale_a: list[Tensor],
    recipe_a: Any,
    scale_b: list[Tensor],
    recipe_b: Any,
    swizzle_a: Any = None,
    swizzle_b: Any = None,
    output_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`torch.nn.functional.scaled_mm`."""
    first = scaled(a, scale_a, recipe_a, swizzle_a)
    second = scaled(b.t(), scale_b, recipe_b, swizzle_b)
    return (first @ second.t()).to(output_dtype)


def scaled_grouped_mm(
    a: Tensor,
    b: Tensor,
    scale_a: list[Tensor],
    recipe_a: Any,
    scale_b: list[Tensor],
    recipe_b: Any,
    swizzle_a: Any = None,
    swizzle_b: Any = None,
    offs: Tensor | None = None,
    output_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`torch.nn.functional.scaled_grouped_mm`, of two dimensions by three."""
    assert offs is not None
    refuse(offs.dtype == torch.int32, "Offsets have to be int32")
    found, start, done = [], 0, 0
    for group, end in enumerate(offs.tolist()):
        rows = a[start:end]
        if recipe_a == kinds.RowWise:
            refuse(scale_a[0].dim() == 1 and scale_b[0].dim() == 2, "RowWise scales")
            its = scale_a[0][start:end]
        else:
            refuse(scale_a[0].dim() == 2, "scale must have as many dimensions")
            count = up(end - start, 128) * up(rows.shape[1] // 32, 4)
            its, done = scale_a[0].flatten()[done : done + count], done + count
        if end > start:
            product = (
                *(rows, b[group], [its], recipe_a, [scale_b[0][group]], recipe_b),
                *(swizzle_a, swizzle_b, output_dtype),
            )
            found.append(scaled_mm(*product))
        start = end
    return torch.cat(found)


class Experts(Products):
    """A device with rows of bfloat16 by experts' weights in mxfp4: their sums in float32."""

    def by_experts(self, codes: Tensor, scales: Tensor, device: torch.device) -> ByExperts:
        spread = scales.float().repeat_interleave(32, 2)
        matrices = [
            values_of(one.view(torch.float4_e2m1fn_x2)) * by
            for one, by in zip(codes, spread, strict=True)
        ]

        def product(rows: Tensor, ends: Tensor) -> Tensor:
            parts = rows.float().tensor_split(ends[:-1].long())
            found = [part @ matrix.t() for part, matrix in zip(parts, matrices, strict=True)]
            return torch.cat(found).to(rows.dtype)

        return product
