"""What a language model says of a whole text: its embedding, or two answers to be weighed.

Both are of the last token, which has seen all others. Serving pads texts of unequal lengths; here
all are of one length, so none does.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace

from bench.records.outcome import Work
from bench.workload import ALL_EXECUTIONS, BatchSize, Job, Mode, Site
from bench.workloads.jobs.jobs import BATCHES, InferenceJob
from bench.workloads.jobs.modes import COPIES
from bench.workloads.jobs.seeded import SeededData
from bench.workloads.language.language import NONE_EARLIER, LanguageParameters, drawn, twin_of

if TYPE_CHECKING:
    from torch import Tensor, nn

TWIN_TEXTS = 16
"""Of the twin: a reranker says two numbers of each."""


class PooledParameters(LanguageParameters, frozen=True, kw_only=True):
    """Texts of one length, without padding."""

    batch_size: BatchSize = 16
    sequence_length: int = 512
    earlier = NONE_EARLIER
    answers: ClassVar[tuple[int, ...]] = ()
    """Tokens whose logits are the answer; none where it is the last token's state. Of a cut
    vocabulary their remainders."""


def mode(parameters: type[PooledParameters], precisions: tuple[str, ...]) -> Mode:
    """One forward over a batch of texts."""
    return Mode(
        parameters=parameters,
        precisions=precisions,
        executions=ALL_EXECUTIONS,
        latency="latency",
        schemes=COPIES,
    )


def work(size: Any, parameters: PooledParameters) -> Work:
    """As a prefill's, but of the output matrix only the rows of the answers, once a text."""
    tokens, batch = parameters.sequence_length, parameters.batch_size
    answering = 2 * len(parameters.answers) * size.hidden
    flop = batch * (size.flop(tokens, tokens, 0) + answering)
    least = flop - batch * size.masked(tokens)
    return Work(items=batch, unit="sequence", flop=flop, least_flop=least)


def twin(parameters: PooledParameters) -> PooledParameters:
    """Two layers of the same widths, a small vocabulary, short texts."""
    cut: PooledParameters = replace(twin_of(parameters), batch_size=TWIN_TEXTS)
    return cut


def job(
    model: nn.Module,
    size: Any,
    parameters: PooledParameters,
    data: SeededData,
    site: Site,
    facts: dict[str, str],
) -> Job:
    """Random tokens. The gate's reference takes what the library's own forward of the whole model
    gives: hidden states by its name for them, or logits of the whole vocabulary."""
    answers = [token % size.vocabulary for token in parameters.answers]
    shape = (parameters.batch_size, parameters.sequence_length)
    texts = [drawn(size, shape, data, site) for _ in range(BATCHES)]
    if site.is_reference:
        forward = functools.partial(_by_the_library, answers)
        return InferenceJob(model, forward, texts, site, facts)
    of_last = f"{len(answers)} rows of the output matrix" if answers else "state, of length 1"
    facts = {"attention": "sdpa", "pooling": f"last token: {of_last}"} | facts
    return InferenceJob(_pooled()(model, answers), _called, texts, site, facts)


def _called(model: nn.Module, tokens: Tensor) -> Tensor:
    found: Tensor = model(tokens)
    return found


def _by_the_library(answers: list[int], model: nn.Module, tokens: Tensor) -> Tensor:
    found = model(input_ids=tokens, use_cache=False, output_hidden_states=not answers)
    if answers:
        logits: Tensor = found.logits[:, -1, answers]
        return logits
    last = found.hidden_states[-1][:, -1]
    embedding: Tensor = last / last.norm(dim=-1, keepdim=True)
    return embedding


@functools.cache
def _pooled() -> Any:
    """The class of a model with its pooling, made when torch is there."""
    import torch
    from torch.nn import functional

    class Pooled(torch.nn.Module):
        """Tokens [B, T] to embeddings [B, H], or to the logits [B, A] of answers."""

        def __init__(self, model: Any, answers: list[int]) -> None:
            super().__init__()
            self.model = model
            self._embeds = not answers
            self._answers = torch.tensor(answers, device=model.lm_head.weight.device)

        def forward(self, tokens: Tensor) -> Tensor:
            states = self.model.model(input_ids=tokens, use_cache=False).last_hidden_state
            last: Tensor = states[:, -1]
            if self._embeds:
                return functional.normalize(last, dim=-1)
            answers = self.model.lm_head.weight.index_select(0, self._answers)
            return functional.linear(last, answers)

    return Pooled
