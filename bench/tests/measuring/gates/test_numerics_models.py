"""The numerics gate sees what goes wrong in one part of a model: a weight, a cache, a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.measuring.gates.numerics import gate, worst_row
from bench.precision import PRECISIONS
from bench.records.outcome import Numerics
from bench.records.proof import EACH_GRADIENT, OTHER_INPUTS
from bench.tests.measuring.proving.wrong_workloads import (
    Wrong,
    gate_wrong,
    one_reference,
    parameters,
)
from bench.tests.small_workloads import CASES, TRAINING, WORKLOADS, model_of, one_thread, site

__all__ = ["one_reference", "one_thread"]  # fixtures, used by being here


def test_a_loss_of_half_the_cache_is_caught() -> None:
    """What decode would do if its steps did not see the prompt."""

    def spoil(job: Any) -> None:
        for rows in job.generator._masks:
            rows[..., :8] = float("-inf")

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


def failed(verdict: Numerics) -> list[str]:
    return [check.quantity for check in verdict.checks if not check.passed]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("llama", ["0.self_attn.q_proj", "1.self_attn.k_proj"]),
        ("llama", ["1.mlp.down_proj"]),
        ("bert", ["encoder.layer.1.output.dense.weight"]),
        ("resnet50", ["stages.1.layers.0.layer.1.convolution"]),
        ("dlrm", ["top.0.weight"]),
    ],
)
@pytest.mark.usefixtures("small_vision")
def test_a_gradient_of_the_other_sign_is_caught(name: str, parts: list[str]) -> None:
    """Logits, loss and the length of all gradients are as they were; bf16 sees little of a step."""

    def spoil(job: Any) -> None:
        weights = [
            w for path, w in model_of(job).named_parameters() if any(p in path for p in parts)
        ]
        assert len(weights) == len(parts)
        for weight in weights:
            weight.register_hook(torch.neg)

    (quantity,) = failed(gate_wrong(name, "train", "bf16", spoil))
    assert quantity.startswith("each gradient")


@pytest.mark.parametrize("seed", [38, 39])
def test_a_gradient_of_nothing_is_no_fault(seed: int) -> None:
    """A softmax over places does not see the bias of its scores: of that there is rounding only,
    of what cancels in it."""
    verdict = gate(
        *(WORKLOADS["bert"], "train", parameters("bert", "train")),
        site(PRECISIONS["bf16-amp"], seed=seed),
    )
    assert verdict.passed, verdict.complaint


def test_a_gradient_of_an_embedding_that_few_tokens_are_in_is_compared() -> None:
    """Of 4,096 rows of the twin 60 or so are not zero."""

    def spoil(job: Any) -> None:
        model_of(job).get_parameter("model.embed_tokens.weight").register_hook(torch.neg)

    assert failed(gate_wrong("gpt-oss", "train", "bf16", spoil)) == ["each gradient"]


@pytest.mark.parametrize("name", ["deepseek", "gpt-oss"])
def test_gradients_that_are_given_to_other_experts_are_caught(name: str) -> None:
    """Their length is the same to the last bit."""

    def spoil(job: Any) -> None:
        weights = [w for path, w in model_of(job).named_parameters() if "experts.down_proj" in path]
        for weight in weights:
            weight.register_hook(lambda gradient: gradient.roll(1, 0))
        assert weights

    assert failed(gate_wrong(name, "train", "bf16", spoil)) == ["each gradient"]


@pytest.mark.parametrize("precision", ["bf16", "bf16-amp", "fp32"])
def test_steps_that_do_not_read_their_inputs_are_caught(precision: str) -> None:
    """What a recording that was given copies of the first inputs would do."""

    def spoil(job: Any) -> None:
        real = job._run
        first: list[Any] = []

        def run(batches: Any) -> Any:
            first[:] = first or batches
            return real(first)

        job._run = run

    found = failed(gate_wrong("llama", "train", precision, spoil))
    assert found == ["logits of other inputs"]


@pytest.mark.usefixtures("small_vision")
def test_running_means_that_are_kept_otherwise_are_caught() -> None:
    """No step of training reads them."""

    def spoil(job: Any) -> None:
        for module in model_of(job).modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.9

    assert failed(gate_wrong("resnet50", "train", "bf16", spoil)) == ["running means"]


def test_the_worst_row_counts_and_one_of_nothing_is_no_fault() -> None:
    right = np.ones((4, 8)) * [[1.0], [2.0], [3.0], [1e-12]]
    assert worst_row(right, right) == 0.0
    found = right.copy()
    found[0] *= 1.1
    found[3] = 0.1  # of a row that is rounding alone, though of what is as large as the largest
    assert worst_row(found, right) == pytest.approx(0.1)
    found[3] = 3.0
    assert worst_row(found, right) == pytest.approx(1.0)
    found[3] = 0.0
    assert worst_row(found[:3], right) == math.inf
    found[2, 5] = math.nan
    assert worst_row(found, right) == math.inf
    assert worst_row(np.ones((1, 8)), np.zeros((1, 8))) == math.inf
    assert worst_row(np.zeros((1, 8)), np.zeros((1, 8))) == 0.0


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
@pytest.mark.usefixtures("small_vision")
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
    assert wrong and wrong <= {
        *("gradient_norm", EACH_GRADIENT, "loss after 2 steps", OTHER_INPUTS)
    }
