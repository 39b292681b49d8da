"""One token's step of a decoder: the library's weights, in as few kernels as the arithmetic allows.

What the library does for each token and need not: it makes masks and rotary tables anew, rotates
keys and queries apart, norms in six kernels, repeats keys and values for every query that shares
them wherever it compiles, and counts on the device where its cache ends. Here the tables are made
once, each row's is looked up by the place of the token, and queries that share a key's head lie
together as the rows of one query. The products are the library's own: each linear layer by itself.

A layer with a window keeps no more than that: the next token's keys take the place of those that
fall out of it, as order says nothing where keys bear their positions. A sink, a score of each head
that joins its softmax, is the mask's at a key of zeros behind all others.

`step_of` takes the library's forward for a model whose attention is none of this kind (latents).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from bench.records.execution import is_compiled
from bench.workload import Site
from bench.workloads.decoding.step_heads import Reader, Shape, desk_of
from bench.workloads.decoding.step_layers import layers_of, product_of
from bench.workloads.layers.masks import added, filled
from bench.workloads.layers.norms import norms_of
from bench.workloads.layers.packed import Packed
from bench.workloads.layers.transformers import with_cache

if TYPE_CHECKING:
    from torch import Tensor, nn


SINK_SLOTS = 8
"""What lies behind the tokens' slots where there are sinks: kernels want multiples of eight."""


