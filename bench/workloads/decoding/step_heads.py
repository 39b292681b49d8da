"""Where the heads of one token lie, as a layer reads, turns and keeps them: its views made once.

Queries of all sequences lie one after the other, then keys, then values. So what is turned is one
piece of memory, and what is kept another. Heads that share a key are the rows of one query, and
each head of keys a sequence of its own: of several, accelerators' kernels give rows before heads,
and the answer would have to be copied for the next product.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from bench.workloads.decoding.step_layers import is_plain

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workloads.decoding.step_layers import Layer
    from bench.workloads.layers.norms import Norms


class Shape(NamedTuple):
    """Of one token's heads."""

    batch: int
    queries: int
    keys: int
    width: int
    alone: bool
    """Whether each head of keys is a sequence of its own."""

    @property
    def lying(self) -> tuple[int, int]:
        """Sequences and heads of keys, as attention sees them."""
        return (self.batch * self.keys, 1) if self.alone else (self.batch, self.keys)

    @property
    def rows(self) -> tuple[int, int, int]:
        """Heads of queries, keys and values, of all sequences."""
        return self.batch * self.queries, self.batch * self.keys, self.batch * self.keys

    @property
    def columns(self) -> tuple[int, int, int]:
        """Of one sequence, what the three products give."""
        kept = self.width * self.keys
        return self.width * self.queries, kept, kept


class Heads(NamedTuple):
    """One token's in a layer: parts of one tensor."""

    turned: Tensor
    """Queries and keys [..., 2, D / 2]: half of a head beside the other, which the sines turn."""
    query: Tensor
    """[B K, 1, heads that share a key, D], or [B, K, ...]."""
    new: Tensor
    """Keys and values, likewise: [2, B K, 1, 1, D], or [2, B, K, ...]."""

    @classmethod
    def in_turn(cls, whole: Tensor, shape: Shape) -> Heads:
        """Of [B (Q + 2 K), D]: all queries, all keys, all values."""
        queries, keys, _ = shape.rows
        return cls(
            turned=whole[: queries + keys].view(-1, 2, shape.width // 2),
            query=whole[:queries].view(*shape.lying, -1, shape.width),
            new=whole[queries:].view(2, *shape.lying, 1, shape.width),
        )

    @classmethod
    def by_sequence(cls, whole: Tensor, shape: Shape) -> Heads:
        """Of [B, (Q + 2 K) D]: what one product gives, a sequence after the other."""
        heads = whole.view(shape.batch, -1, 2, shape.width // 2)
        kept = heads[:, shape.queries :].view(shape.batch, 2, shape.keys, 1, shape.width)
        return cls(
            turned=heads[:, : -shape.keys],
            query=heads[:, : shape.queries].view(shape.batch, shape.keys, -1, shape.width),
            new=kept.transpose(0, 1),
        )


class Reader:
    """Makes queries, keys and values of a layer anew: where a compiler plans memory, or what gives
    them is more than products."""

    def __init__(self, shape: Shape, norms: Norms) -> None:
        """norms: of heads, where a layer has them."""
        self.shape, self._norms = shape, norms

    def __call__(self, normed: Tensor, layer: Layer) -> Heads:
        """From what a layer reads, [B, H]."""
        import torch

        shape = self.shape
        made = [product(normed) for product in layer.reading]
        if len(made) == 1 and not layer.head_norms:
            if shape.alone:
                return Heads.in_turn(made[0].view(-1, shape.width), shape)
            return Heads.by_sequence(made[0], shape)
        if len(made) == 1:
            made = [*made[0].split(shape.columns, -1)]
        rows = [part.reshape(-1, shape.width) for part in made]
        for i, norm in enumerate(layer.head_norms):
            rows[i] = norm(self._norms.stream(rows[i]))
        return Heads.in_turn(torch.cat(rows), shape)


class Desk:
    """A place for one layer's heads, into which the products write, layer by layer."""

    def __init__(self, shape: Shape, norms: Norms, layer: Layer, like: Tensor) -> None:
        """layer: one as all are, of three products, or of one and no norms of heads; like: of the
        heads' type and device."""
        self._norms = norms
        apart, (queries, keys, values) = len(layer.reading) > 1, shape.rows
        whole = like.new_empty((queries + keys + values, shape.width))
        if apart or shape.alone:
            self.heads = Heads.in_turn(whole, shape)
        else:
            self.heads = Heads.by_sequence(whole.view(shape.batch, -1), shape)
        self._normed = whole[: queries + keys]
        self._before = like.new_empty(self._normed.shape) if layer.head_norms else self._normed
        self._sizes = [queries, keys]
        parts = [*self._before.split(self._sizes), whole[-values:]] if apart else [whole]
        self._parts = [part.view(shape.batch, -1) for part in parts]

    def written(self, layer: Layer) -> Layer:
        """A layer whose products write here."""
        reading = zip(layer.reading, self._parts, strict=True)
        return layer._replace(
            reading=tuple(functools.partial(product, out=part) for product, part in reading)
        )

    def norm(self, layer: Layer) -> None:
        """Norms the heads of queries and keys, after the products."""
        import torch

        asked, kept = self._norms.stream(self._before).split(self._sizes)
        of_queries, of_keys = layer.head_norms
        torch.cat((of_queries(asked), of_keys(kept)), out=self._normed)


def desk_of(shape: Shape, norms: Norms, layer: Layer, like: Tensor, planned: bool) -> Desk | None:
    """For layers like one; None where it takes a `Reader`. planned: whether a compiler plans
    memory."""
    together = len(layer.reading) == 1 and bool(layer.head_norms)
    if planned or together or not all(map(is_plain, layer.reading)):
        return None
    return Desk(shape, norms, layer, like)
