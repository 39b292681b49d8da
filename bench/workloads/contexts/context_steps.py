"""Steps of attention over long contexts: operands in the order that a step wants them.

Each also says what a query of a head reads, for what is looked at after the timing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.workloads.contexts.contexts import PADDING, Drawn, LatentParameters
from bench.workloads.layers.masks import added
from bench.workloads.layers.windows import in_blocks
from bench.workloads.spots.attention_spots import Head, piece
from bench.workloads.spots.spots import rows_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    HeadOf = Callable[[int, int, Sequence[int]], Head]
    """Of a sequence, a head of queries and the places of some of them."""


class Prepared(NamedTuple):
    """A step on operands that lie as it wants them."""

    step: Callable[[], Tensor]
    query: Tensor
    """What it asks, with nothing beside."""
    others: tuple[Tensor, ...]
    head: HeadOf | None = None
    """What some queries of a head read; None in the gate's reference."""


class _Sides(NamedTuple):
    """Operands as a call wants them, before keys are chosen and put in order."""

    query: Tensor
    key: Tensor
    value: Tensor
    front: tuple[Tensor, Tensor] | None
    """Key and value of a sink and of what fills its block up, [B, G, PADDING, D]; None without."""
    scale: float
    asked: Tensor | None
    """What narrow keys' scales make of queries, [B, H, 1, D]."""
    found: Tensor | None
    """What narrow values' scales make of results, [B, H, 1, 1]."""


def _sides(p: Any, one: Drawn) -> _Sides:
    """With a sink's columns, where there are sinks."""
    import torch
    from torch.nn import functional

    query, key, value = one.query, one.key, one.value
    assert value is not None
    scale, asked, found = p.head_dim**-0.5, None, None
    if one.scales:
        group = p.heads // p.kv_heads
        by_key, found = (x.to(query.dtype).repeat_interleave(group, 1) for x in one.scales)
        asked = by_key.expand(-1, -1, -1, p.head_dim)
    if one.sinks is None:
        return _Sides(query, key, value, None, scale, asked, found)
    score = one.sinks[None, :, None, None].expand(*query.shape[:3], 1) / scale
    query = functional.pad(torch.cat([query, score], -1), (0, PADDING - 1))
    key, value = (_padded(x, (0, PADDING)) for x in (key, value))
    if asked is not None:
        asked = functional.pad(asked, (0, PADDING), value=1.0)
    # As many keys as columns, for kernels want multiples of those too; all but the sink are masked.
    sink = torch.zeros((*key.shape[:2], PADDING, key.shape[3]), device=key.device)
    first = sink.clone()
    first[:, :, -1, p.head_dim] = 1.0
    front = (first.to(key.dtype), sink.to(key.dtype))
    return _Sides(query, key, value, front, scale, asked, found)


