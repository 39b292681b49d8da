"""Activations, norms, losses and batched products are held to float64, at the timed size."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.measuring.asked import complaint
from bench.precision import PRECISIONS
from bench.tests.small_workloads import build, one_thread, site, small
from bench.tests.workloads.test_model_spots import kernel, void
from bench.workloads.spots import attention_calls, model_spots, product_spots
from bench.workloads.spots.model_spots import ABSENT

__all__ = ["one_thread"]  # a fixture, used by being here

FUNCTIONS: dict[str, Callable[[Tensor], tuple[dict[str, Any], Callable[..., Tensor]]]] = {
    "silu": lambda x: ({}, functional.silu),
    "gelu": lambda x: ({"approximate": "tanh"}, functional.gelu),
    "softmax": lambda x: ({"dim": -1}, functional.softmax),
    "layer_norm": lambda x: (
        {"normalized_shape": (40,), "weight": x[0, 0], "bias": x[0, 1]},
        functional.layer_norm,
    ),
    "rms_norm": lambda x: (
        {"normalized_shape": (40,), "weight": x[0, 0], "eps": 1e-6},
        functional.rms_norm,
    ),
}


def told(name: str, given: dict[str, Any], output: Tensor, precision: str = "fp32") -> str:
    call = model_spots._call(name, given, output)
    assert call is not None
    return complaint(call.looks(name, site(PRECISIONS[precision])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shift", [0.0, -30.0, 300.0])
def test_rows_are_held_to_their_definition(name: str, dtype: torch.dtype, shift: float) -> None:
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    x = (torch.randn(3, 50, 40) + shift).to(dtype)
    more, function = FUNCTIONS[name](x)
    output = function(x, **more)
    given = {"input": x, **more}
    assert told(name, given, output, precision) == ""
    if shift == 0.0:
        output[-1, -1] = output[0, 0]
        assert "at row 149" in told(name, given, output, precision)


LOSSES: dict[str, tuple[Any, Any]] = {
    "cross_entropy": (lambda: torch.randn(200, 30) * 3, lambda: torch.randint(0, 30, (200,))),
    "mse_loss": (lambda: torch.randn(200, 4, 5), lambda: torch.randn(200, 4, 5)),
    "binary_cross_entropy_with_logits": (
        lambda: torch.randn(200) * 3,
        lambda: torch.randint(0, 2, (200,)).float(),
    ),
}


@pytest.mark.parametrize("piece", [64, 2**26])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_mean_of_all_rows(
    name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.workloads.spots.row_spots.PIECE", piece)
    x, target = (make() for make in LOSSES[name])
    loss: Callable[..., Tensor] = getattr(functional, name)
    given = {"input": x, "target": target}
    assert told(name, given, loss(x, target)) == ""
    assert "at the mean" in told(name, given, loss(x[:64], target[:64]))


@pytest.mark.parametrize("far", [4.0, 16.0, 60.0])
def test_a_loss_that_is_learned_is_sound(far: float) -> None:
    """It is a small difference of large numbers, to 24 bits."""
    x, target = torch.randn(200, 30), torch.randint(0, 30, (200,))
    x[torch.arange(200), target] += far
    loss = functional.cross_entropy(x, target)
    assert told("cross_entropy", {"input": x, "target": target}, loss) == ""


def test_a_loss_in_16_bits_or_without_some_targets_is_not_looked_at() -> None:
    x, target = torch.randn(200, 30), torch.randint(0, 30, (200,))
    target[7] = -100
    given = {"input": x, "target": target}
    call = model_spots._call("cross_entropy", given, functional.cross_entropy(x, target))
    assert call is not None and call.looks("loss", site()) == []
    given = {"input": x.bfloat16(), "target": target}
    output = functional.cross_entropy(given["input"], target)
    assert model_spots._call("cross_entropy", given, output) is None


@pytest.mark.parametrize(
    "more", [{"reduction": "sum"}, {"weight": torch.ones(30)}, {"label_smoothing": 0.1}]
)
def test_another_loss_is_not_looked_at(more: dict[str, Any]) -> None:
    x, target = (make() for make in LOSSES["cross_entropy"])
    given = {"input": x, "target": target, **more}
    output = functional.cross_entropy(x, target, **more)
    assert model_spots._call("cross_entropy", given, output) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_matrix_of_a_batch_is_held_to_its_own(dtype: torch.dtype) -> None:
    precision = "fp32" if dtype == torch.float32 else "bf16"
    a, b = torch.randn(3, 5, 6, 7).to(dtype), torch.randn(3, 5, 7, 9).to(dtype)
    output = a @ b
    assert told("matmul", {"input": a, "mat2": b}, output, precision) == ""
    output[-1, -1] = output[0, 0]
    assert "matrix 15 of 15 of " in told("matmul", {"input": a, "mat2": b}, output, precision)


# In a model


def behind_64(function: Callable[..., Tensor], wrong: Callable[..., Tensor]) -> Any:
    """What it gives up to 64 rows, and what is wrong behind them."""

    def of(x: Tensor, *more: Any) -> Tensor:
        found = function(x, *more)
        rows = found.view(-1, found.shape[-1])
        if len(rows) > 64:
            rows[64:] = wrong(rows, x)[64:]
        return found

    return of


def test_an_activation_that_lets_rows_pass_is_void() -> None:
    right = behind_64(lambda x: x * x.sigmoid(), lambda rows, x: x.reshape(rows.shape))
    with kernel("silu", right):
        found = void("llama", "prefill", small("llama", "prefill", prompt_length=96), site())
    assert found.keys() == {"activation"}
    assert "1 of 3 (96 x 128) at the timed size" in found["activation"]


def first_rows(
    x: Tensor, target: Tensor, weight: object, reduction: int, left_out: int
) -> tuple[Tensor, Tensor]:
    """The mean over 64 rows, however many there are."""
    rows = len(x) if reduction == 0 else 64
    found = -x[:rows].gather(1, target[:rows, None])[:, 0]
    return (found, x.new_zeros(())) if reduction == 0 else (found.mean(), x.new_tensor(64.0))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-amp"])
def test_a_loss_of_the_first_rows_is_void(precision: str) -> None:
    given = small("llama", "train", batch_size=2, sequence_length=128)
    with kernel("nll_loss_forward", first_rows):
        found = void("llama", "train", given, site(PRECISIONS[precision]))
    assert found.keys() == {"loss", "gradient"}
    assert "1 of 1 (cross_entropy of 256 x " in found["loss"] and "at the mean" in found["loss"]


def test_a_batch_of_products_like_its_first_is_void() -> None:
    def like_first(a: Tensor, b: Tensor) -> Tensor:
        found = torch.stack([x @ y for x, y in zip(a, b, strict=True)])
        found[64:] = found[0]
        return found

    with kernel("bmm", like_first):
        found = void("dlrm", "infer", small("dlrm", "infer", batch_size=128), site())
    assert found.keys() == {"matrix"}
    assert " of 128 of batched product 1 of 1 (27 x 27 x " in found["matrix"]


def test_what_was_found_wrong_stands_if_a_later_look_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job: Any = build("llama", "prefill", site())
    job.step()
    right = product_spots._gather

    def wrong(x: Tensor, given: Any, output: Tensor) -> Any:
        return right(x, given, output + 1)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(product_spots, "_gather", wrong)
    monkeypatch.setattr(attention_calls, "places", fail)  # of attention

    said = complaint(job.looks())
    assert "rows of its table, as they are" in said
    assert job.facts[ABSENT].startswith("not observable: ")


def failing(at: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int, Any]:
    """Of a look that fails in a step whose second time fails too: what is said, how often the step
    was taken, and what is left of what it read."""

    def fail(*_: object) -> None:
        raise ValueError("no room")

    def step() -> None:
        steps.append(1)
        torch.softmax(x, -1)
        if len(steps) > 1:
            raise RuntimeError("nothing was recorded")

    steps: list[int] = []
    job, x = SimpleNamespace(thorough=True, facts={}), torch.randn(3, 3)
    monkeypatch.setattr(model_spots, "_call", fail)
    model_spots.looks(job, at, step)  # type: ignore[arg-type]  # of a job it needs no more
    return job.facts.get(ABSENT), len(steps), weakref.ref(x)


@pytest.mark.parametrize(("ranks", "times"), [(None, 1), (SimpleNamespace(), 2)])
def test_a_look_that_fails_keeps_nothing_and_is_told_first(
    ranks: Any, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at: Any = msgspec.structs.replace(site(), ranks=ranks)
    gc.disable()  # as while a launch measures
    try:
        said, taken, left = failing(at, monkeypatch)
        assert left() is None
    finally:
        gc.enable()
    assert said == "not observable: ValueError: no room"
    assert taken == times
