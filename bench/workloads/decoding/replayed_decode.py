"""Decode whose step is recorded, and replayed for each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.records.proof import OUTPUT
from bench.workload import Queued, Site
from bench.workloads.decoding.generation import DecodeJob, Generator, chosen
from bench.workloads.jobs.executed import executed_function
from bench.workloads.jobs.recorded import recorder_of, replayed_facts

if TYPE_CHECKING:
    from torch import Tensor


class ReplayedDecodeJob(DecodeJob):
    """Decode whose step is recorded once, in the first one, and replayed from then on.

    A recording has no arguments: the token, its place in the window and the cache lie where they
    lay, and the step itself counts the place and chooses the next token, on the device. Where it is
    compiled, all of that is one function.
    """

    def __init__(self, generator: Generator, prompt: Tensor, forced: Tensor) -> None:
        """Raises `Unsupported` where the device records nothing."""
        import torch

        site = generator.site
        self._recorder = recorder_of(site)
        super().__init__(generator, prompt, forced)
        self.token = self.first_token.clone()
        self._place = torch.zeros(1, dtype=torch.long, device=prompt.device)
        self._replay: Queued | None = None
        # The prompt has been read: what is compiled is decode.
        self._one = _one_token(generator, site)
        self.facts = {**self.facts, **replayed_facts(site, "token")}

    def step(self) -> None:
        """Queues the replay of one token for each sequence."""
        self._replay_of(self._given(self._index % self._new_tokens) if self._forcing else None)

    def as_written(self) -> Mapping[str, Sequence[Tensor]]:
        """After the last of the given tokens, each of which follows the prompt anew."""
        self.generator.rewind()
        given = range(self._index if self._forcing else 0)
        found = [self.generator.decode(self._given(index), index) for index in given]
        return {OUTPUT: found[-1:]} if found else {}

    def _after(self, token: Tensor, index: int) -> Tensor:
        self._replay_of(token)
        return self._output.clone()

    def _replay_of(self, forced: Tensor | None) -> None:
        """One token after the last one chosen, or after the one given."""
        if self._replay is None:
            self._replay = self._recorder(self._work, self._rewind)
            self._rewind()
        elif self._index == self._new_tokens:
            self._rewind()
        if forced is not None:
            self.token.copy_(forced)
        self._replay()
        self._index += 1

    def _work(self) -> None:
        import torch

        with torch.inference_mode():  # outside of what is compiled, which could not enter it
            self._output = self._one(self.token, self._place)

    def _rewind(self, place: int = 0, token: Tensor | None = None) -> None:
        self._index = place
        self._place.fill_(place)
        self.token.copy_(self.first_token if token is None else token)
        self.generator.rewind()


def _one_token(generator: Generator, site: Site) -> Callable[..., Tensor]:
    """One token's whole step, as the site executes it: from a token [B, 1] and its place [1], which
    it moves on, to the logits [B, 1, V] after it; the token is then the one that they choose."""

    def one(token: Tensor, place: Tensor) -> Tensor:
        logits = generator.decode_at(token, place)
        token.copy_(chosen(logits))
        place.add_(1)
        return logits

    return executed_function(one, site)
