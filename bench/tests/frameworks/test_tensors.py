"""What every framework's tensors are asked: torch's own ways, and those that any framework has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench import catalogue
from bench.framework import Tensors
from bench.frameworks.torch import TorchTensors
from bench.precision import PRECISIONS

OWN = TorchTensors()


class ByWords(TorchTensors):
    """torch's tensors, changed as those of a framework that has no way of its own."""

    flip: Any = Tensors.flip
    turn: Any = Tensors.turn


WAYS = {"own": OWN, "by words": ByWords()}


def values(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-6, 6).reshape(4, 3).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_a_tensor_is_turned_alike_and_exactly_back(dtype: torch.dtype) -> None:
    found = []
    for kit in WAYS.values():
        held = values(dtype)
        where = held.data_ptr()
        with kit.altered(held) as differs:
            found.append(held.clone())
        assert differs and torch.equal(held, values(dtype)) and held.data_ptr() == where
    own, by_words = found
    assert torch.equal(own, by_words) and not torch.equal(own, values(dtype))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16-amp", torch.float32), ("bf16", torch.bfloat16)],
)
@pytest.mark.parametrize("rows", [0, 1])
def test_weights_are_nudged_alike_and_exactly_back(
    precision: str, dtype: torch.dtype, rows: int
) -> None:
    found = []
    for kit in WAYS.values():
        weights = [values(dtype), torch.ones(3, dtype=torch.int8)]
        with kit.nudged(weights, PRECISIONS[precision], rows):
            found.append(weights[0].clone())
            assert torch.equal(weights[1], torch.ones(3, dtype=torch.int8))
        assert torch.equal(weights[0], values(dtype))
    own, by_words = found
    assert torch.equal(own, by_words)
    moved = (own != values(dtype)).any(1)
    assert moved.tolist() == [row % 2 == rows for row in range(4)]


@pytest.mark.parametrize(
    "held",
    [
        values(torch.float32).t(),
        values(torch.bfloat16)[:, ::2],
        values(torch.float32)[:, :1],
        values(torch.float32)[:1, ::3],
        values(torch.complex64)[:, ::2],
        values(torch.float8_e4m3fn).t(),
        values(torch.bool)[::2],
        values(torch.float32)[0, 0],
        values(torch.float64)[:0],
        torch.arange(4.0).expand(3, 4),
        torch.ones(3, requires_grad=True),
    ],
    ids=lambda held: f"{held.dtype} {tuple(held.shape)} {held.stride()}",
)
def test_words_are_the_bits_however_a_tensor_lies(held: torch.Tensor) -> None:
    before = held.detach().clone()
    words = OWN.words(held)
    assert words.shape == tuple(held.shape) and words.itemsize == held.itemsize
    # By numbers: none of these has two ways to write one.
    numbers = torch.from_numpy(words.copy()).view(held.dtype)
    assert torch.equal(numbers, before)
    words[...] = 0
    assert torch.equal(held.detach(), before), "a copy"


@pytest.mark.parametrize("kit", WAYS.values(), ids=WAYS)
def test_a_tensor_without_a_dimension_is_left_alone(kit: Tensors) -> None:
    with kit.altered(torch.tensor(2.0)) as differs:
        assert not differs


def test_torch_is_found_by_its_name_and_hands_nothing_over() -> None:
    framework = catalogue.framework("torch")
    assert framework.name == "torch" and not framework.hands_over
    host = framework.tensors.on_host(torch.tensor([1.5], dtype=torch.bfloat16))
    assert host.dtype == np.float64 and host.tolist() == [1.5]
