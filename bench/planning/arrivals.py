"""A load on a server: how many tokens each request has, and when it is due.

Everything is drawn beforehand from a seed, so the same load meets every engine and every server;
its digest says so. Only uniform numbers are taken from the generator, whose sequence Python
promises to keep, and transformed here.
"""

from __future__ import annotations

import hashlib
import math
import random
import statistics
from typing import Any, Literal

import msgspec

Process = Literal["closed", "poisson", "offline"]
"""`closed`: so many requests in flight, the next due when one ends. `poisson`: due at random, at a
mean rate, whatever the server does. `offline`: all due at once."""
LONGEST = 4
"""What is drawn beyond so many times its mean is cut to that: a static cache must hold it. So the
mean as drawn is below the one asked: 0.93 of it at a sigma of 1, 0.76 at 1.5."""


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Of prompts and answers: the same for all, or log-normal about a mean, and cut."""

    input_tokens: int
    output_tokens: int
    """Means, 1 or more; of log-normal ones before the cut."""
    sigma: float = 0.0
    """Standard deviation of the logarithm; 0: all have the mean."""

    @property
    def longest(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return (LONGEST if self.sigma else 1) * (self.input_tokens + self.output_tokens)


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One request, before it is made."""

    prompt_tokens: int
    new_tokens: int
    due_ns: int | None
    """Since the load's beginning; None in a closed loop beyond its first requests: due when
    another one ends."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in the order of their arrival."""

    requests: tuple[Planned, ...]
    process: Process
    concurrency: int | None = None
    """Of a closed loop: most requests in flight."""

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of all that is asked."""
        canonical = msgspec.json.encode(self, order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:16]

    @property
    def tokens(self) -> int:
        """Output tokens of all requests."""
        return sum(request.new_tokens for request in self.requests)

    @property
    def arrives_over_seconds(self) -> float:
        """When the last request is due that no other one's end decides about."""
        return max(request.due_ns or 0 for request in self.requests) / 1e9


def load_of(parameters: Any) -> Load:
    """What a case asks for: from its own seed, so that every launch has the same."""
    lengths = Lengths(
        input_tokens=parameters.input_tokens,
        output_tokens=parameters.output_tokens,
        sigma=parameters.length_sigma,
    )
    count, seed = parameters.requests, parameters.length_seed
    if parameters.arrival == "closed":
        return closed(count, lengths, parameters.concurrency, seed)
    if parameters.arrival == "poisson":
        return poisson(count, lengths, parameters.rate, seed)
    return offline(count, lengths, seed)


def closed(requests: int, lengths: Lengths, concurrency: int, seed: int) -> Load:
    """So many requests in flight until all are made; the first `concurrency` are due at once."""
    if concurrency < 1:
        raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
    due = [0 if index < concurrency else None for index in range(requests)]
    return _load("closed", due, lengths, seed, concurrency)


def poisson(requests: int, lengths: Lengths, rate: float, seed: int) -> Load:
    """Due at random, on the mean `rate` a second: times between two are exponential.

    The first is due after such a time too. Lengths do not depend on the rate.
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"rate must be finite and above 0 requests a second, not {rate}")
    draw = random.Random(f"arrivals {seed}")
    at, due = 0.0, []
    for _ in range(requests):
        at -= math.log1p(-draw.random()) / rate
        due.append(round(at * 1e9))
    return _load("poisson", due, lengths, seed, None)


def offline(requests: int, lengths: Lengths, seed: int) -> Load:
    """All due at once."""
    return _load("offline", [0] * requests, lengths, seed, None)


def _load(
    process: Process,
    due: list[int] | list[int | None],
    lengths: Lengths,
    seed: int,
    concurrency: int | None,
) -> Load:
    draw = random.Random(f"lengths {seed}")
    if not due or min(lengths.input_tokens, lengths.output_tokens) < 1:
        raise ValueError("a load has a request or more, of a token or more each way")
    return Load(
        requests=tuple(
            Planned(
                prompt_tokens=_length(lengths.input_tokens, lengths.sigma, draw),
                new_tokens=_length(lengths.output_tokens, lengths.sigma, draw),
                due_ns=moment,
            )
            for moment in due
        ),
        process=process,
        concurrency=concurrency,
    )


def _length(mean: int, sigma: float, draw: random.Random) -> int:
    """Log-normal of that mean, rounded, and then cut: from 1 to `LONGEST` times it."""
    uniform = draw.random()  # taken where it is not needed too: one sequence for every spread
    if not sigma:
        return mean
    normal = statistics.NormalDist().inv_cdf(uniform or 2.0**-53)
    drawn = mean * math.exp(sigma * normal - sigma * sigma / 2)
    return max(1, min(LONGEST * mean, round(drawn)))
