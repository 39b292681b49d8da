"""Jobs of attention over long contexts, and what the same operands give by the definition."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.records.proof import OUTPUT
from bench.workload import Job
from bench.workloads._contexts import PADDING, Drawn, LatentParameters, PrefillParameters
from bench.workloads._jobs import Rotation
from bench.workloads._masks import added
from bench.workloads._windows import in_blocks

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Prepared(NamedTuple):
    """A step on operands that lie as it wants them."""

    step: Callable[[], Tensor]
    query: Tensor
    """What it asks, with nothing beside."""
    others: tuple[Tensor, ...]


class ContextJob(Job):
    """One attention; operands rotate."""

    def __init__(self, prepared: list[Prepared], facts: dict[str, str], quantity: str) -> None:
        """Starts with the first operands. quantity: what the numerics gate calls the output."""
        self._operands = Rotation(prepared)
        self._quantity = quantity
        self.facts = {"operand buffers": str(len(prepared)), **facts}

    def step(self) -> None:
        """Queues one attention."""
        import torch

        with torch.inference_mode():
            self._output = next(self._operands).step()

    def witness(self) -> float:
        """Mean of the last output."""
        return float(self._output.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """Output for the first operands."""
        self.step()
        return {self._quantity: self._output}

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """The last output."""
        return {OUTPUT: [self._output]}

    def weights(self) -> Sequence[Tensor]:
        """All operands."""
        return [tensor for one in self._operands.items for tensor in (one.query, *one.others)]

    def inputs(self) -> Sequence[Tensor]:
        """The last query."""
        return [self._operands.last.query]

    def again(self) -> bool:
        """The last attention once more."""
        self._operands.back()
        self.step()
        return True


def job(p: Any, sets: Iterable[Drawn], exact: bool) -> Job:
    """A job of those operands; exact: of the first alone, by the definition, in float64."""
    quantity = "latent attention" if isinstance(p, LatentParameters) else "attention"
    if exact:
        first = next(iter(sets))
        return ContextJob([Prepared(lambda: defined(p, first), first.query, ())], {}, quantity)
    facts = {}
    if isinstance(p, LatentParameters):
        facts["latent"] = "absorbed" if p.absorbed else "expanded in the step"
        prepare: Callable[..., Prepared] = _absorbed if p.absorbed else _expanded
    else:
        prepare = _plain
        if p.window and isinstance(p, PrefillParameters):
            # One mask for all sets.
            mask = functools.cache(functools.partial(_block_mask, p))
            prepare = functools.partial(_blocks, mask)
            facts["window"] = f"blocks of {p.window} queries, keys gathered in the step"
        if p.sinks:
            facts["sinks"] = f"a key of its own, {PADDING} columns beside the {p.head_dim}"
    if p.cache == "fp8":
        facts["cache"] = "float8_e4m3fn, widened in the step"
    return ContextJob([prepare(p, one) for one in sets], facts, quantity)


def defined(p: Any, one: Drawn) -> Tensor:
    """softmax(Q K^T / sqrt(D) with what is seen, and the sink) V, in float64, score by score."""
    import torch

    query, key = one.query.double(), one.key.double()
    if one.scales:
        key = key * one.scales[0].double()
    if isinstance(p, LatentParameters):
        latent, rotated = key[:, 0].split([p.latent_dim, p.rotary_dim], -1)
        up, down = (matrix.double() for matrix in one.matrices)
        keys = torch.einsum("btl,hld->bhtd", latent, up)
        every = rotated[:, None].expand(-1, p.heads, -1, -1)
        key, value = torch.cat([keys, every], -1), torch.einsum("btl,hld->bhtd", latent, down)
        window = 0
    else:
        assert one.value is not None
        value = one.value.double() * (one.scales[1].double() if one.scales else 1.0)
        group = p.heads // p.kv_heads
        key, value = (x.repeat_interleave(group, 1) for x in (key, value))
        window = p.window
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~seen(query.shape[2], p.context_length, window), -torch.inf)
    if one.sinks is not None:
        beside = one.sinks.double()[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, beside], -1)
    found: Tensor = scores.softmax(-1)[..., : p.context_length] @ value
    return found


def seen(queries: int, context: int, window: int) -> Tensor:
    """Which keys each of the last tokens sees, [Q, T]."""
    import torch

    token = torch.arange(context - queries, context)[:, None]
    key = torch.arange(context)[None, :]
    return (key <= token) & (key > token - (window or context))


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


def _plain(p: Any, one: Drawn) -> Prepared:
    """One call over all keys that are seen."""
    from torch.nn import functional

    attend = functional.scaled_dot_product_attention
    query, key, value, front, scale, by_key, by_value = _sides(p, one)
    causal, first = query.shape[2] > 1, 0
    if not causal and p.window:
        key, value = (_last(x, p.window) for x in (key, value))
    if front is not None:
        # In front, where every token sees it; a first query that nobody asks keeps the diagonal.
        key, value = (_joined([x[:, :, -1:], y]) for x, y in zip(front, (key, value), strict=True))
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

    return Prepared(step, query, (key, value, *one.scales))


def _blocks(mask_of: Callable[[torch.dtype, torch.device], Tensor], p: Any, one: Drawn) -> Prepared:
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

    return Prepared(step, asked, (key, value, *one.scales))


def _block_mask(p: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
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


def _absorbed(p: LatentParameters, one: Drawn) -> Prepared:
    """Attention over the latent itself, one head of keys for all queries' heads."""
    import torch
    from torch.nn import functional

    attend = functional.scaled_dot_product_attention
    up, down = one.matrices
    across = up.transpose(-1, -2).contiguous()
    scale = one.query.shape[-1] ** -0.5
    query, key, wide = one.query, one.key, one.query.dtype
    by_key = one.scales[0].to(wide) if one.scales else None
    causal = query.shape[2] > 1

    def step() -> Tensor:
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

    return Prepared(step, query, (key, across, down, *one.scales))


