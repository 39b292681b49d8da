"""A few tokens of the last timed attention, held to float64; see `spots.py`.

Of two heads, the first one of the first sequence and the last one of the last. Key and value pass
through the host a piece at a time, so that no context is too long for it.

Gradients: of those tokens' queries; and of the keys and values of the last tokens, which no other
query sees. Those of earlier ones want the scores of all later queries, which are computed where a
head is as small as `WHOLE_HEAD`, and are not looked at where it is larger.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bench.workloads.spots.spots import Spot, host, rows_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Piece = Callable[[int, int], Tensor]
    """Some tokens of a head, from one up to another: [tokens, C] in float64 on the host."""
    Sum = tuple[Tensor, Tensor]
    """Weighted sums, and the root of their terms' squares; see `Spot.terms`."""

TOKENS, LAST = 16, 8
"""Of each head; and how many of them are the last ones."""
PIECE = 1024
"""Keys that are on the host at a time: few enough for its caches."""
SCORE = 4.0
"""A score that is larger may lose more than what the gate allows, whose scores are as large."""
WHOLE_HEAD = 2**25
"""T^2 D of the largest head of which all scores are computed: 512 tokens of 128."""


class Places(NamedTuple):
    """Which values of an output [B, H, Q, D] are looked at."""

    heads: tuple[tuple[int, int], ...]
    """Sequence and head."""
    tokens: tuple[int, ...]

    def of(self, output: Tensor) -> tuple[Tensor, ...]:
        """Of each head [tokens, D], in float64 on the host."""
        return tuple(rows_of(output[place], self.tokens) for place in self.heads)


def places(shape: Sequence[int], twin: int, seed: int) -> Places:
    """Of an output of that shape. twin: tokens of the numerics gate's, of which the one behind is
    among those that are looked at."""
    batch, heads, queries = shape[:3]
    tokens = {0, min(twin, queries - 1), *range(max(0, queries - LAST), queries)}
    others = [token for token in range(queries) if token not in tokens]
    drawn = random.Random(seed).sample(others, min(TOKENS - len(tokens), len(others)))
    ends = {(0, 0), (batch - 1, heads - 1)}
    return Places(tuple(sorted(ends)), tuple(sorted({*tokens, *drawn})))


class Head(NamedTuple):
    """What some queries of a head read, as the definition has it."""

    query: Tensor
    """[n, C], in float64 on the host."""
    tokens: Sequence[int]
    """Which keys are the queries' own: they see none behind."""
    length: int
    """Keys."""
    key: Piece
    value: Piece
    scale: float
    window: int = 0
    sink: Tensor | None = None
    """[n]: a score besides."""
    down: Tensor | None = None
    """[L, D]: what the sum of the values goes through."""
    mask: Tensor | None = None
    """[n, keys], on the host: what each query sees, or what is added to its scores; in place of
    `tokens` and `window`."""
    whole: bool = False
    """Whether there are no queries but these."""

    def weights(self) -> tuple[Tensor, Tensor]:
        """The softmax of the scores of what each query sees, and how much a rounding of each score
        may weigh, [n, keys]: kernels may keep scores as narrow as their operands."""
        import torch

        scores = torch.full((len(self.query), self.length), -torch.inf, dtype=torch.float64)
        sizes = torch.zeros_like(scores)
        for start, stop in self._pieces():
            added = self._added(start, stop)
            if (added > -torch.inf).any():
                keys = self.key(start, stop)
                part = self.query @ keys.t() * self.scale
                roots = (self.query.square() @ keys.square().t()).sqrt() * abs(self.scale)
                scores[:, start:stop] = part + added
                sizes[:, start:stop] = torch.maximum(part.abs(), roots)
        if self.sink is not None:
            scores = torch.cat([scores, self.sink[:, None]], 1)
        return scores.softmax(1)[:, : self.length], sizes

    def summed(self, weights: Tensor, of: Piece, squares: Tensor | None = None) -> Sum:
        """Sums of keys or values by those weights [n, keys]; squares: of the weights, or more."""
        found = terms = weights.new_zeros(())
        squares = weights.square() if squares is None else squares
        for start, stop in self._pieces():
            if start == 0 or squares[:, start:stop].any():
                part = of(start, stop)
                found = found + weights[:, start:stop] @ part
                terms = terms + squares[:, start:stop] @ part.square()
        return found, terms.sqrt()

    @property
    def alone(self) -> list[int]:
        """Keys that no query sees but these; of queries as many as keys, in their order."""
        if self.whole:
            return [*range(self.length)]
        if len({*self.tokens}) < len(self.tokens):
            return []  # each sees all
        asked = [self.length - token for token in self.tokens][::-1]
        return [self.length - back for place, back in enumerate(asked) if back == place + 1]

    def output(self) -> Sum:
        """What the attention gives."""
        weights, sizes = self.weights()
        squares = weights.square() * (1.0 + (sizes / SCORE).square())
        found, terms = self.summed(weights, self.value, squares)
        if self.down is None:
            return found, terms
        return found @ self.down, (terms.square() @ self.down.square()).sqrt()

    def gradients(self, upstream: Tensor) -> Iterator[tuple[str, list[int], Sum]]:
        """Of what, of which tokens, and the gradients, where the output's is that, [n, D]."""
        import torch

        weights, sizes = self.weights()
        own = weights.square() * (1.0 + (sizes / SCORE).square())
        output, _ = self.summed(weights, self.value)
        along = (upstream * output).sum(1, keepdim=True)
        # What a kernel rounds is the output: one error for all keys of a query.
        rounded = (upstream * output).square().sum(1, keepdim=True)
        parts = [upstream @ self.value(*piece).t() for piece in self._pieces()]
        slopes = torch.cat(parts, 1)
        moved = weights * (slopes - along)
        squares = own * (slopes.square() + torch.maximum(along.square(), rounded))
        found, terms = self.summed(moved, self.key, squares)
        shared, _ = self.summed(weights, self.key)
        terms = (terms.square() + rounded * shared.square()).sqrt()
        yield "query", [*self.tokens], (found * self.scale, terms * self.scale)
        last = self.alone
        query, columns = self.query * self.scale, moved[:, last].t()
        terms = (squares[:, last].t() @ query.square()).sqrt()
        yield "key", last, (columns @ query, terms)
        terms = (own[:, last].t() @ upstream.square()).sqrt()
        yield "value", last, (weights[:, last].t() @ upstream, terms)

    def _added(self, start: int, stop: int) -> Tensor:
        """To the scores of some keys: minus infinity where a query does not see one."""
        import torch

        if self.mask is not None and self.mask.is_floating_point():
            return self.mask[:, start:stop].double()
        if self.mask is not None:
            seen = self.mask[:, start:stop]
        else:
            place, own = torch.arange(start, stop)[None], torch.tensor(self.tokens)[:, None]
            seen = (place <= own) & (place > own - (self.window or self.length))
        return torch.zeros(seen.shape, dtype=torch.float64).masked_fill_(~seen, -torch.inf)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.length, PIECE):
            yield start, min(start + PIECE, self.length)


