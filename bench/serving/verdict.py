"""What a load on a server amounts to: a figure, or the first reason why there is none.

The order is that of what would be worst to believe: that it was the right model; that the server
did the work and did not know it already; that the client kept up; and then that all was answered.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec
import psutil

from bench.judging.endpoint import all_cached, late
from bench.judging.serving import ttft, unfilled
from bench.records.case import Case
from bench.records.endpoint import Client
from bench.records.outcome import (
    Block,
    Check,
    Failed,
    Measured,
    Memory,
    Numerics,
    Outcome,
    Skipped,
    Void,
    Work,
)
from bench.records.served import Served
from bench.serving.gate import Judged
from bench.serving.watched import NOBODY_LOOKED

REFERENCE = "the exported model in float64, teacher-forced, on this host"
NOT_OBSERVED = f"not observed: {NOBODY_LOOKED}"
CLIENTS_MEMORY = "the client process; the server's memory is not observed"
UNVERIFIED = (
    "unverified: the server gives no log-probabilities, so nobody can say that it is the exported "
    "model that answers. Start it so that it gives them"
)
CACHED_SHARE = 0.001
"""Of the prompt tokens, from which on a cache is in the figures: some keep single tokens."""
BUSY = 0.8
"""Share of its core from which it may be the client that is measured."""
LATE_SECONDS, LATE_SHARE = 0.005, 0.05
"""A client is late where more than one request in a hundred is later than both: this, and this
share of the median TTFT."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a load."""

    case: Case
    served: Served
    saturated: str
    client: Client
    stopped: str
    """What stood still of it in the steady window; empty if nothing did."""
    cached_tokens: int | None
    drafted: bool | None
    """Whether the server guessed tokens; None where it does not show it, which the card says."""
    fresh: bool
    """Whether the prompts are new: then no cache has them, also none that outlives a server."""
    unseen: bool
    """Whether the server cannot have met the prompts before: they are new, or it is."""
    before: Judged
    after: Judged | None
    """None where the server gave no log-probabilities any more."""
    regret: Check | None
    """None where no answer of the load could be read."""


def wrong_model(checks: Sequence[Check]) -> Void | None:
    """Of answers that are not the exported model's."""
    numerics = Numerics(reference=REFERENCE, checks=tuple(checks))
    if numerics.passed:
        return None
    reason = f"not the exported model, or not right: {numerics.complaint}"
    return Void(reason=reason, numerics=numerics)


def server_lost(served: Served, why: str) -> Failed:
    """Of a load after which the server could be asked no more."""
    words = f"after the load the server was asked again, and did not answer: {why}"
    said = "; ".join(filter(None, (_failures(served), words)))
    return Failed(kind="error", phase="measure", message=said)


def outcome(found: Found) -> Outcome:
    """Of one load."""
    if found.after is None:
        return Void(reason=UNVERIFIED)
    if found.regret is None and not found.saturated:
        return Void(reason=f"no answer under load could be checked: {_first_failure(found.served)}")
    checks = (*found.before.checks, *found.after.checks)
    checks += () if found.regret is None else (found.regret,)
    wrong = wrong_model(checks)
    if wrong is not None:
        return wrong
    for reason in (_cached(found), _drafted(found), _client(found)):
        if reason:
            return Void(reason=reason)
    if found.saturated:
        return Skipped(reason=found.saturated)
    if failures := _failures(found.served):
        return Void(reason=failures)
    if why := unfilled(found.served):
        return Void(reason=why)
    window = found.served.window
    if window is None:
        return Void(reason="no steady window: the load is too small. Give more --requests")
    own = psutil.Process().memory_info().rss
    return Measured(
        work=Work(items=window.tokens, unit="token"),
        numerics=Numerics(reference=REFERENCE, checks=checks),
        warmup=(),
        steady=(
            Block(
                start_ns=window.start_ns,
                wall_ns=window.end_ns - window.start_ns,
                step_ns=(window.end_ns - window.start_ns,),
            ),
        ),
        step_clock="host",
        memory=Memory(peak_bytes=own, scope=CLIENTS_MEMORY, host_rss_bytes=own),
        witness=(found.before.witness, found.after.witness),
        served=found.served,
        flags=("STOPPED",) if found.stopped else (),
        causes={"STOPPED": found.stopped} if found.stopped else {},
        energy_absent=NOT_OBSERVED,
    )


def _failures(served: Served) -> str:
    """How many requests failed, and why the first did; empty where none did."""
    failed = sum(bool(request.failed) for request in served.requests)
    said = f"{failed} of {len(served.requests)} requests failed: {_first_failure(served)}"
    return said if failed else ""


def _first_failure(served: Served) -> str:
    return next((r.failed for r in served.requests if r.failed), "its text is not the tokenizer's")


def _cached(found: Found) -> str:
    tokens = sum(request.prompt_tokens for request in found.served.requests)
    if found.fresh and all_cached(found.cached_tokens, found.served):
        return ""
    if (found.cached_tokens or 0) > CACHED_SHARE * tokens:
        why = (
            "others use it too"
            if found.unseen
            else "it had these prompts before (leave out --seed, or restart the server)"
        )
        return (
            f"{found.cached_tokens} of {tokens} prompt tokens came from the server's prefix cache: "
            f"{why}, or it read prompts again that it had preempted. Give it more cache, or lower "
            "the concurrency"
        )
    if found.cached_tokens is None and not found.unseen:
        return (
            "the seed may have been used on this server before, and it does not say whether it had "
            "the prompts in its cache. Leave out --seed, or have the run start the server"
        )
    return ""


def _drafted(found: Found) -> str:
    if not found.drafted or found.case.parameters.get("speculation"):
        return ""
    return (
        "the server guessed tokens (speculative decoding), which is other work. Start it without, "
        "or declare it: --speculation; then it compares with its like"
    )


def _client(found: Found) -> str:
    """Why the client may be in the figures; empty where it is not."""
    if found.client.busy > BUSY:
        return (
            f"the client was busy for {found.client.busy:.0%} of the time (bound {BUSY:.0%}): it, "
            "not the server, may be what was measured. Run it on a faster or an idle core"
        )
    worst = late(found.client, found.served) or 0.0
    firsts = [t for t in map(ttft, found.served.requests) if t is not None]
    bound = max(LATE_SECONDS, LATE_SHARE * statistics.median(firsts)) if firsts else math.inf
    if worst > bound:
        return (
            f"the client was late: more than one request in a hundred by {worst * 1e3:.1f} ms and "
            f"more (bound {bound * 1e3:.1f} ms). Leave it a core of its own, near the server"
        )
    return ""
