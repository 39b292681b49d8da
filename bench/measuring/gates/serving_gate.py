"""Whether a slot engine may be believed: its answers, read again by another way.

Before timing the twin answers a load of its own, in the timed precision and execution, and once
more in float32. After timing, answers of the timed load are drawn at random, one of each slot, and
read again, for an engine may be right only when it is idle, or only in the slots that a small load
uses. Each answer is read as a whole, in float64, without a cache (`ServingJob.regrets`): how far
below the best token is the one that was given? In float32 none may lie below at all, but for two
that are as good as equal, so that its answers are those of lone greedy generation, token by token.
Equal tokens are no measure of a coarser precision: of right ones nearly half the answers differ
somewhere, and of an engine that forgets a token in fifty hardly more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bench.measuring.gates import numerics
from bench.measuring.gates.references import answered_no
from bench.measuring.kept import NOTHING, Kept
from bench.measuring.serving_loop import Loaded, Loop, prompts
from bench.measuring.serving_schedule import Asked
from bench.planning.arrivals import Load, Planned
from bench.precision import PRECISIONS
from bench.records.execution import EAGER, GRAPH
from bench.records.outcome import Check, Numerics
from bench.serving_job import ServingJob

if TYPE_CHECKING:
    from bench.workload import Site, Workload

REGRETS = {"bf16": 0.25, "fp16": 0.05, "tf32": 0.05, "fp32": 1e-3}
"""Most that a token of a timed answer may lie below the best one, in standard deviations of the
logits.

Measured on a CPU (`python -m bench.tests.scripts.serving_regrets`), three seeds each: right engines
in bf16 0.054 at most in two layers of 64 to 2,048 wide, 0.082 in thirty; of latents and experts
0.052; in fp16 0.0045; in fp32 0. One that forgets a token in fifty 0.23 at the least in eight
tokens, 1.4 or more in 32. tf32 keeps as many bits as fp16.
"""
TWIN_REGRETS = {**REGRETS, "bf16": 0.15}
"""Of a token of the twin's answers, which are of eight tokens, from two layers."""
LONE = "float32 regret of the twin's answers"
TWIN, TIMED = "regret of the twin's answers", "regret of timed answers"
MOST_ANSWERS = 8
"""Of the timed load, that are read again."""
TWIN_PROMPTS = (252, 5, 70, 9, 33, 1, 64, 65)
"""Tokens of the twin's prompts, as far as its slots are long enough: over chunks, of one token, of
a whole chunk, and beside one that goes on into the next reach."""

Reading = Callable[[Sequence[int], Sequence[int]], list[float]]
"""See `ServingJob.regrets`."""


def gate(
    workload: Workload,
    mode: str,
    parameters: Any,
    site: Site,
    switches: Collection[str] = (),
    kept: Kept = NOTHING,
    shorten: Callable[[bool], None] = lambda shortened: None,
) -> Numerics:
    """`numerics.gate` of the twin's logits, and its answers to a load, read by the reference.

    shorten: `Backend.shorten_float32`: in a process of tf32 the float32 answers are without it.
    """
    verdict = numerics.gate(workload, mode, parameters, site, switches, kept)
    twin = workload.twin(mode, parameters)
    reference = workload.build(mode, twin, numerics.reference_of(site))
    assert isinstance(reference, ServingJob)
    timed = site.precision.name
    alone = msgspec.structs.replace(
        site,
        precision=PRECISIONS["fp32"],
        # Compiled once more it would take as long again, and the timed precision shows that. To
        # multiply by experts in float32 torch asks the device where each one's rows begin, which
        # no graph can.
        execution=GRAPH if site.execution == GRAPH and "experts" not in reference.facts else EAGER,
    )
    sites = [(TWIN, site)] if timed == "fp32" else [(TWIN, site), (LONE, alone)]
    checks = list(verdict.checks)
    with answered_no(switches):
        for quantity, where in sites:
            shorten(where.precision.shortened)
            try:
                job = workload.build(mode, twin, where)
                assert isinstance(job, ServingJob)
                answered = of_twin(job, site.seed)
                job.close()
            finally:
                shorten(site.precision.shortened)
            limit = TWIN_REGRETS[where.precision.name]
            checks.append(check(quantity, answered.requests, reference.regrets, limit))
    reference.close()
    return Numerics(reference=verdict.reference, checks=tuple(checks))


def of_twin(job: ServingJob, seed: int) -> Loaded:
    """Its answers to prompts of every kind, all at once."""
    answer = max(2, min(8, job.length // 4))
    planned = [
        Planned(prompt_tokens=min(size, job.length - answer), new_tokens=answer, due_ns=0)
        for size in TWIN_PROMPTS
    ]
    load = Load(requests=tuple(planned), process="offline")
    return Loop(job, load, prompts(load, job.vocabulary, seed), job.slots).run()


def timed_answers(job: ServingJob, loaded: Loaded, precision: str, seed: int) -> Check:
    """Of answers of the timed load, by the job's own weights; drawn once all are there."""
    return check(TIMED, sample(loaded.requests, seed), job.regrets, REGRETS[precision])


def sample(requests: Sequence[Asked], seed: int) -> list[Asked]:
    """At random, each from another slot as far as there are so many."""
    left = list(requests)
    found: list[Asked] = []
    random.Random(f"answers {seed}").shuffle(left)
    used: set[int] = set()
    for request in left:
        if request.slot not in used and len(found) < MOST_ANSWERS:
            used.add(request.slot)
            found.append(request)
    return found


def check(quantity: str, requests: Sequence[Asked], read: Reading, limit: float) -> Check:
    """The worst token of all these answers; infinite where one is not as long as was asked."""
    worst = 0.0
    for request in requests:
        if len(request.answer) != request.new_tokens:
            worst = math.inf
            break
        found = read(request.prompt, request.answer)
        worst = max(worst, *(regret if math.isfinite(regret) else math.inf for regret in found))
    return Check(quantity=quantity, error=worst, tolerance=limit)
