"""Values of a model's products and gathers, and of their gradients, held to float64.

See `model_spots.py`. Gradients of a product are products themselves, and that of a table sums rows.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING

from bench.quantized_product import name_of
from bench.records.tolerances import TOLERANCES
from bench.workload import Look, Site
from bench.workloads.layers.quantized import narrowed
from bench.workloads.spots import spots as few_values
from bench.workloads.spots.calls import Call, Given, floored, most_of, plain, roughly
from bench.workloads.spots.spots import THEN, Elements, Spot, host, look, rows_of, taken

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from bench.workloads.spots.calls import Gradient

NAMES = {
    "linear": ("input", "weight", "bias"),
    "mm": ("input", "mat2"),
    "addmm": ("bias", "input", "mat2"),
    "embedding": ("input", "weight", "padding_idx"),
    "matmul": ("input", "mat2"),
    "bmm": ("input", "mat2"),
    "grouped_mm": ("input", "mat2"),
}
"""What the functions that are looked at call what they are given, in order."""
TWIN_K = 256
"""Length of the sums that the gate's tolerances of products are of."""
CORNER = 8
"""So many of the last rows by so many of the last columns, besides drawn elements."""
ROWS = 64
"""Of a gather."""
TABLE_ROWS = 8
"""Of a table's gradient: so many that were asked for, and as many that were not."""
SUMMED = 64
"""Rows that one row of such a gradient sums, where it has 16 bits."""
PIECE = 4096
"""Rows that are on the host at a time."""


def call(name: str, given: Given, output: Tensor) -> Call | None:
    """None of what is computed in another way, or empty."""
    if name == "embedding":
        return _gather(given["input"], given, output)
    if name == "grouped_mm":
        return _grouped(given, output)
    if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        return None
    x, bias = given["input"], given.get("bias")
    if name in ("matmul", "bmm") and given["mat2"].dim() > 2:
        return _products(x, given["mat2"], output)
    matrix = given["weight"] if name == "linear" else given["mat2"].t()
    found = product(x, matrix, bias, output)
    return found and found._replace(gradients=_gradients(name, given, output))


