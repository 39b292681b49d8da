"""What an operator does, by torch's tags and its name: whoever's it is, a vendor's own included."""

from __future__ import annotations

import functools
import re
from typing import Any

from bench.records.explained import Kind

NAMES: tuple[tuple[Kind, str], ...] = (
    ("communication", r"c10d|all_?reduce|all_?gather|reduce_scatter|all_?to_?all|broadcast_$"),
    ("optimizer", r"_fused_(adam|adamw|sgd|adagrad)|^_foreach_(?!copy)|apply_adam"),
    ("attention", r"attention|flash_attn|_flash_"),
    ("convolution", r"conv(olution|_|\d|$)"),
    (
        "matmul",
        r"(^|_)(mm|mv|addmm|addmv|bmm|baddbmm|matmul|linear|gemm|dot|addbmm|addr)(_|$|\d)"
        r"|_scaled_mm|_int_mm|_grouped_mm|mkldnn_rnn|lstm|gru_cell|mkl_linear|linear_pointwise",
    ),
    ("normalization", r"(layer|batch|group|rms|instance)_?norm"),
    (
        "gather and scatter",
        r"embedding|^_?index|gather|scatter|^take|^put_|nll_loss|masked_(select|scatter)"
        r"|^_unsafe_(index|masked_index)|repeat_interleave",
    ),
    (
        "reduction",
        r"^_?(sum|nansum|mean|prod|arg(max|min)|a(max|min|minmax)|max|min|std|var|var_mean|all|any"
        r"|norm|linalg_vector_norm|cumsum|cumprod|logsumexp|logcumsumexp|count_nonzero|median)"
        r"(_|$)|softmax|pool(ing)?\d?d?|_loss|^(equal|trace|dist)$",
    ),
    (
        "copy",
        r"^(_foreach_copy|copy|clone|cat|stack|_?cat|fill|zero|zeros|ones|full|new_(zeros|ones|full)|arange"
        r"|contiguous|constant_pad_nd|select_backward|slice_backward|slice_scatter|select_scatter"
        r"|lift_fresh(_copy)?|scalar_tensor|_to_copy|to_copy|roll|flip|repeat|tril|triu|eye"
        r"|zeros_like|ones_like|full_like|new_zeros|_pad_circular|pad|set)(_|$)",
    ),
    ("elementwise", r"(^|_)(dropout|glu|relu|gelu|silu|lerp|addcmul|addcdiv|clip|bucketize)(_|$)"),
)
"""Looked for in this order in the name without its namespace and overload."""
OPTIMIZER = "Optimizer.step"
"""How torch marks what its optimizers do, for its profiler: all of it is the optimizer's."""
STRUCTURE = re.compile(
    r"^(new_)?empty(_strided|_like|_permuted)?$|^(detach|alias|lift)_?$|^_unsafe_view$"
)
"""Operators that give memory or another view, and do no work."""


def base(name: str) -> str:
    """`mm` of `aten::mm.out`."""
    return name.partition("::")[2].partition(".")[0] or name


@functools.cache
def kind_of(func: Any) -> Kind:
    """What an operator of torch's (an overload) does."""
    import torch

    name = base(func.name())
    if is_structure(func):
        return "other"
    found = kind_of_name(name)
    if found == "other" and torch.Tag.pointwise in func.tags:
        return "elementwise"
    return found


@functools.cache
def kind_of_name(name: str) -> Kind:
    """The same by the name alone, without namespace and overload; `other` where it tells none."""
    return next((kind for kind, words in NAMES if re.search(words, name)), "other")


@functools.cache
def kind_of_words(name: str) -> Kind:
    """The same of an operator of torch's that is only known by name, and of a vendor's kernel that
    is named as one is: `add`, `RmsNorm`."""
    import torch

    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    found, packet = kind_of_name(snake), getattr(torch.ops.aten, snake, None)
    if found != "other" or packet is None:
        return found
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    pointwise = any(torch.Tag.pointwise in overload.tags for overload in overloads)
    return "elementwise" if pointwise else "other"


@functools.cache
def is_view(func: Any) -> bool:
    """Whether it returns an alias of an argument and writes nothing: it costs the host only."""
    returns = func._schema.returns
    return bool(returns) and all(
        r.alias_info is not None and not r.alias_info.is_write for r in returns
    )


@functools.cache
def is_structure(func: Any) -> bool:
    """Whether it does no work on a device: a view, or memory that is not filled."""
    return is_view(func) or bool(STRUCTURE.search(base(func.name())))
