"""What an operator must do at least: FLOP and bytes, from its arguments' shapes.

Bytes: every element is read once where it is read, and written once where it is written; of a
table only the rows that are looked up, and no more than all of it. A cache can make it less,
nothing else can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.explaining.kinds import base

if TYPE_CHECKING:
    from torch import Tensor

OVERWRITES = re.compile(
    r"^(_foreach_)?(copy|fill|zero|normal|uniform|random|exponential|bernoulli)_$"
)
"""Write what they are given without reading it."""
SHAPE_ONLY = re.compile(
    r"_like$|^new_|^nll_loss(2d)?_backward$"
    r"|(avg|adaptive_max|fractional_max)_pool\dd_backward$|max_pool\dd_with_indices_backward$"
)
"""Look at the shape of `self`, and read nothing of it."""
GATHERS = ("embedding", "index_select", "index", "gather", "take", "_unsafe_index", "masked_select")
"""Read of their table what they give."""
BAGS = "_embedding_bag"
"""How the names begin of what reads a row of its table for each index, and gives a bag's sum."""
PICKS = ("nll_loss_forward", "nll_loss2d_forward")
"""Read an element of their table for each target."""
ADDS = ("index_add_", "scatter_add_", "index_put_", "_index_put_impl_", "scatter_reduce_")
"""Read and write of their table what they bring; of those that have `accumulate`, only with it."""
PLACES = ("index_copy_", "scatter_", "masked_scatter_", "index_fill_")
"""Write into their table what they bring."""
PRODUCT = re.compile(r"^(?!.*backward)(.*_)?(mm|linear|matmul)(_|$)")
"""Names of what multiplies rows by a matrix, a vendor's own too; torch's registry knows few."""
OPERANDS = (("weight",), ("self", "input"))
"""Of which a product's first gradients are made, in the order of `output_mask`."""
FUSED = "_fused_"
"""How the names of fused optimizers begin: they write the gradients where they scale them, and else
only read them. Source: aten/src/ATen/native/FusedAdam.cpp and its like."""
PRECISIONS = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "float32": "fp32",
    "float64": "fp64",
    "int8": "int8",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
}
"""Of torch's dtypes; of others torch's own word (`float8_e4m3fn` is `fp8`)."""


class Bytes(NamedTuple):
    """The least that must move."""

    read: int
    written: int


def word(dtype: Any) -> str:
    """A dtype in this program's words: `bf16`."""
    name = str(dtype).removeprefix("torch.")
    return "fp8" if name.startswith("float8") else PRECISIONS.get(name, name)


def touched(tensor: Tensor) -> int:
    """Bytes of the distinct elements: an expanded dimension has one."""
    shape = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(n for n, stride in shape if stride or n == 0) * tensor.element_size()


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in an argument: one, several in lists, none."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)


