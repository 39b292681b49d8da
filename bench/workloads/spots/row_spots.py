"""Values that a model's step computes row by row, held to float64: activations, norms, losses.

See `model_spots.py`. What is sought is a kernel that is wrong from some row or size on, so a few
whole rows are looked at, of a batch norm channels; and of a loss the mean of all rows, computed
anew in pieces.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from bench.records.tolerances import TOLERANCES
from bench.workload import Look, Site
from bench.workloads.spots.calls import Call, Given, floored, most_of, plain, roughly
from bench.workloads.spots.spots import FEW, Spot, host, look

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workloads.spots.calls import Gradient

    Values = tuple[Tensor, Tensor]
    """What is expected, and its terms; see `Spot`."""
    Three = tuple[Tensor, Tensor, Tensor]
    Definition = Callable[[Tensor], Three]
    """Of a row [D] in float64: what is made of it, the size of the terms of each value, and how
    much a gradient of each weighs in the row's own."""
    Made = Callable[..., Three]
    """Of the number of a row, the row, and that of other tensors: what was found, and `Values`."""

LOSSES = ("cross_entropy", "mse_loss", "binary_cross_entropy_with_logits")
NAMES = {
    "relu": ("input", "inplace"),
    "silu": ("input", "inplace"),
    "gelu": ("input", "approximate"),
    "softmax": ("input", "dim"),
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "batch_norm": ("input", "running_mean", "running_var", "weight", "bias", "training"),
    **dict.fromkeys(LOSSES, ("input", "target")),
}
"""What the functions that are looked at call what they are given, in order."""
USUAL = {"weight": None, "pos_weight": None, "reduction": "mean", "label_smoothing": 0.0}
"""Of losses that are looked at; nor is one that leaves out a target."""
ROWS = 8
"""That are looked at: the first, the last, the one behind the gate's, and drawn ones."""
CHANNELS = 4
"""Likewise, of a batch norm."""
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
    if name == "batch_norm":
        return _batch_norm(given, output)
    if name == "softmax":
        whole = given.get("dim") in (-1, x.dim() - 1)
        return _rows("softmax", x, output, 1, _softmax) if whole else None
    if name in ("relu", "silu", "gelu"):
        return _rows("activation", x, output, 1, _activation(name, given))
    return _normed(name, given, output, len(given["normalized_shape"]))


def root_mean_square(given: Given, output: Tensor) -> Call | None:
    """Of an input, a weight [D] and an epsilon."""
    return _normed("rms_norm", given, output, 1)


def _normed(name: str, given: Given, output: Tensor, dims: int) -> Call | None:
    """Over the last dimensions, so many."""
    found = _rows("norm", given["input"], output, dims, _norm(name, given, output))
    if found is None or not plain(given.get("weight"), given.get("bias")):
        return found
    sums = {which: _norm_sum(which, name, given, output, dims) for which in ("weight", "bias")}
    return found._replace(gradients={**found.gradients, **sums})


