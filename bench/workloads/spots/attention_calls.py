"""A model's calls of torch's attention, and their gradients, held to float64; see `model_spots.py`.

How a few tokens of it are computed again: `attention_spots.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.workload import Look, Site
from bench.workloads.spots.attention_spots import WHOLE_HEAD, head_of, place_of, places
from bench.workloads.spots.calls import Call, Given, floored, most_of, plain
from bench.workloads.spots.spots import Spot, host, look, rows_of

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workloads.spots.calls import Gradient

NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""What the function calls what it is given, in order."""
TWIN_TOKENS = 64
"""Of the gate's texts: the token behind is among those that are looked at."""
TWIN_KEYS = 128
"""Length of the sums that the gate's tolerances of attention are of."""
AT_AN_END = 8
"""Of the keys whose gradients can be told: so many of the first, and of the last."""


def call(given: Given, output: Tensor) -> Call | None:
    """None of what drops some, or is not [B, H, T, D]."""
    query, key, value = (given[name] for name in NAMES[:3])
    if not plain(query, key, value, output) or {x.dim() for x in (query, key, value)} != {4}:
        return None
    batch, heads, queries = query.shape[:3]
    grouped, length = key.shape[1:3]
    if key.shape[0] != batch or value.shape[:3] != key.shape[:3] or given.get("dropout_p"):
        return None
    if grouped != heads and not given.get("enable_gqa"):
        return None
    asked, dtype = _Asked(given, output), output.dtype

    def looked(quantity: str, spots: list[Spot], what: str, site: Site) -> list[Look]:
        finite = [floored(spot, dtype) for spot in spots if spot.expected.isfinite().all()]
        most = most_of(site, quantity, length, min(length, TWIN_KEYS))
        size = f"{batch} x {heads} heads, {queries} queries, {length} keys"
        return [look(f"{what} ({size})", finite, most)] if finite else []  # else none sees a key

    def seen(what: str, site: Site) -> list[Look]:
        return looked("attention", [*asked.output(output, site.seed)], what, site)

    def gradient(name: str) -> Gradient:
        def of(upstream: Tensor, found: Tensor) -> Call:
            def seen(what: str, site: Site) -> list[Look]:
                spots = [*asked.gradient(name, upstream, found, site.seed)]
                return looked("gradients", spots, what, site)

            return Call("attention", (), seen)

        return of

    sizes = (batch * heads * queries * length, length)
    return Call("attention", sizes, seen, {name: gradient(name) for name in NAMES[:3]})


class _Asked:
    """One call: query [B, H, Q, D], key and value [B, G, K, D], each of which H / G heads share."""

    def __init__(self, given: Given, output: Tensor) -> None:
        operands = self._query, self._key, _ = [given[name].detach() for name in NAMES[:3]]
        self._shape, self._dtype = output.shape, output.dtype
        self._sharing = self._query.shape[1] // self._key.shape[1]
        self._head = functools.partial(
            head_of,
            operands,
            causal=bool(given.get("is_causal")),
            mask=given.get("attn_mask"),
            scale=given.get("scale"),
            dtype=self._dtype,
        )

    def output(self, output: Tensor, seed: int) -> Iterator[Spot]:
        where = places(self._shape, TWIN_TOKENS, seed)
        for (sequence, number), found in zip(where.heads, where.of(output), strict=True):
            sums = self._head(sequence, number, where.tokens).output()
            for token, *row in zip(where.tokens, found, *sums, strict=True):
                yield Spot(place_of(token, number, sequence), *row)

    def gradient(self, name: str, upstream: Tensor, found: Tensor, seed: int) -> Iterator[Spot]:
        """Of keys and values, where all queries that see them are among those that are read."""
        import torch

        where = places(self._shape, TWIN_TOKENS, seed)
        queries, width = self._query.shape[2:]
        whole = queries * self._key.shape[2] * width <= WHOLE_HEAD
        tokens = range(queries) if whole else where.tokens
        for sequence, number in where.heads:
            heads, to = [number], number
            if name != "query":
                to = number // self._sharing
                heads = [to * self._sharing + n for n in range(self._sharing)]
            parts = [
                (own, *sums)
                for one in heads
                for given in [rows_of(upstream[sequence, one], tokens, self._dtype)]
                for what, own, sums in self._head(sequence, one, tokens).gradients(given)
                if what == name
            ]
            own = [*tokens] if name == "query" else parts[0][0]
            for place in sorted({*range(len(own))[:AT_AN_END], *range(len(own))[-AT_AN_END:]}):
                yield Spot(
                    place_of(own[place], to, sequence),
                    host(found[sequence, to, own[place]], self._dtype),
                    torch.stack([expected[place] for _, expected, _ in parts]).sum(0),
                    torch.stack([terms[place] for _, _, terms in parts]).norm(dim=0),
                )
