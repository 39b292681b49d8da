"""Llama in MindSpore: training, prefill and decode, as `bench.workloads.llama` has them.

Weights and tokens are drawn in torch's order. Places, rotations and masks are rows of tables made
beforehand, so a block asks the device for nothing; the next token is chosen on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.framework import Draws
from bench.frameworks.on_mindspore import jobs, models
from bench.frameworks.on_mindspore.jobs import Builder, MindSporeJob
from bench.records.proof import OUTPUT
from bench.windowed_job import WindowedJob
from bench.workload import Job, Look, Site
from bench.workloads.jobs.jobs import BATCHES, adamw_learning_rate
from bench.workloads.jobs.seeded import initial_std
from bench.workloads.language.llamas import SCALED, SIZES, Size

if TYPE_CHECKING:
    from bench.framework import Array

NEVER = -math.inf
"""What is added to the score of a token that may not be attended to."""


class Model:
    """The weights of one size, and of its steps all that does not change."""

    def __init__(self, size: Size, site: Site, draws: Draws) -> None:
        """Draws in torch's order. Raises RuntimeError where they are not as many as published."""
        self.size, self.site = size, site
        self.weights = weights_of(size, site, draws)
        head = 0 if size.tied else len(self.weights) - 1
        self.fused = jobs.fuses(site, size.head)
        self.shape = (size.layers, size.heads, size.key_value_heads, size.head, head, self.fused)
        self.facts: Mapping[str, str] = {
            **models.facts_of("Llama", self, size.published_parameters),
            "attention": jobs.FUSED_ATTENTION if self.fused else jobs.OWN_ATTENTION,
        }

    def trainable_params(self) -> Sequence[Any]:
        """As of a cell."""
        return self.weights

    def caches(self, batch: int, length: int) -> list[Any]:
        """Zeros, [B heads L, D]: keys and values of each layer, of so many tokens."""
        import numpy as np

        rows = batch * self.size.key_value_heads * length
        zeros = np.zeros((rows, self.size.head), np.float32)
        return [jobs.placed(zeros, self.site) for _ in range(2 * self.size.layers)]

    def whole(self, length: int) -> tuple[Any, Any, Any]:
        """Cosines, sines and mask of whole texts of that length, for `read`."""
        import numpy as np

        tables = rotation(self.size, length)
        cosines, sines = (jobs.placed(table, self.site) for table in tables)
        if self.fused:
            return cosines, sines, jobs.left_out()
        shared = self.size.heads // self.size.key_value_heads
        mask = np.tile(causal(np.arange(length), length), (shared, 1))
        return cosines, sines, jobs.placed(mask, self.site)

    def behind(self, batch: int, prompt: int, tokens: int) -> list[tuple[Any, ...]]:
        """Of each token behind the prompt: where it goes in a cache, its turn, and its mask."""
        import mindspore as ms
        import numpy as np

        length, heads = prompt + tokens, batch * self.size.key_value_heads
        places = np.arange(prompt, length)
        cosines, sines = rotation(self.size, length)
        masks = causal(places, length)
        rows = places[:, None] + np.arange(heads) * length
        return [
            (
                ms.Tensor(rows[i].astype(np.int32)),
                *(jobs.placed(table, self.site) for table in (cosines[at], sines[at], masks[i])),
            )
            for i, at in enumerate(places)
        ]

    def looks(self, caches: Sequence[Any]) -> Iterator[Look]:
        """Whether weights and caches are as wide as the site says; and whether every cache was
        written, of which a prefill reads nothing, so that no gate would tell."""
        yield models.width_look("weights", self.weights, self.site)
        yield models.width_look("cache", caches, self.site)
        kept = all(cache.asnumpy().any() for cache in caches)
        yield Look(what="cache", asked="written", seen="written" if kept else "left empty")


class GeneratingJob(MindSporeJob):
    """Steps of a model that fill its caches."""

    model: Model
    _caches: Sequence[Any]

    def weights(self) -> Sequence[Any]:
        """Its parameters."""
        return self.model.weights

    def looks(self) -> Iterator[Look]:
        """Besides, at weights and cache."""
        yield from super().looks()
        yield from self.model.looks(self._caches)


