"""What is asked of a server, as cases: each a load on the exported model, every parameter in it.

The server is to the case what a device is to another: it is in the record, not in the case. So one
load on two servers is the same work; a load on a server and one on our own engine never are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace

import msgspec

from bench.errors import SuiteError
from bench.planning import arrivals
from bench.planning.arrivals import Lengths, Load
from bench.records.case import Case, ParameterValue
from bench.serving.export import Manifest
from bench.serving.gate import prompt
from bench.serving.load import Drawn
from bench.serving.stream import Asked

WORKLOAD, MODE, EXECUTION = "endpoint", "serve", "server"
VERSION = 1
CONCURRENCY = 8
ROUNDS = 8
"""Requests of a load that names no number: so many for each that can be in flight."""
STEADY_ROUNDS = 4
"""Fewer leave no steady part between filling up and running empty."""
LEAST_REQUESTS = 40
OPEN_WIDTH = 32
"""Most requests at a time that warm a server up for an open load."""
LENGTH_SEED = 0
"""Of arrivals and lengths, which are the same in every launch; the prompts' words are not."""


class Asks(msgspec.Struct, frozen=True, kw_only=True):
    """The loads that a command line asks for."""

    lengths: Lengths
    concurrencies: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    offline: bool = False
    requests: int | None = None
    ttft_limit_ms: int
    tpot_limit_ms: int
    speculation: bool = False
    """Whether the server may guess tokens."""
    devices: int = 1


def cases(asks: Asks, manifest: Manifest) -> tuple[Case, ...]:
    """One a concurrency, one a rate, one where all come at once; `CONCURRENCY` where none is asked.

    Raises `SuiteError` for lengths that the model cannot hold, and for a load without requests.
    """
    if asks.lengths.longest > manifest.positions:
        raise SuiteError(
            f"serve-bench: prompts and answers of up to {asks.lengths.longest} tokens; "
            f"{manifest.model} holds {manifest.positions}. Give smaller --input-tokens or "
            "--output-tokens, or export a model that holds more."
        )
    ways: list[dict[str, ParameterValue]] = [
        {"arrival": "closed", "concurrency": c} for c in asks.concurrencies
    ]
    ways += [{"arrival": "poisson", "rate": float(rate)} for rate in asks.rates]
    ways += [{"arrival": "offline"}] if asks.offline else []
    ways = ways or [{"arrival": "closed", "concurrency": CONCURRENCY}]
    return tuple(_case(way, asks, manifest) for way in ways)


def _case(way: dict[str, ParameterValue], asks: Asks, manifest: Manifest) -> Case:
    most = int(way.get("concurrency", 1))
    lengths = asks.lengths
    requests = asks.requests or max(LEAST_REQUESTS, ROUNDS * most)
    if requests < STEADY_ROUNDS * most:
        raise SuiteError(
            f"--requests {requests}: at least {STEADY_ROUNDS * most} of concurrency {most}, or "
            "there is no steady part. Give more, or leave it out."
        )
    return Case(
        workload=WORKLOAD,
        version=VERSION,
        mode=MODE,
        precision=manifest.precision,
        execution=EXECUTION,
        devices=asks.devices,
        parameters={
            "model": manifest.model,
            "weights": manifest.digest,
            "input_tokens": lengths.input_tokens,
            "output_tokens": lengths.output_tokens,
            **way,
            "requests": requests,
            "length_sigma": float(lengths.sigma),
            "length_seed": LENGTH_SEED,
            **({"speculation": True} if asks.speculation else {}),
            "ttft_limit_ms": asks.ttft_limit_ms,
            "tpot_limit_ms": asks.tpot_limit_ms,
        },
    )


def load_of(case: Case) -> Load:
    """Arrivals and lengths, as its parameters say."""
    return arrivals.load_of(SimpleNamespace(**case.parameters))


def ramp_of(case: Case) -> int:
    """Completions before a load counts as steady; of an open one, a tenth of its requests."""
    concurrency = case.parameters.get("concurrency")
    return int(concurrency) if concurrency else max(1, int(case.parameters["requests"]) // 10)


def drawn(case: Case, vocabulary: int, seed: int, begun: set[int]) -> Drawn:
    """A case's load with the words of its prompts, which come from the launch's seed.

    begun: first tokens of prompts before these, whose own are added. A cache may keep single
    tokens, so no prompt begins as another while there are tokens left.
    """
    load = load_of(case)
    words = random.Random(f"prompts {case.fingerprint} {seed}")
    asked = []
    for one in load.requests:
        first, *rest = prompt(words, vocabulary, one.prompt_tokens)
        while first in begun and len(begun) < vocabulary:
            (first,) = prompt(words, vocabulary, 1)
        begun.add(first)
        asked.append(Asked(prompt=(first, *rest), new_tokens=one.new_tokens, due_ns=one.due_ns))
    return Drawn(load=load, asked=tuple(asked))


def in_flight(case: Case) -> tuple[int, int]:
    """Requests that a load has in flight surely, and perhaps, at a time."""
    requests = int(case.parameters["requests"])
    at_random = case.parameters["arrival"] == "poisson"
    surely = int(case.parameters.get("concurrency") or (1 if at_random else requests))
    return surely, requests if at_random else surely


def _width(case: Case) -> int:
    """Requests that a load may have in flight; of an open one, which names no number, as many as
    are worth making beforehand."""
    concurrency = case.parameters.get("concurrency")
    return int(concurrency or min(int(case.parameters["requests"]) // 2, OPEN_WIDTH))


def warm_up(cases: Sequence[Case], vocabulary: int, seed: int) -> list[Asked]:
    """Requests like those of the widest load, with prompts of their own; twice as many as it may
    have in flight."""
    widest = max(cases, key=_width)
    words = random.Random(f"warm-up {seed}")
    return [
        Asked(prompt=prompt(words, vocabulary, one.prompt_tokens), new_tokens=one.new_tokens)
        for one in load_of(widest).requests[: 2 * _width(widest)]
    ]
