"""What a launch saw of a server that was measured from outside, and of its own client."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from bench.records.served import Served
from bench.records.value import Value


class Server(Value, frozen=True, kw_only=True):
    """What a server says of itself: nothing of it was checked but the model."""

    name: str
    """`vllm`, `sglang`, ...; empty where it does not say."""
    version: str
    """Empty where it does not say."""
    model: str
    """As it is called there."""
    settings: dict[str, str]
    """Those that it shows to whoever asks, without what names people, places and secrets."""
    started: Literal["by the run", "before the run"]
    """`by the run`: a process of its own for this launch."""
    command: tuple[str, ...] = ()
    """By which the run started it; likewise without secrets."""
    same_host: bool
    """Whether it answers on an address of this host: only then may a device be said to be its."""


class Client(Value, frozen=True, kw_only=True):
    """What the client itself may have added to the figures."""

    late_ns: tuple[int, ...]
    """Of each request: how much later than due, and than the response before it had ended, it was
    sent, its connection made; in older records, than due the client got round to it."""
    cpu_seconds: float
    """Of the one core that it may use."""
    wall_seconds: float
    chunks: int
    """Events with text in them; fewer than tokens where one holds several."""

    def __post_init__(self) -> None:
        if not self.late_ns or min(self.late_ns) < 0 or self.chunks < 0:
            raise ValueError("a client makes a request or more, and none before it is due")
        if not 0 <= self.cpu_seconds < math.inf or not 0 < self.wall_seconds < math.inf:
            raise ValueError("a client's times must be finite, its wall time above 0")

    @property
    def busy(self) -> float:
        """Share of its core."""
        return self.cpu_seconds / self.wall_seconds


class Endpoint(Value, frozen=True, kw_only=True):
    """One launch of a load on one server."""

    server: Server
    weights: str
    """Digest of the exported model that it was to serve."""
    prompts: Literal["token ids", "text"]
    """How it was asked."""
    warm_up_requests: int
    client: Client | None = None
    """None where no load was made."""
    cached_tokens: int | None = None
    """Of the load's prompts, tokens that the server had already, by its answers or its counters;
    None where it says nothing of it."""
    guessed: bool | None = None
    """Whether the server guessed tokens (speculative decoding) under the load, by what it shows;
    None where it shows nothing of it, and in older records."""
    rounding: float | None = None
    """How far the exported model is from float64 in the precision of its weights, on this host:
    what the bounds of the numerics were made of. None where it was not come to."""
    wrong: dict[str, float] = msgspec.field(default_factory=dict)
    """How far models are that are not the right one, by what is wrong with them."""
    load: Served | None = None
    """Of a load without a figure: its requests all the same."""
