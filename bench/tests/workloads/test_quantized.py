"""8-bit products and the layers that use them."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from bench.errors import SuiteError
from bench.measuring.gates.numerics import gate, relative_error
from bench.planning.plan import plan
from bench.planning.suite_file import Suite
from bench.precision import PRECISIONS
from bench.quantized_product import multiply, name_of, quantize
from bench.records.run import Settings
from bench.tests.small_workloads import (
    WORKLOADS,
    NoQuestions,
    build,
    model_of,
    one_thread,
    site,
    small,
)
from bench.tests.stand_in_products import stand_in_for_rows
from bench.workload import Unsupported
from bench.workloads import gemm, llama, qwen3
from bench.workloads.layers import quantized
from bench.workloads.layers.quantized import layers_of, products, quantize_layer

__all__ = ["one_thread"]  # a fixture, used by being here


@pytest.fixture(autouse=True)
def fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a torch that has no such product on a CPU."""
    stand_in_for_rows(monkeypatch)


EIGHT_BITS = pytest.mark.parametrize("precision", ["fp8", "int8"])
MODELS = pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("llama", "prefill"), ("llama", "decode"), ("bert", "infer")),
        ("qwen3", "decode"),
    ],
)
LOSS = {"fp8": 3.7e-2, "int8": 1.0e-2}
"""Relative error of a product of normals, of 64 columns, by what the operands' rounding loses."""


def dtype_of(precision: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, str(PRECISIONS[precision].quantized))
    return dtype


@EIGHT_BITS
def test_values_come_back_to_within_half_a_step(precision: str) -> None:
    values = torch.randn((16, 64), generator=torch.Generator().manual_seed(0))
    values[3] = 0.0
    values[4] *= 1e-6
    eight_bits, scale = quantize(values, dtype_of(precision))
    assert (eight_bits.element_size(), tuple(scale.shape)) == (1, (16, 1))
    found = eight_bits.float() * scale
    if precision == "int8":
        assert bool(((found - values).abs() <= 0.5001 * scale).all())
    else:  # half of 2^-3, or half of the least step where numbers are subnormal
        bound = torch.maximum(values.abs() * 2.0**-4, 2.0**-10 * scale)
        assert bool(((found - values).abs() <= 1.0001 * bound).all())
    limits: Any = torch.iinfo if precision == "int8" else torch.finfo
    largest = limits(eight_bits.dtype).max
    rows = torch.arange(16) != 3
    assert bool((eight_bits.float().abs().amax(-1)[rows] == largest).all()), "the range is used"
    assert not eight_bits[3].float().any(), "zeros stay zeros"


@EIGHT_BITS
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_a_product_is_that_of_its_operands_rounded_once(precision: str, rows: int) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn((n, 64), generator=generator) for n in (rows, 48))
    (a8, a_scale), (b8, b_scale) = (quantize(values, dtype_of(precision)) for values in (a, b))
    found = multiply(a8, a_scale, b8, b_scale.t().contiguous())
    assert found.dtype == torch.bfloat16 and found.shape == (rows, 48)
    exact = (a8.double() * a_scale) @ (b8.double() * b_scale).t()
    assert relative_error(found.double(), exact) < 2.5e-3
    assert relative_error(found.double(), (a @ b.t()).double()) < 1.5 * LOSS[precision]


def test_8_bits_are_for_inference() -> None:
    entry = {"workload": "bert", "mode": "train", "precision": "fp8"}
    with pytest.raises(SuiteError) as caught:
        plan(
            Suite(
                name="mine",
                source="mine.toml",
                description="",
                settings=Settings(),
                entries=(entry,),
            )
        )
    assert str(caught.value) == (
        "mine.toml, case 1: bert-train has no precision `fp8`. Allowed: bf16, bf16-amp, fp32, tf32."
    )


# Layers


@EIGHT_BITS
@MODELS
def test_the_blocks_are_quantized_and_nothing_else(name: str, mode: str, precision: str) -> None:
    full, job = (build(name, mode, site(PRECISIONS[p])) for p in ("bf16", precision))
    plain = [m for m in model_of(full).modules() if isinstance(m, torch.nn.Linear)]
    left = [path for path, m in model_of(job).named_modules() if isinstance(m, torch.nn.Linear)]
    layers = layers_of(model_of(job))
    (head,) = left
    assert head.rpartition(".")[2] == ("qa_outputs" if name == "bert" else "lm_head")
    assert len(layers) == len(plain) - 1
    assert {layer.weight.dtype for layer in layers} == {dtype_of(precision)}
    assert job.facts["parameters"] == full.facts["parameters"]
    kind = name_of(dtype_of(precision))
    assert job.facts["quantized"] == f"{len(layers)} linear layers, {kind}, a scale for each row"
    assert "quantized" not in full.facts and products(model_of(full)) == {}


