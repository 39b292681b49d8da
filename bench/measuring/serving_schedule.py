"""Which request goes into which row of which forward: no clock, no device, no chance.

First come, first served. Each forward has a token of every slot that is past its prompt, and the
next chunk of the oldest prompt that is not in yet. From equal arrivals between equal forwards comes
an equal schedule, on every device.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.records.served import ServedRequest
from bench.serving_job import Rows


@dataclass
class Asked:
    """A request under way."""

    index: int
    prompt: Sequence[int]
    new_tokens: int
    due_ns: int
    slot: int = -1
    filled: int = 0
    """Tokens of its text that are in the cache."""
    answer: list[int] = field(default_factory=list)
    admitted_ns: int | None = None
    first_ns: int | None = None
    last_ns: int | None = None

    @property
    def record(self) -> ServedRequest:
        """What the record keeps of it; wrong if it was not answered in full."""
        short = len(self.answer) != self.new_tokens
        words = f"{len(self.answer)} tokens, and {self.new_tokens} were asked for"
        return ServedRequest(
            prompt_tokens=len(self.prompt),
            due_ns=self.due_ns,
            admitted_ns=self.admitted_ns,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            tokens=len(self.answer),
            failed=words if short else "",
        )


class Schedule:
    """The requests that wait, are read in, and are answered."""

    def __init__(self, slots: int, chunk: int) -> None:
        self.chunk = chunk
        self._free = list(range(slots))[::-1]
        self._waiting: deque[Asked] = deque()
        self._filling: deque[Asked] = deque()
        self._live: dict[int, Asked] = {}
        self._part: Sequence[int] = ()
        self._log: list[tuple[object, ...]] = []
        self.admitted = 0
        """Requests that have had a slot."""

    @property
    def busy(self) -> bool:
        """Whether a forward would do anything."""
        return bool(self._waiting or self._filling or self._live)

    @property
    def digest(self) -> str:
        """Of every forward so far, what was in it: 16 hex digits."""
        return hashlib.sha256(repr(self._log).encode()).hexdigest()[:16]

    def add(self, request: Asked) -> None:
        """It has arrived."""
        self._waiting.append(request)

    def rows(self, now_ns: int) -> Rows:
        """Lets in who waits while slots are free, and says what the next forward is about."""
        while self._waiting and self._free:
            request = self._waiting.popleft()
            request.slot, request.admitted_ns = self._free.pop(), now_ns
            self._filling.append(request)
            self.admitted += 1
        decoding = [(s, r.answer[-1], r.filled) for s, r in self._live.items()]
        who = tuple((s, r.index, r.filled) for s, r in self._live.items())
        if not self._filling:
            self._part = ()
            self._log.append((who,))
            return Rows(decoding=decoding)
        request = self._filling[0]
        self._part = request.prompt[request.filled : request.filled + self.chunk]
        self._log.append((who, request.slot, request.index, request.filled, len(self._part)))
        return Rows(decoding=decoding, prompt=self._part, slot=request.slot, start=request.filled)

    def take(self, tokens: Sequence[int], now_ns: int) -> tuple[int, list[Asked]]:
        """Hands on what the forward gave; how many tokens that were, and who has ended."""
        answered = [*self._live.values()]
        for request in answered:
            request.filled += 1
            self._give(request, tokens[request.slot], now_ns)
        if self._part:
            request = self._filling[0]
            request.filled += len(self._part)
            if request.filled == len(request.prompt):
                self._filling.popleft()
                self._live[request.slot] = request
                request.first_ns = now_ns
                self._give(request, tokens[-1], now_ns)
                answered.append(request)
        ended = [request for request in answered if self._complete(request)]
        for request in ended:
            del self._live[request.slot]
            self._free.append(request.slot)
        return len(answered), ended

    @staticmethod
    def _give(request: Asked, token: int, now_ns: int) -> None:
        request.answer.append(token)
        request.last_ns = now_ns

    def _complete(self, request: Asked) -> bool:
        return len(request.answer) == request.new_tokens
