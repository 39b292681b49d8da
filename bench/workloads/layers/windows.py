"""Causal attention with windows and sinks, by torch's own function, which can say neither.

What it cannot say is said by columns beside those of queries and keys, with no value beside:

- A sink, a score of each head that joins its softmax, is a key of its own: in one column queries
  have the sink's score, and the sink alone has a one there.
- A window takes blocks of as many queries, each over its own and the earlier block of keys, so that
  no score outside of two blocks is computed. The block before the first is far below all others
  in a second column, so one mask is right for all blocks. No query sees the first key of its two
  blocks: there the sink lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PADDING = 8
"""Columns beside: kernels want multiples of eight."""
FAR = -(2.0**14)
"""A score, before it is scaled, that no softmax hears, and that every format holds."""


def attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """[B, H, T, D] of queries over keys and values [B, G, T, D], each up to its own place.

    window: over how many tokens, itself included; sinks: [H].
    """
    tokens, width = query.shape[2:]
    windowed = window is not None and window < tokens
    operands = query, key, value
    if windowed or sinks is not None:
        operands = _widened(query, key, value, scale, sinks)
    if windowed:
        assert window is not None
        return _in_window(*operands, scale, window, sinks is not None)[..., :width]
    return _over_all(*operands, scale, sinks is not None)[..., :width]


def in_blocks(x: Tensor, step: int, size: int) -> Tensor:
    """[B, H, T, D] in blocks of `size` tokens, `step` apart: [B x blocks, H, size, D]."""
    blocks = x.unfold(2, size, step).permute(0, 2, 1, 4, 3)
    return blocks.reshape(-1, *blocks.shape[2:])


def _widened(
    query: Tensor, key: Tensor, value: Tensor, scale: float, sinks: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """With columns beside: of queries the sinks' scores and ones, of keys and values zeros."""
    import torch
    from torch.nn import functional

    ones = torch.ones_like(query[..., :1])
    scores = ones - ones if sinks is None else sinks[None, :, None, None] / scale * ones
    asked = functional.pad(torch.cat([query, scores, ones], -1), (0, PADDING - 2))
    return asked, functional.pad(key, (0, PADDING)), functional.pad(value, (0, PADDING))


def _key(like: Tensor, column: int, value: float) -> Tensor:
    """One key for every head: zeros but for a column beside. [B, G, 1, D]."""
    import torch

    columns = torch.arange(like.shape[3], device=like.device) == like.shape[3] - PADDING + column
    return (columns * value).to(like.dtype).expand(*like.shape[:2], 1, -1)


def _over_all(query: Tensor, key: Tensor, value: Tensor, scale: float, sink: bool) -> Tensor:
    """A sink lies in front, where every token sees it; a first query that nobody asks keeps the
    diagonal."""
    import torch
    from torch.nn import functional

    if sink:
        query, value = (functional.pad(x, (0, 0, 1, 0)) for x in (query, value))
        key = torch.cat([_key(key, 0, 1.0), key], 2)
    found = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=query.shape[2] > 1,
        scale=scale,
        enable_gqa=query.shape[1] > key.shape[1],
    )
    return found[:, :, 1:] if sink else found


def _in_window(
    query: Tensor, key: Tensor, value: Tensor, scale: float, window: int, sink: bool
) -> Tensor:
    """The heads that share keys are rows of one head: so no kernel need know of groups."""
    import torch
    from torch.nn import functional

    batch, heads, tokens, _ = query.shape
    shared, count = heads // key.shape[1], -(-tokens // window)
    over = count * window - tokens
    key = torch.cat([_key(key, 1, FAR).expand(-1, -1, window, -1), key], 2)
    key = in_blocks(functional.pad(key, (0, 0, 0, over)), window, 2 * window)
    value = in_blocks(functional.pad(value, (0, 0, window, over)), window, 2 * window)
    if sink:
        key = torch.cat([_key(key, 0, 1.0), key[:, :, 1:]], 2)
        value = functional.pad(value[:, :, 1:], (0, 0, 1, 0))
    asked = in_blocks(functional.pad(query, (0, 0, 0, over)), window, window)
    asked = asked.reshape(batch * count, key.shape[1], shared * window, -1)
    token = torch.arange(window, 2 * window, device=query.device)[:, None]
    place = torch.arange(2 * window, device=query.device)[None]
    mask = (place <= token) & (place > token - window)
    if sink:
        mask = mask | (place == 0)
    found = functional.scaled_dot_product_attention(
        asked, key, value, attn_mask=mask.repeat(shared, 1)[None, None], scale=scale
    )
    found = found.view(batch, count, heads, window, -1).transpose(1, 2)
    return found.reshape(batch, heads, count * window, -1)[:, :, :tokens]
