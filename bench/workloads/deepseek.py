"""DeepSeek language models, experts and latent attention: training, prefill (TTFT), decode (TPOT).

Routing. No noise, and no auxiliary loss that would balance the experts: transformers' DeepSeek-V2
and V3 have none, V3 balances by a bias that is no part of the gradient step, and random weights
under random tokens load the experts evenly enough. A token's experts are what its router says.

Experts. The grouped matrix product (`grouped_mm`): tokens sorted by expert on the device, one
product for each of the two expert matrices, work in proportion to the active experts. Of the others
that transformers has, the loop (`eager`) asks the device which experts were hit, in every layer of
every step, and `batched_mm` copies the weights of each expert for each token. Accelerators have a
kernel for the product in bfloat16; where one lacks it, torch loops over the experts and asks the
device where each begins, which is why no case is float16, and why float32 may be slow there. None
is `bf16-amp`: autocast passes the product by, and the experts would stay in float32. torch before
2.9 has it on no CPU, and transformers falls back to such a loop.
float64 has it nowhere: there the numerics reference takes the loop, so that dispatch and product
are checked against another implementation of both.

The twin. Rounding moves the routers' scores, and where two experts are nearly level, the one chosen
changes: right numbers, another result (with 4 of 8 chosen, bfloat16 alone reached three quarters of
the tolerance). So the twin has 4 experts and every token goes to all of them: it sees every weight,
routing weight, sorting and product, whatever the rounding. Its routing weights add up to 4, so that
one wrong expert is heard above bfloat16's own error, which at a quarter each it would not be. It
does not see a wrong choice of the best experts, nor groups of unequal size.
"""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from bench.precision import Precision
from bench.records.outcome import Work
from bench.workload import (
    EXECUTIONS,
    INFERENCE_EXECUTIONS,
    TWIN_VOCABULARY,
    Job,
    Mode,
    Parameters,
    Site,
    Workload,
    with_twins,
)
from bench.workloads import _language
from bench.workloads._generation import CacheShape
from bench.workloads._modes import COPIES, SHARDED
from bench.workloads._seeded import SeededData, build_model, initial_std
from bench.workloads._transformers import attention_of

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "v2-lite-cut"
"""A model is a published size, a cut of one that says so, or `tiny`; with `-2l`, cut for the gate
to 2 layers, 4,096 tokens and 4 experts, all of them active."""
TWIN_EXPERTS = 4


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
SIZES = with_twins(
    SIZES,
    layers=2,
    dense_layers=1,
    vocabulary=TWIN_VOCABULARY,
    experts=TWIN_EXPERTS,
    active=TWIN_EXPERTS,
)


class TrainParameters(_language.TrainParameters, frozen=True, kw_only=True):
    """Next-token prediction over full sequences; AdamW."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class PrefillParameters(_language.PrefillParameters, frozen=True, kw_only=True):
    """A prompt to its first token."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class DecodeParameters(_language.DecodeParameters, frozen=True, kw_only=True):
    """Tokens after a prompt, one a step; after `new_tokens` it starts over behind the prompt."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class DeepSeek(Workload):
    """DeepSeek-V2, arXiv 2405.04434, and DeepSeek-V3, arXiv 2412.19437."""

    name = "deepseek"
    version = 2
    libraries = (
        "transformers.models.deepseek_v2.modeling_deepseek_v2",
        "transformers.models.deepseek_v3.modeling_deepseek_v3",
    )
    modes = MappingProxyType(
        {
            # No tf32: with 10 bits a token in some hundred is given to another expert than with 23,
            # which no tolerance tells from a fault.
            "train": Mode(
                parameters=TrainParameters,
                precisions=("bf16", "fp32"),
                executions=EXECUTIONS,
                schemes=SHARDED,
            ),
            "prefill": Mode(
                parameters=PrefillParameters,
                precisions=("bf16", "fp32"),
                executions=INFERENCE_EXECUTIONS,
                latency="TTFT",
                schemes=COPIES,
            ),
            "decode": Mode(
                parameters=DecodeParameters,
                precisions=("bf16", "fp32"),
                executions=INFERENCE_EXECUTIONS,
                latency="TPOT",
                schemes=COPIES,
            ),
        }
    )

    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """2 FLOP for each weight that a token meets, and attention: 2 T C H (k + v) a layer.

        A token meets its active experts, the shared ones and the router; of the others nothing.
        T tokens attend to a context of C over H heads whose keys are k and values v wide, in full,
        not the causal half. The latents are expanded to keys and values for each position of the
        context: in training and prefill once a token, but in decode anew in every step, C times, as
        transformers does. (DeepSeek-V2, section 2.1.2, shows how that matrix could be absorbed by
        its neighbours; an implementation that did would do other work.) Embeddings, norms, softmax
        and the weighing of experts are left out. Training is three times the forward; prefill
        applies the output matrix to its last token only; decode has T = 1 and the mean context of
        its window.
        Source: DeepSeek-V2, arXiv 2405.04434, sections 2.1 and 2.2, for the matrices; PaLM, arXiv
        2204.02311, appendix B, for the counting.
        """
        size = SIZES[parameters.model]
        batch = parameters.batch_size
        return _language.language_work(
            parameters,
            functools.partial(_forward_flop, size),
            lambda context: _decode_bytes(size, batch, context, precision),
        )

    def twin(self, mode: str, parameters: Any) -> Parameters:
        """One dense layer and one of 4 experts, all active, of the same widths; 4,096 tokens."""
        twin: Parameters = _language.twin_of(parameters)
        return twin

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """Random tokens. Decode also fills its cache from the prompt."""
        size = SIZES[parameters.model]
        data = SeededData(site.seed)
        experts = "eager" if site.is_reference else "grouped_mm"
        construct = functools.partial(_construct, size, attention_of(site), experts)
        model = build_model(construct, size.published_parameters, data, site)
        facts = {"experts": experts}
        if isinstance(parameters, TrainParameters):
            return _language.training_job(
                model, size.hidden, size.vocabulary, parameters, data, site, facts
            )
        cache = CacheShape(heads=1, first=size.latent, second=size.rotary)
        return _language.generating_job(
            model, size.vocabulary, cache, parameters, data, site, facts
        )


def _forward_flop(size: Size, tokens: int, context: float, output_tokens: int) -> int:
    """FLOP of one sequence's forward; each token attends to `context`, whose latents it expands."""
    matrices = tokens * size.layers_weights(size.active) + output_tokens * size.hidden * (
        size.vocabulary
    )
    expansion = context * size.layers * size.expansion_weights
    attention = tokens * context * size.layers * size.heads * (size.key + size.head)
    return round(2 * (matrices + expansion + attention))


