"""The numerics gate lets right numbers pass and stops wrong ones, for every workload."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch

from bench.measuring.gates.numerics import gate, relative_error
from bench.precision import PRECISIONS
from bench.records.proof import EACH_GRADIENT, EACH_GRADIENT_OVER_KINKS, OTHER_INPUTS, RUNNING
from bench.records.tolerances import TOLERANCES
from bench.tests.measuring.proving.wrong_workloads import (
    TF32_CASES,
    gate_wrong,
    one_reference,
    parameters,
    small_pipeline,
)
from bench.tests.small_workloads import (
    CASES,
    KERNELS,
    TRAINING,
    WORKLOADS,
    model_of,
    one_thread,
    site,
)
from bench.workload import Job

__all__ = ["one_reference", "one_thread", "small_pipeline"]  # fixtures, used by being here

MODEL_CASES = [(name, mode, precision) for name, mode, precision in CASES if name not in KERNELS]


# Right numbers

QUANTITIES = {
    ("attention", "forward"): {"attention"},
    ("attention", "burst"): {"attention"},
    ("attention", "prefill"): {"attention"},
    ("attention", "decode"): {"attention"},
    ("attention", "latent-prefill"): {"latent attention"},
    ("attention", "latent-decode"): {"latent attention"},
    ("attention", "forward-backward"): {"attention", "gradients"},
}
"""What the gate looks at where it is neither a model's output nor that of one operator."""


@pytest.mark.parametrize(("name", "mode", "precision"), CASES)
def test_the_gate_passes_what_is_right(name: str, mode: str, precision: str) -> None:
    verdict = gate(
        WORKLOADS[name], mode, parameters(name, mode), site(PRECISIONS[precision], seed=5)
    )
    assert verdict.passed, verdict.complaint
    assert verdict.reference == "fp64 on cpu"
    expected = QUANTITIES.get((name, mode), {"output" if name in KERNELS else "logits"})
    if (name, mode) in TRAINING:
        expected = {"logits", "loss", "gradient_norm", "loss after 2 steps", OTHER_INPUTS}
        kinks = name in ("resnet50", "dlrm")
        expected.add(EACH_GRADIENT_OVER_KINKS if kinks else EACH_GRADIENT)
        expected |= {RUNNING} if name == "resnet50" else set()
    if PRECISIONS[precision].quantized and name != "gemm":
        expected = {"logits", "products"}
    assert {check.quantity for check in verdict.checks} == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_has_its_tolerances(precision: str) -> None:
    tolerances, how = TOLERANCES[precision], PRECISIONS[precision]
    assert "output" in tolerances or how.autocast
    assert ("logits" in tolerances) == (how.scales is None), "those with scales are of products"
    # A gradient that is missing makes 1.
    most = {EACH_GRADIENT: 0.3, EACH_GRADIENT_OVER_KINKS: 0.9}
    assert all(0 < tolerance <= most.get(what, 0.3) for what, tolerance in tolerances.items())
    experts = precision == "bf16"  # whose matrices may be narrower
    narrow = how.quantized is not None and how.scales is None
    assert ("products" in tolerances) == (experts or narrow)
    inexact = {q for q in tolerances if q != "products" and (precision, q) != ("int8", "output")}
    assert all(TOLERANCES["fp32"][quantity] <= tolerances[quantity] for quantity in inexact)


def test_the_twin_is_gone_afterwards() -> None:
    kept: list[weakref.ref[Job]] = []
    gate_wrong("llama", "train", "fp32", lambda job: kept.append(weakref.ref(job)))
    assert [reference() for reference in kept] == [None]


# Wrong numbers


def spoil_operands(job: Any) -> None:
    """One head's values are off by a tenth."""
    first = next(job._inputs)
    first[2].data[:, 0] *= 1.1
    job._inputs = iter([first])


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("mode", ["forward", "forward-backward"])
def test_wrong_attention_is_caught(mode: str, precision: str) -> None:
    assert not gate_wrong("attention", mode, precision, spoil_operands).passed


def test_a_lost_kernel_and_a_lost_copy_are_caught() -> None:
    def lose_one(job: Any) -> None:
        job._kernels -= 1

    def lose_all(job: Any) -> None:
        target, source = next(job._inputs)
        job._inputs = iter([(target, torch.zeros_like(source))])

    assert not gate_wrong("launch", "queue", "fp32", lose_one).passed
    assert not gate_wrong("launch", "single", "fp32", lose_one).passed
    for mode in ("to-device", "to-host"):
        assert not gate_wrong("transfer", mode, "fp32", lose_all).passed


def last_matrix(job: Any) -> torch.Tensor:
    """A weight matrix in the last layer, not the head's."""
    return [p for p in model_of(job).parameters() if p.dim() > 1][-2]


@pytest.mark.parametrize(
    ("name", "mode", "precision"), [*MODEL_CASES, *(c for c in TF32_CASES if c[0] not in KERNELS)]
)
def test_a_wrong_weight_is_caught(name: str, mode: str, precision: str) -> None:
    def spoil(job: Any) -> None:
        with torch.no_grad():
            matrix = last_matrix(job)
            if precision == "fp32":  # not a factor, which a norm behind it would undo
                matrix.view(-1)[0::2].mul_(1.01)
            else:
                matrix.copy_((-matrix.float()).to(matrix.dtype))

    assert not gate_wrong(name, mode, precision, spoil).passed


UNHEARD = ("gpt-oss", "lora", "bf16-amp")
"""It has no autocast to run, and its few adapters move the loss by less than is tolerated there."""


@pytest.mark.parametrize(
    ("name", "mode", "precision"),
    [(*c, p) for p in ("bf16-amp", "fp32") for c in TRAINING if (*c, p) != UNHEARD],
)
def test_an_optimizer_that_does_nothing_is_caught(name: str, mode: str, precision: str) -> None:
    def spoil(job: Any) -> None:
        job._optimizer.step = lambda: None

    verdict = gate_wrong(name, mode, precision, spoil)
    failed = [check.quantity for check in verdict.checks if not check.passed]
    assert failed in (["loss after 2 steps"], ["loss after 2 steps", OTHER_INPUTS])


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_values_that_are_not_finite_fail(wrong: float) -> None:
    def spoil(job: Any) -> None:
        for _ in range(16):  # all operands
            a, _, _ = next(job._inputs)
            a[0, 0] = wrong

    verdict = gate_wrong("gemm", "matmul", "fp32", spoil)
    assert not verdict.passed
    assert "not finite" in verdict.complaint


def test_an_error_of_the_device_is_not_a_verdict() -> None:
    def spoil(job: Any) -> None:
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        gate_wrong("gemm", "matmul", "fp32", spoil)


# The measure itself


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.5], [3.0, 4.0], 0.1),
        ([0.0], [0.0], 0.0),
        ([1e-30], [0.0], math.inf),
        ([math.nan, 1.0], [1.0, 1.0], math.inf),
        ([-math.inf, 1.0], [1.0, 1.0], math.inf),
    ],
)
def test_relative_error(found: list[float], expected: list[float], error: float) -> None:
    as_double = (torch.tensor(values, dtype=torch.float64) for values in (found, expected))
    assert relative_error(*as_double) == pytest.approx(error)
