"""The bare loops: one for every model of `quick`, and of the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench import catalogue
from bench.planning import plan, suite_file
from bench.tests.values import make_case
from bench.validation import agreement
from bench.validation.bare import text, vision
from bench.workloads import _denoisers, bert, deepseek, llama, resnet50, vit_b16
from bench.workloads._seeded import parameter_count

KERNELS = ("gemm", "memory", "attention", "launch", "transfer")
"""Workloads without a model: what they do is one call of torch."""
QUICK = plan.plan(suite_file.read_suite(suite_file.find_suite(agreement.SUITE)))


def test_every_model_of_quick_has_a_bare_loop() -> None:
    models = {case.name for case in QUICK if case.workload not in KERNELS}
    assert set(agreement.BARE) == models
    assert {case.workload for case in QUICK} >= set(KERNELS)
    assert not set(vision.BARE) & set(text.BARE)


def parameters_of(name: str) -> dict[str, Any]:
    return next(dict(case.parameters) for case in QUICK if case.name == name)


MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "resnet50": (vision._resnet50, resnet50._construct),
    "vit-b16": (
        lambda: vision._vit(parameters_of("vit-b16-train")),
        lambda: vit_b16._construct(12, parameters_of("vit-b16-train")["image_size"]),
    ),
    "diffusion": (
        lambda: vision._dit({"batch_size": 1})[0],
        lambda: _denoisers.construct(_denoisers.DITS["dit-s-2"]),
    ),
    "bert": (text._bert, lambda: bert._construct(bert.SIZES["base"])),
    "llama": (text._llama, lambda: llama._construct(llama.SIZES["smollm2-135m"])),
    "deepseek": (text._deepseek, lambda: deepseek._construct(deepseek.SIZES["v2-lite-cut"])),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_bare_model_is_the_workloads(name: str) -> None:
    """Tensor by tensor, without their values."""
    with torch.device("meta"):
        bare, ours = (make() for make in MODELS[name])
    assert parameter_count(bare) == parameter_count(ours)
    shapes = [{key: p.shape for key, p in m.named_parameters()} for m in (bare, ours)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("workload", "mode", "parameters"),
    [
        ("vit-b16", "infer", {"batch_size": 1, "image_size": 32, "layers": 1}),
        (
            "dlrm",
            "train",
            {
                "batch_size": 16,
                "rows": 50,
                "embedding_dim": 8,
                "lookups": 2,
                "optimizer": "sgd",
            },
        ),
    ],
)
def test_the_two_take_turns(
    monkeypatch: pytest.MonkeyPatch, workload: str, mode: str, parameters: dict[str, Any]
) -> None:
    monkeypatch.setattr(agreement, "TURNS", 2)
    precision = "bf16-amp" if mode == "train" else "bf16"
    version = catalogue.workload(workload).version
    case = make_case(
        workload=workload, mode=mode, version=version, precision=precision, parameters=parameters
    )
    assert agreement.take_turns(case) > 0
