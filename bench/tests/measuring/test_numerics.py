"""The numerics gate lets right numbers pass and stops wrong ones, for every workload."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.measuring import numerics
from bench.measuring.numerics import TOLERANCES, gate, relative_error
from bench.precision import PRECISIONS, REFERENCE, Precision
from bench.records.outcome import Numerics
from bench.tests.small_workloads import (
    CASES,
    MODES,
    TRAINING,
    WORKLOADS,
    model_of,
    one_thread,
    site,
)
from bench.workload import Job, Parameters, Site, Workload

__all__ = ["one_thread"]  # a fixture, used by being here

KERNELS = ("attention", "gemm", "launch", "memory", "transfer")
"""Workloads without a model: each goes wrong in ways of its own, tested by itself."""
MODEL_CASES = [(name, mode, precision) for name, mode, precision in CASES if name not in KERNELS]
TF32_CASES = [
    (name, mode, "tf32")
    for name, mode in MODES
    if "tf32" in WORKLOADS[name].modes[mode].precisions
    and (mode != "train" or name in ("llama", "dlrm"))  # the others' training says no more
]
MATRIX_CASES = [case for case in CASES if case[0] not in KERNELS or case[0] == "gemm"]


@pytest.fixture(autouse=True, scope="module")
def one_reference() -> Iterator[None]:
    """Computes each float64 reference once: half of the time of these tests."""
    real, known = numerics._probe, {}

    def probe(workload: Workload, mode: str, twin: Any, at: Site) -> dict[str, torch.Tensor]:
        if at.precision.name != REFERENCE.name:
            return real(workload, mode, twin, at)
        key = (workload.name, mode, twin, at.seed, at.precision.quantized)
        if key not in known:
            known[key] = real(workload, mode, twin, at)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numerics, "_probe", probe)
        yield


def parameters(name: str, mode: str, **given: Any) -> Parameters:
    """The smallest model, else the defaults; the gate takes its twin by itself."""
    kind = WORKLOADS[name].modes[mode].parameters
    smallest = {"model": "tiny"} if "model" in kind.__struct_fields__ else {}
    if name == "gemm":
        smallest = {"shape": "128x128x256"}
    return kind(**smallest, **given)


class Wrong(Workload):
    """A workload that goes wrong on the device, and not in the reference."""

    def __init__(self, right: Workload, spoil: Callable[[Job], None]) -> None:
        self._right, self._spoil = right, spoil
        self.name, self.version, self.modes = right.name, right.version, right.modes

    def work(self, mode: str, parameters: Any, precision: Precision) -> Any:
        return self._right.work(mode, parameters, precision)

    def twin(self, mode: str, parameters: Any) -> Parameters:
        return self._right.twin(mode, parameters)

    def build(self, mode: str, parameters: Any, at: Site) -> Job:
        job = self._right.build(mode, parameters, at)
        if at.precision.name != REFERENCE.name:
            self._spoil(job)
        return job


def gate_wrong(
    name: str, mode: str, precision: str, spoil: Callable[[Any], None], **given: Any
) -> Numerics:
    wrong = Wrong(WORKLOADS[name], spoil)
    return gate(wrong, mode, parameters(name, mode, **given), site(PRECISIONS[precision], seed=5))


# Right numbers

QUANTITIES = {
    ("gemm", ""): {"output"},
    ("memory", ""): {"output"},
    ("launch", ""): {"output"},
    ("transfer", ""): {"output"},
    ("attention", "forward"): {"attention"},
    ("attention", "forward-backward"): {"attention", "gradients"},
}
"""What the gate looks at where it is not a model's output; with "", in every mode."""


@pytest.mark.parametrize(("name", "mode", "precision"), CASES)
def test_the_gate_passes_what_is_right(name: str, mode: str, precision: str) -> None:
    verdict = gate(
        WORKLOADS[name], mode, parameters(name, mode), site(PRECISIONS[precision], seed=5)
    )
    assert verdict.passed, verdict.complaint
    assert verdict.reference == "fp64 on cpu"
    expected = QUANTITIES.get((name, mode), QUANTITIES.get((name, ""), {"logits"}))
    if (name, mode) in TRAINING:
        expected = {"logits", "loss", "gradient_norm", "loss after 2 steps"}
    if PRECISIONS[precision].quantized and name != "gemm":
        expected = {"logits", "products"}
    assert {check.quantity for check in verdict.checks} == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_has_its_tolerances(precision: str) -> None:
    tolerances = TOLERANCES[precision]
    assert "logits" in tolerances
    assert all(0 < tolerance <= 0.3 for tolerance in tolerances.values())
    assert ("products" in tolerances) == bool(PRECISIONS[precision].quantized)
    inexact = {q for q in tolerances if q != "products" and (precision, q) != ("int8", "output")}
    assert all(TOLERANCES["fp32"][quantity] <= tolerances[quantity] for quantity in inexact)


def test_the_twin_is_gone_afterwards() -> None:
    kept: list[weakref.ref[Job]] = []
    gate_wrong("llama", "train", "fp32", lambda job: kept.append(weakref.ref(job)))
    assert [reference() for reference in kept] == [None]


