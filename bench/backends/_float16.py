"""torch's switches for sums in float16, of devices that it calls cuda."""

from __future__ import annotations


def switches() -> dict[str, str]:
    """As they stand; without those that this torch has not."""
    import torch

    here = torch.backends.cuda.matmul
    names = ("fp16_accumulation", "fp16_reduced_precision_reduction")
    found = {name: getattr(here, f"allow_{name}", None) for name in names}
    return {name: str(value) for name, value in found.items() if value is not None}


def sums() -> bool:
    """Whether products are summed in it."""
    return switches().get("fp16_accumulation") == "True"
