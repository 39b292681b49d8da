"""The numerics gate tells a precision from a coarser one that a device may fall back to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.tests.measuring.proving.wrong_workloads import (
    TF32_CASES,
    gate_wrong,
    one_reference,
    small_pipeline,
)
from bench.tests.small_workloads import CASES, KERNELS, one_thread

__all__ = ["one_reference", "one_thread", "small_pipeline"]  # fixtures, used by being here

MATRIX_CASES = [case for case in CASES if case[0] not in KERNELS or case[0] == "gemm"]

COARSER = {"fp32": 10, "tf32": 7, "fp16": 7, "bf16": 3, "bf16-amp": 3}
"""Mantissa bits of what a device may quietly fall back to: TF32, bfloat16, fp8."""

TELLING = (("gemm", "fp16"), ("llama", "fp16"))
"""Workloads whose gate tells float16 from its coarser format."""


@contextmanager
def rounded_operands(mantissa_bits: int, cut: bool = False) -> Iterator[None]:
    """Gives every matrix product and convolution its operands with fewer bits of mantissa: rounded
    to the nearest, of two the even one, or cut."""
    aten = torch.ops.aten
    products = (
        aten.mm.default,
        aten.bmm.default,
        aten.addmm.default,
        aten.baddbmm.default,
        aten.linear.default,
        aten.matmul.default,
        aten.matmul.out,
        aten.mm.out,
        aten._grouped_mm.default,
        aten.conv2d.default,
        aten.convolution.default,
        aten.convolution_backward.default,
        aten.scaled_dot_product_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    )

    shift = 23 - mantissa_bits

    def rounded(value: Any) -> Any:
        """On the bits of a float32: a carry out of the mantissa goes into the exponent."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        bits = value.to(torch.float32, copy=True).view(torch.int32)
        if not cut:  # half a unit more, less a bit where the last one kept is even
            bits.add_((bits >> shift).bitwise_and_(1)).add_((1 << (shift - 1)) - 1)
        return bits.bitwise_and_(-1 << shift).view(torch.float32).to(value.dtype)

    class Rounding(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if func in products:
                args = tuple(rounded(arg) for arg in args)
            return func(*args, **(kwargs or {}))

    mode: Any = Rounding
    with mode():
        yield


def test_operands_are_rounded_to_the_nearest_and_to_even_or_cut() -> None:
    values = torch.tensor([1.0625, 1.1875, 1.07, -1.07, 1.99, 0.0])
    eye = torch.eye(6)
    for cut, expected in (
        (False, [1.0, 1.25, 1.125, -1.125, 2.0, 0.0]),
        (True, [1.0, 1.125, 1.0, -1.0, 1.875, 0.0]),
    ):
        with rounded_operands(3, cut):
            assert torch.mm(values.diag(), eye).diag().tolist() == expected


@pytest.mark.parametrize(("name", "mode", "precision"), TF32_CASES)
def test_products_of_10_bits_pass_as_tf32(name: str, mode: str, precision: str) -> None:
    """Cut, which is the worst that a device may do to its operands."""

    def shorten(job: Any) -> None:
        probe = job.probe

        def short_probe() -> dict[str, torch.Tensor]:
            with rounded_operands(10, cut=True):
                values: dict[str, torch.Tensor] = probe()
            return values

        job.probe = short_probe

    verdict = gate_wrong(name, mode, precision, shorten)
    assert verdict.passed, verdict.complaint
    assert (verdict.checks[0].error or 0.0) > 1e-4, "the products were shortened"


@pytest.mark.parametrize(
    ("name", "mode", "precision"),
    # BERT's few logits and ResNet's infer hardly tell bfloat16 from float16, and no model's logits
    # tell it from TF32 whose operands are cut, not rounded.
    [
        case
        for case in (*MATRIX_CASES, ("gemm", "matmul", "tf32"))
        # What is narrow is told in `bench/tests/workloads/test_formats.py`.
        if case[2] in {*COARSER} - {"fp16"} or case[::2] in TELLING
    ],
)
def test_a_coarser_precision_than_asked_for_is_caught(name: str, mode: str, precision: str) -> None:
    def spoil(job: Any) -> None:
        probe = job.probe

        def coarse_probe() -> dict[str, torch.Tensor]:
            with rounded_operands(COARSER[precision]):
                values: dict[str, torch.Tensor] = probe()
            return values

        job.probe = coarse_probe

    verdict = gate_wrong(name, mode, precision, spoil)
    assert not verdict.passed
    assert verdict.complaint.startswith(("logits off by", "output off by"))
