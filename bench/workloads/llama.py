"""Llama language models, 135M to 70B: training, prefill (TTFT) and decode (TPOT)."""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from bench import language
from bench.language import (
    ATTENTION,
    ELEMENT_BYTES,
    TWIN_VOCABULARY,
    CacheShape,
    register_attention,
    with_twins,
)
from bench.models import SeededData, build_model, initial_std
from bench.precision import Precision
from bench.record import Work
from bench.workload import Job, Mode, Parameters, Site, Workload

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "smollm2-135m"
"""A model is a published size, or `tiny`; with `-2l`, cut to 2 layers and 4,096 tokens, for the
gate."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """The dimensions of one model."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int = 128_256
    tied: bool = True
    """Whether the output matrix is the embedding."""
    positions: int = 131_072
    rope_theta: float = 500_000.0
    rope_factor: float | None = None
    """Factor of the `llama3` frequency scaling; None for plain rotary embeddings."""
    published_parameters: int | None = None
    """None for a size that nobody published."""

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def layer_weights(self) -> int:
        """Weights in the matrices of one layer."""
        attention = 2 * self.hidden * self.head * (self.heads + self.key_value_heads)
        return attention + 3 * self.hidden * self.feed_forward

    @property
    def head_weights(self) -> int:
        """Weights of the output matrix."""
        return self.hidden * self.vocabulary


SIZES = {
    "tiny": Size(
        hidden=64,
        layers=3,
        heads=4,
        key_value_heads=2,
        feed_forward=128,
        vocabulary=512,
        positions=2048,
    ),
    "smollm2-135m": Size(
        hidden=576,
        layers=30,
        heads=9,
        key_value_heads=3,
        feed_forward=1536,
        vocabulary=49_152,
        positions=8192,
        rope_theta=100_000.0,
        published_parameters=134_515_008,
    ),
    "llama-3.2-1b": Size(
        hidden=2048,
        layers=16,
        heads=32,
        key_value_heads=8,
        feed_forward=8192,
        rope_factor=32.0,
        published_parameters=1_235_814_400,
    ),
    "llama-3.2-3b": Size(
        hidden=3072,
        layers=28,
        heads=24,
        key_value_heads=8,
        feed_forward=8192,
        rope_factor=32.0,
        published_parameters=3_212_749_824,
    ),
    "llama-3.1-8b": Size(
        hidden=4096,
        layers=32,
        heads=32,
        key_value_heads=8,
        feed_forward=14_336,
        tied=False,
        rope_factor=8.0,
        published_parameters=8_030_261_248,
    ),
    "llama-3.1-70b": Size(
        hidden=8192,
        layers=80,
        heads=64,
        key_value_heads=8,
        feed_forward=28_672,
        tied=False,
        rope_factor=8.0,
        published_parameters=70_553_706_496,
    ),
}
"""Dimensions as in each model's published configuration; `tiny` is for tests."""
SIZES = with_twins(SIZES, layers=2, vocabulary=TWIN_VOCABULARY)


class TrainParameters(language.TrainParameters, frozen=True, kw_only=True):
    """Next-token prediction over full sequences; AdamW."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class PrefillParameters(language.PrefillParameters, frozen=True, kw_only=True):
    """A prompt to its first token."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class DecodeParameters(language.DecodeParameters, frozen=True, kw_only=True):
    """Tokens after a prompt, one a step; after `new_tokens` it starts over behind the prompt."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class Llama(Workload):
    """Llama, arXiv 2407.21783, and models of its architecture."""

    name = "llama"
    version = 1
    libraries = ("transformers.models.llama.modeling_llama",)
    modes = MappingProxyType(
        {
            # No fp16 training: it would need loss scaling, which is another step.
            "train": Mode(parameters=TrainParameters, precisions=("bf16", "bf16-amp", "fp32")),
            "prefill": Mode(
                parameters=PrefillParameters, precisions=("bf16", "fp16", "fp32"), latency="TTFT"
            ),
            "decode": Mode(
                parameters=DecodeParameters, precisions=("bf16", "fp16", "fp32"), latency="TPOT"
            ),
        }
    )

    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """2 FLOP for each weight of a matrix and each token, and attention: 4 T C h a layer.

        T tokens attend to a context of C over heads that are h wide together. Attention counts in
        full, not the causal half. Embeddings, norms and softmax are left out. Training is three
        times the forward; prefill applies the output matrix to its last token only; decode has
        T = 1 and the mean context of its window.
        Source: PaLM, arXiv 2204.02311, appendix B.
        """
        size = SIZES[parameters.model]
        batch = parameters.batch_size
        if mode == "train":
            tokens = parameters.sequence_length
            flop = 3 * batch * _forward_flop(size, tokens, tokens * tokens, tokens)
            return Work(items=batch * tokens, unit="token", flop=flop)
        if mode == "prefill":
            tokens = parameters.prompt_length
            flop = batch * _forward_flop(size, tokens, tokens * tokens, 1)
            return Work(items=batch * tokens, unit="token", flop=flop)
        context = parameters.context
        return Work(
            items=batch,
            unit="token",
            flop=batch * _forward_flop(size, 1, context, 1),
            moved_bytes=_decode_bytes(size, batch, context, precision),
        )

    def twin(self, mode: str, parameters: Any) -> Parameters:
        """Two layers of the same widths, a vocabulary of 4,096, at most two short sequences."""
        twin: Parameters = language.twin_of(parameters)
        return twin

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """Random tokens. Decode also fills its cache from the prompt."""
        size = SIZES[parameters.model]
        data = SeededData(site.seed)
        construct = functools.partial(_construct, size)
        model = build_model(construct, size.published_parameters, data, site)
        if isinstance(parameters, TrainParameters):
            return language.training_job(
                model, size.hidden, size.vocabulary, parameters, data, site, {}
            )
        cache = CacheShape(heads=size.key_value_heads, first=size.head, second=size.head)
        return language.generating_job(model, size.vocabulary, cache, parameters, data, site, {})


def _forward_flop(size: Size, tokens: int, attended: float, output_tokens: int) -> int:
    """FLOP of one sequence's forward; `attended` counts pairs of a token and one in its context."""
    matrices = 2 * (tokens * size.layers * size.layer_weights + output_tokens * size.head_weights)
    return matrices + round(4 * attended * size.layers * size.heads * size.head)


def _decode_bytes(size: Size, batch: int, context: float, precision: Precision) -> int:
    """Bytes that one decode step must read: every weight once, and the cache of every sequence.

    The cache is counted up to the mean context of the window, though a kernel may read all of its
    allocation. Of an embedding that is not tied to the output matrix, a row per sequence.
    """
    weights = size.layers * (size.layer_weights + 2 * size.hidden) + size.hidden
    weights += size.head_weights + batch * size.hidden
    cache = 2 * batch * context * size.layers * size.key_value_heads * size.head
    return round((weights + cache) * ELEMENT_BYTES[precision.weights])


def _construct(size: Size) -> nn.Module:
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    register_attention()
    rope: dict[str, float | str] = {"rope_type": "default", "rope_theta": size.rope_theta}
    if size.rope_factor is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": size.rope_factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    config = LlamaConfig(
        initializer_range=initial_std(size.hidden),
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        max_position_embeddings=size.positions,
        rms_norm_eps=1e-5,
        rope_parameters=rope,
        tie_word_embeddings=size.tied,
        attn_implementation=ATTENTION,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model


WORKLOAD = Llama()
