"""One token of Llama by hand: as few kernels as an engineer finds who writes it for speed.

The library's own step makes masks and rotary tables anew for each token, norms in six kernels and
repeats keys and values: the harness does none of that, and beside it the library's would lose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class LlamaToken:
    """Weights of a transformers Llama, a static cache of it, and tables of its positions."""

    def __init__(self, model: Any, batch: int, prompt: int, new_tokens: int) -> None:
        """Everything by place is made once, here; the cache is empty."""
        import torch

        config, core, length = model.config, model.model, prompt + new_tokens
        self.model, self.core = model, core
        self.batch, self.prompt = batch, prompt
        self.queries, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.half = core.layers[0].self_attn.head_dim // 2
        dtype = model.lm_head.weight.dtype
        shape = (len(core.layers), 2, batch, self.groups, length, 2 * self.half)
        self.cache = torch.zeros(shape, dtype=dtype)
        self.places = torch.arange(length)
        with torch.inference_mode():
            cosines, sines = core.rotary_emb(self.cache, self.places[None])
        self.cosines = cosines.view(length, 2, self.half)
        self.sines = torch.stack((-sines[0, :, : self.half], sines[0, :, self.half :]), 1)
        unseen = self.places[None] > self.places[prompt:, None]
        self.masks = torch.zeros(unseen.shape, dtype=dtype).masked_fill(unseen, float("-inf"))

    def read(self, prompt: Tensor) -> Tensor:
        """Fills the cache from a prompt [B, P]; gives the token [B, 1] after it."""
        import torch

        with torch.inference_mode():
            answer = self.model(prompt, use_cache=True, logits_to_keep=1)
            for mine, layer in zip(self.cache, answer.past_key_values.layers, strict=True):
                mine[0, :, :, : self.prompt] = layer.keys
                mine[1, :, :, : self.prompt] = layer.values
            token: Tensor = answer.logits.argmax(-1)
        return token

    def at(self, index: int) -> tuple[Tensor, ...]:
        """Rows of the tables for the `index`-th token behind the prompt."""
        place = self.prompt + index
        rotation = self.cosines[place], self.sines[place]
        return self.places[place : place + 1], *rotation, self.masks[index, None, None, None]

    def logits(self, token: Tensor, at: tuple[Tensor, ...]) -> Tensor:
        """[B, 1, V] after a token [B, 1] at its rows of the tables."""
        import torch
        from torch.nn.functional import rms_norm, scaled_dot_product_attention

        place, cosines, sines, mask = at

        def norm(values: Tensor, by: Any) -> Tensor:
            return rms_norm(values, by.weight.shape, by.weight, by.variance_epsilon)

        hidden = self.core.embed_tokens(token)
        for layer, (keys, values) in zip(self.core.layers, self.cache, strict=True):
            attention = layer.self_attn
            given = norm(hidden, layer.input_layernorm)
            heads = torch.cat((attention.q_proj(given), attention.k_proj(given)), -1)
            heads = heads.view(self.batch, -1, 2, self.half)
            turned = torch.addcmul(heads * cosines, heads.flip(-2), sines).flatten(2)
            value = attention.v_proj(given).view(self.batch, self.groups, 1, -1)
            keys.index_copy_(2, place, turned[:, self.queries :, None])
            values.index_copy_(2, place, value)
            query = turned[:, : self.queries].reshape(self.batch, self.groups, -1, 2 * self.half)
            found = scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            hidden = hidden + attention.o_proj(found.reshape(self.batch, 1, -1))
            hidden = hidden + layer.mlp(norm(hidden, layer.post_attention_layernorm))
        logits: Tensor = self.model.lm_head(norm(hidden, self.core.norm))
        return logits
