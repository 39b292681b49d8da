"""Gradients of a model's training are held to float64, at the size that is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.measuring.asked import complaint
from bench.precision import PRECISIONS
from bench.tests.small_workloads import build, one_thread, site, small
from bench.tests.workloads.test_model_spots import eighth, kernel, seen, void
from bench.workloads.layers.batch_statistics import EXCHANGED
from bench.workloads.spots import model_spots

__all__ = ["one_thread"]  # a fixture, used by being here

NAMED = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def ints(*shape: int, below: int) -> Tensor:
    return torch.randint(0, below, shape)


CALLS: dict[str, tuple[str, Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "linear": (
        "linear",
        lambda: {"input": normal(3, 50, 40), "weight": normal(30, 40), "bias": normal(30)},
        ("input", "weight", "bias"),
    ),
    "matmul": ("matmul", lambda: {"input": normal(50, 40), "mat2": normal(40, 30)}, ()),
    "batched": ("matmul", lambda: {"input": normal(9, 5, 7), "mat2": normal(9, 7, 6)}, ()),
    "relu": ("relu", lambda: {"input": normal(3, 50, 40)}, ()),
    "silu": ("silu", lambda: {"input": normal(3, 50, 40)}, ()),
    "gelu": ("gelu", lambda: {"input": normal(3, 50, 40), "approximate": "tanh"}, ()),
    "softmax": ("softmax", lambda: {"input": normal(3, 50, 40), "dim": -1}, ()),
    "layer_norm": (
        "layer_norm",
        lambda: {
            "input": normal(3, 50, 40),
            "normalized_shape": (40,),
            "weight": normal(40),
            "bias": normal(40),
        },
        ("input",),
    ),
    "rms_norm": (
        "rms_norm",
        lambda: {"input": normal(3, 50, 40), "normalized_shape": (40,), "weight": normal(40)},
        (),
    ),
    "attention": (
        "scaled_dot_product_attention",
        lambda: {name: normal(2, 4, 30, 16) for name in ("query", "key", "value")},
        (),
    ),
    "causal attention": (
        "scaled_dot_product_attention",
        lambda: {
            "query": normal(2, 4, 30, 16),
            "key": normal(2, 2, 30, 16),
            "value": normal(2, 2, 30, 16),
            "is_causal": True,
            "enable_gqa": True,
        },
        (),
    ),
    "more queries than keys": (
        "scaled_dot_product_attention",
        lambda: {
            "query": normal(2, 4, 40, 16),
            "key": normal(2, 4, 30, 16),
            "value": normal(2, 4, 30, 16),
            "is_causal": True,
        },
        (),
    ),
    "cross attention": (
        "scaled_dot_product_attention",
        lambda: {
            "query": normal(2, 4, 7, 16),
            "key": normal(2, 4, 30, 16),
            "value": normal(2, 4, 30, 16),
            "attn_mask": torch.rand(7, 30) < 0.7,
        },
        (),
    ),
}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape)


def gradients(
    name: str, given: dict[str, Any], dtype: torch.dtype
) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """The call, the gradient that its output is given, and those of what it was given."""
    given = {
        word: x.to(dtype).requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
        for word, x in given.items()
    }
    leaves = {
        word: x for word, x in given.items() if isinstance(x, Tensor) and x.is_floating_point()
    }
    output = getattr(torch if name in ("matmul",) else functional, name)(
        *(given.values() if name == "matmul" else ()),
        **({} if name == "matmul" else given),
    )
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, list(leaves.values()), upstream)
    with torch.no_grad():
        call = model_spots._call(name, given, output)
    return call, upstream, dict(zip(leaves, (x.clone() for x in found), strict=True))


def told(call: Any, name: str, upstream: Tensor, found: Tensor, dtype: torch.dtype) -> str:
    made = call.gradients[name](upstream, found)
    assert made is not None
    looks = made.looks(name, site(PRECISIONS[NAMED[dtype]]))
    assert looks
    return complaint(looks)


@pytest.mark.parametrize("dtype", NAMED)
@pytest.mark.parametrize("of", CALLS)
def test_each_gradient_is_held_to_its_definition(of: str, dtype: torch.dtype) -> None:
    name, make, only = CALLS[of]
    call, upstream, found = gradients(name, make(), dtype)
    assert {*call.gradients} >= {*(only or found)}
    for word in only or found:
        assert told(call, word, upstream, found[word], dtype) == ""
        spoiled = found[word].contiguous().clone()
        spoiled.view(-1, spoiled.shape[-1] if spoiled.dim() > 1 else 1)[-1] += (
            3 * found[word].abs().max()
        )
        assert "an error of" in told(call, word, upstream, spoiled, dtype)


def test_products_in_8_bits_of_the_16_are_told() -> None:
    dtype = torch.bfloat16
    x, weight = normal(512, 40).to(dtype), normal(300, 40).to(dtype)
    call, upstream, right = gradients("linear", {"input": x, "weight": weight}, dtype)
    sides = {"input": (upstream, weight.detach()), "weight": (upstream.t(), x.detach())}
    for word, (a, b) in sides.items():
        spoiled = eighth(a) @ eighth(b.t()).t()
        assert told(call, word, upstream, right[word], dtype) == ""
        assert "an error of" in told(call, word, upstream, spoiled, dtype)


def test_weight_and_bias_of_a_layer_norm_are_sums_of_all_rows() -> None:
    name, make, _ = CALLS["layer_norm"]
    call, upstream, found = gradients(name, make(), torch.float32)
    for word in ("weight", "bias"):
        assert told(call, word, upstream, found[word], torch.float32) == ""
        wrong = found[word] * 1.1
        assert "at channel " in told(call, word, upstream, wrong, torch.float32)
    call, upstream, found = gradients(name, make(), torch.bfloat16)
    assert call.gradients["bias"](upstream, found["bias"]) is None  # sums of few bits
    # As a CPU's autocast leaves them: the input in 16 bits, weight and bias in 32.
    mixed = {**make(), "input": normal(3, 50, 40).bfloat16()}
    output = functional.layer_norm(**mixed)
    call = model_spots._call(name, mixed, output)
    assert call is not None and output.dtype is torch.bfloat16
    assert call.gradients["bias"](torch.ones_like(output), mixed["bias"]) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_groups_are_held_group_by_group(dtype: torch.dtype) -> None:
    x, matrices = (normal(*shape).to(dtype).requires_grad_() for shape in ((60, 32), (5, 32, 48)))
    ends = torch.tensor([7, 7, 40, 60, 60], dtype=torch.int32)
    output = functional.grouped_mm(x, matrices, offs=ends)
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, (x, matrices), upstream)
    given = {"input": x, "mat2": matrices, "offs": ends}

    def of_output(output: Tensor) -> str:
        call = model_spots._call("grouped_mm", given, output.detach())
        assert call is not None and call.kind == "grouped product"
        return complaint(call.looks("product", site(PRECISIONS[NAMED[dtype]])))

    call = model_spots._call("grouped_mm", given, output.detach())
    assert of_output(output) == ""
    assert "group 4 of 5 of product (20 x 48 x 32)" in of_output(output * 1.1)
    for name, gradient in zip(("input", "mat2"), found, strict=True):
        assert told(call, name, upstream, gradient, dtype) == ""
        wrong = gradient.clone()
        (wrong[40:] if name == "input" else wrong[3])[-8:] = 0
        assert "group 4 of 5 of " in told(call, name, upstream, wrong, dtype)
    unwritten = found[1].clone()
    unwritten[1, 0, 0] = float("nan")
    assert "group 2 of 5 without rows" in told(call, "mat2", upstream, unwritten, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("uniform", [False, True])
def test_attention_whose_queries_see_all_alike_is_sound(dtype: torch.dtype, uniform: bool) -> None:
    """Then the rounding of the output moves all slopes of a query together."""
    name, make, _ = CALLS["attention"]
    given = make()
    given = {word: x[:, :, :, :].repeat(1, 1, 9, 1) for word, x in given.items()}
    given["key"] = given["key"] + 3.0
    if uniform:
        given["query"] = given["query"] * 1e-3
    call, upstream, found = gradients(name, given, dtype)
    assert [told(call, word, upstream, found[word], dtype) for word in found] == ["", "", ""]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", [None, 3])
def test_a_table_has_the_sums_of_its_rows(dtype: torch.dtype, padding: int | None) -> None:
    table = torch.randn(50, 40).to(dtype).requires_grad_()
    indices = ints(3, 60, below=20)
    output = functional.embedding(indices, table, padding)
    upstream = torch.randn_like(output)
    (found,) = torch.autograd.grad(output, table, upstream)
    given = {"input": indices, "weight": table, "padding_idx": padding}
    call = model_spots._call("embedding", given, output)
    assert told(call, "weight", upstream, found, dtype) == ""
    none = found.clone()
    none[20:] = 0.5  # of rows that nobody asked for
    assert "at row" in told(call, "weight", upstream, none, dtype)
    lost = found.clone()
    asked = indices if padding is None else indices[indices != padding]
    lost[asked.flatten().bincount().argmax()] = 0
    assert "at row" in told(call, "weight", upstream, lost, dtype)


@pytest.mark.parametrize("far", [0.0, 16.0])
@pytest.mark.parametrize("name", ["cross_entropy", "mse_loss", "binary_cross_entropy_with_logits"])
def test_a_loss_gives_each_row_its_share(name: str, far: float) -> None:
    x, target = torch.randn(200, 30), torch.randint(0, 30, (200,))
    if name != "cross_entropy":
        target = torch.rand(200, 30)
    else:
        x[torch.arange(200), target] += far
    x.requires_grad_()
    output = getattr(functional, name)(x, target)
    (found,) = torch.autograd.grad(output, x, torch.tensor(0.5))
    call = model_spots._call(name, {"input": x, "target": target}, output)
    assert told(call, "input", torch.tensor(0.5), found, torch.float32) == ""
    assert "at row" in told(call, "input", torch.tensor(0.5), found * 2, torch.float32) or far
    assert "at row" in told(call, "input", torch.tensor(0.5), found.abs() + 1e-3, torch.float32)


def test_a_loss_that_leaves_out_targets_is_not_looked_at() -> None:
    x, target = torch.randn(200, 30, requires_grad=True), ints(200, below=30)
    target[::5] = -100
    output = functional.cross_entropy(x, target)
    (found,) = torch.autograd.grad(output, x)
    call = model_spots._call("cross_entropy", {"input": x, "target": target}, output)
    made = call and call.gradients["input"](torch.tensor(1.0), found)
    assert made is not None and made.looks("loss", site()) == []


def test_a_table_of_which_every_row_is_asked_for_too_often_is_not_looked_at() -> None:
    table = torch.randn(2, 40).bfloat16().requires_grad_()
    indices = torch.ones(200, dtype=torch.int64)
    output = functional.embedding(indices, table)
    (found,) = torch.autograd.grad(output.sum(), table)
    call = model_spots._call("embedding", {"input": indices, "weight": table}, output)
    made = call and call.gradients["weight"](torch.ones_like(output), found)
    assert made is not None  # but the row that nobody asked for
    assert complaint(made.looks("table", site(PRECISIONS["bf16"]))) == ""


# In a model


def few_rows(a: Tensor, b: Tensor) -> Tensor:
    """A product whose sums have 512 terms at the most, as of a weight's gradient."""
    return torch.addmm(a.new_zeros(b.shape[1]), a[:, :512], b[:512])