def least_bytes(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> Bytes:
    """What a call must read and write at least; func: an overload of torch's."""
    name, read, written = base(func.name()), 0, 0
    given = by_name(func, args, kwargs)
    mask = given.get("output_mask", ())
    if mask:  # others may be there too
        out = [one for one, asked in zip(out, mask, strict=False) if asked]
    unread = {"self"} if SHAPE_ONLY.search(name) else set()
    if re.search(r"(linear|conv(olution|\dd))_backward", name):
        unread = {n for asked, of in zip(mask, OPERANDS, strict=False) if not asked for n in of}
    outputs = list(tensors(out))
    adds = given.get("accumulate") if "index_put" in name else name in ADDS
    seen: set[tuple[Any, ...]] = set()
    old: set[int] = set()
    groups, used = _groups(given.get("offs", given.get("group_list")))
    first, all_of_it = True, 0  # a table is the first tensor of what gathers or scatters
    for argument in func._schema.arguments:
        if argument.name in unread:
            continue
        writes = is_written(argument)
        if argument.name == "grads" and name.startswith(FUSED):
            writes = given.get("grad_scale") is not None  # else torch only says that it writes
        for tensor in tensors(given.get(argument.name)):
            storage = tensor.untyped_storage()._cdata
            which = (storage, tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))
            table, first = first, False
            if writes:
                old.add(storage)
            if which in seen and not writes:
                continue
            seen.add(which)
            size = touched(tensor)
            if groups and tensor.dim() == 3 and tensor.shape[0] == groups:
                size = size * used // groups
            if argument.name == "weight" and name.startswith(BAGS):
                read += min(size, given["indices"].numel() * size // max(1, len(tensor)))
            elif table and name in GATHERS:
                read += min(size, sum(map(touched, outputs)))
            elif table and name in PICKS:
                read += given["target"].numel() * tensor.element_size()
            elif table and writes and name in (*ADDS, *PLACES):
                all_of_it = size  # counted by what is brought, which comes after it
            elif writes:
                read += 0 if OVERWRITES.search(name) or argument.kwarg_only else size
                written += size
            else:
                read += size
                if tensor.is_floating_point() and name in (*ADDS, *PLACES):
                    placed = min(size, all_of_it)
                    read, written = read + placed * bool(adds), written + placed
    new = (one for one in outputs if one.untyped_storage()._cdata not in old)
    return Bytes(read, written + sum(map(touched, new)))


def by_name(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call."""
    return dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs


def is_written(argument: Any) -> bool:
    """Whether an operator writes what it is given for an argument of its schema."""
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _groups(ends: Tensor | list[int] | None) -> tuple[int, int]:
    """How many groups of rows a grouped product has, and how many that hold some; asks the device.
    ends: where each group ends [groups]; 0 and 0 of what has no groups."""
    if ends is None:
        return 0, 0
    at = list(map(int, ends))
    return len(at), sum(end > begin for begin, end in zip([0, *at], at, strict=False))


def least_flop(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    """FLOP (OP of integers) of a call; 0 of what has no formula, as elementwise operators.

    By torch's registry (torch.utils.flop_counter), and for what it lacks or does not halve where
    half is masked: attention 2 Sq Sk (Dk + Dv) a head, with keys of Dk elements and values of Dv,
    of its backward 2 Sq Sk (3 Dk + 2 Dv); a product 2 M K N.
    """
    from torch.utils.flop_counter import flop_registry

    name, given = base(func.name()), by_name(func, args, kwargs)
    if re.search(r"scaled_dot_product|flash_attention|efficient_attention", name):
        return _attention(name, given)
    if name in ("mv", "dot", "addmv"):
        return 2 * int(args[name == "addmv"].numel())
    if name in ("linear_backward", "convolution_backward"):  # torch's knows no groups of weights
        moving = given["input" if given.get("transposed") else "grad_output"]
        once = 2 * int(moving.numel()) * int(math.prod(given["weight"].shape[1:]))
        return once * int(sum(given["output_mask"][:2]))
    if PRODUCT.search(name):
        return _product(given, out)
    formula = flop_registry.get(func._overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def _product(given: dict[str, Any], out: Any) -> int:
    """Of rows [..., K], one tensor or several, that give as many of [..., N]; 0 of others."""
    operands = [found for value in given.values() if (found := list(tensors(value)))]
    rows, results = operands[0], list(tensors(out))
    packed = 2 if "float4" in str(rows[0].dtype) else 1  # elements to a byte
    if given.get("offs") is not None:
        return 2 * packed * math.prod(rows[0].shape[-2:]) * int(operands[1][0].shape[-1])
    pairs = list(zip(rows, results, strict=False))
    if len(rows) != len(results) or any(a.shape[:-1] != c.shape[:-1] for a, c in pairs):
        return 0
    return 2 * packed * sum(a.shape[-1] * c.numel() for a, c in pairs)


def _attention(name: str, given: dict[str, Any]) -> int:
    query, key, value = (given.get(each) for each in ("query", "key", "value"))
    if query is None or key is None or value is None:
        return 0
    sequence = -3 if re.search(r"^_(flash|efficient)_attention", name) else -2  # [B, S, H, D]
    keys, values = (3, 2) if "backward" in name else (1, 1)
    wide = keys * query.shape[-1] + values * value.shape[-1]
    flop: int = 2 * math.prod(query.shape[:-1]) * key.shape[sequence] * wide
    causal = given.get("is_causal") and query.shape[sequence] == key.shape[sequence]
    return flop // 2 if causal else flop


def arithmetic(args: Sequence[Any]) -> str:
    """The precision of a product: the narrowest of its operands that are matrices, of those that
    are numbers as the first is; weights in integers are widened to what they are multiplied by."""
    found = [t for t in tensors(list(args)) if t.dim() >= 2]
    alike = [t for t in found if t.is_floating_point() == found[0].is_floating_point()]
    narrow = min(alike, key=lambda t: t.element_size(), default=None)
    return "" if narrow is None else word(narrow.dtype)
