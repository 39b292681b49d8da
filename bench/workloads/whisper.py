"""Whisper tiny and large-v3: windows of 30 s of speech into text, greedy."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bench.precision import Precision
from bench.records.outcome import Work
from bench.records.proof import OUTPUT
from bench.workload import (
    ALL_EXECUTIONS,
    TWIN_VOCABULARY,
    BatchSize,
    Job,
    Look,
    Mode,
    OneOf,
    Parameters,
    Site,
    Within,
    Workload,
    with_twins,
)
from bench.workloads.decoding import decoder as token_decoder
from bench.workloads.jobs import looks as model_looks
from bench.workloads.jobs.executed import executed
from bench.workloads.jobs.jobs import BATCHES, model_facts
from bench.workloads.jobs.modes import COPIES, at_most
from bench.workloads.jobs.recorded import replayed, replayed_facts
from bench.workloads.jobs.rotation import RotatingJob, Rotation
from bench.workloads.jobs.seeded import SeededData, build_model, initial_std
from bench.workloads.jobs.sharded import rows
from bench.workloads.layers.transformers import library_model, with_cache
from bench.workloads.spots import model_spots

if TYPE_CHECKING:
    from torch import Tensor, nn

FRAMES_A_SECOND = 100
"""Columns of the log-mel spectrogram; the encoder's second convolution halves them."""
MOST_TOKENS = 448
"""Positions of the decoder."""
TWIN_SECONDS = 2


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """The dimensions of one model; encoder and decoder are equally deep and wide."""

    hidden: int
    layers: int
    heads: int
    mels: int
    vocabulary: int
    seconds: int = 30
    """Length of a window of audio."""
    published_parameters: int | None = None
    """None for a size that nobody published."""

    @property
    def frames(self) -> int:
        """Columns of a window's spectrogram."""
        return self.seconds * FRAMES_A_SECOND

    @property
    def positions(self) -> int:
        """What the encoder makes of a window."""
        return self.frames // 2


SIZES = {
    "tiny": Size(
        hidden=384,
        layers=4,
        heads=6,
        mels=80,
        vocabulary=51_865,
        published_parameters=37_760_640,
    ),
    "large-v3": Size(
        hidden=1280,
        layers=32,
        heads=20,
        mels=128,
        vocabulary=51_866,
        published_parameters=1_543_490_560,
    ),
}
"""Radford et al., arXiv 2212.04356, table 1; large-v3 as in its published configuration."""
SIZES = with_twins(SIZES, layers=2, vocabulary=TWIN_VOCABULARY, seconds=TWIN_SECONDS)


class InferParameters(Parameters, frozen=True, kw_only=True):
    """Full windows of audio, each decoded to the same number of tokens."""

    model: Annotated[str, OneOf(SIZES)] = "tiny"
    """`tiny` or `large-v3`; with `-2l`, cut to 2 layers, 4,096 tokens and 2 s, for the gate."""
    batch_size: BatchSize = 1
    new_tokens: Annotated[int, Within(1, MOST_TOKENS)] = 64


