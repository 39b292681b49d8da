"""Narrow formats: operands, products by torch's and vendors' operators, experts' rows, the gate."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from bench.backends import ascend, rocm, xpu
from bench.formats import Operand, encode
from bench.judging.comparing.equal_work import judged
from bench.measuring.gates.numerics import gate, relative_error
from bench.precision import PRECISIONS, Precision, Scales
from bench.quantized_product import Products, Ready
from bench.records.outcome import Numerics
from bench.tests.measuring.proving.watching import opened
from bench.tests.small_workloads import one_thread, site
from bench.tests.stand_in_products import stand_in
from bench.workload import Site, Unsupported
from bench.workloads import gemm
from bench.workloads.jobs import products as product_jobs

__all__ = ["one_thread", "stand_in"]  # fixtures, used by being here

FORMATS = [name for name, precision in PRECISIONS.items() if precision.scales is not None]
EACH = pytest.mark.parametrize("name", FORMATS)
SHAPE, SKINNY = "96x128x256", "1x128x256"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What rotates changes no result, and takes most of the time."""
    monkeypatch.setattr(product_jobs, "MOST_BUFFERS", 2)


def normals(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed))


def where(name: str, products: Products | None = None, seed: int = 5) -> Site:
    at = site(PRECISIONS[name], seed=seed)
    return at if products is None else msgspec.structs.replace(at, products=products)


def gated(
    name: str, products: Products | None = None, shape: str = SHAPE, **given: Any
) -> Numerics:
    kind: Any = gemm.GroupedParameters if given else gemm.MatmulParameters
    mode = "grouped" if given else "matmul"
    return gate(gemm.WORKLOAD, mode, kind(shape=shape, **given), where(name, products))


# Operands

STEPS = {"float8_e4m3fn": 2.0**-4, "float4_e2m1fn_x2": 0.25, "uint4": 0.5}
"""Half a step, of a value of e4m3, else at most of the least value that is normal."""


@EACH
def test_values_come_back_to_the_nearest_of_their_format(name: str) -> None:
    how = PRECISIONS[name]
    values = normals(128, 256)
    values[3, :32] = 0.0
    values[4] *= 1e-6
    operand = encode(values, how, matrix=True)
    found = operand.exactly()
    high, wide = operand.block[0] or 128, operand.block[1] or 256
    whole = 1.0 if operand.whole is None else float(operand.whole)
    scales = operand.shared.double().repeat_interleave(high, 0).repeat_interleave(wide, 1) * whole
    largest = {"float8_e4m3fn": 448, "float4_e2m1fn_x2": 6, "uint4": 7}[operand.element]
    kept = values.double().clamp(-largest * scales, largest * scales)
    step = STEPS[operand.element]
    relative = kept.abs() * (2.0**-4 if largest == 448 else 0.2 if largest == 6 else 0)
    assert bool(((found - kept).abs() <= torch.maximum(relative, step * scales) + 1e-12).all())
    assert not found[3, :32].any(), "zeros stay zeros"
    assert float(found.abs().max() / values.abs().max()) > 0.7, "the range is used"


def test_of_4_bits_two_lie_in_a_byte_the_first_in_the_lower_half() -> None:
    operand = encode(torch.tensor([[1.0, -6.0] * 16]), PRECISIONS["mxfp4"], matrix=False)
    assert operand.exactly()[0, :2].tolist() == [1.0, -6.0]
    packed = operand.packed()
    assert tuple(packed.shape) == (1, 16) and packed.view(torch.uint8)[0, 0] == 0xF2


def test_a_block_that_does_not_divide_an_operand_is_refused() -> None:
    with pytest.raises(ValueError, match="mxfp8: 4 x 48 is not made of 1 x 32"):
        encode(normals(4, 48), PRECISIONS["mxfp8"], matrix=False)


