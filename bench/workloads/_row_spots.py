"""Values that a model's step computes row by row, held to float64: activations, norms, losses.

See `_model_spots`. What is sought is a kernel that is wrong from some row or size on, so a few
whole rows are looked at; and of a loss the mean of all rows, computed anew in pieces.
"""

from __future__ import annotations

import functools
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

    from bench.workloads._calls import Gradient

    Values = tuple[Tensor, Tensor]
    """What is expected, and its terms; see `Spot`."""
    Definition = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    """Of a row [D] in float64: what is made of it, the size of the terms of each value, and how
    much a gradient of each weighs in the row's own."""

LOSSES = ("cross_entropy", "mse_loss", "binary_cross_entropy_with_logits")
NAMES = {
    "relu": ("input", "inplace"),
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
    if name in ("relu", "silu", "gelu"):
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

    def seen(
        found: Tensor, made: Callable[[Tensor, int], Values], what: str, site: Site
    ) -> list[Look]:
        asked, each = (value.detach().reshape(shape) for value in (x, found))
        spots = [
            floored(Spot(f"row {row}", host(each[row], dtype), *values), dtype)
            for row in places(len(asked), site.seed)
            for values in [made(host(asked[row], dtype), row)]
        ]
        most = max(most_of(site, "output", 1, 1), ROUGH)
        return [look(f"{what} ({len(asked)} x {shape[1]})", spots, most)]

    def of_rows(upstream: Tensor, found: Tensor) -> Call | None:
        given = upstream.detach().reshape(shape)

        def made(row: Tensor, number: int) -> Values:
            return pulled_back(definition, row, host(given[number], dtype))

        return Call(kind, (), functools.partial(seen, found, made))

    dtype = output.dtype
    of_output = functools.partial(seen, output, lambda row, _: definition(row)[:2])
    return Call(kind, (output.numel(),), of_output, {"input": of_rows})


def pulled_back(definition: Definition, row: Tensor, upstream: Tensor) -> Values:
    """The gradient of a row [D], where that is what it makes of it has; and its terms."""
    import torch

    with torch.enable_grad():
        row = row.requires_grad_()
        found, _, weighs = definition(row)
        (gradient,) = torch.autograd.grad(found, row, upstream)
    return gradient, (weighs * upstream).detach().abs()


def places(count: int, seed: int, most: int = ROWS) -> list[int]:
    """Which of so many rows are looked at."""
    drawn = random.Random(seed)
    found = {0, count - 1, min(TWIN_ROWS, count - 1)}
    return sorted(found | {drawn.randrange(count) for _ in range(most - len(found))})


def _softmax(row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = row.softmax(0)
    return found, found, found


def _activation(name: str, given: Given) -> Definition:
    from torch.nn import functional

    how = {"approximate": given.get("approximate", "none")} if name == "gelu" else {}

    def of(row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return getattr(functional, name)(row, **how), row / 2, row.new_ones(())

    return of


def _norm(name: str, given: Given, output: Tensor) -> Definition:
    import torch

    weight, bias, least = given.get("weight"), given.get("bias"), given.get("eps")
    if least is None:
        wide = torch.promote_types(output.dtype, torch.float32)  # in which sums are made
        least = 1e-5 if name == "layer_norm" else torch.finfo(wide).eps

    def of(row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = row.mean() if name == "layer_norm" else row.new_zeros(())
        size = ((row - mean).square().mean() + least).sqrt()
        by, beside = (
            row.new_full((), absent) if x is None else host(x, x.dtype).flatten()
            for x, absent in ((weight, 1.0), (bias, 0.0))
        )
        return normalized(row, mean, size, by, beside)

    return of


def normalized(
    row: Tensor, mean: Tensor, size: Tensor, by: Tensor, beside: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What a `Definition` gives of a norm."""
    terms = ((row.square() + mean.square()) * (by / size).square() + beside.square()).sqrt()
    return (row - mean) / size * by + beside, terms, by / size


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
            loss(of(x[part]), of(target[part]), reduction="none").cpu().double().flatten(1).mean(1)
            if x.dim() > 1 and name != "cross_entropy"
            else loss(of(x[part]), of(target[part]), reduction="none").cpu().double()
            for part in rows
        ]
        return torch.cat(found)

    def seen(what: str, site: Site) -> list[Look]:
        count = len(x)
        if _ignores(name, given):
            return []
        step = max(1, PIECE * count // x.numel())
        mean = each((slice(i, i + step) for i in range(0, count, step)), lambda part: part).mean()
        some = [slice(row, row + 1) for row in places(count, site.seed)]
        rows = each(some, lambda part: part), each(some, _wide)
        most = max(FEW * TOLERANCES["fp32"]["loss"] * math.sqrt(count / TWIN_ROWS), ROUGH_LOSS)
        found = host(output, output.dtype)[None], mean[None]
        # A loss that is learned is a small difference of what is not small.
        spots = [
            Spot(place, *of, of[1].abs().clamp(min=1.0))
            for place, of in (("the mean", found), ("single rows", rows))
        ]
        return [look(f"{what} ({name} of {size})", spots, most)]

    size = " x ".join(map(str, x.shape))
    return Call("loss", (x.numel(),), seen, {"input": _loss_gradient(name, given)})


def _ignores(name: str, given: Given) -> bool:
    """Whether it leaves out a target."""
    left_out = given.get("ignore_index", -100)
    return name == "cross_entropy" and bool((given["target"] == left_out).any())


def _loss_gradient(name: str, given: Given) -> Gradient:
    import torch
    from torch.nn import functional

    loss: Callable[..., Tensor] = getattr(functional, name)
    x, target = given["input"].detach(), given["target"].detach()
    # Of a class it is a difference, as of what is likely and what is so: of up to 1.
    values = math.sqrt(x[0].numel()) if name == "cross_entropy" else x[0].numel()

    def gradient(upstream: Tensor, found: Tensor) -> Call | None:
        def seen(what: str, site: Site) -> list[Look]:
            spots: list[Spot] = []
            for row in [] if _ignores(name, given) else places(len(x), site.seed):
                one = slice(row, row + 1)
                with torch.enable_grad():
                    asked = _wide(x[one]).requires_grad_()
                    share = loss(asked, _wide(target[one])) / len(x)
                    (expected,) = torch.autograd.grad(share, asked, _wide(upstream))
                least = float(upstream.abs()) / len(x) / values
                spots.append(
                    Spot(f"row {row}", _wide(found[one]), expected, expected.abs().clamp(min=least))
                )
            most = max(most_of(site, "output", 1, 1), ROUGH)
            return [look(what, spots, most)] if spots else []

        return Call("loss", (), seen)

    return gradient


def _wide(part: Tensor) -> Tensor:
    return part.cpu().double() if part.is_floating_point() else part.cpu()
