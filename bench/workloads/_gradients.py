"""What the numerics gate is told of a step's gradients: their length, and some values of each.

One length cannot tell a gradient of another direction: the sign of one matrix's may be turned, or
the experts' exchanged, and it stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from bench.ranks import local
from bench.records.proof import EACH_GRADIENT, EACH_GRADIENT_OVER_KINKS, RUNNING
from bench.workloads._sharded import has_kinks

if TYPE_CHECKING:
    from torch import Tensor, nn

VALUES = 256
"""Of each weight, all of one that has fewer: an error in norm is then seen within a tenth or so."""
GOLDEN = (5**0.5 - 1) / 2


def places(size: int) -> list[int]:
    """`VALUES` positions below `size`: spread evenly, and in step with no row or column.

    Multiples of the golden ratio, without their whole part.
    Source: Knuth, The Art of Computer Programming, vol. 3, 6.4 (Fibonacci hashing).
    """
    return [int(number * GOLDEN % 1.0 * size) for number in range(VALUES)]


def gradients_of(model: nn.Module, besides: Iterable[Tensor] = ()) -> Iterator[Tensor]:
    """Of what lies here of each weight that has one, on the host in float64; the leaves' last."""
    import torch

    for held in (*model.parameters(), *besides):
        if held.grad is not None:
            yield local(held.grad).cpu().to(torch.float64)


def gradient_norm(model: nn.Module, besides: Iterable[Tensor] = ()) -> Tensor:
    """Euclidean norm of all gradients together, the model's and those of the leaves `besides`.

    Of what lies here of them, where the model is sharded. Waits for the device.

    On the CPU in float64: a float32 sum of ten million squares is off by 1e-4, more than the
    gradients are.
    """
    import torch

    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients_of(model, besides)]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def each_gradient(model: nn.Module, besides: Iterable[Tensor] = ()) -> dict[str, Tensor]:
    """Some values of each gradient, [weights, `VALUES`], float64, by the name of the quantity."""
    import torch

    drawn = [_drawn(gradient) for gradient in gradients_of(model, besides)]
    name = EACH_GRADIENT_OVER_KINKS if has_kinks(model) else EACH_GRADIENT
    return {name: torch.stack(drawn)}


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """What a model keeps of its batches' means and variances, as `each_gradient`; or nothing."""
    import torch

    kept = [
        _drawn(buffer.cpu().to(torch.float64))
        for name, buffer in model.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    ]
    return {RUNNING: torch.stack(kept)} if kept else {}


def _drawn(values: Tensor) -> Tensor:
    return values.flatten()[places(values.numel())]