@pytest.mark.parametrize("precision", ["fp32", "bf16-amp"])
def test_a_weight_that_learns_from_the_first_rows_alone_is_void(precision: str) -> None:
    given = small("llama", "train", batch_size=4, sequence_length=256)
    with kernel("mm", few_rows):
        found = void("llama", "train", given, site(PRECISIONS[precision]))
    assert found.keys() == {"gradient"}
    assert found["gradient"].startswith("gradient of weight in product ")


def grouped(
    a: Tensor, b: Tensor, offs: Tensor, bias: object = None, out_dtype: object = None
) -> Tensor:
    """Products in groups: a weight's gradient is of the first 64 rows of its group."""
    starts = [0, *offs.tolist()]
    groups = [slice(*pair) for pair in zip(starts, offs.tolist(), strict=False)]
    if b.dim() == 3:
        return torch.cat([a[rows] @ b[group] for group, rows in enumerate(groups)])
    return torch.stack([a[:, rows][:, :64] @ b[rows][:64] for rows in groups])


def test_experts_that_learn_from_the_first_rows_alone_are_void() -> None:
    given = small("gpt-oss", "train", batch_size=4, sequence_length=64)
    with kernel("_grouped_mm", grouped):
        found = void("gpt-oss", "train", given, site())
    assert found.keys() == {"group"}
    assert " of gradient of mat2 in grouped product " in found["group"]


