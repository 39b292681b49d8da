"""FLOP that a step must do: a causal kernel leaves out what `flop` counts of masked scores."""

from __future__ import annotations

from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from bench.measuring.explaining import counts
from bench.tests.small_workloads import FP32, WORKLOADS, build, one_thread, site, small
from bench.workloads import gpt_oss
from bench.workloads.language import gpts, llamas
from bench.workloads.language import latent as latent_sizes

__all__ = ["one_thread"]  # a fixture, used by being here


class Counted(TorchDispatchMode):
    """Adds up what `explain` counts of each operator."""

    flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:  # without autograd a composite arrives whole
            out = func.decompose(*args, **(kwargs or {}))
        if out is not NotImplemented:
            return out
        out = func(*args, **(kwargs or {}))
        self.flop += counts.least_flop(func, args, kwargs or {}, out)
        return out


@pytest.mark.parametrize("mode", ["prefill", "train", "lora"])
def test_least_flop_are_those_that_explain_counts_of_the_operators(mode: str) -> None:
    """But for the diagonal, half of which explain leaves out; scores that a backward computes
    again, which are explain's alone; and positions times frequencies."""
    parameters: Any = small("llama", mode)
    size = llamas.SIZES[parameters.model]
    tokens = parameters.prompt_length if mode == "prefill" else parameters.sequence_length
    passes = 1 if mode == "prefill" else 3
    job = build("llama", mode, site())
    mode_of: Any = Counted
    with mode_of() as counted:
        job.step()
    work = WORKLOADS["llama"].work(mode, parameters, FP32)
    assert work.least_flop is not None and work.flop is not None
    diagonal = 2 * parameters.batch_size * tokens * size.layers * size.hidden
    again = diagonal * tokens / 2 if passes == 3 else 0
    assert work.least_flop - passes * diagonal + again == pytest.approx(counted.flop, rel=0.002)
    assert work.flop > 1.003 * work.least_flop


CHECKPOINTED = ["llama", "qwen3", "gpt-oss", "deepseek", "bert"]


@pytest.mark.parametrize("name, mode", [*((n, "train") for n in CHECKPOINTED), ("llama", "lora")])
def test_what_checkpointing_does_again_is_counted_too_and_never_too_much(
    name: str, mode: str
) -> None:
    """The difference to the same step without it, of two micro-batches: at least what is said, but
    for half the diagonal, and at most a layer's last product more: an expert's is not spared."""
    given: dict[str, Any] = {"batch_size": 2, "accumulation_steps": 2}
    found = []
    mode_of: Any = Counted
    for checkpointed in (False, True):
        job = build(name, mode, site(), gradient_checkpointing=checkpointed, **given)
        with mode_of() as counted:
            job.step()
        found.append(counted.flop)
    parameters: Any = small(name, mode, gradient_checkpointing=True, **given)
    work = WORKLOADS[name].work(mode, parameters, FP32)
    assert work.again_flop is not None
    assert work.again_flop * 0.99 <= found[1] - found[0] <= 1.35 * work.again_flop
    parameters = small(name, mode, **given)
    assert WORKLOADS[name].work(mode, parameters, FP32).again_flop is None


def test_a_causal_kernel_does_the_pairs_that_a_token_sees() -> None:
    """llama-3.1-8b on 131,072 tokens: 32 layers of 4 FLOP a pair over 4,096 columns."""
    workload = WORKLOADS["llama"]
    kind: Any = workload.modes["prefill"].parameters
    p = kind(model="llama-3.1-8b", prompt_length=131_072, batch_size=2)
    work = workload.work("prefill", p, FP32)
    assert work.flop is not None and work.least_flop is not None
    pairs = 131_072 * 131_073 // 2
    assert work.flop - work.least_flop == 2 * 32 * 4 * 4096 * (131_072**2 - pairs)
    assert work.flop / work.least_flop == pytest.approx(1.711, abs=0.001)


def test_a_window_and_a_latent_are_masked_too() -> None:
    gpt, latent = gpts.B20, latent_sizes.SIZES["tiny"]
    every, windowed = sum(range(1, 1001)), sum(min(k, 128) for k in range(1, 1001))
    seen = 12 * (every + windowed)
    assert gpt.masked(1000) == 4 * 4096 * (12 * 1000 * (1000 + 128) - seen)
    heads = latent.layers * latent.heads
    assert latent.masked(1000) == 2 * heads * (latent.key + latent.head) * (1000**2 - every)
    assert gpt.masked(1) == latent.masked(1) == 0


def test_one_token_sees_all_before_it() -> None:
    work = WORKLOADS["gpt-oss"].work("decode", gpt_oss.DecodeParameters(model="tiny"), FP32)
    assert work.least_flop is None and work.flop is not None


def test_a_load_masks_its_prompts() -> None:
    workload = WORKLOADS["serve"]
    kind: Any = workload.modes["load"].parameters
    work = workload.work("load", kind(), FP32)
    size = llamas.UNTIED[kind().model]
    assert work.flop is not None and work.least_flop is not None
    assert work.flop - work.least_flop == kind().requests * size.masked(kind().input_tokens)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet50", {"image_size": 64}), ("diffusion", {"model": "tiny-unet"})],
)
def test_winograd_spares_three_quarters_of_what_it_can_do(
    name: str, parameters: dict[str, Any]
) -> None:
    """Of the convolutions that torch is asked for, those of 3x3 and stride 1."""
    job = build(name, "infer", site(), **parameters)
    spared = 0

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal spared
            out = func(*args, **(kwargs or {}))
            given = counts.by_name(func, args, kwargs or {})
            kernel: Any = given["weight"].shape[1:] if "conv" in func.name() else ()
            if kernel[1:] == (3, 3) and given.get("stride", [1, 1]) == [1, 1]:
                spared += 2 * out.numel() * kernel.numel() * 3 // 4
            return out

    mode_of: Any = Seen
    with mode_of():
        job.step()
    of_case: Any = small(name, "infer", **parameters)
    work = WORKLOADS[name].work("infer", of_case, FP32)
    assert work.flop is not None and spared > 0
    assert of_case.winograd_share() == pytest.approx(1 - spared / work.flop, abs=0.01)
