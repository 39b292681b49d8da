"""A job's own noise: two draws, of the even rows and of the odd ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import catalogue
from bench.frameworks.torch import TorchTensors
from bench.measuring.proving import noise
from bench.measuring.proving.witness import Sample
from bench.precision import PRECISIONS
from bench.records.proof import Vector


class Sums:
    """Gives its weights as they are, and notes them."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.held, self.seen = weights, [weights.clone()]

    def training(self) -> None:
        return None

    def weights(self) -> list[torch.Tensor]:
        return [self.held]

    def again(self) -> bool:
        self.seen.append(self.held.clone())
        return True

    def computed(self) -> dict[str, Vector]:
        sample = Sample(0, "output", [self.held])
        vector = sample.vector(sample.gather([self.held]))
        assert vector is not None
        return {"output": vector}


@pytest.mark.parametrize("shape", [(), (5,), (4, 3)])
def test_each_row_is_moved_by_one_rounding_once(shape: tuple[int, ...]) -> None:
    how = PRECISIONS["bf16"]
    job: Any = Sums(torch.full(shape, 1.0, dtype=torch.bfloat16))
    device: Any = catalogue.backend("cpu").open(0, how)
    taken = noise.taken(job, device, how, job.computed(), job.computed)
    assert taken is not None
    found = taken["output"]
    before, even, odd, after = (x.view(torch.int16) for x in (*job.seen, job.held))
    assert torch.equal(before, after)
    if shape:
        assert (even != before)[0::2].all() and not (even != before)[1::2].any()
        assert (odd != before)[1::2].all() and not (odd != before)[0::2].any()
        assert found.error == pytest.approx(2**-7, rel=0.2)  # both draws together: every row
    else:
        assert (even != before).all() and (odd != before).all()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300])
def test_a_figure_that_is_none_can_be_written_and_read(value: float) -> None:
    """JSON has no such numbers: they become null, which is no figure of a record."""
    assert noise.figure(value) == 1e9 and noise.figure(0.12345) == 0.12


class NoNumbers(TorchDispatchMode):
    """A device whose `bitwise_xor_` takes a tensor and no number, as one was seen to."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bitwise_xor_.Scalar:
            raise RuntimeError("expected a tensor")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_bits_are_turned_where_no_number_is_taken(dtype: torch.dtype) -> None:
    """Else there is no noise of its own, and the tolerance is that of the precision."""
    held = torch.ones(4, dtype=dtype)
    with NoNumbers():  # type: ignore[no-untyped-call]
        with TorchTensors().nudged([held], PRECISIONS["bf16"], 0):
            moved = held.float()
        with TorchTensors().altered(held):
            other = held.float()
    assert moved.tolist() == ([1 + 2**-7, 1, 1 + 2**-7, 1] if dtype.itemsize == 2 else [1] * 4)
    assert other.tolist() == [-1] * 4 and held.float().tolist() == [1] * 4