def without_targets(upstream: Tensor, x: Tensor, target: Tensor, *more: Any) -> Tensor:
    """The gradient of a loss that forgets its targets behind 64 rows."""
    found = torch.zeros_like(x)
    rows = slice(64) if len(x) > 64 else slice(None)
    found[rows].scatter_(1, target[rows, None], -1.0 / len(x))
    return found * upstream


def test_a_loss_that_forgets_targets_in_its_backward_is_void() -> None:
    given = small("llama", "train", batch_size=2, sequence_length=128)
    with kernel("nll_loss_backward", without_targets):
        found = void("llama", "train", given, site())
    assert found.keys() == {"gradient"}
    assert found["gradient"].startswith("gradient of input in loss 1 of 1 ")


@pytest.mark.parametrize("overwritten", [False, True])
def test_what_was_overwritten_since_is_not_looked_at(overwritten: bool) -> None:
    x = torch.randn(100, 30, requires_grad=True)

    def step() -> None:
        between = x * 2
        found = functional.relu(between).sum()  # which keeps what it gave
        if overwritten:
            between.detach().mul_(-1.0)
        found.backward()

    looks: list[Any] = []
    model_spots._see(site(), step, step, looks)
    assert complaint(looks) == ""
    assert len(looks) == (1 if overwritten else 2)


