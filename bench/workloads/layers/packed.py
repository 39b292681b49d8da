"""The layout `packed`: matrices that read the same input lie in one, and are one product.

Of the three that make queries, keys and values, and of a dense feed-forward's gate and up. The same
weights and the same sums, in fewer and larger kernels: a choice of the tuned track, where it wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.workload import PACKED, Look, Unsupported

if TYPE_CHECKING:
    from torch import Tensor, nn

READING = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))
"""Modules of a layer, and their matrices that read the same input."""


class Packed(NamedTuple):
    """Of one layer."""

    queries_keys_values: Tensor
    gate_up: Tensor | None
    """None where a layer has experts, which the library packs by itself."""


def packed(model: nn.Module) -> list[Packed]:
    """Lays a model's matrices together, layer by layer; its own modules read parts of them.

    Raises `Unsupported` where they are of 8 bits, or of other attention.
    """
    import torch

    library: Any = model
    found = []
    for layer in library.model.layers:
        joined: list[Tensor | None] = []
        for path, names in READING:
            owner = getattr(layer, path)
            matrices: list[Any] = [getattr(owner, name, None) for name in names]
            if path == "mlp" and matrices[0] is None:
                joined.append(None)
                continue
            if any(
                type(matrix) is not torch.nn.Linear or matrix.bias is not None
                for matrix in matrices
            ):
                raise Unsupported(
                    f"{PACKED}: of {type(owner).__name__} here there is no such layout. "
                    "Ask for `contiguous`"
                )
            whole = torch.cat([matrix.weight.detach() for matrix in matrices])
            parts = whole.split([matrix.weight.shape[0] for matrix in matrices])
            for matrix, part in zip(matrices, parts, strict=True):
                matrix.weight = torch.nn.Parameter(part, requires_grad=False)
            joined.append(whole)
        projections, gate_up = joined
        assert projections is not None
        found.append(Packed(projections, gate_up))
    return found


def look(model: nn.Module, asked: str) -> Iterator[Look]:
    """Whether matrices that read the same input lie in one, as asked, or each by itself."""
    library: Any = model
    for layer in library.model.layers:
        attention = layer.self_attn
        if hasattr(attention, "k_proj"):
            places = {
                getattr(attention, name).weight.untyped_storage().data_ptr()
                for name in READING[0][1]
            }
            seen = PACKED if len(places) == 1 else "contiguous"
            yield Look(what="layout of the projections", asked=asked, seen=seen)
            return
