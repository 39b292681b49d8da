"""Each job looks once at what it steps with: what is not as it was asked for is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_utils import AttentionInterface

from bench.measuring.asked import complaint
from bench.precision import PRECISIONS
from bench.tests.small_workloads import (
    MODES,
    TRAINING,
    WORKLOADS,
    build,
    model_of,
    one_thread,
    site,
    small,
)
from bench.workload import Look
from bench.workloads.jobs import looks as model_looks
from bench.workloads.jobs.jobs import autocast
from bench.workloads.launch import LaunchJob
from bench.workloads.layers.transformers import ATTENTION
from bench.workloads.transfer import TransferJob

__all__ = ["one_thread"]  # a fixture, used by being here

pytestmark = pytest.mark.usefixtures("small_vision")

ATTENDING = (
    *("llama", "deepseek", "qwen3", "gpt-oss"),
    *("bert", "vit-b16", "whisper", "diffusion"),
)


def looks(job: Any) -> dict[str, Look]:
    found = list(job.looks())
    assert len({look.what for look in found}) == len(found)
    return {look.what: look for look in found}


def told(job: Any) -> str:
    return complaint(job.looks())


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_job_is_as_it_was_asked_for(name: str, mode: str) -> None:
    for memory_format in WORKLOADS[name].memory_formats:
        job = build(name, mode, site(memory_format=memory_format))
        job.step()
        found = looks(job)
        job.close()
        assert complaint(found.values()) == ""
        assert ("attention" in found) == (name in ATTENDING)
        if hasattr(job, "generator") or hasattr(job, "_model"):
            assert found["memory format of the weights"].asked == memory_format
            assert {"device of the weights", "mode of the model"} <= set(found)


@pytest.mark.parametrize("precision", ["bf16", "bf16-amp", "int8"])
def test_other_precisions_are_as_they_were_asked_for_too(precision: str) -> None:
    mode = "prefill" if precision == "int8" else "train"
    job = build("llama", mode, site(PRECISIONS[precision]))
    job.step()
    assert told(job) == ""


# --- What a job must notice, one wrong thing at a time -------------------------------------------


def images(memory_format: str = "channels_last") -> Any:
    return build("resnet50", "infer", site(memory_format=memory_format))


def test_weights_in_another_layout() -> None:
    job = images()
    job._model.to(memory_format=torch.contiguous_format)
    assert "memory format of the weights: asked for channels_last, got contiguous" in told(job)
    job = images("contiguous")
    job._model.to(memory_format=torch.channels_last)
    assert "memory format of the weights: asked for contiguous, got channels_last" in told(job)


def test_inputs_in_another_layout() -> None:
    job = images()
    job._inputs = iter([next(job._inputs).contiguous()])
    assert "memory format of the inputs: asked for channels_last, got contiguous" in told(job)


def test_a_layout_that_is_neither() -> None:
    job = images()
    job._inputs = iter([next(job._inputs)[..., ::2]])
    assert "got strides of (" in told(job)


def test_weights_on_another_device() -> None:
    job = images()
    job._model.classifier.to("meta")
    assert "device of the weights: asked for cpu, got meta" in told(job)


def test_wider_weights_than_asked_for() -> None:
    job: Any = build("bert", "infer", site(PRECISIONS["bf16"]))
    job._model.float()
    assert "dtype of the weights: asked for torch.bfloat16, got torch.float32" in told(job)


def test_a_wider_cache_than_asked_for() -> None:
    job: Any = build("llama", "decode", site(PRECISIONS["bf16"]))
    layers = job.generator._cache.layers
    layers[1] = layers[1]._replace(keys=layers[1].keys.float())
    assert "dtype of the cache: asked for torch.bfloat16, got torch.float32" in told(job)


@pytest.mark.parametrize(("name", "mode"), [*TRAINING, ("bert", "infer"), ("llama", "decode")])
def test_one_module_in_the_other_mode(name: str, mode: str) -> None:
    if mode == "train-pipeline":
        return  # as training
    job = build(name, mode, site())
    job.step()
    last = list(model_of(job).modules())[-1]
    last.train(not last.training)
    assert "mode of the model" in told(job)


@pytest.mark.parametrize(
    ("name", "mode"), [("llama", "train"), ("llama", "decode"), ("bert", "infer")]
)
def test_attention_by_another_name(name: str, mode: str) -> None:
    job = build(name, mode, site())
    job.step()
    model: Any = model_of(job)
    model.config._attn_implementation = "eager"
    assert "attention: asked for sdpa, got eager" in told(job)


def test_the_same_name_for_another_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    job = build("llama", "prefill", site())
    monkeypatch.setitem(AttentionInterface._global_mapping, ATTENTION, lambda *_: None)
    assert f"attention: asked for sdpa, got {ATTENTION}" in told(job)


def test_another_attention_of_a_denoiser() -> None:
    job = build("diffusion", "infer", site())
    modules: list[Any] = list(model_of(job).modules())
    for module in modules:
        if hasattr(module, "set_processor"):
            from diffusers.models.attention_processor import AttnProcessor

            module.set_processor(AttnProcessor())
            break
    assert "attention: asked for sdpa, got AttnProcessor" in told(job)


def test_other_experts_than_asked_for() -> None:
    job = build("deepseek", "prefill", site())
    model: Any = model_of(job)
    model.config._experts_implementation = "eager"
    assert "experts: asked for grouped_mm, got eager" in told(job)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_activations_that_are_kept_although_they_were_not_to_be(name: str, asked: bool) -> None:
    """Or not kept, which computes a third more than another's step does."""
    parameters = small(name, "train", gradient_checkpointing=asked)
    job = WORKLOADS[name].build("train", parameters, site())
    job.step()
    right, wrong = ("on", "off") if asked else ("off", "on")
    assert job.facts["gradient checkpointing"] == right
    assert looks(job)["gradient checkpointing"].seen == right
    for module in model_of(job).modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = not asked  # type: ignore[assignment]
    assert f"gradient checkpointing: asked for {right}, got {wrong}" in told(job)