def test_a_written_norm_whose_weight_learns_from_the_first_rows_alone_is_void(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(norm: Any, x: Tensor) -> Tensor:
        size = (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
        rows = (x / size).flatten(0, -2)
        parts = rows[:512] * norm.weight, rows[512:] * norm.weight.detach()
        return torch.cat(parts).view_as(x)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)
    found = void(
        "llama", "train", small("llama", "train", batch_size=4, sequence_length=256), site()
    )
    assert found.keys() == {"gradient"}
    assert found["gradient"].startswith("gradient of weight in norm ")


class Written(torch.nn.Module):
    """As a library writes out a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(30))
        self.variance_epsilon = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


@pytest.mark.parametrize("times", [1, 2])
def test_a_written_norm_is_followed_where_its_weight_is_of_one_call(times: int) -> None:
    norm, x = Written(), torch.randn(100, 30, requires_grad=True)

    def step() -> None:
        stream = x
        for _ in range(times):
            stream = stream + norm(stream)
        stream.square().sum().backward()

    looks: list[Any] = []
    model_spots._see(site(), step, step, looks)
    assert complaint(looks) == ""
    whole = sum(look.what.startswith("gradient of weight in norm") for look in looks)
    assert whole == (1 if times == 1 else 0)


def test_layers_that_are_computed_again_are_looked_at_once() -> None:
    found = void("llama", "train", small("llama", "train", gradient_checkpointing=True), site())
    assert found == {}


def test_no_backward_is_taken_in_which_ranks_wait() -> None:
    job: Any = build("llama", "train", site())
    job.step()
    job.facts = {**job.facts, EXCHANGED: "sums"}
    assert "product" in (found := seen(job)) and "gradient" not in found
    assert "ranks wait" in job.facts[model_spots.OF_GRADIENTS]
