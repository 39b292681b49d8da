"""Llama language models, 135M to 70B: training, LoRA, prefill (TTFT) and decode (TPOT)."""

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
    QUANTIZED_PRECISIONS,
    TRAINING_PRECISIONS,
    TWIN_VOCABULARY,
    Job,
    Mode,
    Parameters,
    Site,
    Workload,
    require_within,
    with_twins,
)
from bench.workloads import _language
from bench.workloads._generation import CacheShape
from bench.workloads._modes import COPIES, SHARDED
from bench.workloads._quantized import SCALE_BYTES
from bench.workloads._seeded import SeededData, build_model, initial_std
from bench.workloads._transformers import attention_of

if TYPE_CHECKING:
    from torch import nn

DEFAULT_MODEL = "smollm2-135m"
"""A model is a published size, or `tiny`; with `-2l`, cut to 2 layers and 4,096 tokens, for the
gate."""

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Matrices that get an adapter: those of the attention."""
ALPHA = 2
"""What an adapter gives is multiplied by this, its alpha over its rank."""


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
    def layer_rows(self) -> int:
        """Rows of those matrices, each with a scale of its own where it is quantized."""
        queries_keys_values = self.head * (self.heads + 2 * self.key_value_heads)
        return queries_keys_values + 2 * self.hidden + 2 * self.feed_forward

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


class TrainParameters(_language.ShardedTrainParameters, frozen=True, kw_only=True):
    """Next-token prediction over full sequences; AdamW."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class LoraParameters(_language.TrainParameters, frozen=True, kw_only=True):
    """As training, but of adapters of this rank alone; their alpha is twice the rank."""

    sizes = SIZES
    model: str = DEFAULT_MODEL
    lora_rank: int = 16

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        super().__post_init__()
        require_within("lora_rank", self.lora_rank, 1, SIZES[self.model].hidden)


class PrefillParameters(_language.PrefillParameters, frozen=True, kw_only=True):
    """A prompt to its first token."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class DecodeParameters(_language.DecodeParameters, frozen=True, kw_only=True):
    """Tokens after a prompt, one a step; after `new_tokens` it starts over behind the prompt."""

    sizes = SIZES
    model: str = DEFAULT_MODEL


class Llama(Workload):
    """Llama, arXiv 2407.21783, and models of its architecture."""

    name = "llama"
    version = 2
    libraries = ("transformers.models.llama.modeling_llama",)
    modes = MappingProxyType(
        {
            "train": Mode(
                parameters=TrainParameters,
                precisions=TRAINING_PRECISIONS,
                executions=EXECUTIONS,
                schemes=SHARDED,
            ),
            # No bf16-amp: what it keeps in float32 are the weights that train, and these are here.
            "lora": Mode(
                parameters=LoraParameters,
                precisions=("bf16", "fp32", "tf32"),
                executions=EXECUTIONS,
                libraries=("peft",),
                schemes=SHARDED,
                extra="lora",
                optional=("peft",),
            ),
            "prefill": Mode(
                parameters=PrefillParameters,
                precisions=QUANTIZED_PRECISIONS,
                executions=INFERENCE_EXECUTIONS,
                latency="TTFT",
                schemes=COPIES,
            ),
            "decode": Mode(
                parameters=DecodeParameters,
                precisions=QUANTIZED_PRECISIONS,
                executions=INFERENCE_EXECUTIONS,
                latency="TPOT",
                schemes=COPIES,
            ),
        }
    )

    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """2 FLOP for each weight of a matrix and each token, and attention: 4 T C h a layer.

        T tokens attend to a context of C over heads that are h wide together. Attention counts in
        full, not the causal half. Embeddings, norms and softmax are left out. Training is three
        times the forward; prefill applies the output matrix to its last token only; decode has
        T = 1 and the mean context of its window. LoRA is counted by `_lora_flop`.
        Source: PaLM, arXiv 2204.02311, appendix B.
        """
        size = SIZES[parameters.model]
        batch = parameters.batch_size
        if mode == "lora":
            tokens = parameters.sequence_length
            batch *= parameters.accumulation_steps
            flop = batch * _lora_flop(size, tokens, parameters.lora_rank)
            return Work(items=batch * tokens, unit="token", flop=flop)
        return _language.language_work(
            parameters,
            functools.partial(_forward_flop, size),
            lambda context: _decode_bytes(size, batch, context, precision),
        )

    def twin(self, mode: str, parameters: Any) -> Parameters:
        """Two layers of the same widths, a vocabulary of 4,096, at most two short sequences."""
        twin: Parameters = _language.twin_of(parameters)
        return twin

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """Random tokens. Decode also fills its cache from the prompt."""
        size = SIZES[parameters.model]
        data = SeededData(site.seed)
        construct = functools.partial(_construct, size, attention_of(site))
        model = build_model(construct, size.published_parameters, data, site, "model.layers")
        facts: dict[str, str] = {}
        if isinstance(parameters, LoraParameters):
            facts = _add_adapters(model, parameters.lora_rank, data, site)
        if isinstance(parameters, _language.TrainParameters):
            return _language.training_job(
                model, size.hidden, size.vocabulary, parameters, data, site, facts
            )
        cache = CacheShape(heads=size.key_value_heads, first=size.head, second=size.head)
        return _language.generating_job(
            model, size.vocabulary, cache, parameters, data, site, facts
        )


def _forward_flop(size: Size, tokens: int, context: float, output_tokens: int) -> int:
    """FLOP of one sequence's forward; each token attends to `context`."""
    matrices = 2 * (tokens * size.layers * size.layer_weights + output_tokens * size.head_weights)
    return matrices + round(4 * tokens * context * size.layers * size.heads * size.head)


