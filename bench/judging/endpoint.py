"""What there is to know of a server that was measured from outside, over the launches of a case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from bench.records.endpoint import Client, Endpoint
from bench.records.outcome import Check, Measured, Void
from bench.records.run import Launch
from bench.records.served import Served

OUTLIERS = 0.01
"""Share of the requests that may be later than what is said of all; one may be in any case: it is
in no median, and percentiles that it would be in need hundreds of requests."""


class EndpointSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Of one case, with a figure or without."""

    servers: tuple[str, ...]
    """`vllm 0.32.0`, each once."""
    models: tuple[str, ...]
    """As they are called there."""
    restarted: bool
    """Whether each launch has a process of its own."""
    checks: tuple[Check, ...]
    """Of each quantity the check that came nearest to its tolerance, or passed it."""
    overlooked: tuple[str, ...]
    """What is wrong with models that the checks would let pass."""
    busy: float | None
    """Largest share of its core that the client took; None where no load was made."""
    late_seconds: float | None
    """By how much requests were late at most, but for one in a hundred; of the worst launch."""
    cached_tokens: int | None
    """Tokens of prompts that a server had already; None where none says."""
    read_elsewhere: bool
    """Whether a load has a figure though its server counts every prompt as cached: those were new,
    so another process had read them for it."""
    guessed: bool | None
    """Whether a server guessed tokens under a load; None where it is not known of all of them."""


def late(client: Client, served: Served | None) -> float | None:
    """Seconds by which a launch's requests were late at most, but for `OUTLIERS` of them.

    Of those that were admitted in the steady window: as many as may be in flight are due at once in
    the beginning, which no client can do. None where it has none: all were sent before it. Of all
    where there is no such window.
    """
    late_ns: Sequence[int] = client.late_ns
    if served is not None and (window := served.window) is not None:
        pairs = zip(late_ns, served.requests, strict=False)
        late_ns = [ns for ns, one in pairs if window.holds(one.admitted_ns)]
    if not late_ns:
        return None
    ordered = sorted(late_ns)
    beyond = max(1, math.floor(OUTLIERS * len(ordered)))
    return ordered[max(0, len(ordered) - 1 - beyond)] / 1e9


def all_cached(tokens: int | None, served: Served) -> bool:
    """Whether so many tokens that were cached are those of all prompts: a server that decodes what
    another process has read counts each so, with its last token or without."""
    prompts = [request.prompt_tokens for request in served.requests]
    return 0 < sum(prompts) - len(prompts) <= (tokens or 0) <= sum(prompts)


def endpoint_of(launches: Sequence[Launch]) -> EndpointSummary | None:
    """None of work that no server did."""
    seen = [launch.endpoint for launch in launches if launch.endpoint is not None]
    if not seen:
        return None
    clients = [one.client for one in seen if one.client is not None]
    cached = [one.cached_tokens for one in seen if one.cached_tokens is not None]
    checks = worst_checks(check for launch in launches for check in _checks(launch))
    return EndpointSummary(
        servers=each_once(f"{e.server.name} {e.server.version}".strip() for e in seen),
        models=each_once(e.server.model for e in seen),
        restarted=all(e.server.started == "by the run" for e in seen),
        checks=checks,
        overlooked=_overlooked(seen, checks),
        busy=max((one.busy for one in clients), default=None),
        late_seconds=max(
            (s for pair in _loads(launches) if (s := late(*pair)) is not None), default=None
        ),
        cached_tokens=sum(cached) if cached else None,
        read_elsewhere=any(map(read_elsewhere, launches)),
        guessed=_guessed([one.guessed for one in seen if one.client is not None]),
    )


def read_elsewhere(launch: Launch) -> bool:
    """Whether its load has a figure though its server counts every prompt as cached."""
    served = launch.outcome.served if isinstance(launch.outcome, Measured) else None
    seen = launch.endpoint
    return bool(served and seen and all_cached(seen.cached_tokens, served))


def _guessed(said: Sequence[bool | None]) -> bool | None:
    return True if True in said else None if None in said or not said else False


def worst_checks(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Of each quantity the check that came nearest to its tolerance, or passed it."""
    found: dict[str, Check] = {}
    for check in checks:
        known = found.get(check.quantity)
        if known is None or _used(check) > _used(known):
            found[check.quantity] = check
    return tuple(found.values())


def _loads(launches: Sequence[Launch]) -> Iterator[tuple[Client, Served | None]]:
    """Of each launch that made a load."""
    for launch in launches:
        if launch.endpoint is not None and launch.endpoint.client is not None:
            outcome, without_figure = launch.outcome, launch.endpoint.load
            served = outcome.served if isinstance(outcome, Measured) else without_figure
            yield launch.endpoint.client, served


def _checks(launch: Launch) -> tuple[Check, ...]:
    outcome = launch.outcome
    numerics = outcome.numerics if isinstance(outcome, Measured | Void) else None
    return () if numerics is None else numerics.checks


def _used(check: Check) -> float:
    """How much of its tolerance an error takes."""
    return math.inf if check.error is None else check.error / check.tolerance


def _overlooked(seen: Sequence[Endpoint], checks: Sequence[Check]) -> tuple[str, ...]:
    """By the log-probabilities, which the first check is of."""
    bound = checks[0].tolerance if checks else 0.0
    return each_once(name for one in seen for name, far in one.wrong.items() if far <= bound)


def each_once(words: Iterable[str]) -> tuple[str, ...]:
    """Those that say something, in their order."""
    return tuple(dict.fromkeys(word for word in words if word))