@EIGHT_BITS
def test_a_model_is_never_there_in_full_before_it_is_quantized(precision: str) -> None:
    """Or one that fits in 8 bits could not be built: whoever builds holds one layer's weights."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0
    real = quantize

    def counting(values: torch.Tensor, dtype: torch.dtype) -> Any:
        nonlocal most
        if values.dim() == 2 and values.shape[0] >= 32:  # a weight, as it was drawn
            gc.collect()
            most = max(most, len(alive))
            alive.add(values.untyped_storage())
        return real(values, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized, "quantize", counting)
        build("llama", "prefill", site(PRECISIONS[precision]))
    assert most <= 1


@EIGHT_BITS
def test_a_layer_gives_what_it_gave_but_for_the_bits(precision: str) -> None:
    torch.manual_seed(2)
    layer = torch.nn.Sequential(torch.nn.Linear(64, 48)).to(torch.bfloat16)
    x = torch.randn(2, 5, 64).to(torch.bfloat16)
    before = layer(x).detach().double()
    quantize_layer(layer, "0", site(PRECISIONS[precision]))
    after = layer(x).detach()
    assert after.shape == (2, 5, 48) and after.dtype == torch.bfloat16
    assert 1e-3 < relative_error(after.double(), before) < 1.5 * LOSS[precision]


@EIGHT_BITS
def test_few_rows_are_padded_where_a_device_refuses_them(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    dtype = dtype_of(precision)
    monkeypatch.setattr(quantized, "_needs_padding", quantized._needs_padding.__wrapped__)
    assert not quantized._needs_padding(torch.device("cpu"), dtype)
    real, seen = multiply, []

    def demanding(rows: Any, *others: Any) -> Any:
        seen.append(rows.shape[0])
        if rows.shape[0] <= 16:
            raise RuntimeError("self.size(0) needs to be greater than 16")
        return real(rows, *others)

    def layer() -> Any:
        linear = torch.nn.Linear(64, 48)
        torch.nn.init.constant_(linear.bias, 1.0)
        torch.nn.init.eye_(linear.weight)
        holder = torch.nn.Sequential(linear.to(torch.bfloat16))
        quantize_layer(holder, "0", site(PRECISIONS[precision]))
        return holder

    x = torch.randn(1, 3, 64).to(torch.bfloat16)
    expected = layer()(x)
    monkeypatch.setattr(quantized, "multiply", demanding)
    assert torch.equal(layer()(x), expected)
    assert seen == [1, quantized.PADDED_ROWS]


@MODELS
def test_a_quantized_step_never_asks_the_device(name: str, mode: str) -> None:
    job = build(name, mode, site(PRECISIONS["int8"]))
    job.step()
    no_questions: Any = NoQuestions
    with no_questions():
        job.step()


# The gate


def standing_in(right: Any, build: Any) -> Any:
    """A workload whose jobs are built otherwise."""
    return SimpleNamespace(twin=right.twin, memory_formats=right.memory_formats, build=build)


def gate_wrong(name: str, mode: str, precision: str, spoil: Any) -> dict[str, bool]:
    """Which checks pass once `spoil` has been at the quantized layers of the model at the site."""
    right = WORKLOADS[name]

    def wrong_build(mode: str, parameters: Any, at: Any) -> Any:
        job = right.build(mode, parameters, at)
        if at.precision.name == precision:
            spoil(layers_of(model_of(job)))
        return job

    wrong: Any = standing_in(right, wrong_build)
    verdict = gate(wrong, mode, small(name, mode), site(PRECISIONS[precision], seed=5))
    return {check.quantity: check.passed for check in verdict.checks}


@EIGHT_BITS
@MODELS
def test_one_scale_or_one_weight_gone_wrong_is_caught(name: str, mode: str, precision: str) -> None:
    def nothing(layers: list[Any]) -> None:
        pass

    def a_layers_scale(layers: list[Any]) -> None:
        layers[-1]._scale *= 1.05

    def one_rows_scale(layers: list[Any]) -> None:
        layers[0]._scale[0, 7] *= 2

    def one_column(layers: list[Any]) -> None:
        weight = layers[0].weight.data
        weight.view(torch.uint8)[:, 5] = 0

    assert gate_wrong(name, mode, precision, nothing) == {"logits": True, "products": True}
    for spoil in (a_layers_scale, one_rows_scale, one_column):
        found = gate_wrong(name, mode, precision, spoil)
        assert not found["products"], spoil.__name__


@EIGHT_BITS
def test_matrices_of_a_bit_less_are_caught(precision: str) -> None:
    """Of e4m3 its last bit of mantissa; of int8 the last of the number."""

    def coarser(layers: list[Any]) -> None:
        for layer in layers:
            layer.weight.data.view(torch.uint8).bitwise_and_(0xFE)

    assert not gate_wrong("qwen3", "prefill", precision, coarser)["products"]


@EIGHT_BITS
def test_experts_have_no_8_bits_and_say_so(precision: str) -> None:
    entry = {"workload": "qwen3", "mode": "decode", "precision": precision, "model": "tiny-moe"}
    suite = Suite(
        name="mine", source="mine.toml", description="", settings=Settings(), entries=(entry,)
    )
    with pytest.raises(SuiteError, match=f"experts of tiny-moe .* no {precision} here. Ask for"):
        plan(suite)
    assert plan(msgspec.structs.replace(suite, entries=({**entry, "model": "tiny"},)))


@EIGHT_BITS
def test_a_model_that_is_another_is_caught_by_its_logits(precision: str) -> None:
    """Though each layer multiplies as it should: its matrix is another one's."""

    def swap(layers: list[Any]) -> None:
        for layer in layers:
            layer.product, right = (lambda rows, p=layer.product: p(rows)), layer.product
            layer.forward = lambda x, p=right, k=layer: (
                -p(x.reshape(-1, k.in_features)).view(*x.shape[:-1], -1)
            )

    assert gate_wrong("llama", "prefill", precision, swap) == {"logits": False, "products": True}


