"""Models that generate: one with its static cache, and the jobs that prefill and decode with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.records.outcome import Work
from bench.records.proof import OUTPUT
from bench.windowed_job import WindowedJob
from bench.workload import PACKED, Job, Look, Site
from bench.workloads.decoding import decoder
from bench.workloads.jobs import looks as model_looks
from bench.workloads.jobs.jobs import InferenceJob, model_facts
from bench.workloads.jobs.rotation import OneOutput
from bench.workloads.layers import masks as attention_masks
from bench.workloads.layers import routing
from bench.workloads.layers.packed import look, packed
from bench.workloads.layers.quantized import products
from bench.workloads.layers.transformers import with_cache
from bench.workloads.spots import expert_spots, model_spots

if TYPE_CHECKING:
    from torch import Tensor, nn


class Generator:
    """A model and its static cache, for one prompt [B, P] and N tokens after it.

    The place of a token is known on the host, from the number of steps, so nothing is asked of the
    device: positions, rotations and masks are rows of tables made beforehand.
    """

    def __init__(
        self,
        model: nn.Module,
        cache: decoder.CacheShape,
        prompt: tuple[int, int],
        new_tokens: int,
        site: Site,
        facts: dict[str, str],
    ) -> None:
        """Allocates the cache."""
        import torch

        batch, self._prompt_length = prompt
        length = self._prompt_length + new_tokens
        self.model, self.site = model.eval(), site
        device = site.device
        windows = decoder.windows(model)
        slots = [decoder.slots(window, length) for window in windows]
        behind = decoder.SINK_SLOTS if decoder.sinks(model) else 0
        widths = cache.first, cache.second
        layers = [
            decoder.Held.of((batch, cache.heads, tokens + behind), widths, site) for tokens in slots
        ]
        self._cache = decoder.Cache(layers, slots)
        self._with_cache = with_cache(model, self._cache)
        together = packed(model) if site.memory_format == PACKED else []
        self.step = decoder.step_of(model, self._cache, site, together)
        """What takes one token's step: a module, which may be compiled in place."""
        self._positions = torch.arange(length, device=device)
        each = (decoder.slots(window, length) for window in dict.fromkeys(windows))
        self._slots = [
            self._positions if tokens == length else self._positions % tokens for tokens in each
        ]
        self._overwritten = [
            tensor
            for layer, tokens in zip(layers, slots, strict=True)
            if tokens < length
            for tensor in layer[:2]
        ]
        self._noted: list[Tensor] = []
        self._masks = decoder.masks(windows, self._prompt_length, new_tokens, site, behind)
        self._rotation = torch.empty(length, 0, device=device)
        if self.step.rotates:
            self._rotation = decoder.rotation(model, length, site)
        self.facts = model_facts(model, site) | facts | {"attention": "sdpa", "cache": "static"}

    def looks(self, job: Job, prompt: Tensor, step: Callable[[], object]) -> Iterator[Look]:
        """At the model, what it reads, its cache, its attention, and its experts in a step."""
        yield from model_looks.placed(self.model, prompt, self.site)
        yield from model_looks.cached([[*held[:2]] for held in self._cache.layers], self.site)
        yield model_looks.mode(self.model, training=False)
        yield from look(self.model, self.site.memory_format)
        yield from model_looks.attention(self.model, self.facts)
        yield from model_looks.experts(self.model, self.facts)
        yield from expert_spots.looks(job, self.model, step, self.site)

    def prefill(self, prompt: Tensor) -> Tensor:
        """Logits [B, 1, V] of the token after the prompt [B, P]; fills the cache from its start."""
        import torch

        with torch.inference_mode():
            logits: Tensor = self.model(
                input_ids=prompt,
                position_ids=self._positions[None, : self._prompt_length],
                **self._with_cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits

    def read(self, prompt: Tensor) -> Tensor:
        """As `prefill`, where tokens will follow: they take the places of what is in a window."""
        logits = self.prefill(prompt)
        self._noted = [tensor.clone() for tensor in self._overwritten]
        return logits

    def rewind(self) -> None:
        """Back to the end of the prompt: queues copies of what it left in each window."""
        import torch

        if self._noted:
            torch._foreach_copy_(self._overwritten, self._noted)

    def decode(self, tokens: Tensor, index: int) -> Tensor:
        """Logits [B, 1, V] after tokens [B, 1], the `index`-th behind the prompt."""
        import torch

        with torch.inference_mode():
            logits: Tensor = self.step(tokens, self.at(index))
        return logits

    def written(self, tokens: Tensor, index: int) -> Tensor:
        """As `decode`, of a step as it is written, whatever is compiled or recorded."""
        import torch

        with torch.inference_mode():
            logits: Tensor = self.step.forward(tokens, self.at(index))
        return logits

    def hit(self, token: Tensor, steps: int) -> float | None:
        """How many experts of a layer the steps behind the prompt go to, from its first token
        [B, 1] on, as they are timed."""

        def step(token: Tensor, index: int) -> Tensor:
            return chosen(self.written(token, index))

        self.rewind()
        return routing.hit(self.model, step, token, steps)

    def late(self, token: Tensor, steps: int) -> None:
        """Steps as they are written: of a token [B, 1] with the cache full, so many behind the
        prompt, and of one in the midst of them, which must not see what lies behind it."""
        for index in (steps - 1, steps // 2):
            self.written(token, index)

    def at(self, index: int) -> decoder.Place:
        """Where the `index`-th token behind the prompt is."""
        place = self._prompt_length + index
        return decoder.Place(
            self._positions[place : place + 1],
            self._rotation[place],
            tuple(rows[index] for rows in self._masks),
            tuple(table[place : place + 1] for table in self._slots),
        )

    def decode_at(self, tokens: Tensor, index: Tensor) -> Tensor:
        """As `decode`, but the index [1] is on the device; to be called in inference mode."""
        place = index + self._prompt_length
        rotation = self._rotation.index_select(0, place)[0]
        masks = tuple(attention_masks.picked(rows, index) for rows in self._masks)
        slots = tuple(
            place if table is self._positions else table.index_select(0, place)
            for table in self._slots
        )
        logits: Tensor = self.step(tokens, decoder.Place(place, rotation, masks, slots))
        return logits


def chosen(logits: Tensor) -> Tensor:
    """The greedy choice of a token: of logits [..., V] the place of the largest, [...].

    Not `argmax`, which on a CPU takes four times as long of bfloat16 (torch 2.13): at batch 32 a
    twentieth of a small model's step.
    """
    return logits.max(-1).indices


class PrefillJob(InferenceJob):
    """One prompt to its first token; prompts rotate."""

    def __init__(self, generator: Generator, prompts: list[Tensor]) -> None:
        """Starts with the first prompt."""
        self.generator = generator

        def forward(_: nn.Module, prompt: Tensor) -> Tensor:
            return generator.prefill(prompt)

        super().__init__(generator.model, forward, prompts, generator.site, generator.facts)

    def _infer(self, given: Tensor) -> Tensor:
        """With the choice of the token."""
        logits = super()._infer(given)
        self.token = chosen(logits)
        return logits

    def as_written(self) -> Mapping[str, Sequence[Tensor]]:
        """Of the last prompt; the token stays where its replay writes it."""
        token, found = self.token, super().as_written()
        self.token = token
        return found

    def looks(self) -> Iterator[Look]:
        """At the generator, a prompt and what a step makes of it."""
        prompt = next(self._inputs)
        yield from self.generator.looks(self, prompt, lambda: self._infer(prompt))
        yield from model_spots.looks(
            self, self.generator.site, lambda: self.generator.prefill(prompt)
        )


class DecodeJob(OneOutput, WindowedJob):
    """One token for each sequence, greedy, fed back on the device."""

    moved: Callable[[float], int] | None = None
    """Of a model with experts: bytes of its step, from how many experts of a layer are hit."""

    def __init__(self, generator: Generator, prompt: Tensor, forced: Tensor) -> None:
        """Fills the cache from the prompt. `forced` [B, N] is what the probe feeds instead."""
        self.generator = generator
        self.prompt = prompt
        self._forced = forced
        self._new_tokens = forced.shape[1]
        self._index, self._forcing = 0, False
        self._output = generator.read(prompt)
        self.first_token = self.token = chosen(self._output)
        """[B, 1]: of the prompt, and of the last step."""
        self.facts = {**generator.facts, "decode": generator.step.description}

    def step(self) -> None:
        """Queues one token for each sequence."""
        if self._index == self._new_tokens:
            self._rewind()
        if self._forcing:
            self.token = self._given(self._index)
        self._output = self.generator.decode(self.token, self._index)
        self.token = chosen(self._output)
        self._index += 1

    def probe(self) -> dict[str, Tensor]:
        """Logits after the prompt and after each forced token: [B, 1 + N, V].

        Forced, because one device's choice between two near-equal logits is no error, but all that
        follows from it would differ.
        """
        import torch

        logits = [self._output]
        for index in range(self._new_tokens):
            logits.append(self._after(self._given(index), index))
        return {"logits": torch.cat(logits, dim=1)} | products(self.generator.model)

    def force(self, on: bool) -> bool:
        """Feeds the given tokens in place of its own; the steps start over."""
        self._forcing = on
        self._rewind()
        return True

    def weights(self) -> Sequence[Tensor]:
        """Its parameters, quantized ones too."""
        return [*self.generator.model.parameters()]

    def again(self) -> bool:
        """Fills the cache from the prompt anew, and takes its steps since then, if with given
        tokens; the first token stays what it was."""
        self.generator.read(self.prompt)
        taken = self._index
        self._rewind()
        for _ in range(taken if self._forcing else 0):
            self.step()
        return True

    def begin(self, place: int = 0, turned: int = 0) -> int:
        """At a place of the window, behind the first token or one that was not chosen."""
        token = (self.first_token + turned) % self._output.shape[-1]
        self._rewind(place, token)
        return self._new_tokens - place

    def retraced(self) -> Mapping[str, Sequence[Tensor]]:
        """With the token and the cache that are there, which the step as written leaves alike."""
        token, index = self.token.clone(), self._index
        self.step()
        return {OUTPUT: [self.generator.written(token, index)]}

    def counted(self, work: Work) -> Work:
        """Of a model with experts, bytes by those that the window's tokens went to."""
        if self.moved is None:
            return work
        hit = self.generator.hit(self.first_token, self._new_tokens)
        return routing.counted(work, hit, self.moved, self.generator.site.ranks)

    def looks(self) -> Iterator[Look]:
        """At the generator, the prompt, and what late steps of the window compute."""
        generator, steps = self.generator, self._new_tokens
        hit, late = generator.hit, generator.late
        yield from generator.looks(self, self.prompt, lambda: hit(self.first_token, 1))
        self._rewind()
        yield from model_spots.looks(self, generator.site, lambda: late(self.token, steps))
        self._rewind()

    def _given(self, index: int) -> Tensor:
        """[B, 1], laid out as what a step chooses."""
        return self._forced[:, index : index + 1].contiguous()

    def _after(self, token: Tensor, index: int) -> Tensor:
        """Logits after a token [B, 1], the `index`-th behind the prompt."""
        return self.generator.decode(token, index)

    def _rewind(self, place: int = 0, token: Tensor | None = None) -> None:
        self._index = place
        self.token = self.first_token if token is None else token
        self.generator.rewind()
