"""Serving: requests of stated lengths, as they arrive, answered by an engine of slots.

What is fixed by the case is the work: model, slots, chunk of a prompt, lengths, arrivals; and so
the schedule of a closed loop to the last row. How a forward is computed is the device's own.

Its models are of every family that the slot engine knows. Llama's have the names that they are
published under, the others their family's in front. What is tied where it is published is untied
here, and its name says so (see `llamas`). A window over the last tokens is nothing that a slot
knows, so models that have one are left out. So are those of which the gate cannot tell a right
engine from a wrong one (`bench.tests.scripts.serving_regrets`): DeepSeek's third generation, where
bfloat16 sends a token to other experts than float64 does, and a right answer regrets 0.5, hardly
less than a forgetful engine's 0.6; and Qwen3's with experts: of the small one a forgetful engine
regrets 0.02 to 0.08, and the 30B model, whose twin is told apart (0.02 and 0.21), nobody has tried
in full.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from bench.precision import Precision
from bench.records.execution import is_compiled, is_recorded
from bench.records.outcome import Work
from bench.records.proof import OUTPUT
from bench.serving_job import Rows, ServingJob
from bench.workload import (
    ALL_EXECUTIONS,
    INFERENCE_PRECISIONS,
    TWIN_SUFFIX,
    Job,
    Later,
    Look,
    Mode,
    OneOf,
    Parameters,
    Site,
    Unsupported,
    Within,
    Workload,
    require_one_of,
    require_within,
    with_twins,
)
from bench.workloads.decoding import teacher
from bench.workloads.decoding.slots import SlotModel
from bench.workloads.jobs import looks as model_looks
from bench.workloads.jobs.jobs import model_facts
from bench.workloads.jobs.modes import at_most
from bench.workloads.jobs.recorded import recorder_of, replayed_facts
from bench.workloads.jobs.seeded import SeededData, build_model
from bench.workloads.language import latent, llamas, qwens

if TYPE_CHECKING:
    from torch import Tensor

TWIN_LENGTHS = {"input_tokens": 252, "output_tokens": 8, "slots": 3, "chunk": 64}
"""Of the gate's: a prompt of several chunks, whose answer goes on into the next reach."""
LONGEST = 4
"""As `bench.planning.arrivals.LONGEST`, which a workload cannot see; a test says they agree."""
ROUTED_PRECISIONS = ("bf16", "fp32")
"""Of models with experts, for the reasons that `bench.workloads.deepseek` gives."""


def _published(sizes: Mapping[str, Any], family: str) -> dict[str, Any]:
    found = {name: size for name, size in sizes.items() if not name.endswith(TWIN_SUFFIX)}
    return {f"{family}-{name.removeprefix(family + '-')}": size for name, size in found.items()}


_QWEN3 = dict(
    llamas.untied(name, size)
    for name, size in _published(qwens.SIZES, "qwen3").items()
    if size.window is None and not size.experts
)
_SECOND = {
    name: size
    for name, size in _published(latent.SIZES, "deepseek").items()
    if not size.third_generation
}
SERVED: dict[str, Any] = {
    **llamas.UNTIED,
    **with_twins(_QWEN3, **llamas.CUT),
    **with_twins(_SECOND, **latent.CUT),
}
"""Each with its cut for the gate behind it; of a cut each token goes to all of its experts."""


