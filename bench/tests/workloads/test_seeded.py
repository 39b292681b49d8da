"""Seeded construction: the weights that the library would draw, the same at every precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.precision import PRECISIONS, REFERENCE
from bench.tests.small_workloads import FP32, one_thread, site
from bench.workloads import _denoisers, bert, qwen3, resnet50, vit_b16, whisper
from bench.workloads.jobs.seeded import SeededData, build_model, parameter_count
from bench.workloads.language import gpts, latent, llamas

__all__ = ["one_thread"]  # a fixture, used by being here
MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "resnet50": resnet50._construct,
    "bert": functools.partial(bert._construct, bert.SIZES["tiny"]),
    "llama": llamas.SIZES["tiny"].construct,
    "deepseek": latent.SIZES["tiny"].construct,
    "qwen3": qwen3.SIZES["tiny"].construct,
    "qwen3 with experts": qwen3.SIZES["tiny-moe"].construct,
    "gpt-oss": gpts.SIZES["tiny"].construct,
    "deepseek v3": latent.SIZES["tiny-v3"].construct,
    "vit-b16": functools.partial(vit_b16._construct, 1, 48),
    "dit": functools.partial(_denoisers.construct, _denoisers.DITS["tiny"]),
    "unet": functools.partial(_denoisers.construct, _denoisers.UNETS["tiny-unet-2l"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_seeded_weights_are_distributed_as_the_library_would_draw_them(name: str) -> None:
    ours = build_model(MODELS[name], None, SeededData(0), site())
    library = MODELS[name]()
    theirs = dict(library.named_parameters())
    buffers = dict(library.named_buffers())
    for path, parameter in ours.named_parameters():
        expected = theirs[path].detach()
        drawn = expected.std() > 1e-6
        if drawn and expected.numel() >= 1000:
            assert parameter.std().item() == pytest.approx(expected.std().item(), rel=0.15), path
            assert abs(parameter.mean().item()) < 5 * expected.std().item() / 1000**0.5, path
        elif not drawn:
            assert torch.equal(parameter, expected), path
    for path, buffer in ours.named_buffers():
        assert torch.equal(buffer, buffers[path]), path


@pytest.mark.parametrize("name", MODELS)
def test_precisions_hold_the_same_weights_rounded(name: str) -> None:
    single, half, double = (
        dict(build_model(MODELS[name], None, SeededData(7), site(p)).named_parameters())
        for p in (FP32, PRECISIONS["bf16"], REFERENCE)
    )
    for path, parameter in single.items():
        assert torch.equal(half[path], parameter.to(torch.bfloat16)), path
        assert torch.equal(double[path], parameter.double()), path


def test_no_two_rows_of_a_large_weight_are_equal() -> None:
    weight = SeededData(0).normal((3000, 768), torch.float32)
    assert len({tuple(row) for row in weight[:, :4].tolist()}) == len(weight)


def test_tied_weights_stay_tied() -> None:
    model: Any = build_model(MODELS["llama"], None, SeededData(0), site(PRECISIONS["bf16"]))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_rotary_frequencies_keep_float32_and_batch_statistics_follow_the_weights() -> None:
    llama_model: Any = build_model(MODELS["llama"], None, SeededData(0), site(PRECISIONS["bf16"]))
    assert llama_model.model.rotary_emb.inv_freq.dtype == torch.float32
    buffers = dict(
        build_model(
            MODELS["resnet50"], None, SeededData(0), site(PRECISIONS["bf16"])
        ).named_buffers()
    )
    assert {value.dtype for key, value in buffers.items() if "running" in key} == {torch.bfloat16}
    assert {value.dtype for key, value in buffers.items() if "tracked" in key} == {torch.int64}


def test_an_initialiser_that_is_not_understood_is_not_guessed() -> None:
    def construct() -> torch.nn.Module:
        layer = torch.nn.Linear(4, 4)
        torch.nn.init.orthogonal_(layer.weight)
        return layer

    with pytest.raises(NotImplementedError, match="goes on with"):
        build_model(construct, None, SeededData(0), site())


@pytest.mark.parametrize("bound", [0.5, 2.0, 100.0])
def test_a_truncated_normal_is_drawn_as_a_normal_of_its_deviation(bound: float) -> None:
    def construct() -> torch.nn.Module:
        layer = torch.nn.Linear(300, 300)
        torch.nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.02 * bound, b=0.02 * bound)
        return layer

    library: Any = construct()
    assert library.weight.abs().max() <= 0.02 * bound  # torch is as it was, before and after
    ours: Any = build_model(construct, None, SeededData(0), site())
    assert ours.weight.std().item() == pytest.approx(library.weight.std().item(), rel=0.02)
    again: Any = construct()
    assert again.weight.abs().max() <= 0.02 * bound


def test_a_truncated_normal_that_is_not_centred_is_not_guessed() -> None:
    def construct() -> torch.nn.Module:
        layer = torch.nn.Linear(4, 4)
        torch.nn.init.trunc_normal_(layer.weight, a=0.0)
        return layer

    with pytest.raises(NotImplementedError, match=r"around 0.0 from 0.0 to 2.0"):
        build_model(construct, None, SeededData(0), site())


def test_a_model_that_is_not_the_published_one_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"20 parameters, but the published model has 21"):
        build_model(lambda: torch.nn.Linear(4, 4), 21, SeededData(0), site())


PUBLISHED = [
    (module, name, size.published_parameters)
    for module in (bert, llamas, latent, gpts, qwen3, whisper)
    for name, size in module.SIZES.items()
    if size.published_parameters
]


@pytest.mark.parametrize(("module", "name", "published"), PUBLISHED)
def test_models_have_their_published_parameters(module: Any, name: str, published: int) -> None:
    with torch.device("meta"):
        size = module.SIZES[name]
        model = size.construct() if hasattr(size, "construct") else module._construct(size)
    assert parameter_count(model) == published
