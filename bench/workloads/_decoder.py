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

from bench.workload import Site
from bench.workloads._packed import Packed
from bench.workloads._transformers import with_cache

if TYPE_CHECKING:
    from torch import Tensor, nn


SINK_SLOTS = 8
"""What lies behind the tokens' slots where there are sinks: kernels want multiples of eight."""


class Held(NamedTuple):
    """What is kept of the tokens in one layer: [B, heads, L, width] twice."""

    keys: Tensor
    values: Tensor


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
            for kept, new in zip(held, (keys, values), strict=True):
                tokens, last = new.shape[2], new
                if tokens > slots:  # the last ones, each at its place modulo the slots
                    last = new[:, :, tokens - slots :].roll(tokens % slots, 2)
                kept[:, :, : last.shape[2]].copy_(last)
            return keys, values
        for kept, new in zip(held, (keys, values), strict=True):
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


def step_of(model: nn.Module, cache: Cache, packed: Sequence[Packed] = ()) -> Any:
    """A module that gives the logits [B, 1, V] after tokens [B, 1] at a `Place`; weights shared.

    packed: by layer, where matrices lie in one.
    """
    attentions = [layer.self_attn for layer in _decoder(model).layers]
    if all(hasattr(attention, "k_proj") for attention in attentions):
        layers: Sequence[Packed | None] = packed or [None for _ in attentions]
        return _own_step()(model, cache, layers)
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

    [N, 1, 1, 1, L] each, to be added to the scores: torch would make them so in every layer.
    Devices from outside of torch get truth values, for which alone some have their fused kernel;
    but not with sinks. behind: of L, slots behind those of the tokens.
    """
    import torch
    from torch.nn import functional

    place = torch.arange(prompt, prompt + tokens)[:, None]
    outside = torch._C._get_privateuse1_backend_name() == site.device.type
    found = []
    for window in dict.fromkeys(kept):
        # Of a window too: what is in a slot is in the window, once all are taken.
        allowed = torch.arange(slots(window, prompt + tokens))[None] <= place
        allowed = functional.pad(allowed, (0, behind))
        if behind or not outside:
            added = torch.zeros(allowed.shape, dtype=site.precision.dtype)
            allowed = added.masked_fill_(~allowed, float("-inf"))
        found.append(allowed[:, None, None, None].to(site.device))
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

        def __init__(self, model: nn.Module, cache: Cache, packed: Sequence[Packed | None]) -> None:
            super().__init__()
            self.model = model
            self._cache = cache
            self._packed = packed
            decoder, config = _decoder(model), cast("Any", model).config
            self._embedding, self._norm = decoder.embed_tokens, decoder.norm
            self._head = cast("Any", model).lm_head
            self._layers = [*decoder.layers]
            self._queries = config.num_attention_heads
            self._keys = config.num_key_value_heads
            self._heads = (self._queries, self._keys, self._keys)
            kept = windows(model)
            kinds = list(dict.fromkeys(kept))
            self._kind_of = [kinds.index(window) for window in kept]
            self._behind: list[Tensor] = []
            if sinks(model):
                for held in cache.layers:
                    places = torch.arange(held.keys.shape[2], device=held.keys.device)
                    self._behind.append(places == held.keys.shape[2] - SINK_SLOTS)

        def forward(self, tokens: Tensor, at: Place) -> Tensor:
            hidden = self._embedding(tokens)
            cosines, sines = at.rotation.unbind()
            batch = tokens.shape[0]
            for index, (layer, held, kind, packed) in enumerate(
                zip(self._layers, self._cache.layers, self._kind_of, self._packed, strict=True)
            ):
                attention, mask = layer.self_attn, at.masks[kind]
                normed = _normed(hidden, layer.input_layernorm)
                if packed is None:
                    query, key = attention.q_proj(normed), attention.k_proj(normed)
                    value = attention.v_proj(normed)
                else:
                    widths = [2 * cosines.shape[-1] * n for n in self._heads]
                    query, key, value = functional.linear(normed, packed.queries_keys_values).split(
                        widths, dim=-1
                    )
                value = value.view(batch, self._keys, 1, -1)
                if hasattr(attention, "q_norm"):
                    heads = (batch, 1, -1, value.shape[-1])
                    query = _normed(query.view(heads), attention.q_norm).flatten(2)
                    key = _normed(key.view(heads), attention.k_norm).flatten(2)
                # Half of a head beside the other: swapped, they are what the sines turn.
                both = torch.cat((query, key), dim=-1).view(batch, -1, 2, cosines.shape[-1])
                turned = torch.addcmul(both * cosines, both.flip(-2), sines).flatten(2)
                held.keys.index_copy_(2, at.slots[kind], turned[:, self._queries :, None])
                held.values.index_copy_(2, at.slots[kind], value)
                if self._behind:
                    score = attention.sinks.view(1, self._keys, -1, 1)
                    mask = torch.where(self._behind[index], score, mask)
                found = attend(
                    turned[:, : self._queries].reshape(batch, self._keys, -1, turned.shape[-1]),
                    held.keys,
                    held.values,
                    attn_mask=mask,
                    scale=attention.scaling,
                )
                hidden = hidden + attention.o_proj(found.reshape(batch, 1, -1))
                normed = _normed(hidden, layer.post_attention_layernorm)
                if packed is None or packed.gate_up is None:
                    fed = layer.mlp(normed)
                    hidden = hidden + (fed[0] if isinstance(fed, tuple) else fed)
                else:
                    gate, up = functional.linear(normed, packed.gate_up).chunk(2, dim=-1)
                    hidden = hidden + layer.mlp.down_proj(layer.mlp.act_fn(gate) * up)
            logits: Tensor = self._head(_normed(hidden, self._norm))
            return logits

    def _normed(values: Tensor, norm: Any) -> Tensor:
        weight: Tensor = norm.weight
        return functional.rms_norm(values, weight.shape, weight, norm.variance_epsilon)

    return OwnStep