@pytest.mark.parametrize(
    ("name", "rows", "matrix"),
    [
        ("bf16", 4 * 256 * 2, 128 * 256 * 2),
        ("fp8", 4 * 256, 128 * 256),
        ("fp8-row", 4 * 256 + 4 * 4, 128 * 256 + 128 * 4),
        ("fp8-block128", 4 * 256 + 4 * 2 * 4, 128 * 256 + 2 * 4),
        ("mxfp8", 4 * 256 + 4 * 8, 128 * 256 + 128 * 8),
        ("mxfp4", 4 * 128 + 4 * 8, 128 * 128 + 128 * 8),
        ("nvfp4", 4 * 128 + 4 * 16 + 4, 128 * 128 + 128 * 16 + 4),
        ("int4-weights", 4 * 256 * 2, 128 * 128 + 128 * 2 * 2),
    ],
)
def test_bits_and_scales_are_counted(name: str, rows: int, matrix: int) -> None:
    """By the tensors of the operands too."""
    how = PRECISIONS[name]
    assert how.operand_bytes(4, 256, matrix=False) == rows
    assert how.operand_bytes(128, 256, matrix=True) == matrix
    work = gemm.WORKLOAD.work("matmul", gemm.MatmulParameters(shape="4x128x256"), how)
    assert work.moved_bytes == rows + matrix + 4 * 128 * 2
    assert (work.flop, work.unit) == (2 * 4 * 128 * 256, "FLOP")
    if how.scales is None:
        return
    operand = encode(normals(128, 256), how, matrix=True)
    halves = 2 if operand.codes.dtype == torch.uint8 else 1
    held = [x for x in (operand.shared, operand.whole) if x is not None]
    assert matrix == sum(x.numel() * x.itemsize for x in held) + operand.codes.numel() // halves


def test_half_a_byte_is_no_size_of_an_element() -> None:
    with pytest.raises(KeyError):
        _ = PRECISIONS["mxfp4"].matrix_bytes


# The gate


@EACH
@pytest.mark.parametrize("shape", [SHAPE, SKINNY])
def test_a_right_product_passes_square_and_skinny(stand_in: None, name: str, shape: str) -> None:
    verdict = gated(name, shape=shape)
    assert verdict.passed, verdict.complaint
    (check,) = verdict.checks
    assert check.quantity == "output" and 1e-3 < (check.error or 0) < 2.5e-3


def bits_off(operand: Operand) -> Tensor:
    """An operand whose codes have lost their last bit: of e2m1 the mantissa, of int4 half."""
    kept = operand._replace(codes=operand.codes & 0b1110)
    return kept.exactly()


def coarser(name: str, operand: Operand, matrix: bool) -> Tensor:
    """What is left of an operand in the next coarser format than it was asked for in."""
    if name in ("mxfp4", "int4-weights"):
        return bits_off(operand) if operand.scales is not None else operand.exactly()
    next_one = {
        "bf16": PRECISIONS["fp8-row"],
        "fp8-block128": PRECISIONS["fp8-row"],
        "fp8-row": msgspec.structs.replace(
            PRECISIONS["fp8-row"], scales=Scales(dtype="float32", rows=(0, 0), matrix=(0, 0))
        ),
        "mxfp8": PRECISIONS["nvfp4"],
        "nvfp4": PRECISIONS["mxfp4"],
    }[name]
    return encode(operand.exactly().float(), next_one, matrix).exactly()


class Coarser(Products):
    """A device that multiplies in the next coarser format, and is else right."""

    def product(self, rows: Operand, matrix: Operand, how: Precision, device: Any) -> Ready:
        sides = (coarser(how.name, x, x is matrix) for x in (rows, matrix))
        first, second = sides
        return Ready(lambda: (first @ second.t()).to(torch.bfloat16), "coarser", (first, second))

    def grouped(self, rows: Any, matrices: Any, how: Precision, device: Any) -> Ready:
        parts = [self.product(*pair, how, device) for pair in zip(rows, matrices, strict=True)]
        return Ready(lambda: torch.cat([part.queue() for part in parts]), "coarser", ())


LEAST = {"mxfp8": 0.1, "nvfp4": 0.1, "mxfp4": 0.1, "int4-weights": 0.1}
"""Errors of the next coarser format, at least; of the others it is 2e-2."""


@EACH
def test_the_next_coarser_format_is_caught(name: str) -> None:
    (check,) = gated(name, Coarser()).checks
    assert not check.passed
    assert (check.error or 0.0) > LEAST.get(name, 2e-2)


@pytest.mark.parametrize("name", gemm.GROUPED_PRECISIONS)
def test_of_grouped_products_too(name: str) -> None:
    assert not gated(name, Coarser(), experts=4, skew=2.0).passed


@EACH
def test_activations_or_scales_that_are_wrong_are_caught(stand_in: None, name: str) -> None:
    """One scale of the second operand is an eighth too large, or belongs to another block."""

    class Spoiled(Products):
        def product(self, rows: Operand, matrix: Operand, how: Precision, device: Any) -> Ready:
            scales = matrix.shared.clone()
            flat = scales.flatten()
            wide = flat.float()
            wide[0] *= 2
            spoiled = wide.to(flat.dtype).view(scales.shape)
            return super().product(rows, matrix._replace(scales=spoiled), how, device)

    assert not gated(name, Spoiled(), shape="96x128x256").passed


# Equal work