class Whisper(Workload):
    """Radford et al., arXiv 2212.04356."""

    name = "whisper"
    version = 1
    libraries = ("transformers.models.whisper.modeling_whisper",)
    modes = MappingProxyType(
        {
            "infer": Mode(
                parameters=InferParameters,
                executions=ALL_EXECUTIONS,
                latency="latency",
                schemes=COPIES,
            ),
        }
    )

    def work(self, mode: str, parameters: InferParameters, precision: Precision) -> Work:
        """2 FLOP for each multiply-add of convolutions, matrices and attention.

        Of a window that gives S positions, for N tokens, with d the width and V the vocabulary:
        convolutions 3 m d 2S + 3 d^2 S (m mels); an encoder layer 12 d^2 S + 2 S^2 d; keys and
        values of a decoder layer's cross-attention, once, 2 d^2 S; a decoder layer for each token
        14 d^2 + 2 d S + 2 d C, with C = (N + 1) / 2 the mean length of what it has written; the
        output matrix d V for each token. Embeddings, norms and softmax are left out.
        Source: Radford et al., arXiv 2212.04356, section 2.2, for the shapes.
        """
        size = SIZES[parameters.model]
        wide, positions, tokens = size.hidden, size.positions, parameters.new_tokens
        convolutions = 3 * size.mels * wide * size.frames + 3 * wide**2 * positions
        encoder = 12 * wide**2 * positions + 2 * positions**2 * wide
        cross = 2 * wide**2 * positions
        decoder = tokens * (14 * wide**2 + 2 * wide * positions) + wide * tokens * (tokens + 1)
        logits = tokens * wide * size.vocabulary
        window = 2 * (convolutions + size.layers * (encoder + cross + decoder) + logits)
        return Work(
            items=parameters.batch_size * size.seconds,
            unit="audio second",
            flop=parameters.batch_size * window,
        )

    def twin(self, mode: str, parameters: InferParameters) -> InferParameters:
        """Two layers of the same widths, a vocabulary of 4,096, one window of 2 s, 4 tokens."""
        return at_most(parameters, batch_size=1, new_tokens=4)

    def build(self, mode: str, parameters: InferParameters, site: Site) -> Job:
        """Spectrograms of normals (as normalized ones are near), a random first token."""
        size = SIZES[parameters.model]
        data = SeededData(site.seed)
        construct = functools.partial(_construct, size)
        model = build_model(construct, size.published_parameters, data, site)
        shape = (parameters.batch_size, size.mels, size.frames)
        windows = [rows(data.normal(shape, site.precision.dtype), site) for _ in range(BATCHES)]
        given = (parameters.batch_size, parameters.new_tokens)
        forced = rows(data.integers(0, size.vocabulary, given), site)
        return TranscriptionJob(model, windows, forced, site)


def _construct(size: Size) -> nn.Module:
    return library_model(
        "whisper",
        "WhisperForConditionalGeneration",
        init_std=initial_std(size.hidden),
        vocab_size=size.vocabulary,
        num_mel_bins=size.mels,
        d_model=size.hidden,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=4 * size.hidden,
        decoder_ffn_dim=4 * size.hidden,
        max_source_positions=size.positions,
        max_target_positions=MOST_TOKENS,
        # No special tokens: nothing is padded or ended, and a cut vocabulary has none of them.
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        decoder_start_token_id=0,
        attn_implementation="sdpa",
    )


