"""Products of narrow operands: how values become narrow, and what multiplies them.

A model's layers (`quantize`, `multiply`) are scaled row by row, so that the largest value of a row
is the largest that 8 bits hold. Sums are float32 for fp8 (e4m3) and exact for int8; what comes out
is bfloat16.

Products by themselves (`Products`) have the formats of `bench.precision.Scales`, whose elements
share scales block by block (`bench.formats`).

torch's own operators do the products: torchao ends in the same ones, but each of its releases
serves three of torch's, and it refuses fp8 on the CPU, where the numbers of these products are
tested. A backend whose vendor has others for some of them overrides `Products`. Nothing is
emulated: where there is no operator, there is no product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.formats import LARGEST, LEAST, Operand
from bench.precision import Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Queued = Callable[[], Tensor]
    """Queues a product and gives it."""
    ByExperts = Callable[[Tensor, Tensor], Tensor]
    """Queues rows [S, K], sorted by expert, each times its own expert's matrix [N, K] transposed,
    and gives [S, N]. The second: where each expert's rows end, int32 [E]."""

INNER_TILES = 8
"""Tiles of 16 columns that torch's 4-bit weights are packed by: 2, 4 or 8."""


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


def multiply(
    rows: Tensor,
    row_scale: Tensor,
    matrix: Tensor,
    matrix_scale: Tensor,
    products: Products | None = None,
) -> Tensor:
    """[M, K] by a matrix [N, K], both in 8 bits with scales [M, 1] and [1, N]: bfloat16 [M, N].

    products: those of the device; torch's own where it has none.
    """
    import torch

    if rows.dtype == torch.int8:
        sums = (products or Products()).sums(rows, matrix)
        return (sums.float() * row_scale * matrix_scale).to(torch.bfloat16)
    return torch._scaled_mm(
        rows, matrix.t(), scale_a=row_scale, scale_b=matrix_scale, out_dtype=torch.bfloat16
    )


def name_of(dtype: torch.dtype) -> str:
    """`int8` of `torch.int8`."""
    return str(dtype).removeprefix("torch.")


class Ready(NamedTuple):
    """A product whose operands lie on the device."""

    queue: Queued
    operator: str
    """Which operator does it."""
    seen: tuple[Tensor, ...]
    """Its operands as every device has them, the first operand first; bytes where two values share
    one. Without what lies in an order of the device's own."""


