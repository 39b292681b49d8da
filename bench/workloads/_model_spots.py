"""Values of a model's products, gathers, attention, rows and loss, held to float64; see `_spots`.

The gate's twin of a model has few tokens, a short cache and a small vocabulary. So after the timing
a step is taken twice more, as it is written: neither compiled nor recorded. The first time calls
are counted; the second time the first, the last and the largest of each kind are looked at when
they come, for later layers write over what they read. Nothing stays on the device.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.quantized_product import name_of
from bench.records.reason import of_error, reason
from bench.records.tolerances import TOLERANCES
from bench.workload import Job, Look, Site
from bench.workloads import _row_spots
from bench.workloads._attention_spots import Head, places
from bench.workloads._calls import Call, Given, floored, host, most_of, plain
from bench.workloads._quantized import narrowed, quantized_layer
from bench.workloads._spots import FEW, THEN, Elements, Spot, as_written, elements, look

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ABSENT = "values at the timed size"
"""The fact that says why none was looked at, where that failed."""
TWIN_TOKENS = 64
"""Of the gate's texts: the token behind is among those that are looked at."""
TWIN_KEYS, TWIN_K = 128, 256
"""Lengths of the sums that the gate's tolerances of attention and of products are of."""
CORNER = 8
"""So many of the last rows by so many of the last columns, besides drawn elements."""
ROWS = 64
"""Of a gather."""

ATTENDED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
NAMES = {
    "scaled_dot_product_attention": ATTENDED,
    "linear": ("input", "weight", "bias"),
    "mm": ("input", "mat2"),
    "addmm": ("bias", "input", "mat2"),
    "embedding": ("input", "weight"),
    "matmul": ("input", "mat2"),
    "bmm": ("input", "mat2"),
    **_row_spots.NAMES,
}
"""What the functions that are looked at call what they are given, in order."""


def looks(job: Job, site: Site, step: Callable[[], object]) -> list[Look]:
    """At what a step computes; of one launch of a case. What fails here is no fault of the work:
    it is not observable, and a fact of the job."""
    if not job.thorough:
        return []
    found: list[Look] = []
    try:
        _see(site, step, found)
    except Exception as error:  # noqa: BLE001 - whatever it is, the figure stands
        job.facts = {**job.facts, ABSENT: f"not observable: {reason(of_error(error))}"}
    return found


def _see(site: Site, step: Callable[[], object], found: list[Look]) -> None:
    """Adds what was seen to what was found so far: that stands, if a later look fails."""
    sizes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    _take(step, site, lambda call: sizes[call.kind].append(call.sizes))
    chosen = {kind: _chosen(each) for kind, each in sizes.items()}
    counts: dict[str, int] = defaultdict(int)

    def seen(call: Call) -> None:
        kind, number = call.kind, counts[call.kind]
        counts[kind] += 1
        if number in chosen.get(kind, ()):
            found.extend(call.looks(f"{kind} {number + 1} of {len(sizes[kind])}", site))

    _take(step, site, seen)


def _chosen(sizes: Sequence[tuple[int, ...]]) -> set[int]:
    """The first, the last, and the largest by each measure."""
    largest = (each.index(max(each)) for each in zip(*sizes, strict=True))
    return {0, len(sizes) - 1, *largest}


