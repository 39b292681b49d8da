"""The standard operators: what the workloads are made of, each with inputs and a reference.

Not a check. An operator is called on a device and, with the same rounded inputs, in float64 on the
CPU; its gradients follow from a fixed gradient of its first result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import matmul, methodcaller
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

Inputs = tuple[list["Tensor"], list["Tensor"]]
"""Floating-point tensors, which get the dtype that is asked for; and indices, which do not."""


class Operator(NamedTuple):
    """One line of the table."""

    name: str
    call: Callable[..., Any]
    """Gives a tensor, or several."""
    inputs: Callable[[Generator], Inputs]
    gradients: bool = True


def values(
    operator: Operator, inputs: Inputs, place: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    """Results and gradients at a place; inputs: on the CPU, in the dtype that is tested.

    dtype: float64 for the reference, else that of the inputs. Raises TypeError where a result has
    another dtype.
    """
    import torch

    floats = [x.detach().to(place, dtype).requires_grad_(operator.gradients) for x in inputs[0]]
    given = operator.call(*floats, *(x.to(place) for x in inputs[1]))
    results = (given,) if isinstance(given, torch.Tensor) else given
    for result in results:
        if result.is_floating_point() and result.dtype != dtype:
            raise TypeError(f"{dtype} asked for, {result.dtype} given")
    if operator.gradients:
        weight = torch.randn(results[0].shape, generator=torch.Generator().manual_seed(1))
        weight = weight.to(inputs[0][0].dtype).to(place, dtype)
        torch.autograd.backward(results[:1], [weight])
    found = [*results, *(x.grad for x in floats if x.grad is not None)]
    return [value.detach().cpu() for value in found]


def _drawn(
    *shapes: tuple[int, ...], indices: Sequence[tuple[int, tuple[int, ...]]] = ()
) -> Callable[[Generator], Inputs]:
    """Normals of these shapes; indices: below how many, and of which shape."""

    def make(generator: Generator) -> Inputs:
        import torch

        floats = [torch.randn(shape, generator=generator) for shape in shapes]
        return floats, [torch.randint(0, n, shape, generator=generator) for n, shape in indices]

    return make


def _functional(name: str, **options: Any) -> Callable[..., Any]:
    """Of `torch.nn.functional`."""

    def call(*tensors: Tensor) -> Any:
        import torch

        return getattr(torch.nn.functional, name)(*tensors, **options)

    return call


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """In training: the batch's statistics, and the running ones that it moves."""
    import torch

    mean, variance = torch.zeros_like(weight).detach(), torch.ones_like(weight).detach()
    out = torch.nn.functional.batch_norm(x, mean, variance, weight, bias, training=True)
    return out, mean, variance


def _embedding(table: Tensor, rows: Tensor) -> Tensor:
    """Rows come twice, so that gradients must be summed."""
    import torch

    return torch.nn.functional.embedding(rows, table)


def _index_add(table: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """The update of looked-up rows: those that come twice must move twice."""
    return table.clone().index_add_(0, rows, values, alpha=-0.5)


def _topk(x: Tensor) -> tuple[Tensor, ...]:
    """Values, and what lies at the indices that it gives."""
    largest, where = x.topk(8, -1)
    return largest, x.gather(-1, where)


_attention = _functional("scaled_dot_product_attention", is_causal=True)

OPERATORS = (
    Operator("matmul", matmul, _drawn((64, 96), (96, 80))),
    Operator("conv2d", _functional("conv2d", padding=1), _drawn((2, 8, 16, 16), (16, 8, 3, 3))),
    Operator("attention", _attention, _drawn(*[(2, 4, 32, 32)] * 3)),
    Operator("softmax", methodcaller("softmax", -1), _drawn((32, 64))),
    Operator("layer_norm", _layer_norm, _drawn((32, 64), (64,), (64,))),
    Operator("batch_norm", _batch_norm, _drawn((8, 6, 10, 10), (6,), (6,))),
    Operator("gelu", _functional("gelu"), _drawn((32, 64))),
    Operator("embedding", _embedding, _drawn((50, 32), indices=[(50, (8, 16))])),
    Operator("index_add", _index_add, _drawn((50, 32), (64, 32), indices=[(50, (64,))])),
    Operator(
        "cross_entropy", _functional("cross_entropy"), _drawn((32, 100), indices=[(100, (32,))])
    ),
    Operator("sum", methodcaller("sum", -1), _drawn((32, 512))),
    Operator("cumsum", methodcaller("cumsum", -1), _drawn((32, 64))),
    Operator("topk", _topk, _drawn((32, 64)), gradients=False),
)
