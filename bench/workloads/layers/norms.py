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
    """From a stream to its values [..., H], normed."""

KERNEL = "_fused_rms_norm"


class Norms:
    """By torch's function: of what is compiled, or where the device has a kernel of its own.

    A stream is what is summed in place, and normed: here the values [..., H] as they are. As rows
    [..., 1, H] a compiler would give a single one of them to a product with a stride of 0, and a
    CPU's product copies such operands.
    """

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
        """Values [..., H] as a stream: in their own memory, where it holds nothing besides."""
        return values

    def add(self, stream: Tensor, values: Tensor) -> None:
        """Adds values [..., H] to a stream, in place."""
        stream.add_(values)


class MirroredNorms(Norms):
    """By layer norm. A stream has negatives beside its values, [..., 2, H], and keeps them."""

    def __init__(self, site: Site) -> None:
        """For values of the site's precision."""
        import torch

        kind: dict[str, Any] = {"dtype": site.precision.dtype, "device": site.device}
        self._signs = torch.tensor([[1.0], [-1.0]], **kind)

    def stream(self, values: Tensor) -> Tensor:
        """Values [..., H] beside their negatives."""
        return values.unsqueeze(-2) * self._signs

    def add(self, stream: Tensor, values: Tensor) -> None:
        """Adds values [..., H] to a stream, in place."""
        stream.addcmul_(values.unsqueeze(-2), self._signs)

    def prepared(self, norm: Any) -> Norm:
        """By a weight [2, H], of which the module's own becomes the first row; the other is 0."""
        import torch

        weight = norm.weight.detach()
        both = torch.stack((weight, torch.zeros_like(weight)))
        norm.weight = torch.nn.Parameter(both[0], requires_grad=False)
        by, shape, epsilon = torch.layer_norm, both.shape, norm.variance_epsilon
        return lambda stream: by(stream, shape, both, None, epsilon).select(-2, 0)


def norms_of(site: Site) -> Norms:
    """Those of the fewest kernels: what is compiled is fused by its compiler."""
    if is_compiled(site.execution) or _has_kernel(site.device.type):
        return Norms()
    return MirroredNorms(site)


@functools.cache
def _has_kernel(device_type: str) -> bool:
    """Whether torch (from 2.8 on) has a kernel of this norm for a kind of device."""
    import torch

    if not hasattr(torch.ops.aten, KERNEL):
        return False
    key = torch._C._dispatch_key_for_device(device_type)
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{KERNEL}", key)
