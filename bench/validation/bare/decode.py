"""One token of Llama by hand: as few kernels as an engineer finds who writes it for speed.

The library's own step makes masks and rotary tables anew for each token, norms in six kernels and
repeats keys and values: the harness does none of that, and beside it the library's would lose.
A norm is layer norm of values beside their negatives, whose mean is zero: torch has one kernel for
that on a CPU, and a dozen for the norm itself, which is left to the compiler where there is one.
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
        shape = (len(core.layers), batch, 2 * self.groups, length, 2 * self.half)
        self.cache = torch.zeros(shape, dtype=dtype)
        self.heads = torch.zeros((batch, self.queries + 2 * self.groups, 2, self.half), dtype=dtype)
        self.signs = torch.tensor([[1.0], [-1.0]], dtype=dtype)
        self.norms = [
            self._norm(norm)
            for layer in core.layers
            for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        ] + [self._norm(core.norm)]
        self.places = torch.arange(length)
        with torch.inference_mode():
            cosines, sines = core.rotary_emb(self.cache, self.places[None])
        self.cosines = cosines.view(length, 2, self.half)
        self.sines = torch.stack((-sines[0, :, : self.half], sines[0, :, self.half :]), 1)
        unseen = self.places[None] > self.places[prompt:, None]
        self.masks = torch.zeros(unseen.shape, dtype=dtype).masked_fill(unseen, float("-inf"))

    @staticmethod
    def _norm(norm: Any) -> tuple[Tensor, Tensor, float]:
        import torch

        weight = norm.weight.detach()
        return weight, torch.stack((weight, weight)), norm.variance_epsilon

    def read(self, prompt: Tensor) -> Tensor:
        """Fills the cache from a prompt [B, P]; gives the token [B, 1] after it."""
        import torch

        with torch.inference_mode():
            answer = self.model(prompt, use_cache=True, logits_to_keep=1)
            for mine, layer in zip(self.cache, answer.past_key_values.layers, strict=True):
                mine[:, : self.groups, : self.prompt] = layer.keys
                mine[:, self.groups :, : self.prompt] = layer.values
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
        from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

        place, cosines, sines, mask = at
        compiled = torch.compiler.is_compiling()
        norms = iter(self.norms)
        batch, groups, width = self.batch, self.groups, 2 * self.half

        def normed(values: Tensor) -> Tensor:
            weight, both, epsilon = next(norms)
            if compiled:
                return rms_norm(values, weight.shape, weight, epsilon)
            return torch.layer_norm(values, both.shape, both, None, epsilon)[:, 0]

        def plus(values: Tensor, more: Tensor) -> Tensor:
            return values + more if compiled else values.addcmul_(more[:, None], self.signs)

        def by(values: Tensor, matrix: Any, out: Tensor | None = None) -> Tensor:
            return torch.mm(values, matrix.weight.t(), out=out)

        values = self.core.embed_tokens(token[:, 0])
        if not compiled:
            values = values[:, None] * self.signs
        for layer, kept in zip(self.core.layers, self.cache, strict=True):
            attention, mlp = layer.self_attn, layer.mlp
            given = normed(values)
            matrices = attention.q_proj, attention.k_proj, attention.v_proj
            heads = self.heads
            if compiled:
                heads = torch.cat([by(given, m) for m in matrices], -1).view(heads.shape)
            else:
                sizes = [matrix.out_features for matrix in matrices]
                parts = heads.view(batch, -1).split(sizes, -1)
                for matrix, part in zip(matrices, parts, strict=True):
                    by(given, matrix, part)
            turning = heads[:, :-groups]
            swapped = turning.flip(-2)
            turning.mul_(cosines).addcmul_(swapped, sines)
            kept.index_copy_(2, place, heads[:, self.queries :].view(batch, -1, 1, width))
            query = heads[:, : self.queries].view(batch, groups, -1, width)
            found = scaled_dot_product_attention(
                query, kept[:, :groups], kept[:, groups:], attn_mask=mask
            )
            values = plus(values, by(found.reshape(batch, -1), attention.o_proj))
            given = normed(values)
            gate, up = by(given, mlp.gate_proj), by(given, mlp.up_proj)
            values = plus(values, by(silu(gate, inplace=True).mul_(up), mlp.down_proj))
        return by(normed(values), self.model.lm_head)[:, None]
