"""Values that a model's step computes row by row, held to float64: activations, norms, losses.

See `_model_spots`. What is sought is a kernel that is wrong from some row or size on, so a few
whole rows are looked at; and of a loss the mean of all rows, computed anew in pieces.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from bench.records.tolerances import TOLERANCES
from bench.workload import Look, Site
from bench.workloads._calls import Call, Given, floored, host, most_of, plain
from bench.workloads._spots import FEW, Spot, look

if TYPE_CHECKING:
    from torch import Tensor

    Definition = Callable[[Tensor], tuple[Tensor, Tensor]]
    """Of a row [D] in float64: what is made of it, and the size of the terms of each value."""

LOSSES = ("cross_entropy", "mse_loss", "binary_cross_entropy_with_logits")
NAMES = {
    "silu": ("input", "inplace"),
    "gelu": ("input", "approximate"),
    "softmax": ("input", "dim"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    **dict.fromkeys(LOSSES, ("input", "target")),
}
"""What the functions that are looked at call what they are given, in order."""
USUAL = {"weight": None, "pos_weight": None, "reduction": "mean", "label_smoothing": 0.0}
"""Of losses that are looked at; nor is one that leaves out a target."""
ROWS = 8
"""That are looked at: the first, the last, the one behind the gate's, and drawn ones."""
ROUGH = 1e-3
"""No row is held to less, for devices have quick exponentials."""
ROUGH_LOSS = 1e-4
TWIN_ROWS = 64
"""Of the gate's texts."""
PIECE = 2**26
"""Elements of a loss's operands that are read at once."""


def call(name: str, given: Given, output: Tensor) -> Call | None:
    """None of what is computed in another way, in place, or over more than rows."""
    x = given["input"]
    if name in LOSSES:
        return _loss(name, given, output)
    if name == "softmax":
        whole = given.get("dim") in (-1, x.dim() - 1)
        return _rows("softmax", x, output, 1, _softmax) if whole else None
    if name in ("silu", "gelu"):
        return _rows("activation", x, output, 1, _activation(name, given))
    dims = len(given["normalized_shape"])
    return _rows("norm", x, output, dims, _norm(name, given, output))


def root_mean_square(layer: Any, x: Tensor, output: Tensor) -> Call | None:
    """Of a module with a weight [D] and an epsilon."""
    given = {"weight": layer.weight, "eps": layer.variance_epsilon}
    return _rows("norm", x, output, 1, _norm("rms_norm", given, output))


def _rows(kind: str, x: Tensor, output: Tensor, dims: int, definition: Definition) -> Call | None:
    """Of rows over the last dimensions, so many; none where what was read is overwritten."""
    if x.dim() <= dims or x.shape != output.shape or not plain(x, output):
        return None
    if x.data_ptr() == output.data_ptr():
        return None
    shape = (-1, math.prod(x.shape[x.dim() - dims :]))

    def seen(what: str, site: Site) -> list[Look]:
        asked, found = (value.detach().reshape(shape) for value in (x, output))
        dtype, spots = output.dtype, []
        for row in _places(len(asked), site.seed):
            expected, terms = definition(host(asked[row], dtype))
            spot = Spot(f"row {row}", host(found[row], dtype), expected, terms)
            spots.append(floored(spot, output))
        most = max(most_of(site, "output", 1, 1), ROUGH)
        return [look(f"{what} ({len(asked)} x {shape[1]})", spots, most)]

    return Call(kind, (output.numel(),), seen)


def _places(count: int, seed: int) -> list[int]:
    drawn = random.Random(seed)
    places = {0, count - 1, min(TWIN_ROWS, count - 1)}
    return sorted(places | {drawn.randrange(count) for _ in range(ROWS - len(places))})


def _softmax(row: Tensor) -> tuple[Tensor, Tensor]:
    found = row.softmax(0)
    return found, found


def _activation(name: str, given: Given) -> Definition:
    from torch.nn import functional

    def of(row: Tensor) -> tuple[Tensor, Tensor]:
        if name == "silu":
            return functional.silu(row), row / 2
        return functional.gelu(row, approximate=given.get("approximate", "none")), row / 2

    return of


def _norm(name: str, given: Given, output: Tensor) -> Definition:
    import torch

    weight, bias, least = given.get("weight"), given.get("bias"), given.get("eps")
    if least is None:
        wide = torch.promote_types(output.dtype, torch.float32)  # in which sums are made
        least = 1e-5 if name == "layer_norm" else torch.finfo(wide).eps

    def of(row: Tensor) -> tuple[Tensor, Tensor]:
        mean = row.mean() if name == "layer_norm" else row.new_zeros(())
        size = ((row - mean).square().mean() + least).sqrt()
        by, beside = (
            row.new_full((), absent) if x is None else host(x, x.dtype).flatten()
            for x, absent in ((weight, 1.0), (bias, 0.0))
        )
        terms = ((row.square() + mean.square()) * (by / size).square() + beside.square()).sqrt()
        return (row - mean) / size * by + beside, terms

    return of


def _loss(name: str, given: Given, output: Tensor) -> Call | None:
    """The mean over rows [N, ...] with targets, in float32 or wider; none of one that weighs."""
    import torch
    from torch.nn import functional

    x, target = given["input"].detach(), given["target"].detach()
    unlike = any(given.get(word, usual) != usual for word, usual in USUAL.items())
    narrow = min(x.dtype.itemsize, output.dtype.itemsize) < 4
    if unlike or narrow or output.dim() or not plain(x, output):
        return None
    loss: Callable[..., Tensor] = getattr(functional, name)

    def each(rows: Iterable[slice], of: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of each row, in float64."""
        found = [
            loss(of(x[part]), of(target[part]), reduction="none").double().flatten(1).mean(1)
            if x.dim() > 1 and name != "cross_entropy"
            else loss(of(x[part]), of(target[part]), reduction="none").double()
            for part in rows
        ]
        return torch.cat([part.cpu() for part in found])

    def seen(what: str, site: Site) -> list[Look]:
        count = len(x)
        if name == "cross_entropy" and bool((target == given.get("ignore_index", -100)).any()):
            return []
        step = max(1, PIECE * count // x.numel())
        mean = each((slice(i, i + step) for i in range(0, count, step)), lambda part: part).mean()
        places = [slice(row, row + 1) for row in _places(count, site.seed)]
        rows = each(places, lambda part: part), each(places, _wide)
        most = max(FEW * TOLERANCES["fp32"]["loss"] * math.sqrt(count / TWIN_ROWS), ROUGH_LOSS)
        found = host(output, output.dtype)[None], mean[None]
        # A loss that is learned is a small difference of what is not small.
        spots = [
            Spot(place, *of, of[1].abs().clamp(min=1.0))
            for place, of in (("the mean", found), ("single rows", rows))
        ]
        return [look(f"{what} ({name} of {' x '.join(map(str, x.shape))})", spots, most)]

    return Call("loss", (x.numel(),), seen)


def _wide(part: Tensor) -> Tensor:
    return part.cpu().double() if part.is_floating_point() else part.cpu()