@pytest.mark.parametrize("name", ["fp8-block128", "nvfp4", "int4-weights"])
def test_honest_products_are_proved(stand_in: None, name: str) -> None:
    watch, job = opened("gemm", "matmul", precision=name, thorough=True)
    for step in (1, 2, 3):
        job.step()
        watch.after(step)
    watch.before(1, False)
    job.step()
    watch.finish(step_seconds=1.0)
    assert watch.complaint == ""
    assert watch.proof.recomputed == 0.0 and watch.proof.weights is not None
    told = judged([(1, watch.proof)], [(1, watch.proof)], name)
    assert told.proved and told.seeds == 1


# Experts' rows


@pytest.mark.parametrize(
    ("rows", "experts", "skew", "busiest", "hit"),
    [
        (4096, 64, 1.0, 64, 64),
        (4096, 64, 1.5, 96, 64),
        (4096, 64, 16.0, 1024, 64),
        (100, 7, 7.0, 100, 1),
        (6, 64, 1.0, 1, 6),
        (64, 8, 1.4, 11, 8),
        (5, 1, 1.0, 5, 1),
    ],
)
def test_the_busiest_expert_has_so_many_times_the_mean(
    rows: int, experts: int, skew: float, busiest: int, hit: int
) -> None:
    parameters = gemm.GroupedParameters(shape=f"{rows}x16x16", experts=experts, skew=skew)
    found = parameters.rows
    assert (len(found), sum(found), max(found)) == (experts, rows, busiest)
    assert sum(count > 0 for count in found) == hit
    work = gemm.WORKLOAD.work("grouped", parameters, PRECISIONS["bf16"])
    assert work.flop == 2 * rows * 16 * 16
    assert work.moved_bytes == 2 * (2 * rows * 16 + hit * 16 * 16), "what was hit is read"


@pytest.mark.parametrize("skew", [0.5, 9.0])
def test_a_skew_that_cannot_be_is_refused(skew: float) -> None:
    with pytest.raises(ValueError, match=r"skew must be from 1 .* to 8"):
        gemm.GroupedParameters(experts=8, skew=skew)


@pytest.mark.parametrize("name", gemm.GROUPED_PRECISIONS)
@pytest.mark.parametrize("given", [{"experts": 4, "skew": 1.5}, {"experts": 8, "skew": 8.0}])
def test_each_experts_rows_meet_its_own_matrix(stand_in: None, name: str, given: Any) -> None:
    """Also of experts without rows; and another expert's matrix is another result."""
    verdict = gated(name, shape="200x64x128", **given)
    assert verdict.passed, verdict.complaint

    class Swapped(Products):
        def grouped(self, rows: Any, matrices: Any, how: Precision, device: Any) -> Ready:
            return super().grouped(rows, [*matrices[1:], matrices[0]], how, device)

    assert not gated(name, Swapped(), shape="200x64x128", **given).passed