# gemm


@pytest.mark.parametrize(
    ("precision", "unit", "moved"),
    [("bf16", "FLOP", 2 * 80), ("fp8", "FLOP", 48 + 2 * 32), ("int8", "OP", 48 + 4 * 32)],
)
def test_gemm_counts_bytes_and_operations_as_they_are(
    precision: str, unit: str, moved: int
) -> None:
    parameters = gemm.MatmulParameters(shape="4x8x4")  # 16 + 32 elements, and 32 of the product
    work = gemm.WORKLOAD.work("matmul", parameters, PRECISIONS[precision])
    assert (work.unit, work.flop, work.items) == (unit, 256, 256)
    assert work.moved_bytes == moved


def test_int8_sums_are_exact_and_one_wrong_element_is_caught() -> None:
    def at(seed: int) -> Any:
        return site(PRECISIONS["int8"], seed=seed)

    parameters: Any = gemm.MatmulParameters(shape="64x64x64")
    verdict = gate(gemm.WORKLOAD, "matmul", parameters, at(1))
    assert [check.error for check in verdict.checks] == [0.0]

    def off_by_one(mode: str, parameters: Any, where: Any) -> Any:
        job: Any = gemm.WORKLOAD.build(mode, parameters, where)
        if where.precision.name == "int8":
            probe = job.probe
            job.probe = lambda: {"output": probe()["output"] + torch.eye(64, dtype=torch.int32)}
        return job

    wrong: Any = standing_in(gemm.WORKLOAD, off_by_one)
    assert not gate(wrong, "matmul", parameters, at(1)).passed


def test_a_wrong_scale_of_a_product_is_caught() -> None:
    def rescaled(mode: str, parameters: Any, where: Any) -> Any:
        job: Any = gemm.WORKLOAD.build(mode, parameters, where)
        if where.precision.name == "fp8":
            a, b, a_scale, b_scale, output = next(job._inputs)
            job._inputs = iter([(a, b, a_scale * 1.02, b_scale, output)])
        return job

    parameters: Any = gemm.MatmulParameters(shape="64x64x64")
    at = site(PRECISIONS["fp8"])
    assert gate(gemm.WORKLOAD, "matmul", parameters, at).passed
    wrong: Any = standing_in(gemm.WORKLOAD, rescaled)
    assert not gate(wrong, "matmul", parameters, at).passed


@EIGHT_BITS
def test_shapes_that_only_some_devices_multiply_are_skipped(precision: str) -> None:
    parameters: Any = gemm.MatmulParameters(shape="32x40x64")
    with pytest.raises(Unsupported, match="N and K in multiples of 16: 40 and 64"):
        gemm.WORKLOAD.build("matmul", parameters, site(PRECISIONS[precision]))


@EIGHT_BITS
@pytest.mark.parametrize(("family", "head"), [(llama, 16), (qwen3, 128)])
def test_a_decode_step_reads_one_byte_a_weight_and_a_scale_a_row(
    family: Any, head: int, precision: str
) -> None:
    """By the tensors of the model itself, at a context of 1 + (1 + 1) / 2 = 2 tokens."""
    parameters = family.DecodeParameters(model="tiny", batch_size=1, prompt_length=1, new_tokens=1)
    job = family.WORKLOAD.build("decode", parameters, site(PRECISIONS[precision]))
    model = model_of(job)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    scales = sum(layer._scale.numel() * 4 for layer in layers_of(model))
    cache = 2 * 3 * 3 * 2 * head * 2  # keys and values, 2 + 1 tokens, 3 layers, 2 heads, bf16
    row = 64 * 2  # of the embedding, which is tied
    work = family.WORKLOAD.work("decode", parameters, PRECISIONS[precision])
    assert work.moved_bytes == weights + scales + cache + row
