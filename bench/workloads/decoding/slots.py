"""A transformers model over the slots of a static cache: decode rows and a chunk of a prompt.

One forward has S rows, a token of each slot, or S + C, with a chunk of one request's prompt behind
them. Every matrix sees all rows, so weights are read once; attention is two calls, of the S slots
and of the chunk. All shapes are fixed but the reach, how much of each slot's text is looked at: a
power of two from `LEAST_REACH` up, the same for both calls. So there are few variants, each can be
compiled or recorded beforehand, and nothing within one comes from the host: tokens, places and
masks are computed from one static table that each step fills.
"""

from __future__ import annotations

import contextlib
import functools
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.serving_job import Rows
from bench.workload import Queued, Recorder
from bench.workloads.decoding.generation import chosen
from bench.workloads.decoding.slot_caches import (
    ADDED,
    ATTENTION,
    PLACE,
    TOKEN,
    Shared,
    cache_of,
    register_attention,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

LEAST_REACH = 256


def reaches(length: int) -> tuple[int, ...]:
    """Powers of two from `LEAST_REACH` up, as far as they lie below the length, and the length."""
    found = []
    reach = LEAST_REACH
    while reach < length:
        found.append(reach)
        reach *= 2
    return (*found, length)


class SlotModel:
    """The model, its cache, and its forward in every variant: eager, compiled or recorded."""

    def __init__(
        self,
        model: nn.Module,
        slots: int,
        length: int,
        chunk: int,
        compiler: str | None,
        recorder: Recorder | None,
    ) -> None:
        """recorder: what records a variant, where it is to be replayed; compiler: torch's name for
        what the model goes through first, if it does."""
        import torch

        register_attention()
        library: Any = model
        config = library.config
        weight = next(model.parameters())
        self.model: Any = model.eval()
        self.slots, self.length, self.chunk = slots, length, chunk
        self.shared = Shared(slots, chunk, weight.device, weight.dtype)
        self.caches = [
            cache_of(layer.self_attn, length, self.shared) for layer in library.model.layers
        ]
        self._heads, self._groups = self.caches[0].heads, self.caches[0].groups
        config._attn_implementation = ATTENTION
        self._reaches = reaches(length)
        self._recorder = recorder
        self._compiled = compiler is not None
        if compiler is not None:
            # Every variant is a shape of its own: none is to be made of symbols.
            model.compile(dynamic=False, backend=compiler)
        self._variants: dict[tuple[int, int], Queued] = {}
        self.logits: Tensor
        """[S + 1, V], or [S, V] without a chunk: of the last forward."""
        self.tokens: Tensor
        """The best of each."""
        self._host = torch.zeros(self.shared.buffer.shape, dtype=torch.long)
        if weight.device.type != "cpu":
            with contextlib.suppress(RuntimeError, NotImplementedError):  # not every device has it
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
        """All that every layer keeps."""
        return [tensor for cache in self.caches for tensor in cache.tensors]

    def close(self) -> None:
        """Lets the cache and what was recorded over it go."""
        self._variants.clear()
        self.caches.clear()
        for layer in self.model.model.layers:
            for name in ADDED:
                vars(layer.self_attn).pop(name, None)

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
            self.tokens = chosen(self.logits)
        return self.logits, self.tokens

    def _room_to_compile(self) -> Any:
        """A limit on recompilations that the variants keep: they are meant."""
        if not self._compiled:
            return contextlib.nullcontext()
        import torch

        variants = 2 * len(self._reaches)
        config: Any = torch._dynamo.config
        # By the name that torch 2.6 has too.
        return config.patch(cache_size_limit=max(variants + 2, config.cache_size_limit))
