"""Steps in MindSpore, as plain functions of tensors.

Its parser makes a graph of a function's source, in which nothing can be imported: so this module,
which is itself imported by jobs alone, has MindSpore where it loads.
"""

from __future__ import annotations

from typing import Any

from mindspore import mint, ops

from bench.workloads.memory import ROW, SCALAR


def product(a: Any, b: Any) -> Any:
    """a [M, K] times b [K, N]."""
    return ops.matmul(a, b)


def attended(query: Any, key: Any, value: Any, mask: Any) -> Any:
    """softmax(Q K^T / sqrt(D) + mask) V, [B, H, T, D]."""
    scores = ops.matmul(query, key.swapaxes(-1, -2)) * (query.shape[-1] ** -0.5) + mask
    return ops.matmul(ops.softmax(scores, -1), value)


def fused(query: Any, key: Any, value: Any, left_out: Any) -> Any:
    """The same by one operator. Of the mask its left upper corner counts (`sparse_mode` 2), where
    1 is what is left out."""
    heads, scale = query.shape[1], query.shape[-1] ** -0.5
    return ops.flash_attention_score(
        query,
        key,
        value,
        heads,
        attn_mask=left_out,
        scalar_value=scale,
        input_layout="BNSD",
        sparse_mode=2,
    )


def copied(target: Any, source: Any) -> Any:
    """a = b."""
    return target.copy_(source)


def scaled(source: Any) -> Any:
    """3 b."""
    return source * SCALAR


def added(first: Any, second: Any) -> Any:
    """b + 3 c."""
    return mint.add(first, second, alpha=SCALAR)


def largest(source: Any) -> Any:
    """Of each 1,024 the largest."""
    return ops.amax(source.view(-1, ROW), 1)


def grown(total: Any, addend: Any, kernels: int) -> Any:
    """a = a + b, so many times, in place."""
    for _ in range(kernels):
        ops.assign_add(total, addend)
    return total