# Wrong numbers


def spoil_operands(job: Any) -> None:
    """One head's values are off by a tenth."""
    first = next(job._operands)
    first[2].data[:, 0] *= 1.1
    job._operands = iter([first])


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("mode", ["forward", "forward-backward"])
def test_wrong_attention_is_caught(mode: str, precision: str) -> None:
    assert not gate_wrong("attention", mode, precision, spoil_operands).passed


def test_a_lost_kernel_and_a_lost_copy_are_caught() -> None:
    def lose_one(job: Any) -> None:
        job._kernels -= 1

    def lose_all(job: Any) -> None:
        target, source = next(job._pairs)
        job._pairs = iter([(target, torch.zeros_like(source))])

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


@contextmanager
def rounded_operands(
    mantissa_bits: int, rounding: Callable[[torch.Tensor], torch.Tensor] = torch.round
) -> Iterator[None]:
    """Gives every matrix product and convolution its operands with fewer bits of mantissa."""
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
        aten.conv2d.default,
        aten.convolution.default,
        aten.convolution_backward.default,
        aten.scaled_dot_product_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    )

    def rounded(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        mantissa, exponent = torch.frexp(value.float())
        scale = 2.0 ** (mantissa_bits + 1)  # frexp's mantissa lies in [0.5, 1)
        return torch.ldexp(rounding(mantissa * scale) / scale, exponent).to(value.dtype)

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


COARSER = {"fp32": 10, "tf32": 7, "fp16": 7, "bf16": 3, "bf16-amp": 3}
"""Mantissa bits of what a device may quietly fall back to: TF32, bfloat16, fp8."""
TELLING = (("gemm", "fp16"), ("llama", "fp16"))
"""Workloads whose gate tells float16 from its coarser format."""


@pytest.mark.parametrize(("name", "mode", "precision"), TF32_CASES)
def test_products_of_10_bits_pass_as_tf32(name: str, mode: str, precision: str) -> None:
    """Cut, which is the worst that a device may do to its operands."""

    def shorten(job: Any) -> None:
        probe = job.probe

        def short_probe() -> dict[str, torch.Tensor]:
            with rounded_operands(10, torch.trunc):
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
        if case[2] not in ("fp8", "int8", "fp16") or case[::2] in TELLING
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


@pytest.mark.parametrize(("name", "mode"), TRAINING)
@pytest.mark.parametrize("precision", ["bf16-amp", "fp32"])
def test_an_optimizer_that_does_nothing_is_caught(name: str, mode: str, precision: str) -> None:
    def spoil(job: Any) -> None:
        job._optimizer.step = lambda: None

    verdict = gate_wrong(name, mode, precision, spoil)
    assert [check.quantity for check in verdict.checks if not check.passed] == [
        "loss after 2 steps"
    ]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_values_that_are_not_finite_fail(wrong: float) -> None:
    def spoil(job: Any) -> None:
        for _ in range(16):  # all operands
            a, _, _ = next(job._operands)
            a[0, 0] = wrong

    verdict = gate_wrong("gemm", "matmul", "fp32", spoil)
    assert not verdict.passed
    assert "not finite" in verdict.complaint


def test_an_error_of_the_device_is_not_a_verdict() -> None:
    def spoil(job: Any) -> None:
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        gate_wrong("gemm", "matmul", "fp32", spoil)


def test_a_loss_of_half_the_cache_is_caught() -> None:
    """What decode would do if its steps did not see the prompt."""

    def spoil(job: Any) -> None:
        job.generator._masks[..., :8] = False

    verdict = gate_wrong("llama", "decode", "bf16", spoil)
    assert not verdict.passed


def test_tables_that_are_not_updated_are_caught() -> None:
    """What DLRM would do if its rows' gradients went nowhere."""

    def spoil(job: Any) -> None:
        job._lookup.update = lambda: None

    verdict = gate_wrong("dlrm", "train", "fp32", spoil)
    assert [check.quantity for check in verdict.checks if not check.passed] == [
        "loss after 2 steps"
    ]


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_table_read_at_the_wrong_rows_is_caught(mode: str) -> None:
    def spoil(job: Any) -> None:
        weight = model_of(job).get_submodule("tables").get_parameter("weight")
        with torch.no_grad():
            weight[:64] = weight[:64].roll(1, 0)  # one table of 26

    assert not gate_wrong("dlrm", mode, "bf16", spoil).passed


def wrong_matrix(path: str, precision: str) -> Callable[[Any], None]:
    """Spoils the weight of that path as `test_a_wrong_weight_is_caught` does."""

    def spoil(job: Any) -> None:
        with torch.no_grad():
            matrix = model_of(job).get_parameter(path)
            if precision == "fp32":
                matrix.view(-1)[0::2].mul_(1.01)
            else:
                matrix.neg_()

    return spoil


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(
    "path",
    [
        "model.encoder.conv1.weight",
        "model.encoder.layers.0.self_attn.v_proj.weight",
        "model.encoder.layers.1.fc2.weight",
        "model.decoder.layers.0.encoder_attn.k_proj.weight",
        "model.decoder.layers.1.self_attn.out_proj.weight",
    ],
)
def test_a_wrong_weight_anywhere_in_whisper_is_caught(path: str, precision: str) -> None:
    assert not gate_wrong("whisper", "infer", precision, wrong_matrix(path, precision)).passed


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize(
    "path",
    [
        "transformer_blocks.0.attn1.to_v.weight",
        "transformer_blocks.0.norm1.linear.weight",
        "transformer_blocks.1.ff.net.2.weight",
    ],
)
def test_a_wrong_weight_in_a_block_of_dit_is_caught(path: str, precision: str) -> None:
    assert not gate_wrong("diffusion", "infer", precision, wrong_matrix(path, precision)).passed


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_unet_passes_the_gate_and_a_wrong_weight_does_not(precision: str) -> None:
    right, at = WORKLOADS["diffusion"], site(PRECISIONS[precision], seed=5)
    kind: Any = right.modes["infer"].parameters
    unet = kind(model="tiny-unet")
    verdict = gate(right, "infer", unet, at)
    assert verdict.passed, verdict.complaint
    for path in (
        "mid_block.resnets.1.conv2.weight",
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight",
    ):
        wrong = Wrong(right, wrong_matrix(path, precision))
        assert not gate(wrong, "infer", unet, at).passed, path


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(
    ("name", "mode", "part"),
    [
        ("llama", "lora", "1.self_attn.v_proj.lora_A"),
        ("llama", "lora", "1.self_attn.v_proj.lora_B"),
        ("deepseek", "prefill", "1.mlp.experts.gate_up_proj"),
        ("deepseek", "prefill", "1.mlp.gate.weight"),
        ("deepseek", "prefill", "1.self_attn.kv_b_proj"),
        ("deepseek", "decode", "1.mlp.experts.down_proj"),
        ("deepseek", "train", "1.mlp.experts.down_proj"),
    ],
)
def test_a_wrong_adapter_router_or_expert_is_caught(
    name: str, mode: str, part: str, precision: str
) -> None:
    """In one expert of four, where the part is the experts'."""

    def spoil(job: Any) -> None:
        (weight,) = (p for path, p in model_of(job).named_parameters() if part in path)
        with torch.no_grad():
            chosen = weight[0] if weight.dim() == 3 else weight
            if precision == "fp32":
                chosen.view(-1)[0::2].mul_(1.01)
            else:
                chosen.neg_()

    assert not gate_wrong(name, mode, precision, spoil).passed


def test_a_lost_latent_is_caught() -> None:
    def spoil(job: Any) -> None:
        job.generator._cache.layers[1].keys[:, :, :8] = 0

    assert not gate_wrong("deepseek", "decode", "bf16", spoil).passed


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


# Gradient checkpointing and accumulation

SPLIT: dict[str, Any] = {"gradient_checkpointing": True, "accumulation_steps": 3}
SPLIT_CASES = [
    (name, mode, precision)
    for name, mode, precision in CASES
    if (name, mode) in TRAINING and name in ("bert", "llama", "deepseek")
]


def compute_again_wrongly(job: Any) -> None:
    """What a layer computes a second time, for the backward, comes out twice as large."""
    evaluate, again = job._evaluate, False

    def forward(batch: Any) -> Any:
        nonlocal again
        again = False
        found = evaluate(batch)
        again = True
        return found

    job._evaluate = forward
    layers = next(m for m in model_of(job).modules() if isinstance(m, torch.nn.ModuleList))
    for inner in (m for m in layers.modules() if isinstance(m, torch.nn.Linear)):
        inner.register_forward_hook(lambda module, inputs, out: 2 * out if again else out)


def forget_the_micro_batch_before(job: Any) -> None:
    """The gradients of the last micro-batch replace those of the others."""
    accumulate = job._accumulate

    def alone(batch: Any) -> Any:
        job._optimizer.zero_grad()
        return accumulate(batch)

    job._accumulate = alone


@pytest.mark.parametrize(("name", "mode", "precision"), SPLIT_CASES)
def test_the_gate_passes_micro_batches_of_checkpointed_layers(
    name: str, mode: str, precision: str
) -> None:
    verdict = gate_wrong(name, mode, precision, lambda job: None, **SPLIT)
    assert verdict.passed, verdict.complaint


@pytest.mark.parametrize("spoil", [compute_again_wrongly, forget_the_micro_batch_before])
@pytest.mark.parametrize(("name", "mode", "precision"), SPLIT_CASES)
def test_the_gate_sees_a_wrong_second_computation_and_a_lost_micro_batch(
    name: str, mode: str, precision: str, spoil: Callable[[Any], None]
) -> None:
    verdict = gate_wrong(name, mode, precision, spoil, **SPLIT)
    wrong = {check.quantity for check in verdict.checks if not check.passed}
    assert wrong and wrong <= {"gradient_norm", "loss after 2 steps"}