def _norm_sum(which: str, name: str, given: Given, output: Tensor, dims: int) -> Gradient:
    """Of a few channels of a weight or bias [D], each of which sums over all rows."""
    import torch

    x, dtype = given["input"].detach(), output.dtype
    width = math.prod(x.shape[x.dim() - dims :])
    least = _least(name, given, output)

    def statistics() -> tuple[Tensor, Tensor, Tensor]:
        """The rows, and of each the mean and the root of its variance: the device's own, in
        float32."""
        rows = x.reshape(-1, width)  # a copy, where its dimensions were permuted
        means: list[Tensor] = []
        sizes: list[Tensor] = []
        for some in rows.split(max(1, PIECE // 16 // width)):
            part = some.to(dtype).float()
            mean = part.mean(1) if name == "layer_norm" else part.new_zeros(len(part))
            means.append(mean)
            sizes.append(((part - mean[:, None]).square().mean(1) + least).sqrt())
        return rows, host(torch.cat(means)), host(torch.cat(sizes))

    def gradient(upstream: Tensor, found: Tensor) -> Call | None:
        if name == "layer_norm" and dtype.itemsize == 2:
            return None  # torch adds all rows in as few bits: of 16,384 a bias loses nearly all

        def seen(what: str, site: Site) -> list[Look]:
            above, spots = upstream.reshape(-1, width), list[Spot]()
            rows, mean, size = statistics()
            for channel in places(width, site.seed, CHANNELS):
                terms, off = host(above[:, channel], dtype), 0.0
                if which == "weight":
                    off = float((mean / size * terms).sum())
                    terms = (host(rows[:, channel], dtype) - mean) / size * terms
                had = host(found.reshape(-1)[channel])[None]
                roots = terms.new_tensor([math.hypot(float(terms.norm()), off)])
                spots.append(
                    floored(Spot(f"channel {channel}", had, terms.sum()[None], roots), dtype)
                )
            return [look(f"{what} ({len(rows)} x {width})", spots, max(roughly(site), ROUGH))]

        return Call("norm", (), seen)

    return gradient


def _rows(kind: str, x: Tensor, output: Tensor, dims: int, definition: Definition) -> Call | None:
    """Of rows over the last dimensions, so many."""
    if x.dim() <= dims:
        return None
    width = math.prod(x.shape[x.dim() - dims :])
    size = f"{x.numel() // max(1, width)} x {width}"
    return _each(kind, x, output, lambda t: t.reshape(-1, width), lambda _: definition, size)


def _each(
    kind: str,
    x: Tensor,
    output: Tensor,
    rows: Callable[[Tensor], Tensor],
    definition: Callable[[int], Definition],
    size: str,
    word: str = "row",
    most: int = ROWS,
    **sums: Made,
) -> Call | None:
    """Of what is computed row by row, by a definition for each number; none where what was read is
    overwritten.

    rows: lays a tensor's along its first dimension; size: of all, in words; most: that are looked
    at; sums: gradients besides, of which each row has one value.
    """
    if x.shape != output.shape or not plain(x, output) or x.data_ptr() == output.data_ptr():
        return None
    dtype = output.dtype

    def one(values: Tensor, number: int) -> Tensor:
        return host(values[number], dtype if values.dim() > 1 else values.dtype).flatten()

    def seen(made: Made, others: Sequence[Tensor], what: str, site: Site) -> list[Look]:
        # A kernel may keep statistics in 16 bits for its backward.
        rough = sums and made is not of_output
        every = [rows(values.detach()) for values in (x, *others)]
        spots = [
            floored(Spot(f"{word} {number}", *made(number, *each)), dtype)
            for number in places(len(every[0]), site.seed, most)
            for each in [[one(values, number) for values in every]]
        ]
        within = max(roughly(site) if rough else most_of(site, "output", 1, 1), ROUGH)
        return [look(f"{what} ({size})", spots, within)]

    def gradient(made: Made) -> Gradient:
        return lambda upstream, found: Call(
            kind, (), functools.partial(seen, made, (found, upstream))
        )

    def of_output(number: int, row: Tensor, found: Tensor) -> Three:
        return found, *definition(number)(row)[:2]

    def of_input(number: int, row: Tensor, found: Tensor, upstream: Tensor) -> Three:
        return found, *pulled_back(definition(number), row, upstream)

    gradients = {name: gradient(made) for name, made in {"input": of_input, **sums}.items()}
    return Call(kind, (output.numel(),), functools.partial(seen, of_output, (output,)), gradients)


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


def _softmax(row: Tensor) -> Three:
    found = row.softmax(0)
    return found, found, found


def _activation(name: str, given: Given) -> Definition:
    from torch.nn import functional

    how = {"approximate": given.get("approximate", "none")} if name == "gelu" else {}

    def of(row: Tensor) -> Three:
        return getattr(functional, name)(row, **how), row / 2, row.new_ones(())

    return of


def _norm(name: str, given: Given, output: Tensor) -> Definition:
    weight, bias, least = given.get("weight"), given.get("bias"), _least(name, given, output)

    def of(row: Tensor) -> Three:
        mean = row.mean() if name == "layer_norm" else row.new_zeros(())
        size = ((row - mean).square().mean() + least).sqrt()
        by, beside = (
            row.new_full((), absent) if x is None else host(x, x.dtype).flatten()
            for x, absent in ((weight, 1.0), (bias, 0.0))
        )
        return normalized(row, mean, size, by, beside)

    return of


def _least(name: str, given: Given, output: Tensor) -> float:
    """What a norm adds to the variance."""
    import torch

    if (least := given.get("eps")) is not None:
        return float(least)
    wide = torch.promote_types(output.dtype, torch.float32)  # in which sums are made
    return 1e-5 if name == "layer_norm" else torch.finfo(wide).eps


def normalized(row: Tensor, mean: Tensor, size: Tensor, by: Tensor, beside: Tensor) -> Three:
    """What a `Definition` gives of a norm."""
    terms = ((row.square() + mean.square()) * (by / size).square() + beside.square()).sqrt()
    return (row - mean) / size * by + beside, terms, by / size


def _batch_norm(given: Given, output: Tensor) -> Call | None:
    """Over images and places of each channel [N, C, ...]; of a few channels."""
    import torch

    x, weight, bias = (given.get(name) for name in ("input", "weight", "bias"))
    if x is None or not plain(weight, bias) or x.dim() < 3:
        return None
    least = given.get("eps", 1e-5)

    def scalar(values: Tensor | None, channel: int, absent: float) -> Tensor:
        return host(torch.tensor(absent) if values is None else values[channel])

    def statistics(channel: int, row: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, and root of the variance."""
        if given.get("training"):
            mean, variance = row.mean(), row.var(correction=0)
        else:
            mean = scalar(given["running_mean"], channel, 0.0)
            variance = scalar(given["running_var"], channel, 1.0)
        return mean, (variance + least).sqrt()

    def definition(channel: int) -> Definition:
        by, beside = scalar(weight, channel, 1.0), scalar(bias, channel, 0.0)
        return lambda row: normalized(row, *statistics(channel, row), by, beside)

    def of_weight(channel: int, row: Tensor, found: Tensor, upstream: Tensor) -> Three:
        mean, size = statistics(channel, row)
        terms = upstream * (row - mean) / size
        # The mean that was kept of the forward may be as narrow as its output.
        off = float(mean / size * upstream.sum())
        return found, terms.sum()[None], torch.tensor([math.hypot(float(terms.norm()), off)])

    def of_bias(_: int, row: Tensor, found: Tensor, upstream: Tensor) -> Three:
        return found, upstream.sum()[None], upstream.norm()[None]

    def channels(values: Tensor) -> Tensor:
        return values.transpose(0, 1) if values.dim() > 1 else values

    size = " x ".join(map(str, x.shape))
    sums = {"weight": of_weight, "bias": of_bias}
    return _each("batch norm", x, output, channels, definition, size, "channel", CHANNELS, **sums)


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
