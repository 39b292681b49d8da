"""Masks as torch's own attention wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

APART = 8
"""Rows lie multiples of this apart, whatever their length: else some fused kernels have torch copy
a mask in every call."""


def added(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores, of truth values [..., L] of what is seen: torch would make it of
    them in every call.

    Devices from outside of torch get the truth values, for which alone some have their fused
    kernel.
    """
    return allowed if outside(allowed.device) else filled(allowed, dtype)


def filled(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """The same for every device."""
    import torch

    *outer, length = allowed.shape
    apart = -(-length // APART) * APART
    scores = torch.zeros((*outer, apart), dtype=dtype, device=allowed.device)
    return scores[..., :length].masked_fill_(~allowed, float("-inf"))


def picked(rows: Tensor, index: Tensor) -> Tensor:
    """The row of a table [N, ..., L] at an index [1] on the device, in memory of its own, where it
    lies as in the table."""
    wide = rows.as_strided((*rows.shape[:-1], rows.stride(0)), rows.stride())
    return wide.index_select(0, index)[0][..., : rows.shape[-1]]


def outside(device: torch.device) -> bool:
    """Whether a device comes from outside of torch."""
    import torch

    return bool(torch._C._get_privateuse1_backend_name() == device.type)
