"""Decoders of latent attention with experts: their dimensions, FLOP, bytes and construction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bench.precision import Precision
from bench.workload import TWIN_VOCABULARY, with_twins
from bench.workloads.contexts.contexts import pairs
from bench.workloads.decoding.decoder import CacheShape
from bench.workloads.jobs.seeded import initial_std
from bench.workloads.language.family import experts_touched
from bench.workloads.layers.transformers import library_class, library_model

if TYPE_CHECKING:
    from torch import nn


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """The dimensions of one model; those of DeepSeek-V2-Lite where nothing else is said."""

    hidden: int = 2048
    layers: int = 27
    dense_layers: int = 1
    """The first so many layers have one feed-forward in place of experts."""
    heads: int = 16
    query_rank: int | None = None
    """Width of the latent from which queries are made; None: from the hidden state."""
    latent: int = 512
    """Width of the latent from which keys and values are made, and which the cache keeps."""
    head: int = 128
    """Width of a head's value, and of the part of its key that carries no position."""
    rotary: int = 64
    """Width of the key that carries the position, one for all heads."""
    feed_forward: int = 10_944
    expert: int = 1408
    """Width of one expert."""
    experts: int = 64
    active: int = 6
    """Experts that a token goes to."""
    shared: int = 2
    """Experts that every token goes to."""
    vocabulary: int = 102_400
    positions: int = 163_840
    third_generation: bool = False
    """DeepSeek-V3: sigmoid scores, and experts from the best 4 of 8 groups."""
    published_parameters: int | None = None
    """None for a size that nobody published; of a cut in depth, its share of the published ones."""

    @property
    def key(self) -> int:
        """Width of a head's query and key."""
        return self.head + self.rotary

    @property
    def token_weights(self) -> int:
        """Weights in an attention's matrices that are applied once a token."""
        if self.query_rank is None:
            query = self.hidden * self.heads * self.key
        else:
            query = self.query_rank * (self.hidden + self.heads * self.key)
        latent = self.hidden * (self.latent + self.rotary)
        return query + latent + self.heads * self.head * self.hidden

    @property
    def expansion_weights(self) -> int:
        """Weights of the matrix that makes keys and values from a latent."""
        return self.latent * self.heads * 2 * self.head

    @property
    def expert_weights(self) -> int:
        """Weights in the matrices of one expert."""
        return 3 * self.hidden * self.expert

    def layers_weights(self, experts: float) -> float:
        """Weights in the matrices of all layers, without expansion, with so many experts each."""
        sparse = self.hidden * self.experts + (experts + self.shared) * self.expert_weights
        dense = 3 * self.hidden * self.feed_forward
        return (
            self.layers * self.token_weights
            + self.dense_layers * dense
            + (self.layers - self.dense_layers) * sparse
        )

    @property
    def norm_weights(self) -> int:
        """Weights of all norms."""
        layer = 2 * self.hidden + self.latent + (self.query_rank or 0)
        return self.layers * layer + self.hidden

    @property
    def cache(self) -> CacheShape:
        """The latent, and the key that carries the position."""
        return CacheShape(heads=1, first=self.latent, second=self.rotary)

    def flop(self, tokens: int, context: float, answering: int) -> int:
        """2 FLOP for each weight that a token meets, and attention: 2 T C H (k + v) a layer.

        A token meets its active experts, the shared ones and the router; of the others nothing.
        T tokens attend to a context of C over H heads whose keys are k and values v wide, in full,
        not the causal half: see `masked`. The latents are expanded to keys and values for each
        position of the context: in training and prefill once a token, but in decode anew in every
        step, C times, as transformers does. (DeepSeek-V2, section 2.1.2, shows how that matrix
        could be absorbed by its neighbours; an implementation that did would do other work.)
        Embeddings, norms, softmax and the weighing of experts are left out.
        Source: DeepSeek-V2, arXiv 2405.04434, sections 2.1 and 2.2, for the matrices; PaLM, arXiv
        2204.02311, appendix B, for the counting.
        """
        matrices = tokens * self.layers_weights(self.active) + answering * self.hidden * (
            self.vocabulary
        )
        expansion = context * self.layers * self.expansion_weights
        attention = tokens * context * self.layers * self.heads * (self.key + self.head)
        return round(2 * (matrices + expansion + attention))

    def masked(self, tokens: int) -> int:
        """Of the `flop` of a text that attends to itself, those of keys that a token does not see.

        A causal kernel leaves them out: token i sees i keys.
        """
        unseen = tokens**2 - pairs(tokens, tokens, 0)
        return 2 * unseen * self.layers * self.heads * (self.key + self.head)

    def again(self, tokens: int) -> int:
        """FLOP of a text that the layers do again at least, all but their last products."""
        sparse = (self.layers - self.dense_layers) * (self.active + self.shared) * self.expert
        last = self.hidden * (self.dense_layers * self.feed_forward + sparse)
        return self.flop(tokens, tokens, 0) - self.masked(tokens) - 2 * tokens * last

    def served_flop(self, prompt: int, answer: int) -> int:
        """Of one request: its prompt at once, then `answer` - 1 tokens, one after the other.

        As `flop`, but of a token of the answer the latents are not expanded: a server multiplies
        the expansion's two halves into the token's query and its result, once each, and attends to
        the latents as they lie: 2 C H (2 l + r) a layer, of latents l and a rotary key r wide.
        Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.2.
        """
        tokens, context = answer - 1, prompt + answer / 2
        matrices = self.layers_weights(self.active) + self.layers * self.expansion_weights
        matrices += self.hidden * self.vocabulary
        attention = context * self.layers * self.heads * (2 * self.latent + self.rotary)
        return self.flop(prompt, prompt, 1) + round(2 * tokens * (matrices + attention))

    def decode_bytes(
        self, batch: int, context: float, precision: Precision, hit: float | None = None
    ) -> int:
        """Bytes that one decode step must move: the weights that it meets, and the cache of
        latents, which is read once, and to which the new token's are written.

        Each expert that a token of the batch goes to is read once, `hit` of each layer or as even
        loads have it, as are all other matrices; of the embedding, a row per sequence. The cache
        keeps the latent and the rotary key of each token, and is counted up to the mean context of
        the window. Keys and values are made from it in each step; they need not leave the chip, and
        are left out.
        """
        if hit is None:
            hit = experts_touched(self.experts, self.active, batch)
        weights = self.layers_weights(hit)
        weights += self.layers * self.expansion_weights + self.norm_weights
        weights += self.hidden * self.vocabulary + batch * self.hidden
        cache = batch * (context + 1) * self.layers * (self.latent + self.rotary)
        return round((weights + cache) * precision.element_bytes)

    def construct(self, attention: str = "eager", experts: str = "grouped_mm") -> nn.Module:
        """The library's model. Raises `Unsupported` before transformers 5.15: it kept keys and
        values instead of latents, and left YaRN's scale out of DeepSeek-V2's attention."""
        library_class(
            "transformers.models.deepseek_v2.modeling_deepseek_v2", "DeepseekV2Attention.expand_kv"
        )
        rope: dict[str, float | str] = {"rope_type": "default", "rope_theta": 10_000.0}
        if self.positions > 4096:
            scale = 1.0 if self.third_generation else 0.707
            rope |= {
                "rope_type": "yarn",
                "factor": 40.0,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": scale,
                "mscale_all_dim": scale,
            }
        options: dict[str, Any] = {
            "initializer_range": initial_std(self.hidden),
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "moe_intermediate_size": self.expert,
            "num_hidden_layers": self.layers,
            "first_k_dense_replace": self.dense_layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "q_lora_rank": self.query_rank,
            "kv_lora_rank": self.latent,
            "qk_nope_head_dim": self.head,
            "qk_rope_head_dim": self.rotary,
            "v_head_dim": self.head,
            "n_routed_experts": self.experts,
            "num_experts_per_tok": self.active,
            "n_shared_experts": self.shared,
            "max_position_embeddings": self.positions,
            "rope_parameters": rope,
            "attn_implementation": attention,
            "experts_implementation": experts,
        }
        is_twin = self.active == self.experts
        if self.third_generation:
            # Where all experts are active, no group may be left out.
            groups, best = (1, 1) if is_twin else (8, 4)
            scale = float(self.active) if is_twin else 2.5
            options |= {"n_group": groups, "topk_group": best, "num_mtp_layers": 0}
        else:
            scale = float(self.active) if is_twin else 1.0
            options |= {"topk_method": "greedy"}
        kind = 3 if self.third_generation else 2
        return library_model(
            f"deepseek_v{kind}",
            f"DeepseekV{kind}ForCausalLM",
            routed_scaling_factor=scale,
            **options,
        )