def _take(step: Callable[[], object], site: Site, seen: Callable[[Call], None]) -> None:
    """Takes a step as it is written, and hands over each call. Each layer of 8 bits is one, for
    what multiplies there may be a vendor's."""
    import torch
    from torch.nn import functional
    from torch.nn.modules.module import register_module_forward_hook
    from torch.overrides import TorchFunctionMode

    names = {
        id(getattr(owner, name)): name
        for owner in (functional, torch, torch.Tensor)
        for name in NAMES
        if hasattr(owner, name)
    }

    class Calls(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            output = func(*args, **(kwargs or {}))
            name = names.get(id(func))
            if name is not None:
                given = {**dict(zip(NAMES[name], args, strict=False)), **(kwargs or {})}
                # An autocast of the CPU's would have float64 computed in less.
                with torch.no_grad(), torch.autocast("cpu", enabled=False):
                    hand_over(_call(name, given, output))
            return output

    def of_layer(layer: Any, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(layer, quantized_layer()):
            scale = layer.get_buffer("_scale")[0]
            hand_over(_product(given[0], layer.weight, layer.bias, output, scale))
        elif hasattr(layer, "variance_epsilon"):  # a norm that its library writes out
            hand_over(_row_spots.root_mean_square(layer, given[0], output))

    def hand_over(call: Call | None) -> None:
        if call is not None:
            seen(call)

    with as_written(site), Calls(), register_module_forward_hook(of_layer):
        step()


def _call(name: str, given: Given, output: Tensor) -> Call | None:
    """None of what is computed in another way, or empty."""
    if name == "scaled_dot_product_attention":
        return _attention(given, output)
    if name == "embedding":
        return _gather(given["input"], given["weight"], output)
    if name in _row_spots.NAMES:
        return _row_spots.call(name, given, output)
    if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        return None
    if name in ("matmul", "bmm") and given["mat2"].dim() > 2:
        return _products(given["input"], given["mat2"], output)
    matrix = given["weight"] if name == "linear" else given["mat2"].t()
    return _product(given["input"], matrix, given.get("bias"), output)


# Products


def _product(
    x: Tensor, matrix: Tensor, bias: Tensor | None, output: Tensor, scale: Tensor | None = None
) -> Call | None:
    """Of rows [..., K] by [N, K] transposed, and [N] or nothing.

    scale: [N], of a matrix of 8 bits, for which the rows become as narrow.
    """
    wide = matrix if scale is None else scale
    if x.dim() < 2 or matrix.dim() != 2 or not plain(x, wide, bias, output):
        return None
    if bias is not None and bias.shape != matrix.shape[:1]:
        return None
    m, (n, k) = math.prod(x.shape[:-1]), matrix.shape

    def seen(what: str, site: Site) -> list[Look]:
        import torch

        where, dtype, rows = _places(m, n, site.seed), output.dtype, x.detach().flatten(0, -2)
        found = where.of(output.detach().flatten(0, -2))
        b = _rows(matrix, where.columns, dtype)
        if scale is None:
            a = _rows(rows, where.rows, dtype)
            most = most_of(site, "output", k, min(k, TWIN_K))
        else:
            # On the device: where it divides otherwise, whole rows of ties round the other way.
            a = narrowed(torch.stack([rows[row] for row in where.rows]), matrix.dtype)
            b = b * host(scale, scale.dtype)[list(where.columns)][:, None]
            most = FEW * TOLERANCES[site.precision.name]["products"]
        if bias is not None:
            beside = host(bias, dtype)[list(where.columns)][:, None]
            a, b = torch.cat([a, beside], 1), torch.cat([b, torch.ones_like(beside)], 1)
        spot = floored(where.spot(found, a, b), output)
        return [look(f"{what} ({m} x {n} x {k})", [spot], most)]

    kind = "product" if scale is None else f"product of {name_of(matrix.dtype)}"
    return Call(kind, (m * n, m), seen)


def _products(a: Tensor, b: Tensor, output: Tensor) -> Call | None:
    """Of [..., M, K] by [..., K, N], with as many of either."""
    count = math.prod(b.shape[:-2])
    if a.dim() != b.dim() or a.shape[:-2] != b.shape[:-2] or not plain(a, b, output):
        return None
    each = [x.detach().flatten(0, -3) for x in (a, b, output)]

    def of(index: int) -> Call | None:
        left, right, found = (x[index] for x in each)
        return _product(left, right.t(), None, found)

    def seen(what: str, site: Site) -> list[Look]:
        drawn = random.Random(site.seed).randrange(count)
        calls = [(index, of(index)) for index in sorted({0, drawn, count - 1})]
        return [
            look
            for index, call in calls
            if call is not None
            for look in call.looks(f"matrix {index + 1} of {count} of {what}", site)
        ]

    return Call("batched product", (output.numel(), count), seen)


def _places(m: int, n: int, seed: int) -> Elements:
    corner = itertools.product(range(max(0, m - CORNER), m), range(max(0, n - CORNER), n))
    rows, columns = zip(*sorted({*zip(*elements(m, n, seed), strict=True), *corner}), strict=True)
    return Elements(rows, columns)


def _rows(x: Tensor, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As `_spots.rows_of`; what comes more than once is copied once."""
    import torch

    each = {row: host(x[row], dtype) for row in set(rows)}
    return torch.stack([each[row] for row in rows])


# Gathers


def _gather(asked: Tensor, table: Tensor, output: Tensor) -> Call | None:
    """Of rows of [R, d] by indices."""
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

    return Call("gather", (output.numel(), table.numel()), seen)


# Attention


def _attention(given: Given, output: Tensor) -> Call | None:
    query, key, value = (given[name] for name in ("query", "key", "value"))
    mask = given.get("attn_mask")
    if not plain(query, key, value, output) or {x.dim() for x in (query, key, value)} != {4}:
        return None
    batch, heads, queries, width = query.shape
    grouped, length = key.shape[1:3]
    if key.shape[0] != batch or value.shape[:3] != key.shape[:3] or given.get("dropout_p"):
        return None
    if grouped != heads and not given.get("enable_gqa"):
        return None
    scale = given.get("scale")
    dtype = output.dtype

    def piece(x: Tensor) -> Callable[[int, int], Tensor]:
        return lambda start, stop: host(x[start:stop], dtype)

    def head(sequence: int, number: int, tokens: Sequence[int]) -> Head:
        import torch

        shared = number * grouped // heads
        added = None
        if mask is not None:
            rows = mask.detach().expand(batch, heads, queries, length)[sequence, number]
            added = torch.stack([rows[token].cpu() for token in tokens])
        return Head(
            query=_rows(query[sequence, number], tokens, dtype),
            tokens=tokens if given.get("is_causal") else [length - 1] * len(tokens),
            length=length,
            key=piece(key[sequence, shared]),
            value=piece(value[sequence, shared]),
            scale=float(width) ** -0.5 if scale is None else scale,
            mask=added,
        )

    def seen(what: str, site: Site) -> list[Look]:
        where = places(output.shape, TWIN_TOKENS, site.seed)
        spots = [
            floored(Spot(f"token {token} of head {number}, sequence {sequence}", *row), output)
            for (sequence, number), found in zip(where.heads, where.of(output), strict=True)
            for token, *row in zip(
                *(where.tokens, found, *head(sequence, number, where.tokens).output()), strict=True
            )
            if row[1].isfinite().all()  # else it sees no key
        ]
        most = most_of(site, "attention", length, min(length, TWIN_KEYS))
        size = f"{batch} x {heads} heads, {queries} queries, {length} keys"
        return [look(f"{what} ({size})", spots, most)]

    return Call("attention", (batch * heads * queries * length, length), seen)
