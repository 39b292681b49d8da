"""Convolutions and batch norms are held to float64, with their gradients, at the timed size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bench.measuring.asked import complaint
from bench.precision import PRECISIONS
from bench.tests.small_workloads import one_thread, site, small
from bench.tests.workloads.test_gradient_spots import NAMED, told
from bench.tests.workloads.test_model_spots import kernel, void
from bench.workloads.spots import model_spots

__all__ = ["one_thread"]  # a fixture, used by being here

pytestmark = pytest.mark.usefixtures("small_vision")

CONVOLUTIONS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ("conv2d", (3, 5, 9, 8), (7, 5, 3, 3), {}),
    "of one": ("conv2d", (3, 5, 9, 8), (7, 5, 1, 1), {}),
    "strided": ("conv2d", (3, 5, 9, 8), (7, 5, 3, 2), {"stride": 2, "padding": (1, 0)}),
    "apart": ("conv2d", (3, 5, 9, 8), (7, 5, 3, 3), {"dilation": 2, "padding": 2}),
    "groups": ("conv2d", (3, 6, 9, 8), (8, 3, 3, 3), {"groups": 2, "padding": 1}),
    "patches": ("conv2d", (3, 3, 16, 16), (7, 3, 8, 8), {"stride": (8, 8)}),
    "a line": ("conv1d", (3, 5, 20), (7, 5, 3), {"stride": 2, "padding": 1}),
}


def made(name: str, given: dict[str, Any]) -> tuple[Any, Tensor, Tensor, dict[str, Tensor]]:
    """The call, its output, the gradient that is given, and those of what it was given."""
    leaves = {word: x for word, x in given.items() if isinstance(x, Tensor) and x.requires_grad}
    output = getattr(functional, name)(**given)
    upstream = torch.randn_like(output)
    found = torch.autograd.grad(output, list(leaves.values()), upstream)
    call = model_spots._call(name, given, output.detach())
    return call, output.detach(), upstream, dict(zip(leaves, found, strict=True))


def of_output(name: str, given: dict[str, Any], output: Tensor, dtype: torch.dtype) -> str:
    call = model_spots._call(name, given, output)
    assert call is not None
    return complaint(call.looks(name, site(PRECISIONS[NAMED[dtype]])))


def spoiled(x: Tensor) -> Tensor:
    """What lies at the end is wrong: its last value, or its last channel."""
    wrong = x.contiguous().clone()
    wrong.view(-1)[-1] += 3 * wrong.abs().max()
    return wrong


@pytest.mark.parametrize("dtype", NAMED)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("of", CONVOLUTIONS)
def test_a_convolution_is_held_to_its_definition(
    of: str, bias: bool, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    name, shape, kernel_shape, how = CONVOLUTIONS[of]
    if name == "conv1d":
        layout = torch.contiguous_format
    x, weight = (
        torch.randn(each).to(dtype).to(memory_format=layout).requires_grad_()
        for each in (shape, kernel_shape)
    )
    beside = torch.randn(len(weight)).to(dtype) if bias else None
    given = {"input": x, "weight": weight, "bias": beside, **how}
    _, output, upstream, found = made(name, given)
    call = model_spots._call(name, given, output)
    assert call is not None and {*call.gradients} == {"input", "weight"}
    assert of_output(name, given, output, dtype) == ""
    assert "an error of" in of_output(name, given, spoiled(output), dtype)
    for word, gradient in found.items():
        assert told(call, word, upstream, gradient, dtype) == ""
        assert "an error of" in told(call, word, upstream, spoiled(gradient), dtype)


def test_many_taps_are_added_up_in_16_bits_by_rights() -> None:
    """As torch does on a CPU: of 31 by 31 the error is twice what 7 by 7 may have."""
    dtype = torch.bfloat16
    shapes = ((2, 4, 32, 32), (4, 1, 31, 31))
    x, weight = (torch.randn(each).to(dtype).requires_grad_() for each in shapes)
    given = {"input": x, "weight": weight, "groups": 4, "padding": 15}
    call, _, upstream, found = made("conv2d", given)
    assert told(call, "input", upstream, found["input"], dtype) == ""
    assert "an error of" in told(call, "input", upstream, spoiled(found["input"]), dtype)


def in_e4m3(x: Tensor) -> Tensor:
    scale = x.abs().amax((1, 2, 3), keepdim=True).float() / 448
    return ((x / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype)


def in_int8(x: Tensor) -> Tensor:
    scale = x.abs().amax((1, 2, 3), keepdim=True).float() / 127
    return ((x / scale).round() * scale).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrow", [in_e4m3, in_int8])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_a_convolution_in_8_bits_of_the_16_is_told(
    kernel_size: int, narrow: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    padding = kernel_size // 2
    x = torch.randn(8, 64, 8, 8).relu().to(dtype).requires_grad_()
    weight = (torch.randn(48, 64, kernel_size, kernel_size) / 16).to(dtype).requires_grad_()
    given = {"input": x, "weight": weight, "padding": padding}
    call, right, upstream, found = made("conv2d", given)
    wrong = functional.conv2d(narrow(x.detach()), narrow(weight.detach()), padding=padding)
    assert of_output("conv2d", given, right, dtype) == ""
    assert "an error of" in of_output("conv2d", given, wrong, dtype)
    if narrow is in_e4m3:
        flipped = narrow(weight.detach()).flip(2, 3).transpose(0, 1)
        wrong = functional.conv2d(narrow(upstream), flipped, padding=padding)
        assert told(call, "input", upstream, found["input"], dtype) == ""
        assert "an error of" in told(call, "input", upstream, wrong, dtype)


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """Of a 3 x 3 kernel with a padding of 1 over even sizes, rounded between all that it does."""
    read = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    by = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    out = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
    tiles = functional.pad(x.float(), (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)
    a = (read @ tiles @ read.T).to(x.dtype).float()
    b = (by @ weight.float() @ by.T).to(x.dtype).float()
    found = torch.einsum("ncijab,ocab->noijab", a, b).to(x.dtype).float()
    places = (out @ found @ out.T).permute(0, 1, 2, 4, 3, 5)
    return places.reshape(len(x), len(weight), *x.shape[2:]).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_convolution_of_winograds_is_sound(dtype: torch.dtype) -> None:
    x = torch.randn(4, 64, 8, 8).relu().to(dtype)
    weight = (torch.randn(48, 64, 3, 3) / 16).to(dtype)
    given = {"input": x, "weight": weight, "padding": 1}
    call = model_spots._call("conv2d", given, functional.conv2d(x, weight, padding=1))
    assert of_output("conv2d", given, winograd(x, weight), dtype) == ""
    upstream = torch.randn(4, 48, 8, 8).to(dtype)
    back = winograd(upstream, weight.flip(2, 3).transpose(0, 1))
    assert told(call, "input", upstream, back, dtype) == ""


def test_a_convolution_whose_padding_has_a_name_is_not_looked_at() -> None:
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    given = {"input": x, "weight": weight, "padding": "same"}
    output = functional.conv2d(x, weight, padding="same")
    assert model_spots._call("conv2d", given, output) is None


@pytest.mark.parametrize("dtype", NAMED)
@pytest.mark.parametrize("shift", [0.0, 30.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_is_held_to_its_definition(
    affine: bool, training: bool, shift: float, dtype: torch.dtype
) -> None:
    x = (torch.randn(4, 6, 5, 7) + shift).to(dtype).requires_grad_()
    given: dict[str, Any] = {
        "input": x,
        "running_mean": torch.randn(6).to(dtype) + shift,
        "running_var": torch.rand(6).to(dtype) + 0.5,
        "weight": torch.randn(6).to(dtype).requires_grad_() if affine else None,
        "bias": torch.randn(6).to(dtype).requires_grad_() if affine else None,
        "training": training,
    }
    call, output, upstream, found = made("batch_norm", given)
    assert found.keys() == ({"input", "weight", "bias"} if affine else {"input"})
    assert of_output("batch_norm", given, output, dtype) == ""
    for word, gradient in found.items():
        assert told(call, word, upstream, gradient, dtype) == ""
        if shift == 0.0:
            assert "at channel 5" in told(call, word, upstream, spoiled(gradient), dtype)
    if shift == 0.0:
        assert "at channel 5" in of_output("batch_norm", given, spoiled(output), dtype)
        assert "an error of" in of_output("batch_norm", given, in_e4m3(output), dtype)


# In a model


def first_images(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, *_: Any) -> Any:
    """A convolution of the first four images, over and over."""
    sizes = weight.shape[2:]
    found = torch.ops.aten._slow_conv2d_forward(x[:4], weight, sizes, bias, stride, padding)
    return found.repeat(-(-len(x) // 4), 1, 1, 1)[: len(x)]


def test_a_convolution_of_the_first_images_is_void() -> None:
    given = small("resnet50", "infer", batch_size=6)
    with kernel("convolution", first_images):
        found = void("resnet50", "infer", given, site())
    assert found.keys() == {"convolution"}
    assert found["convolution"].startswith("convolution 1 of 16 (6 x 3 x ")


def quick(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, *_: Any) -> Any:
    """A convolution of more than four images in int8."""
    if len(x) > 4:
        x, weight = in_int8(x), in_int8(weight)
    return torch.ops.aten._slow_conv2d_forward(x, weight, weight.shape[2:], bias, stride, padding)


def test_a_convolution_in_8_bits_is_void() -> None:
    given = small("resnet50", "infer", batch_size=6)
    with kernel("convolution", quick):
        found = void("resnet50", "infer", given, site(PRECISIONS["bf16"]))
    assert found.keys() == {"convolution"}


def of_first(x: Tensor, *more: Any) -> tuple[Tensor, Tensor, Tensor]:
    """A batch norm with the statistics of the first four images."""
    weight, bias, mean, variance, training, momentum, eps = more
    found = x[:4].mean((0, 2, 3)), x[:4].var((0, 2, 3), correction=0)
    if not training:
        found = mean, variance
    else:
        mean.lerp_(found[0], momentum)
        variance.lerp_(x[:4].var((0, 2, 3)), momentum)
    size = (found[1] + eps).rsqrt()
    of = (None, slice(None), None, None)
    return (x - found[0][of]) * (size * weight)[of] + bias[of], found[0], size


def test_a_batch_norm_by_the_first_images_is_void() -> None:
    given = small("resnet50", "train", batch_size=6)
    with kernel("native_batch_norm", of_first):
        found = void("resnet50", "train", given, site())
    assert "batch" in found
    assert found["batch"].startswith("batch norm 1 of 16 (6 x 64 x ")