def _lora_flop(size: Size, tokens: int, rank: int) -> int:
    """FLOP of one sequence's forward and backward where only the adapters train.

    A frozen matrix costs 2 FLOP a weight and token forward and 2 for the gradient of its input, but
    none for its own: 2/3 of training. The first layer's query, key and value matrices have no
    gradient at all, for nothing below them trains. Attention has no weights, so it costs its full
    three times. An adapter of rank r on an m x n matrix has r (m + n) weights, which cost 6, except
    that the first layer's have no gradient of their input either.
    Source: LoRA, arXiv 2106.09685, section 4.1, for the adapters; PaLM as above for the rest.
    """
    queries = size.heads * size.head
    keys_values = 2 * size.key_value_heads * size.head
    frozen = size.layers * size.layer_weights + size.head_weights
    without_gradient = size.hidden * (queries + keys_values)
    down = rank * (3 * size.hidden + queries)
    up = rank * (queries + keys_values + size.hidden)
    matrices = 2 * tokens * (2 * frozen - without_gradient)
    adapters = 2 * tokens * (3 * size.layers * (down + up) - 3 * rank * size.hidden)
    attention = 3 * 4 * tokens * tokens * size.layers * queries
    return matrices + adapters + attention


def _add_adapters(model: nn.Module, rank: int, data: SeededData, site: Site) -> dict[str, str]:
    """Freezes a model and gives the matrices of its attention adapters, in float32 or wider.

    Their second matrix would start at zero, so that a new adapter changes nothing; then the
    numerics gate would see neither half of a wrong one, in the logits or in the gradients of the
    first. Here both matrices keep the size of their input, and an adapter adds as much as what it
    adapts gives; the work is the same. The library's own adapters, which would be drawn on the
    device, have no values: they are replaced.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=ALPHA * rank, lora_dropout=0.0, target_modules=list(ADAPTED)
    )
    with torch.device("meta"):
        inject_adapter_in_model(config, model)
    dtype = torch.promote_types(site.precision.dtype, torch.float32)
    adapters = 0
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                std = initial_std(parameter.shape[1]) / (ALPHA if ".lora_B." in path else 1)
                value = data.normal(tuple(parameter.shape), dtype, std).to(site.device)
                setattr(module, name, torch.nn.Parameter(value))
                adapters += value.numel()
    return {"trained": f"{adapters} parameters of adapters, {dtype}".replace("torch.", "")}


def _decode_bytes(size: Size, batch: int, context: float, precision: Precision) -> int:
    """Bytes that one decode step must move: every weight and the cache of every sequence are read
    once, and the new token's keys and values are written.

    The cache is counted up to the mean context of the window, though a kernel may read all of its
    allocation. Of an embedding that is not tied to the output matrix, a row per sequence. Where the
    layers' matrices are quantized, each of their rows has a scale.
    """
    others = size.layers * 2 * size.hidden + size.hidden
    others += size.head_weights + batch * size.hidden
    cache = 2 * batch * (context + 1) * size.layers * size.key_value_heads * size.head
    matrices = size.layers * size.layer_weights * precision.matrix_bytes
    if precision.quantized is not None:
        matrices += size.layers * size.layer_rows * SCALE_BYTES
    return round(matrices + (others + cache) * precision.element_bytes)


def _construct(size: Size, attention: str = "eager") -> nn.Module:
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

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
        attn_implementation=attention,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model


WORKLOAD = Llama()
