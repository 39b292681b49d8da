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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bench.workload import Site
from bench.workloads._norms import Norms, norms_of
from bench.workloads._packed import Packed
from bench.workloads._transformers import with_cache

if TYPE_CHECKING:
    from torch import Tensor, nn


SINK_SLOTS = 8
"""What lies behind the tokens' slots where there are sinks: kernels want multiples of eight."""

Product = Callable[["Tensor"], "Tensor"]


class Held(NamedTuple):
    """What is kept of the tokens in one layer: [B, heads, L, width] twice."""

    keys: Tensor
    values: Tensor
    both: Tensor
    """[B, 2 heads, L, width], of which those are the halves; or empty, if their widths differ."""

    @classmethod
    def of(cls, shape: tuple[int, int, int], widths: tuple[int, int], site: Site) -> Held:
        """Zeros. shape: B, heads and L; widths: of keys and of values."""
        import torch

        batch, heads, length = shape
        kind: dict[str, Any] = {"dtype": site.precision.dtype, "device": site.device}
        if widths[0] == widths[1]:
            both = torch.zeros((batch, 2 * heads, length, widths[0]), **kind)
            return cls(both[:, :heads], both[:, heads:], both)
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
        return _own_step()(model, cache, layers, norms_of(site))
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


class _Layer(NamedTuple):
    """What a layer's step calls, found once: each look at a module takes the host a while."""

    input_norm: Any
    reading: tuple[Product, ...]
    """Give queries, keys and values [B, width]; one product, or one of each."""
    head_norms: tuple[Any, ...]
    """Of queries and of keys; () without."""
    scaling: float
    joining: Product
    between_norm: Any
    gate_up: tuple[Product, ...]
    """One product, or one of each; () where a layer has experts."""
    activation: Any
    closing: Product | None
    experts: Any
    sinks: Tensor | None
    """A score of each query's head that joins its softmax, [1, G, heads that share, 1]."""
    kind: int
    """Of the model's windows: which mask and which slots."""


def _product(matrix: Any) -> Product:
    """What multiplies rows [B, K] by a linear layer; a plain one's torch itself, without a module
    and a function of many cases before it: a quarter of a small product on a CPU."""
    import torch

    if type(matrix) is torch.nn.Linear and matrix.bias is None:
        return _by(matrix.weight)
    return cast("Product", matrix)


def _by(weight: Tensor) -> Product:
    import torch

    return functools.partial(torch.mm, mat2=weight.detach().t())


def _sinks(attention: Any) -> Tensor | None:
    scores = getattr(attention, "sinks", None)
    if scores is None:
        return None
    shared: Tensor = scores.detach().view(1, -1, attention.num_key_value_groups, 1)
    return shared


def _layers(model: nn.Module, packed: Sequence[Packed | None], norms: Norms) -> list[_Layer]:
    kept = windows(model)
    kinds = list(dict.fromkeys(kept))
    found = []
    for layer, together, window in zip(_decoder(model).layers, packed, kept, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        reading = [_product(m) for m in (attention.q_proj, attention.k_proj, attention.v_proj)]
        dense = hasattr(mlp, "gate_proj")
        gate_up = [_product(m) for m in (mlp.gate_proj, mlp.up_proj)] if dense else []
        if together is not None:
            reading = [_by(together.queries_keys_values)]
            gate_up = [_by(together.gate_up)] if together.gate_up is not None else []
        heads = (attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else ()
        found.append(
            _Layer(
                input_norm=norms.prepared(layer.input_layernorm),
                reading=tuple(reading),
                head_norms=tuple(norms.prepared(norm) for norm in heads),
                scaling=attention.scaling,
                joining=_product(attention.o_proj),
                between_norm=norms.prepared(layer.post_attention_layernorm),
                gate_up=tuple(gate_up),
                activation=mlp.act_fn if dense else None,
                closing=_product(mlp.down_proj) if dense else None,
                experts=None if dense else mlp,
                sinks=_sinks(attention),
                kind=kinds.index(window),
            )
        )
    return found


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
            self, model: nn.Module, cache: Cache, packed: Sequence[Packed | None], norms: Norms
        ) -> None:
            super().__init__()
            self.model = model
            self._cache = cache
            self._norms = norms
            decoder, config = _decoder(model), cast("Any", model).config
            self._embedding = decoder.embed_tokens
            self._layers = _layers(model, packed, norms)
            self._last_norm = norms.prepared(decoder.norm)
            self._head = _product(cast("Any", model).lm_head)
            self._queries = config.num_attention_heads
            self._keys = config.num_key_value_heads
            self._behind: list[Tensor] = []
            if sinks(model):
                for held in cache.layers:
                    places = torch.arange(held.keys.shape[2], device=held.keys.device)
                    self._behind.append(places == held.keys.shape[2] - SINK_SLOTS)

        def forward(self, tokens: Tensor, at: Place) -> Tensor:
            norms = self._norms
            cosines, sines = at.rotation.unbind()
            width = 2 * cosines.shape[-1]
            batch = tokens.shape[0]
            stream = norms.stream(self._embedding(tokens[:, 0]))
            for index, (layer, held) in enumerate(
                zip(self._layers, self._cache.layers, strict=True)
            ):
                mask = at.masks[layer.kind]
                normed = norms.of(stream, layer.input_norm)
                made = self._normed_heads([read(normed) for read in layer.reading], layer, width)
                # Half of a head beside the other: swapped, they are what the sines turn.
                heads = made.view(batch, -1, 2, cosines.shape[-1])
                turned = heads[:, : -self._keys]
                swapped = turned.flip(-2)
                turned.mul_(cosines).addcmul_(swapped, sines)
                new = heads[:, self._queries :].view(batch, -1, 1, width)
                held.both.index_copy_(2, at.slots[layer.kind], new)
                if layer.sinks is not None:
                    mask = torch.where(self._behind[index], layer.sinks, mask)
                found = attend(
                    turned[:, : self._queries].view(batch, self._keys, -1, width),
                    held.keys,
                    held.values,
                    attn_mask=mask,
                    scale=layer.scaling,
                )
                stream = norms.added(stream, layer.joining(found.reshape(batch, -1)))
                normed = norms.of(stream, layer.between_norm)
                stream = norms.added(stream, self._fed(normed, layer))
            logits: Tensor = self._head(norms.of(stream, self._last_norm))
            return logits[:, None]

        def _normed_heads(self, made: list[Tensor], layer: _Layer, width: int) -> Tensor:
            """Queries, keys and values [B, all of them], the first two normed where heads are."""
            if layer.head_norms:
                if len(made) == 1:
                    sizes = [width * n for n in (self._queries, self._keys, self._keys)]
                    made = list(made[0].split(sizes, dim=-1))
                for i, norm in enumerate(layer.head_norms):
                    rows = made[i].view(made[i].shape[0], -1, width)
                    made[i] = self._norms.of(self._norms.stream(rows), norm).flatten(1)
            return torch.cat(made, dim=-1) if len(made) > 1 else made[0]

        def _fed(self, normed: Tensor, layer: _Layer) -> Tensor:
            """[B, H] through a layer's feed-forward."""
            if layer.closing is None:
                fed = layer.experts(normed[:, None])
                given: Tensor = (fed[0] if isinstance(fed, tuple) else fed)[:, 0]
                return given
            read = [matrix(normed) for matrix in layer.gate_up]
            gate, up = read if len(read) > 1 else read[0].chunk(2, dim=-1)
            return layer.closing(layer.activation(gate).mul_(up))

    return OwnStep
