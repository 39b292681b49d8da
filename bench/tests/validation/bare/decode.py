"""One token of a decoder by hand: as few calls as an engineer finds who writes it for speed.

The library's own step makes masks and rotary tables anew for each token, norms in six kernels and
repeats keys and values: the harness does none of that, and beside it the library's would lose.
Nothing here is the harness's: everything that a token needs is found before the first one, and what
its step calls is torch. A norm is layer norm of values beside their negatives, whose mean is zero:
torch has one kernel for that on a CPU, and a dozen for the norm itself, which is left to the
compiler where there is one. Latent attention has no such step: of it the library's forward is
taken, with a cache whose end is known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.workloads.layers.transformers import with_cache

if TYPE_CHECKING:
    from torch import Tensor

BESIDE = 8
"""Slots behind the tokens', of which the first is the sink's: kernels want multiples of eight."""


class Layer(NamedTuple):
    """What one layer of a transformers model calls, and what it keeps."""

    norms: tuple[tuple[Tensor, Tensor, float], ...]
    """Before attention, before what follows, and of queries and keys where they have some: weight,
    weight of a pair, epsilon."""
    queries: Callable[..., Tensor]
    keys: Callable[..., Tensor]
    values: Callable[..., Tensor]
    joined: Callable[..., Tensor]
    gate: Callable[..., Tensor]
    up: Callable[..., Tensor]
    down: Callable[..., Tensor]
    experts: Any
    """In place of those three, or None."""
    sinks: Tensor | None
    scale: float
    window: int | None
    kept: Tensor
    """Keys and values, [2, B G, 1, L, D]; of sinks [2, B, G, L, D]."""
    kept_keys: Tensor
    kept_values: Tensor


def _by(matrix: Any) -> Callable[..., Tensor]:
    import torch

    weight = matrix.weight.detach().t()
    if matrix.bias is None:
        return functools.partial(torch.mm, mat2=weight)
    return functools.partial(torch.addmm, matrix.bias.detach(), mat2=weight)


def _norm(norm: Any) -> tuple[Tensor, Tensor, float]:
    import torch

    weight = norm.weight.detach()
    return weight, torch.stack((weight, torch.zeros_like(weight))), norm.variance_epsilon


class ByHand:
    """Weights of a transformers Llama, Qwen3 or GPT-OSS, caches and tables of its positions."""

    def __init__(self, model: Any, batch: int, prompt: int, new_tokens: int) -> None:
        """Everything by place is made once, here; the cache is empty."""
        import torch

        config, core, length = model.config, model.model, prompt + new_tokens
        self.model, self.batch, self.prompt, self.length = model, batch, prompt, length
        self.embedded = core.embed_tokens.weight.detach()
        self.dtype = self.embedded.dtype
        self.asking, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width = core.layers[0].self_attn.head_dim
        self.layers = [self._layer(layer) for layer in core.layers]
        self.last_norm, self.head = _norm(core.norm), _by(model.lm_head)
        self.places = torch.arange(length)
        with torch.inference_mode():
            cosines, sines = core.rotary_emb(self.embedded, self.places[None])
        half = self.width // 2
        first = cosines[0, :, :half], sines[0, :, :half]
        self.cosines = torch.stack((first[0], first[0]), 1)
        self.sines = torch.stack((-first[1], first[1]), 1)
        self.tables = {
            window: self._table(window) for window in {layer.window for layer in self.layers}
        }
        self.signs = torch.tensor([[1.0], [-1.0]], dtype=self.dtype)
        self._lay()

    def _layer(self, layer: Any) -> Layer:
        import torch

        attention, mlp = layer.self_attn, layer.mlp
        norms = [layer.input_layernorm, layer.post_attention_layernorm]
        norms += [getattr(attention, x) for x in ("q_norm", "k_norm") if hasattr(attention, x)]
        window = getattr(attention, "sliding_window", None)
        sinks, slots = getattr(attention, "sinks", None), min(window or self.length, self.length)
        if sinks is not None:
            sinks, slots = sinks.detach().view(1, self.groups, -1, 1), slots + BESIDE
        heads = (self.batch, self.groups) if sinks is not None else (self.batch * self.groups, 1)
        kept = torch.zeros((2, *heads, slots, self.width), dtype=self.dtype)
        dense = hasattr(mlp, "gate_proj")
        gate, up, down = (
            _by(getattr(mlp, f"{x}_proj")) if dense else torch.clone for x in ("gate", "up", "down")
        )
        return Layer(
            tuple(map(_norm, norms)),
            _by(attention.q_proj),
            _by(attention.k_proj),
            _by(attention.v_proj),
            _by(attention.o_proj),
            gate,
            up,
            down,
            None if dense else mlp,
            sinks,
            attention.scaling,
            window,
            kept,
            kept[0],
            kept[1],
        )

    def _table(self, window: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """By place its slot, by new token its mask, and which slot is the sink's."""
        import torch

        kept = min(window or self.length, self.length)
        slots = kept + BESIDE * any(layer.sinks is not None for layer in self.layers)
        order = torch.arange(slots)
        unseen = (order > self.places[self.prompt :, None]) | (order >= kept)
        mask = torch.zeros(unseen.shape, dtype=self.dtype).masked_fill(unseen, float("-inf"))
        return self.places % kept, mask, order == kept

    def _lay(self) -> None:
        """Where each layer's queries, keys and values of one token lie, of all sequences."""
        import torch

        width, (queries, groups) = self.width, (self.batch * self.asking, self.batch * self.groups)
        self.sizes = [queries, groups, groups]
        heads = torch.zeros((sum(self.sizes), width), dtype=self.dtype)
        self.turning = heads[:-groups].view(-1, 2, width // 2)
        self.turning_rows = heads[:-groups]
        self.query, self.new = self._seen(heads)
        self.before = torch.zeros_like(self.turning_rows)
        normed = len(self.layers[0].norms) > 2
        read = [*(self.before if normed else self.turning_rows).split(self.sizes[:2])]
        self.parts = [x.view(self.batch, -1) for x in (*read, heads[-groups:])]

    def _seen(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """The query of attention, and what is kept."""
        asked, kept = heads.split([self.sizes[0], 2 * self.sizes[1]])
        shape = self.layers[0].kept.shape[1:3]
        return asked.view(*shape, -1, self.width), kept.view(2, *shape, 1, self.width)

    def read(self, prompt: Tensor) -> Tensor:
        """Fills the cache from a prompt [B, P]; gives the token [B, 1] after it."""
        import torch

        with torch.inference_mode():
            answer = self.model(prompt, use_cache=True, logits_to_keep=1)
            for layer, read in zip(self.layers, answer.past_key_values.layers, strict=True):
                count = read.keys.shape[2]  # of a window the library keeps one less
                slots = self.tables[layer.window][0][self.prompt - count : self.prompt]
                for mine, theirs in zip(layer.kept, (read.keys, read.values), strict=True):
                    rows = mine.view(self.batch, self.groups, -1, self.width)
                    rows.index_copy_(2, slots, theirs)
            token: Tensor = answer.logits.argmax(-1)
        return token

    def at(self, index: int) -> tuple[Any, ...]:
        """Rows of the tables for the `index`-th token behind the prompt."""
        place = self.prompt + index
        by_window = {
            window: (slots[place : place + 1], masks[index, None, None, None], sink)
            for window, (slots, masks, sink) in self.tables.items()
        }
        return self.cosines[place], self.sines[place], by_window

    def logits(self, token: Tensor, at: tuple[Any, ...]) -> Tensor:
        """[B, 1, V] after a token [B, 1] at its rows of the tables."""
        import torch

        return (
            self._compiled(token, at) if torch.compiler.is_compiling() else self._eager(token, at)
        )

    def _eager(self, token: Tensor, at: tuple[Any, ...]) -> Tensor:
        import torch
        from torch.nn.functional import embedding, scaled_dot_product_attention, silu

        cosines, sines, by_window = at
        signs, batch = self.signs, self.batch
        query, new, turning = self.query, self.new, self.turning
        of_queries, of_keys, of_values = self.parts
        layer_norm = torch.layer_norm

        def normed(pair: Tensor, norm: tuple[Tensor, Tensor, float]) -> Tensor:
            _, both, epsilon = norm
            return layer_norm(pair, both.shape, both, None, epsilon).select(-2, 0)

        pair = embedding(token[:, 0], self.embedded).unsqueeze(1) * signs
        for layer in self.layers:
            row = normed(pair, layer.norms[0])
            layer.queries(row, out=of_queries)
            layer.keys(row, out=of_keys)
            layer.values(row, out=of_values)
            if len(layer.norms) > 2:
                heads = (self.before.unsqueeze(1) * signs).split(self.sizes[:2])
                rows = [normed(x, norm) for x, norm in zip(heads, layer.norms[2:], strict=True)]
                torch.cat(rows, out=self.turning_rows)
            swapped = turning.flip(1)
            turning.mul_(cosines).addcmul_(swapped, sines)
            slot, mask, sink = by_window[layer.window]
            layer.kept.index_copy_(3, slot, new)
            if layer.sinks is not None:
                mask = torch.where(sink, layer.sinks, mask)
            found = scaled_dot_product_attention(
                query, layer.kept_keys, layer.kept_values, attn_mask=mask, scale=layer.scale
            )
            pair.addcmul_(layer.joined(found.view(batch, -1)).unsqueeze(1), signs)
            row = normed(pair, layer.norms[1])
            if layer.experts is None:
                gate, up = layer.gate(row), layer.up(row)
                fed = layer.down(silu(gate, inplace=True).mul_(up))
            else:
                fed = self._mixed(layer, row)
            pair.addcmul_(fed.unsqueeze(1), signs)
        return self.head(normed(pair, self.last_norm))[:, None]

    def _compiled(self, token: Tensor, at: tuple[Any, ...]) -> Tensor:
        """The same for a compiler, which plans memory and fuses."""
        import torch
        from torch.nn.functional import embedding, rms_norm, scaled_dot_product_attention, silu

        cosines, sines, by_window = at

        def normed(row: Tensor, norm: tuple[Tensor, Tensor, float]) -> Tensor:
            weight, _, epsilon = norm
            return rms_norm(row, weight.shape, weight, epsilon)

        values = embedding(token[:, 0], self.embedded)
        for layer in self.layers:
            row = normed(values, layer.norms[0])
            made = [x(row).view(-1, self.width) for x in (layer.queries, layer.keys, layer.values)]
            for i, norm in enumerate(layer.norms[2:]):
                made[i] = normed(made[i], norm)
            heads = torch.cat(made)
            turning = heads[: -self.sizes[2]].view(-1, 2, self.width // 2)
            turned = turning * cosines + turning.flip(1) * sines
            heads = torch.cat((turned.view(-1, self.width), heads[-self.sizes[2] :]))
            query, new = self._seen(heads)
            slot, mask, sink = by_window[layer.window]
            layer.kept.index_copy_(3, slot, new)
            if layer.sinks is not None:
                mask = torch.where(sink, layer.sinks, mask)
            keys, held = layer.kept.unbind()
            found = scaled_dot_product_attention(
                query, keys, held, attn_mask=mask, scale=layer.scale
            )
            values = values + layer.joined(found.reshape(self.batch, -1))
            row = normed(values, layer.norms[1])
            if layer.experts is None:
                values = values + layer.down(silu(layer.gate(row)) * layer.up(row))
            else:
                values = values + self._mixed(layer, row)
        return self.head(normed(values, self.last_norm))[:, None]

    @staticmethod
    def _mixed(layer: Layer, row: Tensor) -> Tensor:
        """By the library's experts."""
        mixed = layer.experts(row[:, None])
        fed: Tensor = (mixed[0] if isinstance(mixed, tuple) else mixed)[:, 0]
        return fed


class Latents:
    """A DeepSeek's cache of latents, written where a token is said to be, and its forward."""

    def __init__(self, model: Any, batch: int, prompt: int, new_tokens: int) -> None:
        """The cache is empty."""
        import torch

        config, length = model.config, prompt + new_tokens
        self.model, self.prompt = model, prompt
        widths = config.kv_lora_rank, config.qk_rope_head_dim
        dtype = model.lm_head.weight.dtype
        self.kept = [
            tuple(torch.zeros((batch, 1, length, width), dtype=dtype) for width in widths)
            for _ in model.model.layers
        ]
        self.places = torch.arange(length)
        unseen = self.places[None] > self.places[prompt:, None]
        self.masks = torch.zeros(unseen.shape, dtype=dtype).masked_fill(unseen, float("-inf"))
        self.place: Tensor | None = None
        self.keywords: dict[str, Any] = {**with_cache(model, self), "use_cache": True}

    def update(self, first: Tensor, second: Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """As the library calls its cache's."""
        held = self.kept[layer]
        if self.place is None:
            for mine, new in zip(held, (first, second), strict=True):
                mine[:, :, : new.shape[2]].copy_(new)
            return first, second
        for mine, new in zip(held, (first, second), strict=True):
            mine.index_copy_(2, self.place, new)
        return held

    def read(self, prompt: Tensor) -> Tensor:
        """As `ByHand.read`."""
        import torch

        self.place = None
        with torch.inference_mode():
            places = self.places[None, : self.prompt]
            answer = self.model(prompt, position_ids=places, logits_to_keep=1, **self.keywords)
            token: Tensor = answer.logits.argmax(-1)
        return token

    def at(self, index: int) -> tuple[Any, ...]:
        """The place of the `index`-th token behind the prompt, and its mask."""
        place = self.prompt + index
        return self.places[place : place + 1], self.masks[index, None, None, None]

    def logits(self, token: Tensor, at: tuple[Any, ...]) -> Tensor:
        """[B, 1, V] after a token [B, 1] there."""
        self.place, mask = at
        logits: Tensor = self.model(
            token, position_ids=at[0][None], attention_mask=mask, **self.keywords
        ).logits
        return logits
