"""What is said of MindSpore's models before and after they run: all that needs no MindSpore."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.frameworks.mindspore import BUILDERS
from bench.frameworks.on_mindspore.models import facts_of, looks_of
from bench.precision import PRECISIONS
from bench.tests.small_workloads import site, small
from bench.workload import Unsupported


class Model:
    """Two cells, one weight each."""

    def __init__(self, modes: tuple[bool, bool], dtype: str = "Float32") -> None:
        self.modes, self.dtype = modes, dtype

    def trainable_params(self) -> list[Any]:
        return [SimpleNamespace(shape=(3, 4), dtype=kind) for kind in ("Float32", self.dtype)]

    def cells_and_names(self) -> list[tuple[str, Any]]:
        return [("", SimpleNamespace(training=mode)) for mode in self.modes]


def test_other_parameters_than_published_are_refused() -> None:
    model = Model((False, False))
    assert facts_of("BERT", model, 24)["parameters"] == "24"
    assert facts_of("BERT", model, None)["parameters"] == "24"
    with pytest.raises(RuntimeError, match="with 24 parameters, but the published model has 25"):
        facts_of("BERT", model, 25)


@pytest.mark.parametrize(
    ("model", "training", "wrong"),
    [
        (Model((False, False)), False, {}),
        (Model((True, True)), True, {}),
        (Model((False, True)), False, {"mode of the model": "training"}),
        (Model((True, False)), True, {"mode of the model": "evaluation"}),
        (Model((True, True), "Float16"), True, {"dtype of the weights": "float16"}),
    ],
)
def test_modes_and_widths_are_looked_at(model: Model, training: bool, wrong: Any) -> None:
    looks = list(looks_of(model, site(), training))
    assert [look.what for look in looks] == ["mode of the model", "dtype of the weights"]
    assert {look.what: look.seen for look in looks if look.seen != look.asked} == wrong


@pytest.mark.parametrize(
    ("name", "mode", "layout", "given", "said"),
    [
        ("resnet50", "infer", "channels_last", {}, "no channels_last layout"),
        ("bert", "train", "contiguous", {"gradient_checkpointing": True}, "no gradient checkp"),
        ("vit-b16", "infer", "contiguous", {}, "no vit-b16-infer, so far. There are: gemm-matmul"),
    ],
)
def test_what_it_has_not_is_named(
    name: str, mode: str, layout: str, given: dict[str, Any], said: str
) -> None:
    at = msgspec.structs.replace(site(), memory_format=layout)
    workload = catalogue.workload(name)
    draws: Any = object()  # nothing is drawn
    with pytest.raises(Unsupported, match=said):
        catalogue.framework("mindspore").build(
            workload, mode, small(name, mode, **given), at, draws
        )


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("bert", "AdamWeightDecay"), ("llama", "AdamWeightDecay"), ("resnet50", "ApplyMomentum")],
)
def test_what_no_kernel_updates_is_not_trained(name: str, kernel: str) -> None:
    """Where a product of bfloat16 there may be."""
    at = site(PRECISIONS["bf16"])
    draws: Any = object()  # nothing is drawn
    with pytest.raises(Unsupported, match=f"its {kernel} moves no bfloat16 weights"):
        BUILDERS[name, "train"]("train", small(name, "train"), at, draws)