class PrefillJob(GeneratingJob):
    """One prompt to its first token; prompts rotate."""

    quantity = "logits"

    def __init__(self, model: Model, prompts: list[Any], site: Site) -> None:
        """prompts: [B, P] each."""
        from bench.frameworks.on_mindspore.llama_steps import prefilled

        batch, length = prompts[0].shape
        self._caches = model.caches(batch, length)
        tables = model.whole(length)
        held = (model.shape, *self._caches, *model.weights)
        super().__init__(prefilled, [(p, *tables, *held) for p in prompts], site)
        self.model = model
        self.facts = {**model.facts, "cache": "static"}

    def step(self) -> None:
        """Queues one prefill and the choice of its token."""
        self._output, self.token = self._run(*next(self._inputs))


class DecodeJob(GeneratingJob, WindowedJob):
    """One token for each sequence, greedy, fed back on the device.

    See `bench.workloads.decoding.generation.DecodeJob`, whose steps and readings these are.
    """

    def __init__(self, model: Model, prompt: Any, forced: Any, site: Site) -> None:
        """Fills the caches from the prompt [B, P]; forced: [B, N], for probe and witness."""
        from bench.frameworks.on_mindspore.llama_steps import decoded

        batch, length = prompt.shape
        self._new_tokens: int = forced.shape[1]
        self._caches = model.caches(batch, length + self._new_tokens)
        self._prompt = (prompt, *model.whole(length))
        self._given = [forced[:, i : i + 1].contiguous() for i in range(self._new_tokens)]
        self._held = (model.shape, *self._caches, *model.weights)
        super().__init__(
            decoded,
            [(*at, *self._held) for at in model.behind(batch, length, self._new_tokens)],
            site,
        )
        self.model = model
        self._index = 0
        self._forcing = False
        self._output, self.first_token = self._read()
        self.token = self.first_token
        self.facts = {
            **model.facts,
            "attention": jobs.OWN_ATTENTION,
            "cache": "static",
            "decode": "by a forward of our own",
        }

    def step(self) -> None:
        """Queues one token for each sequence."""
        if self._index == self._new_tokens:
            self._rewind()
        token = self._given[self._index] if self._forcing else self.token
        self._output, self.token = self._run(token, *self._inputs.items[self._index])
        self._index += 1

    def probe(self) -> dict[str, Any]:
        """Logits after the prompt and after each forced token: [B, 1 + N, V]."""
        from mindspore import ops

        logits = [self._output]
        self.force(on=True)
        for _ in range(self._new_tokens):
            self.step()
            logits.append(self._output)
        return {"logits": ops.cat(logits, 1)}

    def force(self, on: bool) -> bool:
        """Feeds the given tokens in place of its own; the steps start over."""
        self._forcing = on
        self._rewind()
        return True

    def inputs(self) -> Sequence[Any]:
        """None: its steps build on one another."""
        return ()

    def again(self) -> bool:
        """Fills the caches from the prompt anew, and takes its steps since then, if with given
        tokens; the first token stays what it was."""
        self._read()
        taken = self._index
        self._rewind()
        for _ in range(taken if self._forcing else 0):
            self.step()
        return True

    def begin(self, place: int = 0, turned: int = 0) -> int:
        """At a place of the window, behind the first token or one that was not chosen."""
        self._rewind()
        self._index = place
        if turned:
            self.token = (self.first_token + turned) % self.model.size.vocabulary
        return self._new_tokens - place

    def retraced(self) -> Mapping[str, Sequence[Any]]:
        """With the token and the caches that are there, which the step as written leaves alike."""
        token, index = self.token, self._index
        self.step()
        output, _ = self._function(token, *self._inputs.items[index])
        return {OUTPUT: [output]}

    def _read(self) -> tuple[Any, Any]:
        """Logits and token after the prompt, which is no part of a step: never as a graph."""
        from bench.frameworks.on_mindspore.llama_steps import prefilled

        logits, token = prefilled(*self._prompt, *self._held)
        return logits, token

    def _rewind(self) -> None:
        self._index = 0
        self.token = self.first_token


