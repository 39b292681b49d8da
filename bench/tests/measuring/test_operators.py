"""Which operators a step ran through, by what the dispatcher called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from bench.measuring import asked
from bench.measuring.operators import NOT_OBSERVABLE, executed, kind_of
from bench.measuring.proving.watch import Watch
from bench.precision import PRECISIONS
from bench.records.executed import Executed
from bench.tests.measuring.proving.watching import opened
from bench.tests.small_workloads import build, one_thread, site

__all__ = ["one_thread"]

FLASH = ("aten::_scaled_dot_product_flash_attention_for_cpu",)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", None),
        ("aten::_fused_sdp_choice", None),
        ("any::fusion_attention", "attention"),
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::conv2d", "convolution"),
        ("aten::convert", None),
        ("aten::_grouped_mm", "experts"),
        ("any::selective_scan", "scan"),
        ("aten::mm", None),
    ],
)
def test_an_operator_is_known_by_its_name_whoevers_it_is(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("inference", [False, True])
def test_attention_is_what_torch_chose(inference: bool) -> None:
    """The same words with gradients and without; without an operator of its own, that."""
    query = torch.randn(1, 2, 16, 8)
    wide = torch.randn(1, 2, 16, 12)

    def step(value: torch.Tensor) -> None:
        with torch.inference_mode(inference):
            functional.scaled_dot_product_attention(query, query, value, is_causal=True)

    assert executed(lambda: step(query), "cpu").operators == {"attention": FLASH}
    (said,) = executed(lambda: step(wide), "cpu").operators["attention"]
    assert said == "no operator of its own (aten::_safe_softmax)"


@pytest.mark.parametrize("inference", [False, True])
def test_a_convolution_is_the_one_that_computed(inference: bool) -> None:
    layer, image = torch.nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)

    def step() -> None:
        with torch.inference_mode(inference):
            layer(image)

    (said,) = executed(step, "cpu").operators["convolution"]
    assert said not in ("aten::conv2d", "aten::convolution", "aten::_convolution")


def test_experts_and_their_load() -> None:
    """Each layer's tokens once, though its two products and their gradients all name them."""
    ends = [torch.tensor([1, 4, 4], dtype=torch.int32), torch.tensor([2, 3, 4], dtype=torch.int32)]
    weights = torch.randn(3, 16, 16, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.randn(4, 16, dtype=torch.bfloat16)

    def step() -> None:
        for end in ends:
            hidden = torch._grouped_mm(tokens, weights, offs=end)
            torch._grouped_mm(hidden, weights, offs=end).float().sum().backward()

    found = executed(step, "cpu")
    assert found.expert_tokens == (3, 4, 1)
    assert found.experts_hit == 2.5  # two of the first layer, three of the second
    (said,) = found.operators["experts"]
    own = torch._C._dispatch_has_kernel_for_dispatch_key("aten::_grouped_mm", "CPU")
    assert said == "aten::_grouped_mm" if own else said.startswith("aten::_grouped_mm (aten::")


def test_what_an_operator_gives_is_what_it_gave_unwatched() -> None:
    job: Any = build("bert", "infer", site(PRECISIONS["bf16"]))
    job.step()
    before = job.outputs()["output"][0].clone()
    executed(job.again, "cpu")
    assert torch.equal(job.outputs()["output"][0], before)


def thorough(name: str, mode: str, execution: str = "eager") -> Watch:
    watch, job = opened(name, mode, precision="bf16", thorough=True, execution=execution)
    for step in (1, 2, 3):
        job.step()
        watch.after(step)
    assert watch.complaint == "" and watch.proof.noise
    return watch


@pytest.mark.parametrize("mode", ["train", "prefill", "decode"])
def test_a_thorough_launch_keeps_the_experts_of_its_third_step(mode: str) -> None:
    """The same on every device at one seed: real weights, and given tokens."""
    found = [thorough("deepseek", mode).executed for _ in range(2)]
    assert found[0] is not None and found[0] == found[1]
    assert set(found[0].operators) == {"attention", "experts"} and sum(found[0].expert_tokens) > 0


@pytest.mark.parametrize("execution", NOT_OBSERVABLE)
def test_what_calls_no_operators_is_not_observable(execution: str) -> None:
    found = thorough("bert", "infer", execution).executed
    assert found == Executed(absent=NOT_OBSERVABLE[execution])
    assert asked.implementations(found, {"attention": "sdpa"}) == []


def test_an_operator_that_was_asked_for_and_not_called_is_told() -> None:
    facts = {"attention": "sdpa", "experts": "grouped_mm", "memory_format": "contiguous"}
    seen = Executed(operators={"attention": FLASH})
    said = asked.complaint(asked.implementations(seen, facts))
    assert said.startswith("experts: asked for grouped_mm, got no operator of that kind in a step.")
    whole = Executed(operators={"attention": FLASH, "experts": ("aten::_grouped_mm",)})
    assert asked.implementations(whole, facts) == []
    assert asked.implementations(None, facts) == []


def test_an_experts_tokens_are_a_count() -> None:
    with pytest.raises(ValueError, match="fewer than no tokens"):
        Executed(expert_tokens=(-1, 2))
