"""Llama language models, 135M to 70B: training, prefill (TTFT) and decode (TPOT)."""

from __future__ import annotations

import functools
import itertools
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from bench.models import (
    BATCHES,
    SeededData,
    TrainingJob,
    adamw_learning_rate,
    build_model,
    initial_std,
    model_facts,
)
from bench.precision import Precision
from bench.record import Work
from bench.workload import Job, Mode, Parameters, Site, Workload, require_one_of, require_within

if TYPE_CHECKING:
    from torch import Tensor, nn

TWIN_SUFFIX = "-2l"
TWIN_VOCABULARY = 4096
ATTENTION = "sdpa-maskless"
"""`sdpa`, registered under a name for which transformers builds no mask.

For plain `sdpa` it asks the device in every training step whether sequences are packed, and waits
for the answer. Nothing is packed here: without a mask its sdpa is causal, which is right.
"""
ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


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
SIZES |= {
    name + TWIN_SUFFIX: msgspec.structs.replace(
        size,
        layers=2,
        vocabulary=min(size.vocabulary, TWIN_VOCABULARY),
        published_parameters=None,
    )
    for name, size in SIZES.items()
}


class LlamaParameters(Parameters, frozen=True, kw_only=True):
    """What the modes share."""

    model: str = "smollm2-135m"
    """A published size, or `tiny`; with `-2l`, cut to 2 layers and 4,096 tokens, for the gate."""
    batch_size: int = 1

    def _check(self, **lengths: int) -> None:
        require_one_of("model", self.model, SIZES)
        require_within("batch_size", self.batch_size, 1, 65536)
        for name, length in lengths.items():
            require_within(name, length, 1, SIZES[self.model].positions)


class TrainParameters(LlamaParameters, frozen=True, kw_only=True):
    """Next-token prediction over full sequences; AdamW."""

    batch_size: int = 2
    sequence_length: int = 256
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        self._check(sequence_length=self.sequence_length)
        require_one_of("optimizer", self.optimizer, ["adamw"])


class PrefillParameters(LlamaParameters, frozen=True, kw_only=True):
    """A prompt to its first token."""

    prompt_length: int = 512

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        self._check(prompt_length=self.prompt_length)


class DecodeParameters(LlamaParameters, frozen=True, kw_only=True):
    """Tokens after a prompt, one a step; after `new_tokens` it starts over behind the prompt."""

    prompt_length: int = 128
    new_tokens: int = 32

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        self._check(prompt_length=self.prompt_length, new_tokens=self.new_tokens)
        window = self.prompt_length + self.new_tokens
        require_within("prompt_length + new_tokens", window, 2, SIZES[self.model].positions)


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
        context = parameters.prompt_length + (parameters.new_tokens + 1) / 2
        return Work(
            items=batch,
            unit="token",
            flop=batch * _forward_flop(size, 1, context, 1),
            moved_bytes=_decode_bytes(size, batch, context, precision),
        )

    def twin(self, mode: str, parameters: Any) -> Parameters:
        """Two layers of the same widths, a vocabulary of 4,096, at most two short sequences."""
        cut: dict[str, Any] = {
            "model": parameters.model.removesuffix(TWIN_SUFFIX) + TWIN_SUFFIX,
            "batch_size": min(parameters.batch_size, 2),
        }
        for name, most in (("sequence_length", 32), ("prompt_length", 32), ("new_tokens", 4)):
            if hasattr(parameters, name):
                cut[name] = min(getattr(parameters, name), most)
        twin: Parameters = msgspec.structs.replace(parameters, **cut)
        return twin

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """Random tokens. Decode also fills its cache from the prompt."""
        size = SIZES[parameters.model]
        data = SeededData(site.seed)
        construct = functools.partial(_construct, size)
        model = build_model(construct, size.published_parameters, data, site)
        if isinstance(parameters, TrainParameters):
            shape = (parameters.batch_size, parameters.sequence_length + 1)
            texts = [
                data.integers(0, size.vocabulary, shape).to(site.device) for _ in range(BATCHES)
            ]
            batches = [(text[:, :-1].contiguous(), text[:, 1:].contiguous()) for text in texts]
            facts = {"attention": "sdpa"}
            return TrainingJob(
                model,
                _logits,
                batches,
                parameters.optimizer,
                adamw_learning_rate(size.hidden),
                site,
                facts,
            )
        shape = (parameters.batch_size, parameters.prompt_length)
        if isinstance(parameters, PrefillParameters):
            prompts = [
                data.integers(0, size.vocabulary, shape).to(site.device) for _ in range(BATCHES)
            ]
            return PrefillJob(Generator(model, shape, 0, site), prompts)
        prompt = data.integers(0, size.vocabulary, shape).to(site.device)
        forced = data.integers(0, size.vocabulary, (shape[0], parameters.new_tokens))
        generator = Generator(model, shape, parameters.new_tokens, site)
        return DecodeJob(generator, prompt, forced.to(site.device))


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


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    """[B, T] to [B, T, V]."""
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def _construct(size: Size) -> nn.Module:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import AttentionInterface
    from transformers.models.llama.configuration_llama import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    AttentionInterface.register(ATTENTION, sdpa_attention_forward)
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