def piece(x: Tensor, by: float = 1.0, dtype: torch.dtype | None = None) -> Piece:
    """Of [T, C], times a scale; dtype: see `host`."""
    return lambda start, stop: host(x[start:stop], dtype) * by


def spots(found: Sequence[Tensor], where: Places, heads: Sequence[Head]) -> list[Spot]:
    """What there was at those places beside what it must be."""
    seen = []
    for (batch, number), values, head in zip(where.heads, found, heads, strict=True):
        seen += [
            Spot(place_of(token, number, batch), *row)
            for token, *row in zip(head.tokens, values, *head.output(), strict=True)
        ]
    return seen


def gradient_spots(
    found: Sequence[Sequence[Tensor]],
    where: Places,
    operands: Sequence[Tensor],
) -> list[Spot]:
    """Likewise of the gradients of query, key and value, each as `Places.of` gave it.

    operands: query, key, value and the gradient of the output, [B, H, T, D].
    """
    import torch

    query, *_, upstream = operands
    tokens, width = query.shape[2:]
    least = torch.finfo(query.dtype).smallest_normal  # below it a format keeps fewer bits
    asked = range(tokens) if tokens**2 * width <= WHOLE_HEAD else where.tokens
    order = {token: place for place, token in enumerate(where.tokens)}
    seen = []
    for (batch, number), *values in zip(where.heads, *found, strict=True):
        head = head_of(operands, batch, number, asked)
        given = rows_of(upstream[batch, number], asked)
        for had, (what, own, sums) in zip(values, head.gradients(given), strict=True):
            expected, terms = sums
            seen += [
                Spot(f"the {what} of {place_of(token, number, batch)}", had[order[token]], *pair)
                for token, *pair in zip(own, expected, terms.clamp(min=least), strict=True)
                if token in order
            ]
    return seen


def head_of(
    operands: Sequence[Tensor],
    batch: int,
    number: int,
    tokens: Sequence[int],
    causal: bool = True,
    mask: Tensor | None = None,
    scale: float | None = None,
    dtype: torch.dtype | None = None,
) -> Head:
    """Of a query [B, H, Q, D], key and value [B, G, K, D], each of which H / G heads share; tokens:
    of which queries; the others as torch's function has them. dtype: see `host`."""
    import torch

    query, key, value = operands[:3]
    (heads, queries, width), (groups, length) = query.shape[1:], key.shape[1:3]
    shared, last, added = number // (heads // groups), length - 1, None
    if mask is not None:
        whole = mask.detach().expand(*query.shape[:2], queries, length)
        added = torch.stack([whole[batch, number, token].cpu() for token in tokens])
    return Head(
        query=rows_of(query[batch, number], tokens, dtype),
        # The last is seen by whoever comes behind it too.
        tokens=[min(token, last) if causal else last for token in tokens],
        length=length,
        key=piece(key[batch, shared], dtype=dtype),
        value=piece(value[batch, shared], dtype=dtype),
        scale=float(width) ** -0.5 if scale is None else scale,
        mask=added,
        whole=len(tokens) == queries,
    )


def place_of(token: int, head: int, batch: int) -> str:
    """In words."""
    return f"token {token} of head {head}, sequence {batch}"
