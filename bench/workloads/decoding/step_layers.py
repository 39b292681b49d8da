"""What a layer's step of one token calls: found once, before any step.

Each look at a module takes the host a while, and a small product is soon done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bench.workloads.layers.norms import Norms
from bench.workloads.layers.packed import Packed

if TYPE_CHECKING:
    from torch import Tensor

    from bench.workloads.layers.norms import Norm

Product = Callable[..., "Tensor"]
"""Of rows [B, K], and `out`, where it is torch's own."""


class Layer(NamedTuple):
    """What a layer's step calls."""

    input_norm: Norm
    reading: tuple[Product, ...]
    """Give queries, keys and values [B, width]; one product, or one of each."""
    head_norms: tuple[Norm, ...]
    """Of queries and of keys; () without."""
    scaling: float
    joining: Product
    between_norm: Norm
    gate_up: tuple[Product, ...]
    """One product, or one of each; () where a layer has experts."""
    closing: Product | None
    experts: Any
    sinks: Tensor | None
    """A score of each query's head that joins its softmax, [1, G, heads that share, 1]."""
    kind: int
    """Of the model's windows: which mask and which slots."""


def product_of(matrix: Any) -> Product:
    """What multiplies rows [B, K] by a linear layer; a plain one's torch itself, without a module
    and a function of many cases before it: a quarter of a small product on a CPU."""
    import torch

    if type(matrix) is not torch.nn.Linear:
        return cast("Product", matrix)
    if matrix.bias is None:
        return _by(matrix.weight)
    return functools.partial(torch.addmm, matrix.bias.detach(), mat2=matrix.weight.detach().t())


def is_plain(product: Product) -> bool:
    """Whether a product is torch's own, and may write where it is told."""
    return isinstance(product, functools.partial)


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
