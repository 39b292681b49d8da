"""What ResNet-50, ViT-B/16 and the diffusion models promise beyond the contract."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.precision import PRECISIONS
from bench.tests.small_workloads import (
    FP32,
    WORKLOADS,
    NoQuestions,
    build,
    model_of,
    one_thread,
    site,
)
from bench.workloads import _denoisers, diffusion, resnet50, vit_b16
from bench.workloads.jobs.seeded import parameter_count

__all__ = ["one_thread"]  # a fixture, used by being here


def test_resnet50_has_its_published_parameters() -> None:
    job = build("resnet50", "infer", site())
    assert job.facts["parameters"] == "25557032"


def test_resnet50_costs_what_it_is_known_to_cost() -> None:
    workload = WORKLOADS["resnet50"]
    infer = workload.work("infer", resnet50.InferParameters(batch_size=1), FP32)
    assert infer.flop == pytest.approx(8.18e9, rel=1e-3)
    train = workload.work("train", resnet50.TrainParameters(batch_size=2), FP32)
    assert train.flop is not None
    assert train.flop / 2 == pytest.approx(3 * 8.18e9, rel=1.1e-2)


def test_resnet50_honours_channels_last() -> None:
    job: Any = build("resnet50", "infer", site(memory_format="channels_last"))
    assert job.facts["memory_format"] == "channels_last"
    filters = [p for p in model_of(job).parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
    assert next(job._inputs).is_contiguous(memory_format=torch.channels_last)
    job, other = (
        build("resnet50", "infer", site(memory_format=layout))
        for layout in ("channels_last", "contiguous")
    )
    assert torch.allclose(job.probe()["logits"], other.probe()["logits"], rtol=1e-3, atol=1e-4)


def test_vit_b16_has_its_published_parameters_and_cost() -> None:
    with torch.device("meta"):
        model = vit_b16._construct(12, 224)
    assert parameter_count(model) == vit_b16._parameters(vit_b16.InferParameters()) == 86_567_656
    workload = WORKLOADS["vit-b16"]
    infer = workload.work("infer", vit_b16.InferParameters(batch_size=3), FP32)
    assert infer.flop == pytest.approx(3 * 2 * 17.56e9, rel=1e-3)


def test_a_cut_vit_lacks_layers_and_positions_only() -> None:
    cut = vit_b16.InferParameters(layers=2, image_size=48)
    with torch.device("meta"):
        model = vit_b16._construct(2, 48)
    assert parameter_count(model) == vit_b16._parameters(cut)
    whole = {path: p.shape for path, p in vit_b16._construct(2, 224).named_parameters()}
    differ = {path for path, p in model.named_parameters() if p.shape != whole[path]}
    assert differ == {"vit.embeddings.position_embeddings"}


def test_vit_b16_does_not_drop_out_and_sees_every_patch() -> None:
    job: Any = build("vit-b16", "train", site())
    images, targets = next(job._batches)
    logits = job._evaluate((images, targets))[0]
    assert torch.equal(logits, job._evaluate((images, targets))[0])
    for row in range(0, 48, 16):
        for column in range(0, 48, 16):
            changed = images.clone()
            changed[0, :, row, column] += 1.0
            others = job._evaluate((changed, targets))[0]
            assert not torch.equal(others[0], logits[0])
            assert torch.allclose(others[1], logits[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dit-s-2", "dit-xl-2", "sdxl-unet", "tiny-unet"])
def test_diffusion_models_have_their_published_parameters_and_declared_cost(name: str) -> None:
    unet = _denoisers.UNETS.get(name)
    size = unet or _denoisers.DITS[name]
    counter = FlopCounterMode(display=False)
    latents = (1, 4, size.latents, size.latents)
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model = _denoisers.construct(size)
        step = torch.zeros(1, dtype=torch.long)
        inputs = (torch.empty(latents), step)
        if unet is None:
            with counter:
                _denoisers.denoise_labelled(model, (*inputs, step))
        else:
            added = torch.empty(1, 77, unet.text), torch.empty(1, unet.pooled), step.expand(1, 6)
            with counter:
                _denoisers.denoise_described(model, (*inputs, *added))
    assert size.published_parameters in (None, parameter_count(model))
    workload = WORKLOADS["diffusion"]
    work = workload.work("infer", diffusion.InferParameters(model=name, batch_size=2), FP32)
    assert (work.items, work.unit) == (2, "image-step")
    assert work.flop == 2 * counter.get_total_flops()


def test_dit_costs_what_its_paper_says() -> None:
    workload = WORKLOADS["diffusion"]
    for name, giga in (("dit-s-2", 6.06), ("dit-xl-2", 118.64)):
        work = workload.work("infer", diffusion.InferParameters(model=name, batch_size=1), FP32)
        assert work.flop == pytest.approx(2e9 * giga, rel=0.005)


def test_dit_learns_the_noise_that_was_added_and_drops_no_label() -> None:
    job: Any = build("diffusion", "train", site(), batch_size=2)
    (latents, timesteps, classes), noise = batch = next(job._batches)
    assert latents.shape == noise.shape == (2, 4, 16, 16)
    assert timesteps.shape == classes.shape == (2,)
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[timesteps]
    rest = latents - (1 - kept).sqrt().view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(
        rest.std((1, 2, 3)).double(), kept.sqrt(), rtol=0.1, atol=0.0, check_dtype=False
    )
    prediction, loss = job._evaluate(batch)
    assert prediction.shape == noise.shape
    assert loss.item() == pytest.approx((prediction - noise).square().mean().item())
    assert torch.equal(prediction, job._evaluate(batch)[0])
    others = job._evaluate(((latents, timesteps, (classes + 1) % 1000), noise))[0]
    assert not torch.equal(prediction, others)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.usefixtures("small_vision")
def test_a_unet_denoises_by_what_it_is_told(precision: str) -> None:
    job: Any = build("diffusion", "infer", site(PRECISIONS[precision]), model="tiny-unet-2l")
    no_questions: Any = NoQuestions
    with no_questions():
        job.step()
    inputs = next(job._inputs)
    job._inputs = itertools.repeat(inputs)
    before = job.probe()["logits"]
    assert before.shape == (2, 4, 16, 16)
    for index in range(len(inputs)):
        changed = list(inputs)
        changed[index] = changed[index] + 1
        job._inputs = itertools.repeat(tuple(changed))
        assert not torch.equal(job.probe()["logits"], before), index


@pytest.mark.parametrize("mode", ["train", "train-pipeline", "infer"])
def test_the_gate_of_a_training_on_tiny_images_has_batch_statistics(mode: str) -> None:
    workload = WORKLOADS["resnet50"]
    parameters = msgspec.convert({"image_size": 32}, workload.modes[mode].parameters)
    twin: Any = workload.twin(mode, parameters)
    assert twin.image_size == (32 if mode == "infer" else 48)