def test_adapters_multiply_in_what_the_record_says() -> None:
    """Their inputs are widened to float32, which costs more than products in bfloat16 would."""
    seen: set[torch.dtype] = set()

    class Products(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                seen.add(args[-1].dtype)
            return func(*args, **(kwargs or {}))

    job = build("llama", "lora", site(PRECISIONS["bf16"]))
    mode: Any = Products
    with mode():
        job.step()
    assert seen == {torch.bfloat16, torch.float32}
    assert job.facts["products of adapters"] == "in float32, to which their inputs are widened"


@pytest.mark.filterwarnings("ignore:.*autocast.*:UserWarning")
def test_an_autocast_that_torch_disables(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does, with no more than a warning, for a dtype that a device does not have."""
    at = site(PRECISIONS["bf16-amp"])
    assert complaint(model_looks.autocasting(autocast(at), at)) == ""
    off = torch.autocast("cpu", torch.bfloat16, enabled=False)
    said = complaint(model_looks.autocasting(off, at))
    assert said.startswith("autocast: asked for torch.bfloat16, got no autocast")
    half = torch.autocast("cpu", torch.float16)
    assert "got torch.float16" in complaint(model_looks.autocasting(half, at))


def test_memory_that_is_not_pinned() -> None:
    pair = (torch.zeros(4, device="meta"), torch.zeros(4))
    assert "host memory: asked for pinned, got pageable" in told(
        TransferJob([pair], True, "pinned")
    )
    assert told(TransferJob([pair], False, "pageable")) == ""


@pytest.mark.parametrize("mode", ["queue", "single"])
@pytest.mark.parametrize("of", [0, 1])
def test_additions_that_are_left_out_later(
    mode: str, of: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the sixth step on the first alone, or none."""
    job: Any = build("launch", mode, site())
    right, kernels, steps = LaunchJob.step, job._kernels, iter(range(100))

    def step(job: Any) -> None:
        job._kernels = kernels if next(steps) < 5 else of
        right(job)
        job._kernels = kernels

    monkeypatch.setattr(LaunchJob, "step", step)
    for _ in range(8):
        job.step()
    if kernels != of:
        assert f"additions of a step: asked for {kernels}, got {of}. Kernels were" in told(job)


def test_additions_that_are_made_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(job: Any) -> None:
        job._output.add_(job._addend, alpha=job._kernels)

    monkeypatch.setattr(LaunchJob, "step", step)
    said = told(build("launch", "queue", site()))
    assert said.startswith(
        "additions of a step by themselves: asked for 16,777,216, got 16,777,292"
    )


def test_many_additions_are_counted() -> None:
    job: Any = build("launch", "queue", site(), kernels=100_000)
    job._output.fill_(1e30)
    assert told(job) == ""


# --- An optimizer's kernels, which the record tells -----------------------------------------------


@pytest.mark.parametrize("name", ["bert", "resnet50", "dlrm"])
def test_the_record_says_which_optimizer_ran(name: str) -> None:
    job = build(name, "train", site())
    job.step()
    assert told(job) == ""
    assert job.facts["optimizer"].endswith("(fused=True)")

    job = build(name, "train", site())
    job.step()
    optimizer: Any = job._optimizer  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        group["fused"] = False
    assert told(job) == ""
    assert job.facts["optimizer"].endswith("(fused=False)")


@pytest.mark.parametrize(
    ("step", "kernels"),
    [
        (lambda: torch.ones(2).add_(1), "loop"),
        (lambda: torch._foreach_add_([torch.ones(2)], 1), "foreach"),
    ],
)
def test_kernels_that_are_not_fused(step: Callable[[], object], kernels: str) -> None:
    assert model_looks.optimizer_kernels(step) == kernels
