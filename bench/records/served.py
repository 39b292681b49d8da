"""What serving left behind: when each request came and was answered, and the engine's steps.

All times are ns since the load began, on one monotonic clock of the host: a token's time is its
arrival there. Nothing is derived here but the steady window, because a launch's one throughput must
be that of the window; the other figures are `bench.judging.serving`'s.
"""

from __future__ import annotations

import itertools

import msgspec

from bench.records.value import Value

SATURATED = "saturated"
"""Begins the reason of a load that is given up: ever more requests wait for a first token."""


class ServedRequest(Value, frozen=True, kw_only=True):
    """One request and what came of it."""

    prompt_tokens: int
    due_ns: int
    """When it was to arrive: latencies count from here, however late it was let in."""
    admitted_ns: int | None = None
    """When it got a slot; of a server, when it was sent. None if that never happened."""
    first_ns: int | None = None
    """When its first token arrived."""
    last_ns: int | None = None
    """When its last one did."""
    tokens: int = 0
    """Output tokens that arrived."""
    first_tokens: int = 1
    """How many of them with the first: a server, or a proxy before it, may hand on several at once.
    1 too in records of servers that were written before this was kept."""
    failed: str = ""
    """Why it was not answered as it was asked for; empty if it was."""

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.tokens < 0 or self.due_ns < 0:
            raise ValueError(
                "a request has a prompt, 0 output tokens or more, and a time from 0 on"
            )
        times = [self.due_ns, self.admitted_ns, self.first_ns, self.last_ns]
        known = [t for t in times if t is not None]
        if known != sorted(known):
            raise ValueError("a request is due, admitted, begun and ended in this order")
        if not self.failed and (None in times or not self.tokens):
            raise ValueError("an answered request has all its times, and a token")
        if not 1 <= self.first_tokens <= max(1, self.tokens):
            raise ValueError("with the first token arrive one or more, and no more than all")
        if self.tokens == 1 and self.first_ns != self.last_ns:
            raise ValueError("of a single token, the first is the last")


class EngineSteps(Value, frozen=True, kw_only=True):
    """The steps of an engine in this process, in their order: one value each a step."""

    start_ns: tuple[int, ...]
    wall_ns: tuple[int, ...]
    """The whole step: choosing its rows, the forward, handing on its tokens."""
    forward_ns: tuple[int, ...]
    """Of that, from queueing the forward until its tokens are on the host."""
    decode_rows: tuple[int, ...]
    """Slots that got a token each."""
    prompt_rows: tuple[int, ...]
    """Tokens of a prompt that went in."""
    slots: int
    """Decode rows that every forward has, busy or not."""
    chunk: int
    """Prompt rows of a forward that has any, likewise."""

    def __post_init__(self) -> None:
        series = (self.start_ns, self.wall_ns, self.forward_ns, self.decode_rows, self.prompt_rows)
        if not self.start_ns or len(set(map(len, series))) != 1:
            raise ValueError("engine steps: as many values in each series, and one at least")
        if self.slots < 1 or self.chunk < 1 or min(map(min, series)) < 0:
            raise ValueError("engine steps: no slots, no chunk, or a value below 0")
        if max(self.decode_rows) > self.slots or max(self.prompt_rows) > self.chunk:
            raise ValueError("engine steps: more rows than there are")
        ends = [s + w for s, w in zip(self.start_ns, self.wall_ns, strict=True)]
        if any(end > start for end, start in zip(ends, self.start_ns[1:], strict=False)):
            raise ValueError("engine steps: one begins before the one before it has ended")
        if any(f > w for f, w in zip(self.forward_ns, self.wall_ns, strict=True)):
            raise ValueError("engine steps: a forward takes no longer than its step")


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The steady part of a load; see `Served.window`."""

    start_ns: int
    end_ns: int
    tokens: int
    """Output tokens that arrived in it."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / 1e9

    def holds(self, ns: int | None) -> bool:
        """Whether a moment lies in it: after its start, and up to its end."""
        return ns is not None and self.start_ns < ns <= self.end_ns


class Served(Value, frozen=True, kw_only=True):
    """One load, served."""

    requests: tuple[ServedRequest, ...]
    """In the order of arrival; those that failed too."""
    arrived_ns: tuple[int, ...]
    """When output tokens arrived, all requests together, ascending; a moment may hold many."""
    arrived_tokens: tuple[int, ...]
    """How many at each of those moments."""
    ramp: int
    """Completions before the load counts as steady: as many requests as can be in flight, which is
    the concurrency of a closed loop and the slots of an engine otherwise."""
    load: str
    """Digest of arrivals and lengths as they were asked for: equal load, equal digest."""
    schedule: str = ""
    """Digest of what each engine step did, times left out; empty where nobody can see that."""
    steps: EngineSteps | None = None
    """None of a server that is seen from outside."""

    def __post_init__(self) -> None:
        if not self.requests or self.ramp < 1 or not self.load:
            raise ValueError("a load has requests, a digest and a ramp of one completion or more")
        if len(self.arrived_ns) != len(self.arrived_tokens):
            raise ValueError("tokens and the moments at which they arrived: as many of each")
        if any(b < a for a, b in itertools.pairwise(self.arrived_ns)):
            raise ValueError("tokens arrive one after the other")
        if any(tokens < 1 for tokens in self.arrived_tokens):
            raise ValueError("at a moment of arrival one token or more arrives")
        tokens = sum(request.tokens for request in self.requests)
        if sum(self.arrived_tokens) != tokens:
            raise ValueError(
                f"{sum(self.arrived_tokens)} tokens arrived, but requests got {tokens}"
            )

    @property
    def sent_at_once(self) -> bool:
        """Whether a server got all of its requests in the beginning."""
        return self.steps is None and len({request.due_ns for request in self.requests}) == 1

    @property
    def window(self) -> Window | None:
        """From the `ramp`-th completion to the last admission; None where there is nothing between.

        What comes before is filling up and cold, what comes after is running empty. Of a server all
        of whose requests are sent at once it is not seen when it lets one in: before the request's
        first token, so there the last of those is the end.
        """
        ended = sorted(r.last_ns for r in self.requests if r.last_ns is not None and not r.failed)
        admitted = [r.admitted_ns for r in self.requests if r.admitted_ns is not None]
        if len(ended) < self.ramp:
            return None
        start, end = ended[self.ramp - 1], max(admitted)
        if self.sent_at_once:
            end = max(r.first_ns for r in self.requests if r.first_ns is not None)
        arrivals = zip(self.arrived_ns, self.arrived_tokens, strict=True)
        tokens = sum(count for ns, count in arrivals if start < ns <= end)
        if tokens == 0:
            return None
        return Window(start_ns=start, end_ns=end, tokens=tokens)
