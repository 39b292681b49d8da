"""What an operator must do at least: FLOP and bytes, from its arguments' shapes.

Bytes: every element is read once where it is read, and written once where it is written; of a
table only the rows that are looked up. A cache can make it less, nothing else can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.explaining.kinds import base

if TYPE_CHECKING:
    from torch import Tensor

OVERWRITES = ("copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "exponential_")
"""Write what they are given without reading it."""
GATHERS = ("embedding", "index_select", "index", "gather", "take", "_unsafe_index")
"""Read of their table what they give."""
ADDS = ("index_add_", "scatter_add_", "index_put_", "_index_put_impl_", "scatter_reduce_")
"""Read and write of their table what they bring."""
PLACES = ("index_copy_", "scatter_", "masked_scatter_")
"""Write into their table what they bring."""
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
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    outputs = list(tensors(out))
    seen: set[tuple[Any, ...]] = set()
    old: set[int] = set()
    groups, used = _groups(given.get("offs"))
    first = True  # a table is the first tensor of what gathers or scatters
    for argument in func._schema.arguments:
        writes = argument.alias_info is not None and argument.alias_info.is_write
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
            if table and name in GATHERS:
                read += sum(map(touched, outputs))
            elif table and writes and name in (*ADDS, *PLACES):
                continue  # counted by what is brought, which comes after it
            elif writes:
                read += 0 if name in OVERWRITES or argument.name == "out" else size
                written += size
            else:
                read += size
                if tensor.is_floating_point() and name in ADDS:
                    read, written = read + size, written + size
                elif tensor.is_floating_point() and name in PLACES:
                    written += size
    return Bytes(read, written + sum(touched(o) for o in outputs if _is_new(o, old)))


def _groups(ends: Tensor | None) -> tuple[int, int]:
    """How many groups of rows a grouped product has, and how many that hold some; asks the device.
    ends: where each group ends [groups]; 0 and 0 of what has no groups."""
    if ends is None:
        return 0, 0
    at: list[int] = ends.tolist()
    return len(at), sum(end > begin for begin, end in zip([0, *at], at, strict=False))


def _is_new(output: Tensor, old: set[int]) -> bool:
    return output.untyped_storage()._cdata not in old


def least_flop(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int:
    """FLOP (OP of integers) of a call; 0 of what has no formula, as elementwise operators.

    By torch's registry (torch.utils.flop_counter), and for what it lacks or does not halve where
    half is masked: attention 4 Sq Sk D a head, of its backward 10; a grouped product 2 M K N.
    """
    from torch.utils.flop_counter import flop_registry

    name = base(func.name())
    if re.search(r"scaled_dot_product|flash_attention|efficient_attention", name):
        return _attention(func, name, args, kwargs)
    if name in ("_int_mm", "mv", "dot", "addmv"):
        return 2 * _inner(name, args)
    if name == "_grouped_mm":
        return 2 * int(args[0].shape[-2] * args[0].shape[-1] * args[1].shape[-1])
    formula = flop_registry.get(func._overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def _attention(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    query, key = given.get("query"), given.get("key")
    if query is None or key is None:
        return 0
    sequence = -3 if re.search(r"^_(flash|efficient)_attention", name) else -2  # [B, S, H, D]
    flop: int = (10 if "backward" in name else 4) * math.prod(query.shape) * key.shape[sequence]
    causal = given.get("is_causal") and query.shape[sequence] == key.shape[sequence]
    return flop // 2 if causal else flop


def _inner(name: str, args: Sequence[Any]) -> int:
    if name == "dot":
        return int(args[0].numel())
    matrix, other = (args[1], args[2]) if name == "addmv" else (args[0], args[1])
    return int(matrix.numel()) * (other.shape[1] if other.dim() == 2 else 1)


def arithmetic(args: Sequence[Any]) -> str:
    """The precision of a product: the narrowest of its operands that are matrices."""
    found = [t for t in tensors(list(args)) if t.dim() >= 2]
    narrow = min(found, key=lambda t: t.element_size(), default=None)
    return "" if narrow is None else word(narrow.dtype)