def _expanded(p: LatentParameters, one: Drawn) -> Prepared:
    """Attention of all heads over keys and values that the step makes of the latent."""
    import torch
    from torch.nn import functional

    attend = functional.scaled_dot_product_attention
    up, down = one.matrices
    scale = one.query.shape[-1] ** -0.5
    query, key, wide = one.query, one.key, one.query.dtype
    by_key = one.scales[0].to(wide) if one.scales else None
    causal = query.shape[2] > 1

    def step() -> Tensor:
        both = key if by_key is None else key.to(wide)
        latent, rotated = both.split([p.latent_dim, p.rotary_dim], -1)
        keys = torch.cat([latent @ up, rotated.expand(-1, p.heads, -1, -1)], -1)
        values = functional.pad(latent @ down, (0, p.rotary_dim))  # as wide as keys, for kernels
        asked = query if by_key is None else query * by_key
        found = attend(asked, keys, values, is_causal=causal, scale=scale)[..., : p.head_dim]
        return found if by_key is None else found * by_key

    return Prepared(step, query, (key, up, down, *one.scales))


def _last(x: Tensor, tokens: int) -> Tensor:
    """So many tokens at the end, in memory of their own; of 8 bits too."""
    import torch

    as_bytes = x if x.itemsize > 1 else x.view(torch.uint8)
    return as_bytes[:, :, -tokens:].clone(memory_format=torch.contiguous_format).view(x.dtype)


def _padded(x: Tensor, by: tuple[int, ...]) -> Tensor:
    """With zeros around, as torch's `pad` has them; of 8 bits too."""
    import torch
    from torch.nn import functional

    if x.itemsize > 1:
        return functional.pad(x, by)
    return functional.pad(x.view(torch.uint8), by).view(x.dtype)


def _joined(parts: list[Tensor]) -> Tensor:
    """Along the tokens, of 8 bits too."""
    import torch

    if parts[0].itemsize > 1:
        return torch.cat(parts, 2)
    return torch.cat([x.view(torch.uint8) for x in parts], 2).view(parts[0].dtype)
