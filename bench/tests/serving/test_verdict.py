"""What a load amounts to: a figure, or the first reason why there is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.judging import endpoint
from bench.records.endpoint import Client
from bench.records.outcome import Check, Measured, Outcome, Skipped, Void
from bench.records.served import Served, ServedRequest
from bench.serving import cases, gate, verdict
from bench.serving.gate import Judged
from bench.serving.reference import Truth
from bench.serving.stream import Spoken
from bench.serving.verdict import Found
from bench.tests.serving.values import CASE, MANIFEST, asks

MS = 10**6


def request(number: int, **other: object) -> ServedRequest:
    """One a millisecond, each of 5 tokens in 20 ms after 10."""
    due = number * MS
    times = {"due_ns": due, "admitted_ns": due, "first_ns": due + 10 * MS, "last_ns": due + 30 * MS}
    return ServedRequest(prompt_tokens=8, tokens=5, **{**times, **other})  # type: ignore[arg-type]


def served(requests: list[ServedRequest]) -> Served:
    moments = sorted(r.last_ns for r in requests if r.last_ns is not None)
    return Served(
        requests=tuple(requests),
        arrived_ns=tuple(moments),
        arrived_tokens=tuple(5 for _ in moments),
        ramp=4,
        load="0" * 16,
    )


def judged(error: float = 0.01, **other: object) -> Judged:
    given = {
        "checks": (Check(quantity="log-probabilities", error=error, tolerance=0.05),),
        "rounding": 0.03,
        "wrong": {},
        "witness": -3.5,
    }
    return Judged(**{**given, **other})  # type: ignore[arg-type]


REQUESTS = [request(number) for number in range(60)]
CLIENT = Client(late_ns=(MS,) * 60, cpu_seconds=0.2, wall_seconds=1.0, chunks=300)
GOOD = Found(
    case=CASE,
    served=served(REQUESTS),
    saturated="",
    client=CLIENT,
    stopped="",
    cached_tokens=0,
    drafted=False,
    fresh=True,
    unseen=True,
    before=judged(),
    after=judged(),
    regret=Check(quantity="regret under load", error=0.1, tolerance=0.4),
)


def outcome(**other: object) -> Outcome:
    return verdict.outcome(msgspec.structs.replace(GOOD, **other))


def test_a_good_load_has_the_figure_of_its_steady_window() -> None:
    found = outcome()
    assert isinstance(found, Measured) and found.served is not None
    window = found.served.window
    assert window is not None
    assert found.work.items == window.tokens and "not observed" in found.memory.scope
    (block,) = found.steady
    assert window.start_ns > 0 and block.wall_ns == block.step_ns[0] == window.seconds * 1e9
    assert [check.quantity for check in found.numerics.checks] == [
        *("log-probabilities", "log-probabilities", "regret under load")
    ]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"after": None}, "unverified: the server gives no log-probabilities"),
        ({"after": judged(0.06)}, "not the exported model, or not right: log-probabilities off"),
        (
            {"regret": Check(quantity="regret under load", error=0.5, tolerance=0.4)},
            "not right: regret under load off by 0.5",
        ),
        ({"regret": None}, "no answer under load could be checked"),
        ({"cached_tokens": 17}, "17 of 480 prompt tokens came from the server's prefix cache"),
        ({"cached_tokens": None, "unseen": False}, "the seed may have been used on this server"),
        ({"drafted": True}, "the server guessed tokens (speculative decoding)"),
        (
            {"client": msgspec.structs.replace(CLIENT, cpu_seconds=0.9)},
            "the client was busy for 90% of the time (bound 80%)",
        ),
        (
            {"client": msgspec.structs.replace(CLIENT, late_ns=(MS,) * 58 + (6 * MS,) * 2)},
            "the client was late: more than one request in a hundred by 6.0 ms and more (bound 5",
        ),
        (
            {"served": served([*REQUESTS, request(60, failed="status 503: no room")])},
            "1 of 61 requests failed: status 503: no room",
        ),
        ({"served": served(REQUESTS[:3])}, "no steady window"),
    ],
)
def test_a_load_without_a_figure_says_why(other: dict[str, object], why: str) -> None:
    found = outcome(**other)
    assert isinstance(found, Void) and why in found.reason


def test_prompts_that_nobody_had_before_need_no_counter() -> None:
    assert isinstance(outcome(cached_tokens=None), Measured)


def test_a_few_tokens_of_a_prompt_by_chance_are_no_prompt() -> None:
    """SGLang keeps single tokens: two prompts of a load may begin with the same one."""
    long = [msgspec.structs.replace(one, prompt_tokens=2000) for one in REQUESTS]
    assert isinstance(outcome(served=served(long), cached_tokens=2), Measured)
    assert isinstance(outcome(served=served(long), cached_tokens=121), Void)


@pytest.mark.parametrize("unseen", [True, False])
def test_a_cache_that_cannot_have_had_the_prompts_is_not_said_to(unseen: bool) -> None:
    """A server that preempted a request reads its prompt again, and counts what it still has."""
    found = outcome(cached_tokens=17, unseen=unseen)
    assert isinstance(found, Void)
    assert "that it had preempted. Give it more cache, or lower the concurrency" in found.reason
    assert ("it had these prompts before (leave out --seed, or" in found.reason) is not unseen


@pytest.mark.parametrize("cached", [7 * 60, 8 * 60])
def test_new_prompts_that_are_all_counted_as_cached_were_read_by_another_process(
    cached: int,
) -> None:
    """As a server that only decodes counts what another one prefilled."""
    assert isinstance(outcome(cached_tokens=cached), Measured)
    for other in ({"cached_tokens": cached - 61}, {"cached_tokens": cached, "fresh": False}):
        found = outcome(**other)
        assert isinstance(found, Void) and "server's prefix cache" in found.reason


def test_guessing_that_was_declared_is_another_case() -> None:
    (declared,) = cases.cases(asks(speculation=True), MANIFEST)
    assert declared.fingerprint != CASE.fingerprint
    assert isinstance(outcome(drafted=True, case=declared), Measured)


def test_lateness_counts_only_beside_what_is_measured() -> None:
    """6 ms are nothing beside a TTFT of 200."""
    times = [(n, n + 200, n + 220) for n in range(0, 1200, 20)]
    slow = [request(n, first_ns=f * MS, last_ns=e * MS) for n, f, e in times]
    late = msgspec.structs.replace(CLIENT, late_ns=(6 * MS,) * 60)
    assert isinstance(outcome(served=served(slow), client=late), Measured)


def test_one_request_may_be_late() -> None:
    late = msgspec.structs.replace(CLIENT, late_ns=(MS,) * 59 + (600 * MS,))
    assert isinstance(outcome(client=late), Measured)


def test_lateness_counts_for_none_of_an_offline_load() -> None:
    """All is sent before the first has ended: no figure of the steady window
    waits for the client."""
    late = msgspec.structs.replace(CLIENT, late_ns=tuple(n * MS // 6 for n in range(60)))
    times = [(n // 6, 12 + n, 24 + n) for n in range(60)]
    once = served(
        [request(0, admitted_ns=a * MS, first_ns=f * MS, last_ns=e * MS) for a, f, e in times]
    )
    assert once.window is not None and endpoint.late(late, once) is None
    assert isinstance(outcome(served=once, client=late), Measured)


def test_saturation_is_a_result_and_no_fault() -> None:
    found = outcome(saturated="saturated: 4 came, 2 were answered")
    assert isinstance(found, Skipped) and found.reason.startswith("saturated")
    # But not of a server that answers wrongly.
    assert isinstance(outcome(saturated="saturated: ...", after=judged(0.06)), Void)


def test_a_client_that_stood_still_has_a_flag() -> None:
    assert isinstance(found := outcome(), Measured) and found.flags == ()
    found = outcome(stopped="the client stood still for 4 s")
    assert isinstance(found, Measured) and found.flags == ("STOPPED",)
    assert found.causes == {"STOPPED": "the client stood still for 4 s"}


def truth(rounding: float, regret: float = 0.0) -> Truth:
    exact = ((-1.0, -2.0), (-3.0, -4.0))
    return Truth(
        logprobs=exact,
        best=((-1.0, -2.0), (-3.0, -4.0 + regret)),
        rounded=tuple(tuple(v + rounding for v in one) for one in exact),
        wrong={"int8 weights": 0.07, "a layer missing": 0.6},
    )


def said(off: float) -> list[Spoken]:
    return [
        Spoken(prompt=(1,), tokens=(2, 3), logprobs=tuple(v + off for v in one))
        for one in truth(0.0).logprobs
    ]


@pytest.mark.parametrize(
    ("off", "rounding", "passes"),
    [(0.033, 0.033, True), (0.074, 0.033, False), (0.001, 1e-6, True), (0.033, 1e-6, False)],
)
def test_the_gate_allows_rounding_and_no_more(off: float, rounding: float, passes: bool) -> None:
    found = gate.judge("before", said(off), truth(rounding))
    assert found.checks[0].passed is passes
    assert found.rounding == pytest.approx(rounding)


@pytest.mark.parametrize(("rounding", "passes"), [(0.03, []), (0.05, ["int8 weights"])])
def test_the_gate_says_which_wrong_models_it_would_let_pass(
    rounding: float, passes: list[str]
) -> None:
    found = gate.judge("before", said(0.0), truth(rounding))
    assert [n for n, far in found.wrong.items() if far <= found.checks[0].tolerance] == passes


@pytest.mark.parametrize(("worst", "passes"), [(0.054, True), (1.25, False)])
def test_the_regret_of_one_token_is_enough(worst: float, passes: bool) -> None:
    """As measured: a right engine in bfloat16, and one that forgets a token in fifty."""
    assert gate.regret(truth(0.033, worst), 0.033).passed is passes
    assert not gate.regret(truth(0.033, float("nan")), 0.033).passed


def test_a_sample_is_spread_over_the_load() -> None:
    answers = [((n,), (n, n)) for n in range(40)]
    assert [text.prompt[0] for text in gate.sample(answers)] == [5, 15, 25, 35]
    assert len(gate.sample(answers[:2])) == 2 and gate.sample([]) == []


def test_of_an_answer_as_many_tokens_are_read_as_are_asked_for_by_default() -> None:
    """A server may be wrong only where much stands before."""
    from bench.commands.serve_bench import serve_bench

    defaults: dict[str | None, Any] = {one.name: one.default for one in serve_bench.params}
    tokens: int = defaults["output_tokens"]
    (text,) = gate.sample([((1,), (2,) * tokens)])
    assert len(text.tokens) == tokens == 1024