class ServeParameters(Parameters, frozen=True, kw_only=True):
    """A load, and the engine that serves it."""

    model: str = "smollm2-135m-untied"
    slots: Annotated[int, Within(1, 1024)] = 8
    """Requests that the engine holds at a time."""
    chunk: Annotated[int, Within(1, 65536)] = 256
    """Most prompt tokens of one forward; it is that wide whenever it has any."""
    input_tokens: Annotated[int, Within(1, 131072)] = 1024
    """Mean length of a prompt."""
    output_tokens: Annotated[int, Within(2, 131072)] = 1024
    """Mean length of an answer."""
    length_sigma: Annotated[float, Later()] = 0.0
    """0: all have the mean; else log-normal, and this the standard deviation of the logarithm."""
    requests: Annotated[int, Within(4, 1_000_000)] = 64
    arrival: Annotated[str, OneOf(("closed", "poisson", "offline"))] = "closed"
    concurrency: Annotated[int, Within(0, 65536)] = 8
    """Requests in flight of a closed loop; 0 of any other arrival."""
    rate: Annotated[float, Later()] = 0.0
    """Requests a second of Poisson arrivals; 0 of any other."""
    length_seed: Annotated[int, Within(0, 2**31 - 1), Later()] = 0
    """Arrivals and lengths are drawn from it, the same in every launch; prompts are not."""
    ttft_limit_ms: Annotated[int, Within(1, 3_600_000)] = 2000
    """What a request must keep to be good; the defaults are MLPerf's for an 8B model."""
    tpot_limit_ms: Annotated[int, Within(1, 3_600_000)] = 100

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        super().__post_init__()
        require_one_of("model", self.model, SERVED)
        if not 0 <= self.length_sigma <= 2:
            raise ValueError(f"length_sigma must be from 0 to 2, not {self.length_sigma}")
        if (self.arrival == "closed") != (self.concurrency > 0):
            raise ValueError(
                "concurrency is of a closed loop, 1 or more, and 0 of any other arrival, not "
                f"{self.concurrency} of {self.arrival}"
            )
        if not 0 <= self.rate < 1e6 or (self.arrival == "poisson") != (self.rate > 0):
            raise ValueError(
                "rate is of Poisson arrivals, above 0, and 0 of any other arrival, not "
                f"{self.rate} of {self.arrival}"
            )
        require_within("slots' length", self.length, 2, SERVED[self.model].positions)
        if self.requests < 4 * self.ramp:
            raise ValueError(
                f"requests must be {4 * self.ramp} or more, not {self.requests}: four times as "
                "many as can be in flight, so that there is a steady part"
            )

    @property
    def length(self) -> int:
        """Most tokens of a slot's text."""
        return (LONGEST if self.length_sigma else 1) * (self.input_tokens + self.output_tokens)

    @property
    def ramp(self) -> int:
        """As many requests as can be in flight: completions before the load counts as steady."""
        return min(self.slots, self.concurrency or self.slots)

    def forward_bytes(self, precision: Precision) -> int:
        """The weights, and a token's cache."""
        moved: int = SERVED[self.model].decode_bytes(1, 1, precision)
        return moved


class Serve(Workload):
    """Continuous batching with chunked prefill."""

    name = "serve"
    version = 1
    libraries = ("transformers.models.llama.modeling_llama",)
    modes = MappingProxyType(
        {
            "load": Mode(
                parameters=ServeParameters,
                precisions=INFERENCE_PRECISIONS,
                executions=ALL_EXECUTIONS,
                serves=True,
            )
        }
    )

    def work(self, mode: str, parameters: Any, precision: Precision) -> Work:
        """Of the whole load: its output tokens, and their FLOP with those of the prompts.

        FLOP as the model's `served_flop` counts them, attention in full. Left out are rows of a
        forward that hold nothing, and what is expanded again for a prompt's next chunk. Lengths
        that are drawn have their mean, but not their mean square, which attention goes by: of such
        a load no FLOP are counted.
        """
        size, count = SERVED[parameters.model], parameters.requests
        prompt, answer = parameters.input_tokens, parameters.output_tokens
        flop = least = None
        if not parameters.length_sigma:
            flop = count * size.served_flop(prompt, answer)
            least = flop - count * size.masked(prompt)
        return Work(items=count * answer, unit="token", flop=flop, least_flop=least)

    def twin(self, mode: str, parameters: Any) -> Parameters:
        """Two layers, three slots, prompts of several chunks and answers of some tokens."""
        small = at_most(parameters, **TWIN_LENGTHS)
        twin: Parameters = msgspec.structs.replace(
            small,
            length_sigma=0.0,
            requests=4 * small.slots,
            arrival="offline",
            concurrency=0,
            rate=0.0,
        )
        return twin

    def build(self, mode: str, parameters: Any, site: Site) -> Job:
        """The model with its slots, empty."""
        return SlotJob(parameters, site)