class Products:
    """Products by torch's own operators, and the order in which those want their operands.

    Stateless. Each method raises what the operator raises, at once or when it is queued.
    """

    swizzled = True
    """Whether scales of blocks of a row lie in tiles of 128 x 4, as most devices want them."""

    def product(
        self, rows: Operand, matrix: Operand, how: Precision, device: torch.device
    ) -> Ready:
        """[M, K] by [N, K] transposed: bfloat16 [M, N]."""
        if how.scales is not None and how.scales.rows is None:
            return self.by_weights(rows, matrix, how, device)
        import torch

        a, b = (_placed(operand.packed(), device) for operand in (rows, matrix))
        one, two = (self._scales(x, how, device, x is matrix) for x in (rows, matrix))
        seen, across = (_bytes(a), _bytes(b)), b.t()
        if how.name == "fp8-row":
            call = torch._scaled_mm
            given: Any = {"scale_a": one[0], "scale_b": two[0].t(), "out_dtype": torch.bfloat16}
            return Ready(lambda: call(a, across, **given), "torch._scaled_mm", seen)
        return self._scaled("scaled_mm", how, (a, across, one, two), seen)

    def by_weights(
        self, rows: Operand, matrix: Operand, how: Precision, device: torch.device
    ) -> Ready:
        """bfloat16 [M, K] by weights [N, K] of 4 bits, transposed: bfloat16 [M, N]."""
        import torch

        a, group = rows.codes.to(device), matrix.block[1]
        scales = matrix.shared.t().contiguous()
        pairs = torch.stack((scales, torch.zeros_like(scales)), -1).to(device)
        if device.type == "cpu":
            packed = torch._convert_weight_to_int4pack_for_cpu(matrix.codes.int(), 1)
            operator: Any = torch.ops.aten._weight_int4pack_mm_for_cpu
        else:
            halves = (matrix.codes[:, ::2] << 4 | matrix.codes[:, 1::2]).to(device)
            packed = torch._convert_weight_to_int4pack(halves, INNER_TILES)
            operator = torch.ops.aten._weight_int4pack_mm
        return Ready(lambda: operator(a, packed, group, pairs), str(operator), (a, pairs))

    def grouped(
        self,
        rows: Sequence[Operand],
        matrices: Sequence[Operand],
        how: Precision,
        device: torch.device,
    ) -> Ready:
        """Rows [M_g, K] of each group by its matrix [N, K], transposed: bfloat16 [sum M_g, N].

        Of groups without rows the operand has none. Not quantized where `how` quantizes nothing.
        """
        import torch

        functional: Any = torch.nn.functional
        ends = _ends(rows).to(device, torch.int32)
        a = _placed(torch.cat([x.packed() for x in rows]), device)
        b = _placed(torch.stack([x.packed() for x in matrices]), device)
        seen, across = (_bytes(a), _bytes(b)), b.transpose(-2, -1)
        if how.scales is None:
            known = getattr(functional, "grouped_mm", None) or torch._grouped_mm
            return Ready(
                lambda: known(a, across, offs=ends), "torch.nn.functional.grouped_mm", seen
            )
        one, two = self._grouped_scales(rows, matrices, how, device)
        return self._scaled("scaled_grouped_mm", how, (a, across, one, two), seen, offs=ends)

    def _scaled(
        self, name: str, how: Precision, operands: Any, seen: tuple[Tensor, ...], **more: Any
    ) -> Ready:
        """A product by that function of torch; operands: two, and the scales of each."""
        import torch

        a, b, one, two = operands
        (first, second), swizzles = self._recipes(how), self._swizzles(how)
        call = getattr(torch.nn.functional, name)
        more |= {"swizzle_a": swizzles, "swizzle_b": swizzles, "output_dtype": torch.bfloat16}
        return Ready(
            lambda: call(a, b, one, first, two, second, **more),
            f"torch.nn.functional.{name}",
            seen,
        )

    def by_experts(self, codes: Tensor, scales: Tensor, device: torch.device) -> ByExperts:
        """What multiplies rows of bfloat16 by experts' weights in mxfp4, which stay as narrow.

        codes: uint8 [E, N, K / 2], two elements each, the first in the lower half; scales: e8m0
        [E, N, K / 32]; both on the host. Raises NotImplementedError: torch has no such product.
        """
        raise NotImplementedError(
            "torch multiplies no rows of bfloat16 by experts' weights in mxfp4, and the backend "
            "names no other operator that does"
        )

    def sums(self, rows: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
        """Queues int8 [M, K] by [N, K] transposed, on the device: int32 [M, N], in `out` or not."""
        import torch

        if out is None:
            return torch._int_mm(rows, matrix.t())
        return torch._int_mm(rows, matrix.t(), out=out)

    def _grouped_scales(
        self,
        rows: Sequence[Operand],
        matrices: Sequence[Operand],
        how: Precision,
        device: torch.device,
    ) -> tuple[list[Tensor], list[Tensor]]:
        import torch

        if how.name == "fp8-row":
            ones = torch.cat([x.shared.flatten() for x in rows])
            twos = torch.stack([x.shared.flatten() for x in matrices])
            return [ones.to(device)], [twos.to(device)]
        columns = matrices[0].shared.shape[1]
        tiled = [self._tiled(x.shared).flatten() for x in rows if len(x.codes)]
        wide = -(-columns // 4) * 4 if self.swizzled else columns
        ones = torch.cat(tiled).view(-1, wide)
        twos = torch.stack([self._tiled(x.shared).flatten() for x in matrices])
        return [_placed(ones, device)], [_placed(twos, device)]

    def _scales(
        self, operand: Operand, how: Precision, device: torch.device, matrix: bool
    ) -> list[Tensor]:
        """The scales of an operand as the operator wants them: those of blocks, that of all."""
        import torch
        from torch.nn import functional

        scales = operand.shared
        if how.name == "fp8-row":
            return [scales.to(device)]
        if how.name == "fp8-block128":
            # The device reads columns of four, and those of the second operand filled up to that.
            filled = functional.pad(scales, (0, -scales.shape[1] % 4)) if matrix else scales.t()
            # A copy: a tensor of one column counts as contiguous whatever its strides are.
            return [filled.to(device).clone(memory_format=torch.contiguous_format).t()]
        found = [_placed(self._tiled(scales), device)]
        return found if operand.whole is None else [*found, operand.whole.to(device, torch.float32)]

    def _tiled(self, scales: Tensor) -> Tensor:
        """Scales [R, C] in tiles of 128 x 4, each as 32 x 16, filled up with zeros.

        Source: torch, `SwizzleType.SWIZZLE_32_4_4`.
        """
        import torch
        from torch.nn import functional

        if not self.swizzled:
            return scales.contiguous()
        rows, columns = scales.shape
        octets = functional.pad(scales.view(torch.uint8), (0, -columns % 4, 0, -rows % 128))
        tiles = octets.view(-1, 4, 32, octets.shape[1] // 4, 4)
        return tiles.permute(0, 3, 2, 1, 4).contiguous().flatten().view(scales.dtype)

    def _recipes(self, how: Precision) -> tuple[Any, Any]:
        from torch.nn import functional

        kinds: Any = functional.ScalingType
        if how.name == "fp8-row":
            return kinds.RowWise, kinds.RowWise
        if how.name == "fp8-block128":
            return kinds.BlockWise1x128, kinds.BlockWise128x128
        if how.scales is not None and how.scales.whole:
            both = [kinds.BlockWise1x16, kinds.TensorWise]
            return both, both
        return kinds.BlockWise1x32, kinds.BlockWise1x32

    def _swizzles(self, how: Precision) -> Any:
        from torch.nn import functional

        kinds: Any = functional.SwizzleType
        if how.arithmetic == "fp8":
            return None
        tiles = kinds.SWIZZLE_32_4_4 if self.swizzled else kinds.NO_SWIZZLE
        return [tiles, kinds.NO_SWIZZLE] if how.scales is not None and how.scales.whole else tiles


def _ends(rows: Sequence[Operand]) -> Tensor:
    """Where each group's rows end."""
    import torch

    return torch.tensor([len(operand.codes) for operand in rows]).cumsum(0)


def _placed(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; a type that few devices copy goes as bytes."""
    import torch

    if tensor.itemsize > 1:
        return tensor.to(device)
    return tensor.view(torch.uint8).to(device).view(tensor.dtype)


def _bytes(tensor: Tensor) -> Tensor:
    """As bytes where two values share one: nobody computes with those."""
    import torch

    return tensor.view(torch.uint8) if tensor.dtype == torch.float4_e2m1fn_x2 else tensor
