"""What a layer's step of one token calls, and where its heads lie: found once, before any step.

Each look at a module takes the host a while, and a small product is soon done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bench.workloads._norms import Norms
from bench.workloads._packed import Packed

if TYPE_CHECKING:
    from torch import Tensor

Product = Callable[["Tensor"], "Tensor"]


class Layer(NamedTuple):
    """What a layer's step calls, found once: each look at a module takes the host a while."""

    input_norm: tuple[Tensor, float]
    reading: tuple[Product, ...]
    """Give queries, keys and values [B, width]; one product, or one of each."""
    head_norms: tuple[tuple[Tensor, float], ...]
    """Of queries and of keys; () without."""
    scaling: float
    joining: Product
    between_norm: tuple[Tensor, float]
    gate_up: tuple[Product, ...]
    """One product, or one of each; () where a layer has experts."""
    closing: Product | None
    experts: Any
    sinks: Tensor | None
    """A score of each query's head that joins its softmax, [1, G, heads that share, 1]."""
    kind: int
    """Of the model's windows: which mask and which slots."""


class Heads(NamedTuple):
    """One token's in a layer, as it is read, turned and kept: parts of one tensor [B, all]."""

    parts: tuple[Tensor, ...]
    """Of each product [B, width]."""
    turned: Tensor
    """Queries and keys [B, heads, 2, D / 2]: half of a head beside the other, which the sines
    turn."""
    query: Tensor
    """[B, K, heads that share a key, D]."""
    new: Tensor
    """Keys and values [B, 2 K, 1, D]."""

    @classmethod
    def of(cls, whole: Tensor, queries: int, keys: int, products: int) -> Heads:
        """Of a tensor [B, all]. products: how many give it, 3 or 1."""
        batch, width = whole.shape[0], whole.shape[1] // (queries + 2 * keys)
        sizes = [width * n for n in (queries, keys, keys)]
        heads = whole.view(batch, -1, 2, width // 2)
        return cls(
            parts=tuple(whole.split(sizes, dim=-1)) if products > 1 else (whole,),
            turned=heads[:, :-keys],
            query=heads[:, :queries].view(batch, keys, -1, width),
            new=heads[:, queries:].view(batch, -1, 1, width),
        )


def product_of(matrix: Any) -> Product:
    """What multiplies rows [B, K] by a linear layer; a plain one's torch itself, without a module
    and a function of many cases before it: a quarter of a small product on a CPU."""
    import torch

    if type(matrix) is torch.nn.Linear and matrix.bias is None:
        return _by(matrix.weight)
    return cast("Product", matrix)


def _by(weight: Tensor) -> Product:
    import torch

    return functools.partial(torch.mm, mat2=weight.detach().t())


def _sinks(attention: Any) -> Tensor | None:
    scores = getattr(attention, "sinks", None)
    if scores is None:
        return None
    shared: Tensor = scores.detach().view(1, -1, attention.num_key_value_groups, 1)
    return shared


def layers_of(
    modules: Sequence[Any],
    windows: Sequence[int | None],
    packed: Sequence[Packed | None],
    norms: Norms,
) -> list[Layer]:
    """Of a model's own layers, the window of each, and its matrices that lie in one, if they do."""
    kinds = list(dict.fromkeys(windows))
    found = []
    for layer, together, window in zip(modules, packed, windows, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        reading = [product_of(m) for m in (attention.q_proj, attention.k_proj, attention.v_proj)]
        dense = hasattr(mlp, "gate_proj")
        gate_up = [product_of(m) for m in (mlp.gate_proj, mlp.up_proj)] if dense else []
        if together is not None:
            reading = [_by(together.queries_keys_values)]
            gate_up = [_by(together.gate_up)] if together.gate_up is not None else []
        heads = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()
        found.append(
            Layer(
                input_norm=norms.prepared(layer.input_layernorm),
                reading=tuple(reading),
                head_norms=tuple(norms.prepared(norm) for norm in heads),
                scaling=attention.scaling,
                joining=product_of(attention.o_proj),
                between_norm=norms.prepared(layer.post_attention_layernorm),
                gate_up=tuple(gate_up),
                closing=product_of(mlp.down_proj) if dense else None,
                experts=None if dense else mlp,
                sinks=_sinks(attention),
                kind=kinds.index(window),
            )
        )
    return found