class SlotJob(ServingJob):
    """See `ServingJob`."""

    def __init__(self, parameters: ServeParameters, site: Site) -> None:
        """Builds the model and its cache."""
        size = SERVED[parameters.model]
        data = SeededData(site.seed)
        routed = bool(getattr(size, "experts", 0))
        if routed and not site.is_reference and site.precision.name not in ROUTED_PRECISIONS:
            raise Unsupported(
                f"{parameters.model} has experts, which are served in "
                f"{' and '.join(ROUTED_PRECISIONS)}, not in {site.precision.name}"
            )
        # As `bench.workloads.language.family` builds them.
        experts = "eager" if site.is_reference else "grouped_mm"
        construct = functools.partial(size.construct, "sdpa", experts)
        self._model = build_model(construct, size.published_parameters, data, site)
        self._site = site
        self.slots, self.chunk = parameters.slots, parameters.chunk
        self.length, self.vocabulary = parameters.length, size.vocabulary
        self._engine = SlotModel(
            self._model,
            *(self.slots, self.length, self.chunk),
            compiler=site.compiler if is_compiled(site.execution) else None,
            recorder=recorder_of(site) if is_recorded(site.execution) else None,
        )
        self._texts = data.integers(0, size.vocabulary, (self.slots, self.length))
        self.facts = model_facts(self._model, site) | {
            "attention": "sdpa",
            "cache": self._engine.caches[0].words,
            "model": parameters.model,
            **({"experts": experts} if routed else {}),
            **replayed_facts(site, "variant of the forward"),
        }
        self._full = (self.slots + self.chunk, self.length)

    def warm(self) -> None:
        """Every variant of the forward."""
        self._engine.warm()

    def forward(self, rows: Rows) -> Sequence[int]:
        """See there."""
        tokens: list[int] = self._engine.forward(rows).tolist()
        return tokens

    def empty(self) -> None:
        """Lets the cache go."""
        self._engine.close()

    def close(self) -> None:
        """The engine and what it compiled know each other: nothing else lets the gate's twin go
        before the timed job is built beside it."""
        self._engine.close()

    def regrets(self, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
        """See there."""
        return teacher.regrets(self._model, prompt, answer)

    def step(self) -> None:
        """Queues a forward of all slots and a whole chunk, at the longest reach."""
        self._engine.run(*self._full)

    def witness(self) -> float:
        """Mean of the last logits."""
        return float(self._engine.logits.float().mean())

    def probe(self) -> dict[str, Tensor]:
        """Logits [N, V] of every row that answers, in a schedule of given tokens.

        The first slot takes a prompt of a chunk and a third, then each other slot one of a third
        of a chunk while those before it go on; and then all go on together, into the next reach.
        """
        import torch

        self._prompts = self._texts.tolist()
        third = max(self.chunk // 3, 1)
        wanted = [self.chunk + third] + [third] * (self.slots - 1)
        first, *others = (min(size, self.length - 2) for size in wanted)
        found: list[Tensor] = []
        places: dict[int, int] = {}
        for slot, size in enumerate((first, *others)):
            for start in range(0, size, self.chunk):
                part = self._prompts[slot][start : min(start + self.chunk, size)]
                found += self._probed(places, part, slot, start)
            places[slot] = size
        for _ in range(2):
            found += self._probed(places, (), 0, 0)
        return {"logits": torch.cat(found)}

    def _probed(
        self, places: dict[int, int], prompt: Sequence[int], slot: int, start: int
    ) -> list[Tensor]:
        """Feeds each slot that is there its next given token, and a part of a prompt."""
        going = [s for s, place in places.items() if place < self.length]
        decoding = [(s, self._prompts[s][places[s]], places[s]) for s in going]
        self._engine.forward(Rows(decoding=decoding, prompt=prompt, slot=slot, start=start))
        for s in going:
            places[s] += 1
        rows = [*going, self.slots] if prompt else going
        return [self._engine.logits[rows].clone()]

    def outputs(self) -> Mapping[str, Sequence[Tensor]]:
        """The last logits."""
        return {OUTPUT: [self._engine.logits]}

    def weights(self) -> Sequence[Tensor]:
        """Its parameters."""
        return [*self._model.parameters()]

    def again(self) -> bool:
        """The same forward: it writes into its cache what is there."""
        self.step()
        return True

    def looks(self) -> Iterator[Look]:
        """At the model and its cache."""
        yield from model_looks.placed(self._model, self._engine.shared.table, self._site)
        yield from model_looks.cached(self._engine.tensors(), self._site)
        yield from model_looks.experts(self._model, self.facts)
        yield model_looks.mode(self._model, training=False)


WORKLOAD = Serve()