class TranscriptionJob(RotatingJob):
    """One window for each of the batch: encode, then one token after the other, greedy.

    Caches are static. The decoder's own starts empty in each step; cross-attention's keys and
    values are computed with the first token and read with the others. As in Llama's decode, the
    position is known on the host, and the caches' write positions are on the device.
    """

    def __init__(self, model: nn.Module, windows: list[Tensor], forced: Tensor, site: Site) -> None:
        """Allocates the caches. `forced` [B, N]: the first token, and what the probe feeds."""
        import torch
        from transformers.cache_utils import EncoderDecoderCache, StaticCache

        self._model: Any = model.eval()
        for part in ("model.encoder", "model.decoder", "proj_out"):
            executed(model.get_submodule(part), site)
        self._inputs = Rotation(windows)
        self._forced = forced
        batch, self._new_tokens = forced.shape
        config: Any = model.config
        own, cross = (
            StaticCache(config=config, max_cache_len=length)
            for length in (self._new_tokens, config.max_source_positions)
        )
        # Before it is initialized: of a cache that is, it asks the device whether it is filled.
        self._cache = EncoderDecoderCache(own, cross)
        self._with_cache = with_cache(model.get_submodule("model.decoder"), self._cache)
        heads = config.decoder_attention_heads
        layers = self._layers = [*own.layers, *cross.layers]
        self._site = site
        self.force(False)
        self._written = torch.zeros(len(layers), dtype=torch.long, device=site.device)
        for cache in (own, cross):
            cache.early_initialization(
                batch, heads, config.d_model // heads, site.precision.dtype, site.device
            )
        for index, layer in enumerate(layers):
            # The gate would not notice: its reference would write to the wrong place as well.
            if not hasattr(layer, "cumulative_length"):
                raise RuntimeError(
                    "this version of transformers keeps the write position of its static cache "
                    "elsewhere. Install transformers>=5.15,<6."
                )
            layer.cumulative_length = self._written[index]
        self._positions = torch.arange(self._new_tokens, device=site.device)[None]
        # Row i: what the i-th token may attend to among the text, itself included.
        (self._masks,) = token_decoder.masks([None], 0, self._new_tokens, site)
        self.facts = model_facts(model, site) | {"attention": "sdpa", "cache": "static"}
        self.facts |= replayed_facts(site)

    def step(self) -> None:
        """Queues one batch of windows, or its replay."""
        self._output = self._run(next(self._inputs))

    def _last_chosen(self, windows: Tensor) -> Tensor:
        """Logits [B, 1, V] after the last token, each its own choice."""
        return self._last(windows, None)

    def _last_given(self, windows: Tensor) -> Tensor:
        """The same, after the tokens that are given."""
        return self._last(windows, lambda index: self._given(max(index - 1, 0)))

    def _last(self, windows: Tensor, given: Callable[[int], Tensor] | None) -> Tensor:
        import torch

        with torch.inference_mode():
            (logits,) = collections.deque(self._text(windows, given), maxlen=1)
        return logits

    def _every(self, windows: Tensor) -> Tensor:
        """Logits [B, N, V] after each token of those given."""
        import torch

        with torch.inference_mode():
            return torch.cat([*self._text(windows, self._given)], dim=1)

    def _text(self, windows: Tensor, given: Callable[[int], Tensor] | None) -> Iterator[Tensor]:
        """Logits [B, 1, V] after each token: those given by index, or else after the first one what
        was chosen."""
        audio = self._encode(windows)
        token = self._forced[:, :1]
        for index in range(self._new_tokens):
            logits = self._decode(audio, token if given is None else given(index), index)
            yield logits
            token = logits.argmax(-1)

    def _given(self, index: int) -> Tensor:
        """[B, 1], laid out as what a step chooses."""
        return self._forced[:, index : index + 1].contiguous()

    def probe(self) -> dict[str, Tensor]:
        """Logits after each forced token: [B, N, V].

        Forced, because one device's choice between two near-equal logits is no error, but all that
        follows from it would differ.
        """
        return {"logits": replayed(self._every, self._site)(next(self._inputs))}

    def force(self, on: bool) -> bool:
        """Feeds the given tokens in place of its own: the host's choice, so another recording."""
        self._forcing = on
        self._run = replayed(self._last_given if on else self._last_chosen, self._site)
        return True

    def weights(self) -> Sequence[Tensor]:
        """Its parameters."""
        return [*self._model.parameters()]

    def as_written(self) -> Mapping[str, Sequence[Tensor]]:
        """Of the last window, if after given tokens: a choice of its own might be another."""
        return {OUTPUT: [self._last_given(self._inputs.last)]} if self._forcing else {}

    def looks(self) -> Iterator[Look]:
        """At the model, its windows, its cache, its attention and what a step computes."""
        caches, windows = [(x.keys, x.values) for x in self._layers], next(self._inputs)
        yield from model_looks.placed(self._model, windows, self._site)
        yield from model_looks.cached(caches, self._site)
        yield model_looks.mode(self._model, training=False)
        yield from model_looks.attention(self._model, self.facts)
        step = functools.partial(self._last_chosen, windows)
        yield from model_spots.looks(self, self._site, step)

    def _encode(self, windows: Tensor) -> Tensor:
        """[B, S, d] of windows; empties both caches."""
        self._written.zero_()
        for layer in self._cache.is_updated:
            self._cache.is_updated[layer] = False
        audio: Tensor = self._model.model.encoder(windows).last_hidden_state
        return audio

    def _decode(self, audio: Tensor, token: Tensor, index: int) -> Tensor:
        """Logits [B, 1, V] after token [B, 1], the `index`-th of the text."""
        hidden = self._model.model.decoder(
            input_ids=token,
            position_ids=self._positions[:, index : index + 1],
            attention_mask=self._masks[index],
            encoder_hidden_states=audio,
            **self._with_cache,
            use_cache=True,
        ).last_hidden_state
        logits: Tensor = self._model.proj_out(hidden)
        return logits


WORKLOAD = Whisper()