# What a device does not take


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("fp8-row", "32x40x64", "N and K in multiples of 16: 40 and 64"),
        ("fp8-block128", "32x128x64", "N and K in multiples of 128: 128 and 64"),
        ("mxfp4", "32x32x48", "N in multiples of 16, K of 32: 32 and 48"),
        ("int4-weights", "32x32x64", "N in multiples of 16, K of 128: 32 and 64"),
    ],
)
def test_shapes_that_a_format_has_not_are_skipped(name: str, shape: str, why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        gemm.WORKLOAD.build("matmul", gemm.MatmulParameters(shape=shape), where(name))


@pytest.mark.parametrize("name", ["mxfp8", "int8", "int4-weights"])
def test_what_the_operator_refuses_is_skipped_and_what_breaks_is_not(name: str) -> None:
    class Refusing(Products):
        error: Exception = RuntimeError("self.size(0) needs to be greater than 16\nhere")

        def product(self, *_: Any) -> Ready:
            raise self.error

        def sums(self, *_: Any) -> Tensor:
            raise self.error

    parameters, device = gemm.MatmulParameters(shape=SKINNY), Refusing()
    with pytest.raises(Unsupported) as caught:
        gemm.WORKLOAD.build("matmul", parameters, where(name, device))
    assert str(caught.value) == (
        f"{name} 1 x 128 x 256: no such product here (self.size(0) needs to be greater than 16)"
    )
    for error in (torch.OutOfMemoryError("full"), RuntimeError("can't allocate memory")):
        device.error = error
        with pytest.raises(type(error)):
            gemm.WORKLOAD.build("matmul", parameters, where(name, device))


# Vendors' operators


def operands(name: str, experts: int = 0) -> tuple[Any, Any]:
    how = PRECISIONS[name]
    if not experts:
        return encode(normals(32, 256), how, False), encode(normals(64, 256, 1), how, True)
    rows = [encode(normals(count, 64, count), how, False) for count in (3, 0, 5)]
    return rows, [encode(normals(32, 64, 9 + i), how, True) for i in range(3)]


def test_experts_on_ascend_go_to_its_own_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def npu_grouped_matmul(x: Any, weight: Any, **given: Any) -> list[Tensor]:
        ends = given.pop("group_list")
        assert ends.dtype == torch.int64
        assert given == {"split_item": 3, "group_type": 0, "group_list_type": 0}
        ((rows,), (matrices,)) = x, weight
        parts = torch.tensor_split(rows, ends[:-1].tolist())
        return [torch.cat([part @ matrix for part, matrix in zip(parts, matrices, strict=True)])]

    def npu_quant_matmul(x1: Tensor, x2: Tensor, scale: Tensor, output_dtype: Any) -> Tensor:
        assert scale.tolist() == [1.0]
        return (x1.int() @ x2.int()).to(output_dtype)

    theirs = SimpleNamespace(
        npu_grouped_matmul=npu_grouped_matmul, npu_quant_matmul=npu_quant_matmul
    )
    monkeypatch.setitem(sys.modules, "torch_npu", theirs)
    products = ascend.BACKEND.products
    sides, how = operands("bf16", experts=3), PRECISIONS["bf16"]
    ready = products.grouped(*sides, how, CPU)
    ours = Products().grouped(*sides, how, CPU)
    assert torch.equal(ready.queue(), ours.queue())
    assert ready.operator == "torch_npu.npu_grouped_matmul"
    for seen, same in zip(ready.seen, ours.seen, strict=True):
        assert torch.equal(seen, same), "every device's witness is of the same"
    with pytest.raises(NotImplementedError, match="npu_grouped_matmul has no mxfp8"):
        products.grouped(*sides, PRECISIONS["mxfp8"], CPU)
    a, b = (torch.randint(-9, 9, (8, 16), dtype=torch.int8) for _ in range(2))
    out = torch.empty((8, 8), dtype=torch.int32)
    assert torch.equal(products.sums(a, b, out), Products().sums(a, b, out))


def test_experts_in_fp8_on_ascend_go_to_torchs_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        torch.nn.functional, "scaled_grouped_mm", lambda *a, **k: seen.update(k, a=a), raising=False
    )
    sides, how = operands("fp8-row", experts=3), PRECISIONS["fp8-row"]
    ascend.BACKEND.products.grouped(*sides, how, CPU).queue()
    (one,), (two,) = seen["a"][2], seen["a"][4]
    assert (one.shape, two.shape) == ((8,), (3, 32))
    assert seen["swizzle_a"] is seen["swizzle_b"] is None


def test_weights_of_4_bits_on_xpu_have_zeros_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(halves: Tensor, tiles: int) -> Tensor:
        assert halves.dtype == torch.uint8
        return torch.stack((halves & 15, halves >> 4), -1).flatten(-2)

    def multiply(a: Tensor, codes: Tensor, group: int, scales: Tensor, zeros: Tensor) -> Tensor:
        assert zeros.dtype == torch.int8 and zeros.shape == scales.shape == (2, 64)
        spread = ((x.t().repeat_interleave(group, 1)) for x in (zeros, scales))
        zero, scale = spread
        return a @ ((codes - zero) * scale).to(a.dtype).t()

    monkeypatch.setattr(torch, "_convert_weight_to_int4pack", pack)
    monkeypatch.setattr(
        torch.ops.aten, "_weight_int4pack_mm_with_scales_and_zeros", multiply, raising=False
    )
    (rows, matrix), how = operands("int4-weights"), PRECISIONS["int4-weights"]
    ready = xpu.BACKEND.products.product(rows, matrix, how, CPU)
    exact = rows.exactly() @ matrix.exactly().t()
    assert relative_error(ready.queue().double(), exact) < 5e-3
    everywhere = Products().product(rows, matrix, how, CPU).seen
    assert [x.shape for x in ready.seen] == [x.shape for x in everywhere], "compare refuses others"
    assert all(map(torch.equal, ready.seen, everywhere))


def test_scales_on_rocm_lie_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(torch.nn.functional, "scaled_mm", lambda *a, **k: seen.update(k, a=a))
    rows, matrix = operands("mxfp8")
    rocm.BACKEND.products.product(rows, matrix, PRECISIONS["mxfp8"], CPU).queue()
    assert torch.equal(seen["a"][2][0].float(), rows.shared.float())
    assert str(seen["swizzle_a"]).endswith("SwizzleType.NO_SWIZZLE")
