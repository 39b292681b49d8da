"""What the numerics gate is told of a step's gradients: their length, and some sums of each.

One length cannot tell a gradient of another direction: the sign of one matrix's may be turned, or
the experts' exchanged, and it stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bench.ranks import local
from bench.records.proof import EACH_GRADIENT, EACH_GRADIENT_OVER_KINKS, RUNNING
from bench.workloads.jobs.sharded import has_kinks

if TYPE_CHECKING:
    from torch import Tensor, nn

SUMS = 256
"""Of each weight, or of its values where it has fewer: they tell an error in norm within a tenth.
Source: Achlioptas, J. Comput. Syst. Sci. 66 (2003), as of `bench.records.proof`."""
MULTIPLIER = 2_654_435_761
"""Source: Knuth, The Art of Computer Programming, vol. 3, 6.4 (multiplicative hashing)."""


def signs(places: Any) -> Any:
    """1 or -1 for each place, an array of int64 of any library: the same everywhere."""
    return ((places * MULTIPLIER >> 16) & 1) * 2 - 1


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
    """Sums of each gradient, [weights, `SUMS`], float64, by the name of the quantity.

    Of all its values, as most of an embedding's are zero: those of each part of it, with signs.
    """
    import torch

    sums = [_sums(gradient) for gradient in gradients_of(model, besides)]
    name = EACH_GRADIENT_OVER_KINKS if has_kinks(model) else EACH_GRADIENT
    return {name: torch.stack(sums)}


def running_means(model: nn.Module) -> dict[str, Tensor]:
    """What a model keeps of its batches' means, as `each_gradient`; or nothing. Their variances
    tell no more, and libraries differ in whether those are of the sample or of the batch."""
    import torch

    kept = [
        _sums(buffer.cpu().to(torch.float64))
        for name, buffer in model.named_buffers()
        if name.endswith("running_mean")
    ]
    return {RUNNING: torch.stack(kept)} if kept else {}


def _sums(values: Tensor) -> Tensor:
    import torch
    from torch.nn import functional

    each = -(-values.numel() // SUMS)
    parts = functional.pad(values.flatten(), (0, SUMS * each - values.numel()))
    sums: Tensor = (parts.view(SUMS, each) * signs(torch.arange(each))).sum(1)
    return sums