def weights_of(size: Size, site: Site, draws: Draws) -> list[Any]:
    """Each by its rows as torch has it: embedding, layers, norm, and a matrix of answers that is
    not tied."""
    import numpy as np

    std = initial_std(size.hidden)
    hidden, heads, keys = size.hidden, size.heads * size.head, size.key_value_heads * size.head

    def drawn(rows: int, columns: int) -> Any:
        return jobs.placed(draws.normal((rows, columns), std), site)

    def ones() -> Any:
        return jobs.placed(np.ones(hidden, np.float32), site)

    found = [drawn(size.vocabulary, hidden)]
    for _ in range(size.layers):
        found += [drawn(rows, hidden) for rows in (heads, keys, keys)]
        found += [drawn(hidden, heads)]
        found += [drawn(rows, hidden) for rows in (size.feed_forward, size.feed_forward)]
        found += [drawn(hidden, size.feed_forward), ones(), ones()]
    found.append(ones())
    if not size.tied:
        found.append(drawn(size.vocabulary, hidden))
    return found


def rotation(size: Size, length: int) -> tuple[Array, Array]:
    """Cosines, and sines with the sign of the halves that swap, [L, D] each, in float32.

    The halves of a head turn together, the i-th number of the first with the i-th of the second.
    Angles are products in float32, as torch's.
    Sources: Su et al., arXiv 2104.09864; the scaling by factor is that of Llama 3.1.
    """
    import numpy as np

    exponents = np.arange(0, size.head, 2, dtype=np.float32) / np.float32(size.head)
    powers = np.power(size.rope_theta, exponents.astype(np.float64)).astype(np.float32)
    inverse = np.float32(1.0) / powers
    if size.rope_factor is not None:
        inverse = slowed(inverse, size.rope_factor)
    angles = np.arange(length, dtype=np.float32)[:, None] * inverse
    cosines, sines = (f(angles.astype(np.float64)).astype(np.float32) for f in (np.cos, np.sin))
    return np.concatenate((cosines, cosines), 1), np.concatenate((-sines, sines), 1)


def slowed(inverse: Array, factor: float) -> Array:
    """Frequencies of Llama 3.1: long waves by the factor, short ones not, others in between."""
    import numpy as np

    low, high = float(SCALED["low_freq_factor"]), float(SCALED["high_freq_factor"])
    original = float(SCALED["original_max_position_embeddings"])
    waves = 2 * math.pi / inverse
    share = (original / waves - low) / (high - low)
    between = (1 - share) * inverse / factor + share * inverse
    kept = np.where(waves < original / high, inverse, between)
    found: Array = np.where(waves > original / low, inverse / factor, kept)
    return found


def causal(places: Array, length: int) -> Array:
    """What is added to scores, [places, L]: nothing of tokens up to each place, else `NEVER`."""
    import numpy as np

    allowed = np.arange(length)[None] <= places[:, None]
    found: Array = np.where(allowed, np.float32(0.0), np.float32(NEVER))
    return found


def generating(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.language.language.generating_job`."""
    p, size = parameters, SIZES[parameters.model]
    models.require_offered(p, site)
    model, filled = Model(size, site, draws), models.Filled(draws, site)

    def drawn(length: int) -> Any:
        return filled.drawn(0, size.vocabulary, (p.batch_size, length))

    if mode == "prefill":
        return PrefillJob(model, [drawn(p.prompt_length) for _ in range(BATCHES)], site)
    prompt, forced = drawn(p.prompt_length), drawn(p.new_tokens)
    return DecodeJob(model, prompt, forced, site)


def training(mode: str, parameters: Any, site: Site, draws: Draws) -> Job:
    """As `bench.workloads.language.language.training_job`."""
    p, size = parameters, SIZES[parameters.model]
    models.require_offered(p, site)
    import mindspore as ms

    from bench.frameworks.on_mindspore import llama_steps as steps
    from bench.frameworks.on_mindspore import training as trained

    model = Model(size, site, draws)
    shape = (p.batch_size, p.sequence_length + 1)
    count = BATCHES * p.accumulation_steps
    texts = [draws.integers(0, size.vocabulary, shape).astype("int32") for _ in range(count)]
    return trained.TrainingJob(
        steps.Llama(model.weights, model.whole(p.sequence_length), model.shape),
        [(ms.Tensor(text[:, :-1].copy()), ms.Tensor(text[:, 1:].copy())) for text in texts],
        p.optimizer,
        adamw_learning_rate(size.hidden),
        site,
        model.facts,
        accumulation_steps=p.accumulation_steps,
    )


BUILDERS: Mapping[tuple[str, str], Builder] = MappingProxyType(
    {("llama", "train"): training} | {("llama", mode): generating for mode in ("prefill", "decode")}
)
"""What there is, by workload and mode."""