class CacheShape(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer's cache keeps of a token: heads, and the widths of its two tensors.

    Those are key and value; of latent attention the latent, and the key that carries the position.
    """

    heads: int
    first: int
    second: int


class Held(NamedTuple):
    """What is kept of the tokens in one layer: [B, heads, L, width] twice."""

    keys: Tensor
    values: Tensor
    both: Tensor
    """[2, B, heads, L, width], of which those are the halves; or empty, if their widths differ."""

    @classmethod
    def of(cls, shape: tuple[int, int, int], widths: tuple[int, int], site: Site) -> Held:
        """Zeros. shape: B, heads and L; widths: of keys and of values."""
        import torch

        batch, heads, length = shape
        kind: dict[str, Any] = {"dtype": site.precision.dtype, "device": site.device}
        if widths[0] == widths[1]:
            both = torch.zeros((2, batch, heads, length, widths[0]), **kind)
            return cls(both[0], both[1], both)
        keys, values = (torch.zeros((batch, heads, length, width), **kind) for width in widths)
        return cls(keys, values, torch.empty(0, **kind))


class Cache:
    """What a model keeps of its tokens, of fixed length. It takes the place of the library's.

    The library's static cache reckons its end on the device, in each layer of each step, and of a
    sliding window on the host. Here the place of a token is given.
    """

    def __init__(self, layers: Sequence[Held], slots: Sequence[int]) -> None:
        """layers: allocated, and of zeros; slots: for how many tokens each of them is."""
        self.layers = list(layers)
        self._slots = list(slots)
        self.place: Tensor | None = None
        """Where the next token's go, [1] on the device; None for a prompt, from the start."""

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Writes those of new tokens [B, heads, T, width]; gives all that these may attend to."""
        held, slots = self.layers[layer], self._slots[layer]
        if self.place is None:
            for kept, new in zip(held[:2], (keys, values), strict=True):
                tokens, last = new.shape[2], new
                if tokens > slots:  # the last ones, each at its place modulo the slots
                    last = new[:, :, tokens - slots :].roll(tokens % slots, 2)
                kept[:, :, : last.shape[2]].copy_(last)
            return keys, values
        for kept, new in zip(held[:2], (keys, values), strict=True):
            kept.index_copy_(2, self.place, new)
        return held.keys, held.values


class Place(NamedTuple):
    """Of one token's step, what depends on its place alone."""

    place: Tensor
    """How many tokens are before it, [1]."""
    rotation: Tensor
    """Cosines and signed sines [2, 1, 2, D / 2]; empty where the library makes its own."""
    masks: tuple[Tensor, ...]
    """What it may attend to, [1, 1, 1, L] for each of the model's windows."""
    slots: tuple[Tensor, ...]
    """Its index in the cache, [1], likewise."""


def step_of(model: nn.Module, cache: Cache, site: Site, packed: Sequence[Packed] = ()) -> Any:
    """A module that gives the logits [B, 1, V] after tokens [B, 1] at a `Place`; weights shared.

    packed: by layer, where matrices lie in one.
    """
    attentions = [layer.self_attn for layer in _decoder(model).layers]
    if all(hasattr(attention, "k_proj") for attention in attentions):
        layers: Sequence[Packed | None] = packed or [None for _ in attentions]
        return _own_step()(model, cache, layers, site)
    return _library_step()(model, cache)


def windows(model: nn.Module) -> list[int | None]:
    """By layer: over how many tokens it attends, itself included; None for all."""
    return [getattr(layer.self_attn, "sliding_window", None) for layer in _decoder(model).layers]


def sinks(model: nn.Module) -> bool:
    """Whether each head has a score besides that joins its softmax."""
    return any(hasattr(layer.self_attn, "sinks") for layer in _decoder(model).layers)


def slots(window: int | None, tokens: int) -> int:
    """Of so many tokens, how many a layer of this window keeps."""
    return tokens if window is None else min(window, tokens)


def masks(
    kept: Sequence[int | None], prompt: int, tokens: int, site: Site, behind: int = 0
) -> tuple[Tensor, ...]:
    """For each kind of window: row i is what the i-th token after the prompt may attend to.

    [N, 1, 1, 1, L] each, as attention wants them; with sinks always to be added to the scores.
    behind: of L, slots behind those of the tokens.
    """
    import torch
    from torch.nn import functional

    place = torch.arange(prompt, prompt + tokens)[:, None]
    found = []
    for window in dict.fromkeys(kept):
        # Of a window too: what is in a slot is in the window, once all are taken.
        allowed = torch.arange(slots(window, prompt + tokens))[None] <= place
        allowed = functional.pad(allowed, (0, behind))[:, None, None, None].to(site.device)
        found.append((filled if behind else added)(allowed, site.precision.dtype))
    return tuple(found)


def rotation(model: nn.Module, length: int, site: Site) -> Tensor:
    """[L, 2, 1, 2, D / 2]: by place its cosines, and its sines signed as the halves swap."""
    import torch

    positions = torch.arange(length, device=site.device)[None]
    like = torch.empty(0, dtype=site.precision.dtype, device=site.device)
    with torch.inference_mode():
        decoder = _decoder(model)
        cosines, sines = decoder.rotary_emb(like, positions)
        half = decoder.layers[0].self_attn.head_dim // 2
        if cosines.shape[-1] == half:  # the same for both halves, and given once
            cosines, sines = (torch.cat((x, x), dim=-1) for x in (cosines, sines))
        signed = torch.cat((-sines[..., :half], sines[..., half:]), dim=-1)
        table: Tensor = torch.stack((cosines[0], signed[0]), dim=1).view(length, 2, 1, 2, half)
    return table


def _decoder(model: nn.Module) -> Any:
    return cast("Any", model).model


@functools.cache
def _library_step() -> Any:
    """The class of a step by the library's forward, made when torch is there."""
    import torch

    class LibraryStep(torch.nn.Module):
        """One token through the library's own forward, with our cache."""

        description = "by the library's forward"
        rotates = False

        def __init__(self, model: nn.Module, cache: Cache) -> None:
            super().__init__()
            self.model = model
            self._cache = cache
            self._with_cache = with_cache(model, cache)

        def forward(self, tokens: Tensor, at: Place) -> Tensor:
            self._cache.place = at.place
            logits: Tensor = self.model(
                input_ids=tokens,
                position_ids=at.place[None],
                attention_mask=at.masks[0],
                **self._with_cache,
                use_cache=True,
            ).logits
            self._cache.place = None
            return logits

    return LibraryStep


@functools.cache
def _own_step() -> Any:
    """The class of our own step, made when torch is there."""
    import torch
    from torch.nn import functional

    attend = functional.scaled_dot_product_attention

    class OwnStep(torch.nn.Module):
        """One token through layers of grouped-query attention and any feed-forward."""

        description = "by a forward of our own"
        rotates = True

        def __init__(
            self, model: nn.Module, cache: Cache, packed: Sequence[Packed | None], site: Site
        ) -> None:
            super().__init__()
            config = cast("Any", model).config
            if config.hidden_act != "silu":
                raise ValueError(f"a step of our own has SiLU, the model {config.hidden_act}")
            self.model = model
            self._cache = cache
            self._norms = norms = norms_of(site)
            decoder = _decoder(model)
            self._embedding = decoder.embed_tokens
            self._layers = layers_of(decoder.layers, windows(model), packed, norms)
            self._last_norm = norms.prepared(decoder.norm)
            self._head = product_of(cast("Any", model).lm_head)
            first = cache.layers[0].keys
            batch, heads, _, width = first.shape
            queries = config.num_attention_heads
            packing = len(self._layers[0].reading) == 1 and not self._layers[0].head_norms
            # A sink's mask is of all sequences; and one product gives a sequence after the other.
            alone = not sinks(model) and (batch == 1 or not packing)
            shape = Shape(batch, queries, heads, width, alone)
            planned = is_compiled(site.execution)
            self._read = Reader(shape, norms)
            self._desk = desk_of(shape, norms, self._layers[0], first, planned)
            if self._desk is not None:
                self._layers = [self._desk.written(layer) for layer in self._layers]
            self._kept = [held.both.view(2, *shape.lying, -1, width) for held in cache.layers]
            # Made once; but a compiler wants to see that they are parts of what is written.
            self._apart = [None if planned else (kept[0], kept[1]) for kept in self._kept]
            self._behind: dict[int, Tensor] = {}
            """By the kind of window: which slot is the sinks'."""
            for layer, held in zip(self._layers, cache.layers, strict=True):
                places = torch.arange(held.keys.shape[2], device=held.keys.device)
                self._behind[layer.kind] = places == held.keys.shape[2] - SINK_SLOTS

        def forward(self, tokens: Tensor, at: Place) -> Tensor:
            # One call of torch after the other, and few of ours between them: each takes the host
            # a while.
            desk, batch, add = self._desk, tokens.shape[0], self._norms.add
            if desk is not None:
                turned, query, new = desk.heads
            cosines, sines = at.rotation.unbind()
            stream = self._norms.stream(self._embedding(tokens[:, 0]))
            for layer, kept, apart in zip(self._layers, self._kept, self._apart, strict=True):
                row = layer.input_norm(stream)
                if desk is None:
                    turned, query, new = self._read(row, layer)
                else:
                    for product in layer.reading:
                        product(row)
                    if layer.head_norms:
                        desk.norm(layer)
                swapped = turned.flip(-2)
                turned.mul_(cosines).addcmul_(swapped, sines)
                kept.index_copy_(3, at.slots[layer.kind], new)
                keys, values = apart or kept.unbind()
                mask = at.masks[layer.kind]
                if layer.sinks is not None:
                    mask = torch.where(self._behind[layer.kind], layer.sinks, mask)
                found = attend(query, keys, values, attn_mask=mask, scale=layer.scaling)
                add(stream, layer.joining(found.reshape(batch, -1)))
                row = layer.between_norm(stream)
                if layer.closing is None:
                    mixed = layer.experts(row[:, None])
                    fed = (mixed[0] if isinstance(mixed, tuple) else mixed)[:, 0]
                else:
                    if len(layer.gate_up) > 1:
                        gate, up = layer.gate_up[0](row), layer.gate_up[1](row)
                    else:
                        gate, up = layer.gate_up[0](row).chunk(2, dim=-1)
                    fed = layer.closing(functional.silu(gate, inplace=True).mul_(up))
                add(stream, fed)
            logits: Tensor = self._head(self._last_norm(stream))
            return logits[:, None]

    return OwnStep
