"""Root-mean-square norms in one kernel, also where torch has none for them on a device.

It takes a dozen there: up to float32, squared, summed, divided, and down again. But values beside
their negatives have a mean of zero, and of such a pair layer norm, for which every device has one
kernel, is the very same: a sum of squares in float32, rounded once, after the weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.records.execution import is_compiled
from bench.workload import Site

if TYPE_CHECKING:
    from torch import Tensor

    Norm = Callable[[Tensor], Tensor]
    """From a stream [..., rows, H] to one whose first row is its values, normed: a call of torch
    itself, which the host is done with sooner than with a function of ours."""

KERNEL = "_fused_rms_norm"


class Norms:
    """By torch's function: of what is compiled, or where the device has a kernel of its own.

    A stream is values [..., H] as rows [..., 1, H]: what is summed in place, and normed.
    """

    signs: Tensor
    """By which rows of a stream bear its values, [1, 1]."""

    def __init__(self, site: Site) -> None:
        """For values of the site's precision."""
        import torch

        rows = torch.tensor(self._rows(), dtype=site.precision.dtype)
        self.signs = rows[:, None].to(site.device)

    def _rows(self) -> list[float]:
        return [1.0]

    def prepared(self, norm: Any) -> Norm:
        """What norms by a module's weight [H] and epsilon, found once."""
        import torch

        weight: Tensor = norm.weight
        return functools.partial(
            torch.rms_norm,
            normalized_shape=weight.shape,
            weight=weight,
            eps=norm.variance_epsilon,
        )

    def stream(self, values: Tensor) -> Tensor:
        """Values [..., H] as a stream: where it has one row only, in their own memory."""
        return values.unsqueeze(-2)


class MirroredNorms(Norms):
    """By layer norm. A stream has negatives beside its values, [..., 2, H], and keeps them."""

    def _rows(self) -> list[float]:
        return [1.0, -1.0]

    def stream(self, values: Tensor) -> Tensor:
        """Values [..., H] beside their negatives."""
        return values.unsqueeze(-2) * self.signs

    def prepared(self, norm: Any) -> Norm:
        """By a weight [2, H], of which the module's own becomes the first row; the other is 0."""
        import torch

        weight = norm.weight.detach()
        both = torch.stack((weight, torch.zeros_like(weight)))
        norm.weight = torch.nn.Parameter(both[0], requires_grad=False)
        return functools.partial(
            torch.layer_norm,
            normalized_shape=both.shape,
            weight=both,
            bias=None,
            eps=norm.variance_epsilon,
        )


def norms_of(site: Site) -> Norms:
    """Those of the fewest kernels: what is compiled is fused by its compiler."""
    if is_compiled(site.execution) or _has_kernel(site.device.type):
        return Norms(site)
    return MirroredNorms(site)


@functools.cache
def _has_kernel(device_type: str) -> bool:
    """Whether torch (from 2.8 on) has a kernel of this norm for a kind of device."""
    import torch

    if not hasattr(torch.ops.aten, KERNEL):
        return False
    key = torch._C._dispatch_key_for_device(device_type)
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{KERNEL}", key)