def product(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    output: Tensor,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Call | None:
    """Of rows [..., K] by [N, K] transposed, and [N] or nothing.

    scale: [N], of a matrix of 8 bits, for which the rows become as narrow; dtype: in which it is
    multiplied, if not the output's.
    """
    wide = matrix if scale is None else scale
    if x.dim() < 2 or matrix.dim() != 2 or not plain(x, wide, bias, output):
        return None
    if bias is not None and bias.shape != matrix.shape[:1]:
        return None
    m, (n, k) = math.prod(x.shape[:-1]), matrix.shape

    def seen(what: str, site: Site) -> list[Look]:
        import torch

        where, rows = _places(m, n, site.seed), x.detach().flatten(0, -2)
        within = dtype or output.dtype
        found = where.of(output.detach().flatten(0, -2))
        b = rows_of(matrix, where.columns, within)
        if scale is None:
            a = rows_of(rows, where.rows, within)
            # Of gradients, over many tokens, devices may add parts that are as narrow.
            parts = dtype is not None and dtype.itemsize == 2
            most = most_of(site, "attention" if parts else "output", k, min(k, TWIN_K))
        else:
            # On the device: where it divides otherwise, whole rows of ties round the other way.
            a = narrowed(torch.stack([rows[row] for row in where.rows]), matrix.dtype)
            b = b * host(scale, scale.dtype)[list(where.columns)][:, None]
            most = few_values.FEW * TOLERANCES[site.precision.name]["products"]
        if bias is not None:
            beside = host(bias, within)[list(where.columns)][:, None]
            a, b = torch.cat([a, beside], 1), torch.cat([b, torch.ones_like(beside)], 1)
        spot = floored(where.spot(found, a, b), within)
        return [look(f"{what} ({m} x {n} x {k})", [spot], most)]

    kind = "product" if scale is None else f"product of {name_of(matrix.dtype)}"
    return Call(kind, (m * n, m), seen)


def _gradients(name: str, given: Given, output: Tensor) -> dict[str, Gradient]:
    """Of rows, matrix and bias: each is a product with what the output's gradient is."""
    dtype, matrix = output.dtype, "weight" if name == "linear" else "mat2"
    x, weight = (given[which].detach() for which in ("input", matrix))
    by = weight if name == "linear" else weight.t()  # [N, K]

    def of_rows(upstream: Tensor, found: Tensor) -> Call | None:
        return product(upstream, by.t(), None, found, dtype=dtype)

    def of_matrix(upstream: Tensor, found: Tensor) -> Call | None:
        sides = [side.detach().flatten(0, -2).t() for side in (upstream, x)]  # [N, M], [K, M]
        left, right = sides if name == "linear" else sides[::-1]
        return product(left, right, None, found, dtype=dtype)

    def of_bias(upstream: Tensor, found: Tensor) -> Call | None:
        columns = upstream.detach().flatten(0, -2).t()
        return product(columns.new_ones(1, columns.shape[1]), columns, None, found[None])

    return {"input": of_rows, matrix: of_matrix, "bias": of_bias}


def _products(
    a: Tensor, b: Tensor, output: Tensor, dtype: torch.dtype | None = None
) -> Call | None:
    """Of [..., M, K] by [..., K, N], with as many of either."""
    count = math.prod(b.shape[:-2])
    if a.dim() != b.dim() or a.shape[:-2] != b.shape[:-2] or not plain(a, b, output):
        return None
    each = [x.detach().flatten(0, -3) for x in (a, b, output)]

    def of(index: int) -> Call | None:
        left, right, found = (x[index] for x in each)
        return product(left, right.t(), None, found, dtype=dtype)

    def of_left(upstream: Tensor, found: Tensor) -> Call | None:
        return _products(upstream, b.detach().mT, found, output.dtype)

    def of_right(upstream: Tensor, found: Tensor) -> Call | None:
        return _products(a.detach().mT, upstream, found, output.dtype)

    def seen(what: str, site: Site) -> list[Look]:
        drawn = random.Random(site.seed).randrange(count)
        calls = [(index, of(index)) for index in sorted({0, drawn, count - 1})]
        return [
            look
            for index, call in calls
            if call is not None
            for look in call.looks(f"matrix {index + 1} of {count} of {what}", site)
        ]

    gradients = {"input": of_left, "mat2": of_right}
    return Call("batched product", (output.numel(), count), seen, gradients)


class _Groups:
    """Rows [S, K] in groups that end at such ends, one for each of so many matrices [G, K, N]."""

    def __init__(self, ends: Tensor) -> None:
        self._ends = ends.detach().cpu().tolist()

    def of(self, rows: Tensor, group: int) -> Tensor:
        return rows.detach()[self._ends[group - 1] if group else 0 : self._ends[group]]

    def chosen(self) -> tuple[list[int], list[int]]:
        """The largest group and the last with a row; and the first without."""
        starts = [0, *self._ends]
        counts = [end - start for start, end in zip(starts, self._ends, strict=False)]
        with_rows = [group for group, count in enumerate(counts) if count]
        none = [group for group, count in enumerate(counts) if not count]
        return sorted({counts.index(max(counts)), *with_rows[-1:]}) if with_rows else [], none[:1]


def _grouped(given: Given, output: Tensor) -> Call | None:
    """Of experts' rows by their matrices, in one call."""
    x, by, ends, dtype = given["input"], given["mat2"], given.get("offs"), output.dtype
    if ends is None or x.dim() != 2 or by.dim() != 3 or not plain(x, by, output):
        return None

    def call(of: Callable[[_Groups, int], Call | None], each: Tensor | None = None) -> Call:
        def seen(what: str, site: Site) -> list[Look]:
            groups = _Groups(ends)
            chosen, none = groups.chosen()
            calls = [(group, of(groups, group)) for group in chosen]
            found = [
                look
                for group, call in calls
                if call is not None
                for look in call.looks(f"group {group + 1} of {len(by)} of {what}", site)
            ]
            if each is None:
                return found
            for group in none:
                seen = "other values" if bool(each[group].any()) else "zeros"
                words = f"{what}, of group {group + 1} of {len(by)} without rows, at the timed size"
                found.append(Look(what=words, asked="zeros", seen=seen, then=THEN))
            return found

        return Call("grouped product", (output.numel(), len(x)), seen)

    def of_output(groups: _Groups, group: int) -> Call | None:
        return product(groups.of(x, group), by.detach()[group].t(), None, groups.of(output, group))

    def of_rows(upstream: Tensor, found: Tensor) -> Call:
        def of(groups: _Groups, group: int) -> Call | None:
            rows, made = groups.of(upstream, group), groups.of(found, group)
            return product(rows, by.detach()[group], None, made, dtype=dtype)

        return call(of)

    def of_matrices(upstream: Tensor, found: Tensor) -> Call:
        def of(groups: _Groups, group: int) -> Call | None:
            rows, above = groups.of(x, group), groups.of(upstream, group)
            return product(rows.t(), above.t(), None, found[group], dtype=dtype)

        return call(of, found)

    return call(of_output)._replace(gradients={"input": of_rows, "mat2": of_matrices})


def _places(m: int, n: int, seed: int) -> Elements:
    corner = itertools.product(range(max(0, m - CORNER), m), range(max(0, n - CORNER), n))
    rows, columns = zip(
        *sorted({*zip(*few_values.elements(m, n, seed), strict=True), *corner}), strict=True
    )
    return Elements(rows, columns)


# Gathers


def _gather(asked: Tensor, given: Given, output: Tensor) -> Call | None:
    """Of rows of [R, d] by indices."""
    table = given["weight"]
    if not asked.numel() or not asked.dim() or not plain(table, output):
        return None
    if table.dtype != output.dtype:
        return None

    def seen(what: str, site: Site) -> list[Look]:
        import torch

        indices, rows = asked.detach().flatten().cpu(), output.detach().flatten(0, -2)
        drawn = random.Random(site.seed)
        places = {0, len(indices) - 1, int(indices.argmax()), int(indices.argmin())}
        places |= {drawn.randrange(len(indices)) for _ in range(ROWS - len(places))}
        right = f"{len(places)} rows of its table, as they are"
        wrong = (
            f"another than row {index} at place {place}"
            for place in sorted(places)
            for index in [int(indices[place])]
            if not torch.equal(rows[place].cpu(), table[index].detach().cpu())
        )
        size = f"{len(indices)} of {table.shape[0]} x {table.shape[1]}"
        what = f"{what} ({size}) at the timed size"
        return [Look(what=what, asked=right, seen=next(wrong, right), then=THEN)]

    def of_table(upstream: Tensor, found: Tensor) -> Call | None:
        return _scatter(asked, upstream, found, given.get("padding_idx"))

    return Call("gather", (output.numel(), table.numel()), seen, {"weight": of_table})


def _scatter(asked: Tensor, upstream: Tensor, found: Tensor, padding: int | None) -> Call | None:
    """Of the gradient [R, d] of a table: sums of the output's rows, by their indices."""
    if not plain(upstream, found):
        return None

    def seen(what: str, site: Site) -> list[Look]:
        import torch

        indices, rows = asked.detach().flatten().cpu(), upstream.detach().flatten(0, -2)
        counts = torch.bincount(indices, minlength=len(found))
        # Many sums in 16 bits lose what is added last, on a sound device too.
        most = len(indices) if found.dtype.itemsize > 2 else SUMMED
        fit = (counts <= most).logical_and(counts > 0).nonzero().flatten().tolist()
        none = (counts == 0).nonzero().flatten().tolist()
        asked_most = int((counts * (counts <= most)).argmax())
        drawn = random.Random(site.seed)
        chosen = {asked_most, *drawn.sample(fit, min(len(fit), TABLE_ROWS))}
        chosen |= {*drawn.sample(none, min(len(none), TABLE_ROWS))}
        if padding is not None:
            chosen.discard(padding % len(found))  # its gradient is none by definition
        spots = [
            floored(
                Spot(f"row {row}", host(found[row], found.dtype), *_summed(rows, places)),
                found.dtype,
            )
            for row in sorted(chosen)
            if counts[row] <= most
            for places in [(indices == row).nonzero().flatten()]
        ]
        length = max(1, int(counts[asked_most]))
        size = f"{len(indices)} of {len(found)} x {found.shape[1]}"
        within = max(most_of(site, "output", length, min(length, TWIN_K)), roughly(site))
        return [look(f"{what} ({size})", spots, within)] if spots else []

    return Call("scatter", (found.numel(),), seen)


def _summed(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of some rows, and the root of their squares' sum; a few are on the host at a time."""
    import torch

    found = terms = torch.zeros(rows.shape[1], dtype=torch.float64)
    for some in places.split(PIECE):
        part = taken(rows, some)
        found, terms = found + part.sum(0), terms + part.square().sum(0)
    return found, terms.sqrt()
