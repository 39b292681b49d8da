"""Masks as torch's own attention wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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

    scores = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return scores.masked_fill_(~allowed, float("-inf"))


def outside(device: torch.device) -> bool:
    """Whether a device comes from outside of torch."""
    import torch

    return bool(torch._C._get_privateuse1_backend_name() == device.type)
