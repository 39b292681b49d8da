"""A call of a model's step whose values can be computed again: what its looks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.precision import PRECISIONS, Precision
from bench.records.tolerances import TOLERANCES
from bench.workload import Look, Site
from bench.workloads.spots import spots
from bench.workloads.spots.spots import Spot

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Gradient = Callable[[Tensor, Tensor], "Call | None"]
    """Of an output's gradient and an operand's: the call that makes one of the other."""

Given = Mapping[str, Any]
"""What a function is given, by name."""


class Call(NamedTuple):
    """A call whose values can be computed again."""

    kind: str
    sizes: tuple[int, ...]
    """By each of which it may be the largest of its kind."""
    looks: Callable[[str, Site], list[Look]]
    """By what it is called."""
    gradients: Mapping[str, Gradient] = MappingProxyType({})
    """How that of each thing that it is given is computed again."""


def plain(*tensors: Tensor | None) -> bool:
    """Whether all are torch's own, dense, and of 16 bits or more."""
    import torch

    return all(
        tensor is None
        or (
            type(tensor) in (torch.Tensor, torch.nn.Parameter)
            and tensor.layout == torch.strided
            and tensor.is_floating_point()
            and tensor.dtype.itemsize > 1
            and tensor.numel() > 0
        )
        for tensor in tensors
    )


def most_of(site: Site, quantity: str, length: int, twin: int) -> float:
    """As of an operator by itself; of a model with narrow layers, whose others are bfloat16's, as
    of bfloat16."""
    return spots.allowed(_judged(site), quantity, length, twin)


def roughly(site: Site) -> float:
    """What the gate allows the whole model: of kernels that round in between, or in 16 bits add."""
    return TOLERANCES[_judged(site).name]["logits"]


def _judged(site: Site) -> Precision:
    known = TOLERANCES.get(site.precision.name, {})
    return site.precision if {"attention", "output"} <= known.keys() else PRECISIONS["bf16"]


def floored(spot: Spot, dtype: torch.dtype) -> Spot:
    """Below its smallest normal number a format has fewer digits."""
    import torch

    least = torch.finfo(dtype).smallest_normal
    return spot._replace(terms=spot.terms.clamp(min=least))