class Generator:
    """A model and its static key-value cache, for one prompt [B, P] and N tokens after it.

    The position is known on the host, from the number of steps, so nothing is asked of the device:
    position ids and masks are rows of tables made beforehand. The cache keeps its own write
    position for each layer, on the device; they share one tensor here, set back by one kernel.
    """

    def __init__(self, model: nn.Module, prompt: tuple[int, int], new_tokens: int, site: Site):
        """Allocates the cache."""
        import torch
        from transformers.cache_utils import StaticCache

        batch, self._prompt_length = prompt
        length = self._prompt_length + new_tokens
        self._model = model.eval()
        config: Any = model.config
        self._cache = StaticCache(config=config, max_cache_len=length)
        self._cache.early_initialization(
            batch, config.num_key_value_heads, config.head_dim, site.precision.dtype, site.device
        )
        self._written = torch.zeros(len(self._cache.layers), dtype=torch.long, device=site.device)
        for index, layer in enumerate(self._cache.layers):
            # The gate would not notice: its reference would write to the wrong place as well.
            if not hasattr(layer, "cumulative_length"):
                raise RuntimeError(
                    "this version of transformers keeps the write position of its static cache "
                    "elsewhere. Install transformers>=5.6,<6."
                )
            layer.cumulative_length = self._written[index]
        self._positions = torch.arange(length, device=site.device)[None]
        # Row i: what the i-th token after the prompt may attend to, itself included.
        allowed = torch.ones(new_tokens, length, dtype=torch.bool).tril(self._prompt_length)
        self._masks = allowed[:, None, None, None].to(site.device)
        self.facts = model_facts(model, site) | {"attention": "sdpa", "cache": "static"}

    def prefill(self, prompt: Tensor) -> Tensor:
        """Logits [B, 1, V] of the token after the prompt [B, P]; fills the cache from its start."""
        self._written.zero_()
        return self._run(prompt, self._positions[:, : self._prompt_length], None)

    def rewind(self) -> None:
        """Back to the end of the prompt."""
        self._written.fill_(self._prompt_length)

    def decode(self, tokens: Tensor, index: int) -> Tensor:
        """Logits [B, 1, V] after tokens [B, 1], the `index`-th behind the prompt."""
        position = self._prompt_length + index
        return self._run(tokens, self._positions[:, position : position + 1], self._masks[index])

    def _run(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        import torch

        with torch.inference_mode():
            logits: Tensor = self._model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits


class PrefillJob(Job):
    """One prompt to its first token; prompts rotate."""

    def __init__(self, generator: Generator, prompts: list[Tensor]) -> None:
        """Starts with the first prompt."""
        self._generator = generator
        self._prompts = itertools.cycle(prompts)
        self.facts = generator.facts

    def step(self) -> None:
        """Queues one prefill and the choice of its token."""
        self._logits = self._generator.prefill(next(self._prompts))
        self._token = self._logits.argmax(-1)

    def witness(self) -> float:
        """Mean of the last logits."""
        return float(self._logits.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """Logits after the first prompt."""
        self.step()
        return {"logits": self._logits}


class DecodeJob(Job):
    """One token for each sequence, greedy, fed back on the device."""

    def __init__(self, generator: Generator, prompt: Tensor, forced: Tensor) -> None:
        """Fills the cache from the prompt. `forced` [B, N] is what the probe feeds instead."""
        self._generator = generator
        self._forced = forced
        self._new_tokens = forced.shape[1]
        self._index = 0
        self._logits = generator.prefill(prompt)
        self._first_token = self._token = self._logits.argmax(-1)
        self.facts = generator.facts

    def step(self) -> None:
        """Queues one token for each sequence."""
        if self._index == self._new_tokens:
            self._index = 0
            self._token = self._first_token
            self._generator.rewind()
        self._logits = self._generator.decode(self._token, self._index)
        self._token = self._logits.argmax(-1)
        self._index += 1

    def witness(self) -> float:
        """Mean of the last logits."""
        return float(self._logits.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """Logits after the prompt and after each forced token: [B, 1 + N, V].

        Forced, because one device's choice between two near-equal logits is no error, but all that
        follows from it would differ.
        """
        import torch

        logits = [self._logits]
        for index in range(self._new_tokens):
            token = self._forced[:, index : index + 1]
            logits.append(self._generator.decode(token, index))
        return {"logits": torch.cat(logits, dim=1)}


WORKLOAD = Llama()