def plain(p: Any, one: Drawn) -> Prepared:
    """One call over all keys that are seen."""
    import torch
    from torch.nn import functional

    attend = functional.scaled_dot_product_attention
    query, key, value, front, scale, by_key, by_value = _sides(p, one)
    causal, first = query.shape[2] > 1, 0
    if not causal and p.window:
        key, value = (_last(x, p.window) for x in (key, value))
    if front is not None:
        # In front, where every token sees it; a first query that nobody asks keeps the diagonal.
        key, value = (
            _moved(lambda *parts: torch.cat(parts, 2), x[:, :, -1:], y)
            for x, y in zip(front, (key, value), strict=True)
        )
        first = int(causal)
        query = functional.pad(query, (0, 0, first, 0))

    shape, rows = query.shape, query
    if not causal:  # the heads that share keys are rows of one: no kernel need know of groups
        rows = query.view(shape[0], p.kv_heads, -1, shape[3])
        by_key = None if by_key is None else by_key.reshape(rows.shape)

    def attended(asked: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if causal:
            found = attend(asked, keys, values, is_causal=True, scale=scale, enable_gqa=True)
        else:
            found = attend(asked, keys, values, scale=scale).reshape(shape)
        return found if front is None else found[:, :, first:, : p.head_dim]

    def step() -> Tensor:
        if by_key is None or by_value is None:
            return attended(rows, key, value)
        return attended(rows * by_key, key.to(query.dtype), value.to(query.dtype)) * by_value

    scales, ahead, group = one.scales, int(front is not None), p.heads // p.kv_heads

    def head(batch: int, number: int, tokens: Sequence[int]) -> Head:
        shared = number // group
        sides = [x[batch, shared, ahead:] for x in (key, value)]
        own = tokens if causal else [len(sides[0]) - 1]
        asked = rows_of(query[batch, number, first:], tokens)
        return _head(p, asked, own, sides, _scales_of(scales, batch, shared, query.dtype))

    return Prepared(step, query, (key, value, *scales), head)


def _head(
    p: Any, asked: Tensor, tokens: Sequence[int], sides: Sequence[Tensor], by: Sequence[float]
) -> Head:
    """What queries read, [n, D] and what a sink takes; sides: keys and values, likewise; by: their
    scales."""
    scale = p.head_dim**-0.5
    key, value = (piece(x[:, : p.head_dim], n) for x, n in zip(sides, by, strict=True))
    return Head(
        query=asked[:, : p.head_dim],
        tokens=tokens,
        length=len(sides[0]),
        key=key,
        value=value,
        scale=scale,
        sink=asked[:, p.head_dim] * scale if p.sinks else None,
    )


def _scales_of(
    scales: Sequence[Tensor], batch: int, shared: int, dtype: torch.dtype
) -> Sequence[float]:
    """Of narrow keys and values, rounded as a step has them; ones of others."""
    return [float(x[batch, shared].to(dtype)) for x in scales] or (1.0, 1.0)


def blocks(mask_of: Callable[[torch.dtype, torch.device], Tensor], p: Any, one: Drawn) -> Prepared:
    """Blocks of as many queries as a window has keys, each over two blocks of keys.

    The heads that share keys are rows of one head: so no kernel need know of groups.
    """
    import torch
    from torch.nn import functional

    attend = functional.scaled_dot_product_attention
    query, key, value, front, scale, by_key, by_value = _sides(p, one)
    window, tokens = min(p.window, p.context_length), p.context_length
    count, group = -(-tokens // window), p.heads // p.kv_heads
    over = count * window - tokens
    # A block of nothing in front of the first, and the last one filled up.
    key, value = (_padded(x, (0, 0, window, over)) for x in (key, value))
    (batch, heads), wide = query.shape[:2], query.dtype
    asked = in_blocks(functional.pad(query, (0, 0, 0, over)), window, window)
    asked = asked.reshape(batch * count, p.kv_heads, group * window, -1)
    fronts = (
        (None, None) if front is None else [x.to(wide).repeat_interleave(count, 0) for x in front]
    )
    if by_key is not None:  # [blocks, G, heads that share, 1, D]
        by_key = by_key.reshape(batch, p.kv_heads, group, 1, -1).repeat_interleave(count, 0)
    mask = mask_of(wide, query.device)

    def gathered(x: Tensor, before: Tensor | None) -> Tensor:
        blocks = in_blocks(x.to(wide), window, 2 * window)
        return blocks if before is None else torch.cat([before, blocks], 2)

    def step() -> Tensor:
        keys, values = gathered(key, fronts[0]), gathered(value, fronts[1])
        scaled = asked
        if by_key is not None:
            scaled = (asked.unflatten(2, (group, window)) * by_key).flatten(2, 3)
        found = attend(scaled, keys, values, attn_mask=mask, scale=scale)
        found = found.view(batch, count, heads, window, -1).transpose(1, 2)
        found = found.reshape(batch, heads, count * window, -1)[:, :, :tokens, : p.head_dim]
        return found if by_value is None else found * by_value

    scales = one.scales

    def head(sequence: int, number: int, tokens: Sequence[int]) -> Head:
        shared, within = divmod(number, group)
        mine = asked.view(batch, count, p.kv_heads, group, window, -1)[sequence, :, shared, within]
        own = rows_of(mine.flatten(0, 1), tokens)
        sides = [x[sequence, shared, window:][: p.context_length] for x in (key, value)]
        by = _scales_of(scales, sequence, shared, wide)
        return _head(p, own, tokens, sides, by)._replace(window=window)

    return Prepared(step, asked, (key, value, *scales), head)


def block_mask(p: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What the queries of each block see of two blocks of keys, of which the first block has none
    before it, and in front of `PADDING` keys with sinks, of which the last is one: [B x blocks, 1,
    heads that share x W, PADDING + 2 W]."""
    import torch
    from torch.nn import functional

    window = min(p.window, p.context_length)
    token = torch.arange(window)[:, None] + window
    key = torch.arange(2 * window)[None, :]
    inside = (key <= token) & (key > token - window)
    mask = inside.repeat(-(-p.context_length // window), 1, 1, 1)
    mask[0, :, :, :window] = False
    if p.sinks:
        mask = functional.pad(functional.pad(mask, (1, 0), value=True), (PADDING - 1, 0))
    return added(mask.to(device).repeat(p.batch_size, 1, p.heads // p.kv_heads, 1), dtype)


def latents(p: LatentParameters, one: Drawn) -> Prepared:
    """Absorbed, attention over the latent itself, one head of keys for all queries' heads; else of
    all heads over keys and values that the step makes of the latent."""
    import torch
    from torch.nn import functional

    attend = functional.scaled_dot_product_attention
    up, down = one.matrices
    scale = one.query.shape[-1] ** -0.5
    query, key, wide = one.query, one.key, one.query.dtype
    by_key = one.scales[0].to(wide) if one.scales else None
    causal = query.shape[2] > 1
    across = up.transpose(-1, -2)
    if p.absorbed:
        across = across.contiguous()

    def absorbed() -> Tensor:
        plain, rotated = query.split([p.head_dim, p.rotary_dim], -1)
        asked = torch.cat([plain @ across, rotated], -1)
        keys = key if by_key is None else key.to(wide)
        if by_key is not None:
            asked = asked * by_key
        if causal:
            found = attend(asked, keys, keys, is_causal=True, scale=scale, enable_gqa=True)
        else:  # all heads are rows of one: no kernel need know of groups
            found = attend(asked.transpose(1, 2), keys, keys, scale=scale).transpose(1, 2)
        found = found[..., : p.latent_dim] @ down
        return found if by_key is None else found * by_key

    def expanded() -> Tensor:
        both = key if by_key is None else key.to(wide)
        latent, rotated = both.split([p.latent_dim, p.rotary_dim], -1)
        keys = torch.cat([latent @ up, rotated.expand(-1, p.heads, -1, -1)], -1)
        values = functional.pad(latent @ down, (0, p.rotary_dim))  # as wide as keys, for kernels
        asked = query if by_key is None else query * by_key
        found = attend(asked, keys, values, is_causal=causal, scale=scale)[..., : p.head_dim]
        return found if by_key is None else found * by_key

    head = functools.partial(_latent_head, p, query, key, (across, down), one.scales)
    step, first = (absorbed, across) if p.absorbed else (expanded, up)
    return Prepared(step, query, (key, first, down, *one.scales), head)


def _latent_head(
    p: LatentParameters,
    query: Tensor,
    key: Tensor,
    matrices: tuple[Tensor, Tensor],
    scales: Sequence[Tensor],
    batch: int,
    number: int,
    tokens: Sequence[int],
) -> Head:
    """What some queries of a head read of the latent itself; matrices: [H, D, L] and [H, L, D]."""
    import torch

    across, down = (x[number].cpu().double() for x in matrices)
    plain, rotated = rows_of(query[batch, number], tokens).split([p.head_dim, p.rotary_dim], 1)
    by, *_ = _scales_of(scales, batch, 0, query.dtype)
    keys = key[batch, 0]
    return Head(
        query=torch.cat([plain @ across, rotated], 1),
        tokens=tokens if query.shape[2] > 1 else [len(keys) - 1],
        length=len(keys),
        key=piece(keys, by),
        value=piece(keys[:, : p.latent_dim], by),
        scale=query.shape[-1] ** -0.5,
        down=down,
    )


def _last(x: Tensor, tokens: int) -> Tensor:
    """So many tokens at the end, in memory of their own."""
    import torch

    layout = torch.contiguous_format
    return _moved(lambda values: values[:, :, -tokens:].clone(memory_format=layout), x)


def _padded(x: Tensor, by: tuple[int, ...]) -> Tensor:
    """With zeros around, as torch's `pad` has them."""
    from torch.nn import functional

    return _moved(lambda values: functional.pad(values, by), x)


def _moved(move: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What only moves values, of 8 bits too, for which torch may not have it."""
    import torch

    dtype = tensors[0].dtype
    if dtype.itemsize > 1:
        return move(*tensors)
    return move(*(x.view(torch.uint8) for x in tensors)).view(dtype)
