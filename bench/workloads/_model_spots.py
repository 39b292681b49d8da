"""Values of a model's products, gathers and attention, held to float64; see `_spots`.

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
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.precision import PRECISIONS
from bench.quantized_product import name_of
from bench.records.reason import of_error, reason
from bench.records.tolerances import TOLERANCES
from bench.workload import Job, Look, Site
from bench.workloads._attention_spots import Head, places
from bench.workloads._quantized import narrowed, quantized_layer
from bench.workloads._spots import FEW, THEN, Elements, Spot, allowed, as_written, elements, look

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

Given = Mapping[str, Any]
"""What a function is given, by name."""
ATTENDED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
NAMES = {
    "scaled_dot_product_attention": ATTENDED,
    "linear": ("input", "weight", "bias"),
    "mm": ("input", "mat2"),
    "addmm": ("bias", "input", "mat2"),
    "embedding": ("input", "weight"),
}
"""What the functions that are looked at call what they are given, in order."""


def looks(job: Job, site: Site, step: Callable[[], object]) -> list[Look]:
    """At what a step computes; of one launch of a case. What fails here is no fault of the work:
    it is not observable, and a fact of the job."""
    if not job.thorough:
        return []
    try:
        return _seen(site, step)
    except Exception as error:  # noqa: BLE001 - whatever it is, the figure stands
        job.facts = {**job.facts, ABSENT: f"not observable: {reason(of_error(error))}"}
        return []


def _seen(site: Site, step: Callable[[], object]) -> list[Look]:
    sizes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    _take(step, site, lambda call: sizes[call.kind].append(call.sizes))
    chosen = {kind: _chosen(each) for kind, each in sizes.items()}
    counts: dict[str, int] = defaultdict(int)
    found: list[Look] = []

    def seen(call: Call) -> None:
        kind, number = call.kind, counts[call.kind]
        counts[kind] += 1
        if number in chosen.get(kind, ()):
            found.append(call.look(f"{kind} {number + 1} of {len(sizes[kind])}", site))

    _take(step, site, seen)
    return found


def _chosen(sizes: Sequence[tuple[int, ...]]) -> set[int]:
    """The first, the last, and the largest by each measure."""
    largest = (each.index(max(each)) for each in zip(*sizes, strict=True))
    return {0, len(sizes) - 1, *largest}


class Call(NamedTuple):
    """A call whose values can be computed again."""

    kind: str
    sizes: tuple[int, ...]
    """By each of which it may be the largest of its kind."""
    look: Callable[[str, Site], Look]
    """By what it is called."""


def _take(step: Callable[[], object], site: Site, seen: Callable[[Call], None]) -> None:
    """Takes a step as it is written, and hands over each call. Each layer of 8 bits is one, for
    what multiplies there may be a vendor's."""
    import torch
    from torch.nn import functional
    from torch.nn.modules.module import register_module_forward_hook
    from torch.overrides import TorchFunctionMode

    names = {
        id(getattr(owner, name)): name
        for owner in (functional, torch)
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

    def narrow(layer: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, quantized_layer()):
            scale = layer.get_buffer("_scale")[0]
            hand_over(_product(given[0], layer.weight, layer.bias, output, scale))

    def hand_over(call: Call | None) -> None:
        if call is not None:
            seen(call)

    with as_written(site), Calls(), register_module_forward_hook(narrow):
        step()


def _call(name: str, given: Given, output: Tensor) -> Call | None:
    """None of what is computed in another way, or empty."""
    if name == "scaled_dot_product_attention":
        return _attention(given, output)
    if name == "embedding":
        return _gather(given["input"], given["weight"], output)
    if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        return None
    matrix = given["weight"] if name == "linear" else given["mat2"].t()
    return _product(given["input"], matrix, given.get("bias"), output)


def _plain(*tensors: Tensor | None) -> bool:
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


def _host(x: Tensor, dtype: torch.dtype) -> Tensor:
    """In float64; an autocast has it computed in that type, the output's."""
    return x.detach().cpu().to(dtype).double()


def _allowed(site: Site, quantity: str, length: int, twin: int) -> float:
    """No less than the gate allows the whole model's output. Of a model with narrow layers, whose
    other operators are bfloat16's, as of bfloat16."""
    known = TOLERANCES.get(site.precision.name, {})
    judged = site.precision if {"attention", "output"} <= known.keys() else PRECISIONS["bf16"]
    return max(allowed(judged, quantity, length, twin), TOLERANCES[judged.name]["logits"])


def _floored(spot: Spot, output: Tensor) -> Spot:
    """Below its smallest normal number a format has fewer digits."""
    import torch

    least = torch.finfo(output.dtype).smallest_normal
    return spot._replace(terms=spot.terms.clamp(min=least))


# Products


def _product(
    x: Tensor, matrix: Tensor, bias: Tensor | None, output: Tensor, scale: Tensor | None = None
) -> Call | None:
    """Of rows [..., K] by [N, K] transposed, and [N] or nothing.

    scale: [N], of a matrix of 8 bits, for which the rows become as narrow.
    """
    wide = matrix if scale is None else scale
    if x.dim() < 2 or matrix.dim() != 2 or not _plain(x, wide, bias, output):
        return None
    if bias is not None and bias.shape != matrix.shape[:1]:
        return None
    m, (n, k) = math.prod(x.shape[:-1]), matrix.shape

    def seen(what: str, site: Site) -> Look:
        import torch

        where, dtype, rows = _places(m, n, site.seed), output.dtype, x.detach().flatten(0, -2)
        found = where.of(output.detach().flatten(0, -2))
        b = _rows(matrix, where.columns, dtype)
        if scale is None:
            a = _rows(rows, where.rows, dtype)
            most = _allowed(site, "output", k, min(k, TWIN_K))
        else:
            # On the device: where it divides otherwise, whole rows of ties round the other way.
            a = narrowed(torch.stack([rows[row] for row in where.rows]), matrix.dtype)
            b = b * _host(scale, scale.dtype)[list(where.columns)][:, None]
            most = FEW * TOLERANCES[site.precision.name]["products"]
        if bias is not None:
            beside = _host(bias, dtype)[list(where.columns)][:, None]
            a, b = torch.cat([a, beside], 1), torch.cat([b, torch.ones_like(beside)], 1)
        spot = _floored(where.spot(found, a, b), output)
        return look(f"{what} ({m} x {n} x {k})", [spot], most)

    kind = "product" if scale is None else f"product of {name_of(matrix.dtype)}"
    return Call(kind, (m * n, m), seen)


def _places(m: int, n: int, seed: int) -> Elements:
    corner = itertools.product(range(max(0, m - CORNER), m), range(max(0, n - CORNER), n))
    rows, columns = zip(*sorted({*zip(*elements(m, n, seed), strict=True), *corner}), strict=True)
    return Elements(rows, columns)


def _rows(x: Tensor, rows: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As `_spots.rows_of`; what comes more than once is copied once."""
    import torch

    each = {row: _host(x[row], dtype) for row in set(rows)}
    return torch.stack([each[row] for row in rows])


# Gathers


def _gather(asked: Tensor, table: Tensor, output: Tensor) -> Call | None:
    """Of rows of [R, d] by indices."""
    if not asked.numel() or not asked.dim() or not _plain(table, output):
        return None
    if table.dtype != output.dtype:
        return None

    def seen(what: str, site: Site) -> Look:
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
        return Look(
            what=f"{what} ({size}) at the timed size",
            asked=right,
            seen=next(wrong, right),
            then=THEN,
        )

    return Call("gather", (output.numel(), table.numel()), seen)


# Attention


def _attention(given: Given, output: Tensor) -> Call | None:
    query, key, value = (given[name] for name in ("query", "key", "value"))
    mask = given.get("attn_mask")
    if not _plain(query, key, value, output) or {x.dim() for x in (query, key, value)} != {4}:
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
        return lambda start, stop: _host(x[start:stop], dtype)

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

    def seen(what: str, site: Site) -> Look:
        where = places(output.shape, TWIN_TOKENS, site.seed)
        spots = [
            _floored(Spot(f"token {token} of head {number}, sequence {sequence}", *row), output)
            for (sequence, number), found in zip(where.heads, where.of(output), strict=True)
            for token, *row in zip(
                *(where.tokens, found, *head(sequence, number, where.tokens).output()), strict=True
            )
            if row[1].isfinite().all()  # else it sees no key
        ]
        most = _allowed(site, "attention", length, min(length, TWIN_KEYS))
        size = f"{batch} x {heads} heads, {queries} queries, {length} keys"
        return look(f"{what} ({size})", spots, most)

    return Call("attention", (batch * heads * queries * length, length), seen)