TWIN_EXPERTS = 4
"""Of a twin, each token to all of them; see `bench.workloads.deepseek`."""


V2_LITE = Size(published_parameters=15_706_484_224)
V3 = Size(
    hidden=7168,
    layers=61,
    dense_layers=3,
    heads=128,
    query_rank=1536,
    feed_forward=18_432,
    expert=2048,
    experts=256,
    active=8,
    shared=1,
    vocabulary=129_280,
    third_generation=True,
    published_parameters=671_026_404_352,
)
TINY = Size(
    hidden=64,
    layers=3,
    heads=4,
    latent=32,
    head=16,
    rotary=8,
    feed_forward=128,
    expert=32,
    experts=16,
    active=4,
    vocabulary=512,
    positions=2048,
)
SIZES = {
    "tiny": TINY,
    "tiny-v3": msgspec.structs.replace(TINY, query_rank=48, shared=1, third_generation=True),
    # A quarter of each width, 3 layers of 27: all 64 experts, and 97 M parameters.
    "v2-lite-cut": Size(
        hidden=512,
        layers=3,
        heads=4,
        latent=128,
        feed_forward=2736,
        expert=352,
        vocabulary=16_384,
        published_parameters=None,
    ),
    "v2-lite-8l": msgspec.structs.replace(V2_LITE, layers=8, published_parameters=4_594_374_656),
    "v2-lite": V2_LITE,
    "v3-3+1l": msgspec.structs.replace(V3, layers=4, published_parameters=15_111_101_440),
    "v3": V3,
}
"""Dimensions as in the published configurations of DeepSeek-V2-Lite and DeepSeek-V3. `-8l` and
`-3+1l` (3 dense layers and 1 with experts) are cut in depth only, `v2-lite-cut` also in width and
vocabulary; `tiny` and `tiny-v3` are for tests."""
CUT = {
    "layers": 2,
    "dense_layers": 1,
    "vocabulary": TWIN_VOCABULARY,
    "experts": TWIN_EXPERTS,
    "active": TWIN_EXPERTS,
}
SIZES = with_twins(SIZES, **CUT)
