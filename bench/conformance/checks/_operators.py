"""The standard operators: what the workloads are made of, each with inputs and a reference.

Not a check. An operator is called on a device and, with the same rounded inputs, in float64 on the
CPU; its gradients follow from a fixed gradient of its first result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

Inputs = tuple[list["Tensor"], list["Tensor"]]
"""Floating-point tensors, which get the dtype that is asked for; and indices, which do not."""


class Operator(NamedTuple):
    """One line of the table."""

    name: str
    call: Callable[..., tuple[Tensor, ...]]
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
    results = operator.call(*floats, *(x.to(place) for x in inputs[1]))
    for result in results:
        if result.is_floating_point() and result.dtype != dtype:
            raise TypeError(f"{dtype} asked for, {result.dtype} given")
    if operator.gradients:
        weight = torch.randn(results[0].shape, generator=torch.Generator().manual_seed(1))
        weight = weight.to(inputs[0][0].dtype).to(place, dtype)
        torch.autograd.backward(results[:1], [weight])
    found = [*results, *(x.grad for x in floats if x.grad is not None)]
    return [value.detach().cpu() for value in found]


def _randn(*shapes: tuple[int, ...]) -> Callable[[Generator], Inputs]:
    def make(generator: Generator) -> Inputs:
        import torch

        return [torch.randn(shape, generator=generator) for shape in shapes], []

    return make


def _matmul(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    return (a @ b,)


def _conv2d(image: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    import torch

    return (torch.nn.functional.conv2d(image, weight, padding=1),)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    import torch

    return (torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),)


def _softmax(x: Tensor) -> tuple[Tensor, ...]:
    return (x.softmax(-1),)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    import torch

    return (torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias),)


def _batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """In training: the batch's statistics, and the running ones that it moves."""
    import torch

    mean, variance = torch.zeros_like(weight).detach(), torch.ones_like(weight).detach()
    out = torch.nn.functional.batch_norm(x, mean, variance, weight, bias, training=True)
    return out, mean, variance


def _gelu(x: Tensor) -> tuple[Tensor, ...]:
    import torch

    return (torch.nn.functional.gelu(x),)


def _embedding(table: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    """Rows come twice, so that gradients must be summed."""
    import torch

    return (torch.nn.functional.embedding(rows, table),)


def _embedding_inputs(generator: Generator) -> Inputs:
    import torch

    table = torch.randn((50, 32), generator=generator)
    return [table], [torch.randint(0, 50, (8, 16), generator=generator)]


def _index_add(table: Tensor, values: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    """The update of looked-up rows: those that come twice must move twice."""
    return (table.clone().index_add_(0, rows, values, alpha=-0.5),)


def _index_add_inputs(generator: Generator) -> Inputs:
    import torch

    floats = [torch.randn(shape, generator=generator) for shape in ((50, 32), (64, 32))]
    return floats, [torch.randint(0, 50, (64,), generator=generator)]


def _cross_entropy(logits: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
    import torch

    return (torch.nn.functional.cross_entropy(logits, classes),)


def _cross_entropy_inputs(generator: Generator) -> Inputs:
    import torch

    logits = torch.randn((32, 100), generator=generator)
    return [logits], [torch.randint(0, 100, (32,), generator=generator)]


def _sum(x: Tensor) -> tuple[Tensor, ...]:
    return (x.sum(-1),)


def _cumsum(x: Tensor) -> tuple[Tensor, ...]:
    return (x.cumsum(-1),)


def _topk(x: Tensor) -> tuple[Tensor, ...]:
    """Values, and what lies at the indices that it gives."""
    largest, where = x.topk(8, -1)
    return largest, x.gather(-1, where)


OPERATORS = (
    Operator("matmul", _matmul, _randn((64, 96), (96, 80))),
    Operator("conv2d", _conv2d, _randn((2, 8, 16, 16), (16, 8, 3, 3))),
    Operator("attention", _attention, _randn(*[(2, 4, 32, 32)] * 3)),
    Operator("softmax", _softmax, _randn((32, 64))),
    Operator("layer_norm", _layer_norm, _randn((32, 64), (64,), (64,))),
    Operator("batch_norm", _batch_norm, _randn((8, 6, 10, 10), (6,), (6,))),
    Operator("gelu", _gelu, _randn((32, 64))),
    Operator("embedding", _embedding, _embedding_inputs),
    Operator("index_add", _index_add, _index_add_inputs),
    Operator("cross_entropy", _cross_entropy, _cross_entropy_inputs),
    Operator("sum", _sum, _randn((32, 512))),
    Operator("cumsum", _cumsum, _randn((32, 64))),
    Operator("topk", _topk, _randn((32, 64)), gradients=False),
)
