"""Batch norms that several ranks compute together: mean and variance of the images of all of them.

torch's own layer where it runs, which is not on a host. There it is this one, by the same formulas:
equations of Ioffe and Szegedy, arXiv 1502.03167, section 3, with sums that go over all ranks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from bench.ranks import Ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

OWN, SYNCHRONIZED = "own", "synchronized"
STATISTICS = "batch statistics"
EXCHANGED = "batch statistics exchanged"
"""What the record says of them."""
FORWARD, BACKWARD = "all-gathers", "all-reduces"


def synchronize(model: nn.Module, ranks: Ranks, device: torch.device) -> dict[str, str]:
    """Has each batch norm of a model normalize by the images of all ranks, in place.

    Gives what the record says of it, with what each rank sends in a step. Every rank must come: it
    is tried whether torch's layer runs there.
    """
    from torch import nn

    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    channels = sum(layer.num_features for layer in layers)
    width = max(4, next(model.parameters()).itemsize)  # in float32, or wider
    if _runs(ranks.group, device):
        nn.SyncBatchNorm.convert_sync_batchnorm(model, ranks.group)
        by, counts = "torch.nn.SyncBatchNorm", len(layers)
    else:
        for layer in layers:
            layer.__class__ = _layer_type()
            vars(layer)["group"] = ranks.group
        by, counts = "a layer of accelmark's: torch.nn.SyncBatchNorm does not run here", 0
    sent = (4 * channels + counts) * width
    return {
        STATISTICS: f"{SYNCHRONIZED}, by {by}",
        EXCHANGED: f"{sent:,} B from each rank and step, in {len(layers)} {FORWARD} and "
        f"{len(layers)} {BACKWARD}",
    }


def _runs(group: ProcessGroup, device: torch.device) -> bool:
    """Whether torch's layer does, by one forward of four zeros."""
    import torch

    layer = torch.nn.SyncBatchNorm(1, process_group=group, device=device)
    try:
        layer(torch.zeros(4, 1, device=device))
    except (ValueError, NotImplementedError):  # before it sends anything
        return False
    return True


def normalized(
    images: Tensor, weight: Tensor, bias: Tensor, epsilon: float, group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Images [B, C, ...] normalized by channel over all ranks of a group, times weight and bias
    [C]; and, without gradients, mean and biased variance [C] in float32 or wider.

    Every rank has as many images. Their gradients are those of the sum of the ranks' losses; those
    of weight and bias are this rank's part of them, for whoever averages gradients.
    """
    import torch
    import torch.distributed as dist

    axes = [axis for axis in range(images.dim()) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(images.dim())]
    wide = torch.promote_types(images.dtype, torch.float32)

    class Normalize(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, given: Tensor, scale: Tensor, shift: Tensor) -> Any:
            variance, mean = torch.var_mean(given.to(wide), axes, correction=0)
            mine = torch.stack((mean, variance))
            every = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
            dist.all_gather(every, mine, group=group)
            means, variances = torch.stack(every).unbind(1)
            mean = means.mean(0)
            variance = variances.mean(0) + ((means - mean) ** 2).mean(0)
            root = (variance + epsilon).rsqrt()
            ctx.save_for_backward(given, scale, mean, root)
            ctx.mark_non_differentiable(mean, variance)
            centred = given.to(wide) - mean.view(shape)
            found = centred * (root * scale).view(shape) + shift.to(wide).view(shape)
            return found.to(given.dtype), mean, variance

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            given, scale, mean, root = ctx.saved_tensors
            gradient = gradients[0].to(wide)
            unit = (given.to(wide) - mean.view(shape)) * root.view(shape)
            sums = torch.stack((gradient.sum(axes), (gradient * unit).sum(axes)))
            of_shift, of_scale = sums.to(scale.dtype, copy=True).unbind()
            dist.all_reduce(sums, group=group)
            values = dist.get_world_size(group) * given.numel() // given.shape[1]
            centre, slope = (each.view(shape) for each in sums / values)
            of_given = (gradient - centre - unit * slope) * (root * scale).view(shape)
            return of_given.to(given.dtype), of_scale, of_shift

    found: tuple[Tensor, Tensor, Tensor] = Normalize.apply(images, weight, bias)  # type: ignore[no-untyped-call]
    return found


@functools.cache
def _layer_type() -> Any:
    """The layer on hosts, made when torch is there."""
    import torch

    class SynchronizedBatchNorm2d(torch.nn.BatchNorm2d):
        group: Any

        def forward(self, images: Tensor) -> Tensor:
            if not self.training:
                return super().forward(images)
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            found, mean, variance = normalized(images, self.weight, self.bias, self.eps, self.group)
            values = self.group.size() * images.numel() // images.shape[1]
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                unbiased = variance * (values / (values - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            return found

    return SynchronizedBatchNorm2d
