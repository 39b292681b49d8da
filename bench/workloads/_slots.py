"""A transformers model over the slots of a static cache: decode rows and a chunk of a prompt.

One forward has S rows, a token of each slot, or S + C, with a chunk of one request's prompt behind
them. Every matrix sees all rows, so weights are read once; attention is two calls, of the S slots
and of the chunk. All shapes are fixed but the reach, how much of each slot's text is looked at: a
power of two from `LEAST_REACH` up, the same for both calls. So there are few variants, each can be
compiled or recorded beforehand, and nothing within one comes from the host: tokens, places and
masks are computed from one static table that each step fills.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.serving_job import Rows
from bench.workload import Queued, Recorder

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ATTENTION = "accelmark-slots"
"""Under this name transformers finds the attention of this file, and builds no mask for it."""
LEAST_REACH = 256
TOKEN, SLOT, PLACE = range(3)
"""Rows of the table: each forward row's token, the slot that keeps it, its place in that text."""


def reaches(length: int) -> tuple[int, ...]:
    """Powers of two from `LEAST_REACH` up, as far as they lie below the length, and the length."""
    found = []
    reach = LEAST_REACH
    while reach < length:
        found.append(reach)
        reach *= 2
    return (*found, length)


def register_attention() -> None:
    """Makes ATTENTION known to transformers."""
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(ATTENTION, _attend)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, **given: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, H, R, D], key and value [1, K, R, D]."""
    return module.slot_cache.attend(query, key, value, given["scaling"]), None


class SlotCache:
    """One layer's keys and values: [S + 1, K, T, D] each; the last slot takes what idle rows write.

    What a forward has in common is `shared`, set before each.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], dtype: torch.dtype, shared: Shared
    ) -> None:
        """shape: S + 1, heads K, length T, width D."""
        import torch

        device = shared.table.device
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self._shared = shared

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Keeps the new keys and values, and attends; [1, R, H, D]."""
        import torch

        _, heads, _, width = self.keys.shape
        shared, slots = self._shared, self._shared.slots
        for kept, new in ((self.keys, key), (self.values, value)):
            rows = new[0].transpose(0, 1).reshape(-1, width)  # [R K, D]
            kept.view(-1, width).index_copy_(0, shared.written, rows)
        reach = shared.reach
        parts = [
            self._grouped(
                # The heads that share a key are its queries: [S, K, G, D].
                query[0, :, :slots].transpose(0, 1).reshape(slots, heads, -1, width),
                self.keys[:slots, :, :reach],
                self.values[:slots, :, :reach],
                shared.decode_mask,
                scaling,
            ).reshape(1, slots, -1, width)
        ]
        chunk = query.shape[2] - slots
        if chunk:
            # [1, K, G C, D]: as above, each group's rows behind one another.
            rows = query[:, :, slots:].reshape(1, heads, -1, width)
            keys = self.keys[:, :, :reach].index_select(0, shared.chunk_slot)
            values = self.values[:, :, :reach].index_select(0, shared.chunk_slot)
            prompt = self._grouped(rows, keys, values, shared.chunk_mask, scaling)
            parts.append(prompt.reshape(1, -1, chunk, width).transpose(1, 2))
        return torch.cat(parts, 1)

    @staticmethod
    def _grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        from torch.nn import functional

        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling
        )


class Shared:
    """What all layers of a forward have in common; static tensors, and what is computed of them."""

    reach: int
    written: Tensor
    """[R K]: where in the flat cache the rows of each head go."""
    decode_mask: Tensor
    """[S, 1, 1, reach]."""
    chunk_mask: Tensor
    """[1, 1, G C, reach]."""

    def __init__(self, slots: int, chunk: int, device: torch.device) -> None:
        """Makes one static buffer, so that a step has one copy to the device."""
        import torch

        self.slots, self.chunk = slots, chunk
        self.buffer = torch.zeros(3 * (slots + chunk) + 2, dtype=torch.long, device=device)
        self.table = self.buffer[:-2].view(3, -1)
        """[3, S + C]: `TOKEN`, `SLOT`, `PLACE` of each row."""
        self.chunk_slot, self._last = self.buffer[-2:-1], self.buffer[-1:]
        """[1] each: whose prompt the chunk is of, and the row of its last token."""
        self._decoding = torch.arange(slots, device=device)

    def compute(self, rows: int, reach: int, heads: int, length: int, groups: int) -> Tensor:
        """Places and masks for so many rows of the table; which rows answer, [S + 1] or [S]."""
        import torch

        device = self.table.device
        slot, place = self.table[SLOT, :rows], self.table[PLACE, :rows]
        by_head = slot[:, None] * heads + torch.arange(heads, device=device)
        self.written = (by_head * length + place[:, None]).reshape(-1)
        allowed = torch.arange(reach, device=device) <= place[:, None]
        self.reach = reach
        self.decode_mask = allowed[: self.slots, None, None]
        if rows == self.slots:
            return self._decoding
        self.chunk_mask = allowed[None, None, self.slots :].repeat(1, 1, groups, 1)
        return torch.cat([self._decoding, self._last])


class SlotModel:
    """The model, its cache, and its forward in every variant: eager, compiled or recorded."""

    def __init__(
        self,
        model: nn.Module,
        slots: int,
        length: int,
        chunk: int,
        compiled: bool,
        recorder: Recorder | None,
    ) -> None:
        """recorder: what records a variant, where it is to be replayed; compiled: whether the
        model goes through torch.compile first."""
        import torch

        register_attention()
        library: Any = model
        config = library.config
        weight = next(model.parameters())
        self.model: Any = model.eval()
        self.slots, self.length, self.chunk = slots, length, chunk
        self._heads = config.num_key_value_heads
        self._groups = config.num_attention_heads // self._heads
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        self.shared = Shared(slots, chunk, weight.device)
        self.caches: list[SlotCache] = []
        for layer in library.model.layers:
            shape = (slots + 1, self._heads, length, width)
            layer.self_attn.slot_cache = SlotCache(shape, weight.dtype, self.shared)
            self.caches.append(layer.self_attn.slot_cache)
        config._attn_implementation = ATTENTION
        self._reaches = reaches(length)
        self._recorder = recorder
        self._compiled = compiled
        if compiled:
            # Every variant is a shape of its own: none is to be made of symbols.
            model.compile(dynamic=False)
        self._variants: dict[tuple[int, int], Queued] = {}
        self.logits: Tensor
        """[S + 1, V], or [S, V] without a chunk: of the last forward."""
        self.tokens: Tensor
        """The best of each."""
        self._host = torch.zeros(self.shared.buffer.shape, dtype=torch.long)
        if weight.device.type != "cpu":
            self._host = self._host.pin_memory()

    def reach(self, tokens: int) -> int:
        """The smallest reach of so many tokens."""
        return next(reach for reach in self._reaches if tokens <= reach)

    def forward(self, rows: Rows) -> Tensor:
        """Fills the table, queues the variant; tokens [S + 1] or [S], on the device."""
        self.run(*self.fill(rows))
        return self.tokens

    def fill(self, rows: Rows) -> tuple[int, int]:
        """Brings the table to the device; gives rows and reach of its variant."""
        import torch

        slots, every = self.slots, self.slots + self.chunk
        # What nobody reads goes to the last slot: idle slots, and rows beyond a prompt's end.
        tokens, kept, places = [0] * every, [slots] * every, [0] * every
        most, size = 1, len(rows.prompt)
        for slot, token, place in rows.decoding:
            tokens[slot], kept[slot], places[slot] = token, slot, place
            most = max(most, place + 1)
        if size:
            end = rows.start + size
            tokens[slots : slots + size] = rows.prompt
            kept[slots : slots + size] = [rows.slot] * size
            places[slots : slots + size] = range(rows.start, end)
            most = max(most, end)
        filled = array("q", [*tokens, *kept, *places, rows.slot, slots + max(size, 1) - 1])
        self._host.copy_(torch.frombuffer(filled, dtype=torch.long))
        self.shared.buffer.copy_(self._host, non_blocking=True)
        return every if size else slots, self.reach(most)

    def warm(self) -> None:
        """Every variant twice: what is compiled, recorded or looked for is so in the first."""
        with self._room_to_compile():
            for reach in self._reaches:
                for count in (self.slots, self.slots + self.chunk):
                    for _ in range(2):
                        self.run(count, reach)

    def run(self, rows: int, reach: int) -> None:
        """Queues a forward of what the table holds; `logits` and `tokens` are then its."""
        variant = self._variants.get((rows, reach))
        if variant is None:
            variant = self._recorded(functools.partial(self._forward, rows, reach))
            self._variants[rows, reach] = variant
        variant()

    def _recorded(self, work: Callable[[], tuple[Tensor, Tensor]]) -> Queued:
        """Its replay, after which what it had made is the last forward's; or as it is."""
        recorder = self._recorder
        if recorder is None:

            def run() -> None:
                work()

            return run
        made: list[tuple[Tensor, Tensor]] = []

        def recorded() -> None:
            made[:] = [work()]

        replay = recorder(recorded, lambda: None)
        tensors = made[0]

        def again() -> None:
            replay()
            self.logits, self.tokens = tensors

        return again

    def tensors(self) -> list[Tensor]:
        """Keys and values of every layer."""
        return [tensor for cache in self.caches for tensor in (cache.keys, cache.values)]

    def close(self) -> None:
        """Lets the cache and what was recorded over it go."""
        self._variants.clear()
        self.caches.clear()
        for layer in self.model.model.layers:
            vars(layer.self_attn).pop("slot_cache", None)

    def _forward(self, rows: int, reach: int) -> tuple[Tensor, Tensor]:
        import torch

        shared = self.shared
        with torch.inference_mode():
            answering = shared.compute(rows, reach, self._heads, self.length, self._groups)
            self.logits = self.model(
                input_ids=shared.table[TOKEN : TOKEN + 1, :rows],
                position_ids=shared.table[PLACE : PLACE + 1, :rows],
                attention_mask=None,
                use_cache=False,
                logits_to_keep=answering,
            ).logits[0]
            self.tokens = self.logits.argmax(-1)
        return self.logits, self.tokens

    def _room_to_compile(self) -> Any:
        """A limit on recompilations that the variants keep: they are meant."""
        from contextlib import nullcontext

        if not self._compiled:
            return nullcontext()
        import torch

        variants = 2 * len(self._reaches)
        config: Any = torch._dynamo.config
        return config.patch(recompile_limit=max(variants + 2, config.recompile_limit))
