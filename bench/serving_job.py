"""The protocol of a workload that serves: one forward of fixed shape over the slots of a cache.

A slot holds one request. Which request has which slot, and what goes into a forward, is the
schedule's to say (`bench.measuring.serving_schedule`), the same on every device; how the forward is
computed is the device's own affair, and recorded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import msgspec

from bench.workload import Job


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """What one forward is about: a token of each busy slot, and a part of one prompt."""

    decoding: Sequence[tuple[int, int, int]] = ()
    """(slot, token, position): the slot's last token, and its place in the slot's text."""
    prompt: Sequence[int] = ()
    """Next tokens of a prompt, as many as a chunk at most; empty where none is waiting."""
    slot: int = 0
    """Whose prompt that is."""
    start: int = 0
    """Place of its first token in the slot's text."""


class ServingJob(Job):
    """A model that answers requests out of the slots of a static cache.

    Also a `Job`: its `step` is one forward with all slots busy and a whole chunk, so that its
    memory can be rehearsed and its logits proved as any other's.
    """

    slots: int
    """Requests that it holds at a time."""
    chunk: int
    """Most prompt tokens of a forward."""
    length: int
    """Most tokens of a slot's text, prompt and answer together."""
    vocabulary: int

    @abstractmethod
    def warm(self) -> None:
        """Runs every shape that a load can ask for, so that none is compiled or recorded later."""

    @abstractmethod
    def forward(self, rows: Rows) -> Sequence[int]:
        """Greedy tokens: one for each slot (of an idle one whatever comes), then the one after the
        last prompt row. Waits until they are on the host."""

    @abstractmethod
    def empty(self) -> None:
        """Gives the cache's memory back; no forward after it."""

    @abstractmethod
    def regrets(self, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
        """Of each token of an answer, how far below the best logit it is, in standard deviations of
        the logits there: 0 where it is the best.

        Teacher-forced: the whole text goes at once through the library's eager attention, without
        cache, in float64, with this job's weights; none of `forward` is used.
        """