def _experts_touched(size: Size, batch: int) -> float:
    """Expected number of distinct experts that a batch of tokens goes to in one layer.

    An expert is among a token's k of E with probability k / E, and is missed by B independent
    tokens with (1 - k / E)^B; even loads, as random weights and tokens give.
    """
    return size.experts * (1.0 - (1.0 - size.active / size.experts) ** batch)


def _decode_bytes(size: Size, batch: int, context: float, precision: Precision) -> int:
    """Bytes that one decode step must move: the weights that it meets, and the cache of latents,
    which is read once, and to which the new token's are written.

    Each expert that a token of the batch goes to is read once, as are all other matrices; of the
    embedding, a row per sequence. The cache keeps the latent and the rotary key of each token, and
    is counted up to the mean context of the window. Keys and values are made from it in each step;
    they need not leave the chip, and are left out.
    """
    weights = size.layers_weights(_experts_touched(size, batch))
    weights += size.layers * size.expansion_weights + size.norm_weights
    weights += size.hidden * size.vocabulary + batch * size.hidden
    cache = batch * (context + 1) * size.layers * (size.latent + size.rotary)
    return round((weights + cache) * precision.element_bytes)


def _construct(size: Size, attention: str = "eager", experts: str = "grouped_mm") -> nn.Module:
    from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2ForCausalLM
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM

    rope: dict[str, float | str] = {"rope_type": "default", "rope_theta": 10_000.0}
    if size.positions > 4096:
        scale = 1.0 if size.third_generation else 0.707
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
        "initializer_range": initial_std(size.hidden),
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.feed_forward,
        "moe_intermediate_size": size.expert,
        "num_hidden_layers": size.layers,
        "first_k_dense_replace": size.dense_layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "q_lora_rank": size.query_rank,
        "kv_lora_rank": size.latent,
        "qk_nope_head_dim": size.head,
        "qk_rope_head_dim": size.rotary,
        "v_head_dim": size.head,
        "n_routed_experts": size.experts,
        "num_experts_per_tok": size.active,
        "n_shared_experts": size.shared,
        "max_position_embeddings": size.positions,
        "rope_parameters": rope,
        "attn_implementation": attention,
        "experts_implementation": experts,
    }
    model: nn.Module
    is_twin = size.active == size.experts
    if size.third_generation:
        # Where all experts are active, no group may be left out.
        groups, best = (1, 1) if is_twin else (8, 4)
        scale = float(size.active) if is_twin else 2.5
        options |= {"n_group": groups, "topk_group": best, "num_mtp_layers": 0}
        model = DeepseekV3ForCausalLM(DeepseekV3Config(routed_scaling_factor=scale, **options))
    else:
        scale = float(size.active) if is_twin else 1.0
        options |= {"topk_method": "greedy"}
        model = DeepseekV2ForCausalLM(DeepseekV2Config(routed_scaling_factor=scale, **options))
    return model


WORKLOAD = DeepSeek()
