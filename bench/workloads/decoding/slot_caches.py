"""What a slot engine keeps of its texts, and its attention: two calls, of the slots and of a chunk.

`Keys` keeps keys and values of each head that has some; `Latents` of latent attention the latent
and the key that carries the position, from which both are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.workload import Unsupported
from bench.workloads.layers.masks import added

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ATTENTION = "accelmark-slots"
"""Under this name transformers finds the attention of this file, and builds no mask for it."""
ADDED = ("slot_cache", "expand_kv")
"""What a layer's attention is given beside its weights: its cache, and of latent attention another
way for what is new."""
TOKEN, SLOT, PLACE = range(3)
"""Rows of the table: each forward row's token, the slot that keeps it, its place in that text."""


def register_attention() -> None:
    """Makes ATTENTION known to transformers."""
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(ATTENTION, _attend)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, **given: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, H, R, D]; key and value [1, K, R, D], of latent
    attention the latent and the key of the position [1, 1, R, width]."""
    return module.slot_cache.attend(query, key, value, given["scaling"]), None


class Shared:
    """What all layers of a forward have in common; static tensors, and what is computed of them."""

    reach: int
    written: Tensor
    """[R K]: where in the flat cache the rows of each head go."""
    decode_mask: Tensor
    """[S, 1, 1, reach], as attention wants it, and so is the chunk's."""
    chunk_mask: Tensor
    """[1, 1, G C, reach]."""

    def __init__(self, slots: int, chunk: int, device: torch.device, dtype: torch.dtype) -> None:
        """Makes one static buffer, so that a step has one copy to the device.

        dtype: of queries and keys.
        """
        import torch

        self.slots, self.chunk, self._dtype = slots, chunk, dtype
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
        self.reach, slots = reach, self.slots
        if rows > slots:
            place = torch.cat([place[:slots], place[slots:].repeat(groups)])
        allowed = torch.arange(reach, device=device) <= place[:, None, None, None]
        masks = added(allowed, self._dtype)
        self.decode_mask = masks[:slots]
        if rows == slots:
            return self._decoding
        self.chunk_mask = masks[slots:].permute(1, 2, 0, 3)
        return torch.cat([self._decoding, self._last])


class Keys:
    """One layer's keys and values: [S + 1, K, T, D] each; the last slot takes what idle rows write.

    What a forward has in common is `shared`, set before each.
    """

    words = "static slots"

    def __init__(self, attention: nn.Module, length: int, shared: Shared) -> None:
        """attention: the layer's; length: T."""
        import torch

        config: Any = attention.config
        weight = next(attention.parameters())
        self.heads = config.num_key_value_heads
        self.groups = config.num_attention_heads // self.heads
        """Query heads for each of them, whose rows of a chunk lie behind one another."""
        width = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        shape = (shared.slots + 1, self.heads, length, width)
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self._shared = shared

    @property
    def tensors(self) -> list[Tensor]:
        """All that it keeps."""
        return [self.keys, self.values]

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
            _attention(
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
            prompt = _attention(rows, keys, values, shared.chunk_mask, scaling)
            parts.append(prompt.reshape(1, -1, chunk, width).transpose(1, 2))
        return torch.cat(parts, 1)


class Latents:
    """One layer's latents, each with the key of its position behind it: [S + 1, 1, T, L + P].

    A chunk's rows attend to keys and values that the library's own expansion makes of its slot's
    latents. The slots' rows, one each, would have all texts expanded for a single token: there the
    expansion's two halves are multiplied into the query and into what comes out (DeepSeek-V2, arXiv
    2405.04434, section 2.1.2), and the latents are attended to as they lie. As servers do.
    """

    words = "static slots of latents"
    heads = groups = 1

    def __init__(self, attention: nn.Module, length: int, shared: Shared) -> None:
        """attention: the layer's, whose new latents come here as they are from now on; length: T.

        Raises `Unsupported` where the library expands them in another place.
        """
        import torch

        library: Any = attention
        if not hasattr(library, "expand_kv"):
            raise Unsupported(
                "the installed transformers keeps no latents. Install the newest that this release "
                "allows: pip install -U transformers"
            )
        self._expand = library.expand_kv
        self._weight: Tensor = library.kv_b_proj.weight
        self._latent, self._plain = library.kv_lora_rank, library.qk_nope_head_dim
        self._query_heads = library.num_heads
        library.expand_kv = _as_they_are
        width = self._latent + library.qk_rope_head_dim
        weight = self._weight
        self.kept = torch.zeros(
            (shared.slots + 1, 1, length, width), dtype=weight.dtype, device=weight.device
        )
        self._shared = shared

    @property
    def tensors(self) -> list[Tensor]:
        """All that it keeps."""
        return [self.kept]

    def attend(self, query: Tensor, latent: Tensor, position: Tensor, scaling: float) -> Tensor:
        """Keeps the new latents and keys of positions, and attends; [1, R, H, width of a value]."""
        import torch

        shared, slots, reach = self._shared, self._shared.slots, self._shared.reach
        rows = torch.cat((latent, position), -1)[0, 0]
        self.kept.view(-1, rows.shape[1]).index_copy_(0, shared.written, rows)
        up, down = self._weight.view(self._query_heads, -1, self._latent).split(
            [self._plain, self._weight.shape[0] // self._query_heads - self._plain], 1
        )
        plain, turned = query[0, :, :slots].tensor_split([self._plain], -1)  # [H, S, width]
        wide = torch.cat((plain @ up, turned), -1).transpose(0, 1)[:, None]  # [S, 1, H, L + P]
        kept = self.kept[:slots, :, :reach]
        # Values as wide as keys, for kernels: a slot's latents are both. [S, 1, H, L + P].
        found = _attention(wide, kept, kept, shared.decode_mask, scaling)
        latents = found[:, 0, :, : self._latent].transpose(0, 1)  # [H, S, L]
        parts = [(latents @ down.transpose(1, 2)).transpose(0, 1)[None]]
        if query.shape[2] > slots:
            text = self.kept[:, :, :reach].index_select(0, shared.chunk_slot)
            keys, values = self._expand(*text.tensor_split([self._latent], -1))
            prompt = _attention(query[:, :, slots:], keys, values, shared.chunk_mask, scaling)
            parts.append(prompt.transpose(1, 2))
        return torch.cat(parts, 1)


def cache_of(attention: nn.Module, length: int, shared: Shared) -> Keys | Latents:
    """Of one layer, of the kind that its attention needs, given to it."""
    kind = Latents if hasattr(attention, "kv_b_proj") else Keys
    library: Any = attention
    library.slot_cache = kind(attention, length, shared)
    cache: Keys | Latents = library.slot_cache
    return cache


def _as_they_are(latent: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """In the place of the library's expansion of what is new."""
    return latent, position


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    from torch.nn import functional

    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
