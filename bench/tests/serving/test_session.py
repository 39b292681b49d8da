"""A launch on a server: what it amounts to, for each way in which a server may be wrong."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.errors import AccelmarkError, ServerError
from bench.records.outcome import Failed, Measured, Void
from bench.serving import cases, gate, run, server, session, verdict
from bench.serving import reference as asked_of_it
from bench.serving.load import Driven, drive
from bench.serving.reference import Text, Truth
from bench.serving.session import Ask, Came
from bench.serving.wire import Endpoint
from bench.tests.serving.mock import Manners, Mock, reference
from bench.tests.serving.values import MANIFEST, asks


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client and server share one interpreter here, and the machine with other tests."""
    monkeypatch.setattr(verdict, "LATE_SECONDS", 60.0)
    monkeypatch.setattr(verdict, "BUSY", 60.0)
    monkeypatch.setattr(gate, "PROMPTS", 4)


def ask(url: str, wanted: cases.Asks | None = None, **other: Any) -> Ask:
    return Ask(
        endpoint=Endpoint.of(url),
        folder=Path("nowhere"),
        manifest=MANIFEST,
        cases=cases.cases(wanted or asks(), MANIFEST),
        **{"seed": 7, "fresh_seed": True, **other},
    )


def launched(mock: Mock, wanted: cases.Asks | None = None, **other: Any) -> list[Came]:
    with mock.running() as url:
        return session.launch(ask(url, wanted, **other), 0, reference, None, lambda _: None)


def test_a_right_server_is_measured_in_each_load_and_described_without_its_secrets() -> None:
    wanted = asks(concurrencies=(1, 4), rates=(400.0,), offline=True)
    came = launched(Mock(Manners(per_chunk=2, ttft=0.001)), wanted)
    assert [one.case.parameters["arrival"] for one in came] == [
        *("closed", "closed", "poisson", "offline")
    ]
    for one in came[:3]:
        outcome, seen = one.outcome, one.seen
        assert isinstance(outcome, Measured) and outcome.served is not None, outcome
        assert seen is not None and seen.client is not None
        tokens = sum(request.tokens for request in outcome.served.requests)
        assert (tokens, seen.client.chunks, seen.cached_tokens) == (20 * 6, 20 * 3, 0)
        assert seen.warm_up_requests == 20 and seen.wrong.keys() == {
            *("int8 weights", "a layer missing")
        }
    # All come at once and end as one, but for those that waited: there may be no steady part.
    assert isinstance(came[3].outcome, Void | Measured)
    seen = came[0].seen
    assert seen is not None
    assert seen.server.name == "mock" and seen.server.version == "1.2.3"
    assert seen.server.same_host and seen.server.started == "before the run"
    said = str(seen.server)
    assert "secret-of-theirs" not in said and "alice" not in said
    assert seen.server.settings["model.max_model_len"] == "2048"


def test_requests_that_are_sent_at_once_are_measured_while_the_server_is_full() -> None:
    """Few slots: who waits for one is let in long after it was sent."""
    wanted = asks(concurrencies=(), offline=True, requests=40)
    (came,) = launched(Mock(Manners(slots=4, ttft=0.02, gap=0.004)), wanted)
    outcome = came.outcome
    assert isinstance(outcome, Measured) and outcome.served is not None, outcome
    window, asked = outcome.served.window, outcome.served.requests
    assert window is not None
    ends = sorted(one.last_ns for one in asked if one.last_ns is not None)
    assert window.start_ns == ends[3] and ends[35] < window.end_ns < ends[-1]


def test_another_model_is_refused_before_any_load() -> None:
    mock = Mock(Manners(off=0.08))
    (came,) = launched(mock)
    assert isinstance(came.outcome, Void) and came.outcome.numerics is not None
    assert "log-probabilities before the load off by 0.08 (tolerance 0.045)" in came.outcome.reason
    assert mock.streams == 8, "warm-up alone"


def test_a_server_that_is_right_only_when_idle_is_refused() -> None:
    (came,) = launched(Mock(Manners(wrong_load=True)))
    assert isinstance(came.outcome, Void) and "regret under load" in came.outcome.reason
    assert came.seen is not None and came.seen.load is not None
    assert len(came.seen.load.requests) == 20, "its requests are kept all the same"


def test_a_server_without_log_probabilities_is_unverified() -> None:
    (came,) = launched(Mock(Manners(logprobs=False)))
    assert came.outcome == Void(reason=verdict.UNVERIFIED)


@pytest.mark.parametrize("counted", ["by its answers", "by its counters", "not at all"])
def test_a_prefix_cache_that_knows_the_prompts_is_seen(counted: str) -> None:
    """The second launch has the seed of the first, on the same server."""
    manners = Manners(
        prefix_cache=True,
        tells_cached=counted == "by its answers",
        metrics="vllm:prefix_cache_hits_total" if counted == "by its counters" else "",
    )
    mock = Mock(manners)
    with mock.running() as url:
        for number in range(2):
            given = ask(url, seed=3, fresh_seed=number == 0)
            (came,) = session.launch(given, 0, reference, None, lambda _: None)
            if number == 0:
                assert isinstance(came.outcome, Measured), came.outcome
    assert isinstance(came.outcome, Void)
    # 20 prompts of 8 tokens, the last of which is always read.
    why = "may have been used" if counted == "not at all" else "140 of 160 prompt tokens"
    assert why in came.outcome.reason


@pytest.mark.parametrize("fresh", [True, False])
def test_a_server_for_which_another_reads_the_prompts_is_measured_if_they_are_new(
    fresh: bool,
) -> None:
    (came,) = launched(Mock(Manners(decodes_only=True)), fresh_seed=fresh)
    assert isinstance(came.outcome, Measured if fresh else Void), came.outcome
    assert came.seen is not None and came.seen.cached_tokens == 20 * 7


def test_a_server_that_guesses_tokens_is_seen_by_its_gauge() -> None:
    """As SGLang shows it: no counter, and the gauge rests where the warm-up left it."""
    gauge = 'sglang:spec_accept_length{model_name="m"} 3.1\n'
    (came,) = launched(Mock(Manners(metrics=gauge)))
    assert isinstance(came.outcome, Void)
    assert "the server guessed tokens (speculative decoding)" in came.outcome.reason
    assert came.seen is not None and came.seen.guessed is True


@pytest.mark.parametrize(
    ("metrics", "guessed"), [("", None), ("vllm:num_requests_running 0\n", False)]
)
def test_what_nobody_shows_is_unknown_and_not_none(metrics: str, guessed: bool | None) -> None:
    (came,) = launched(Mock(Manners(metrics=metrics)))
    assert isinstance(came.outcome, Measured)
    assert came.seen is not None and came.seen.guessed is guessed


def test_a_failed_request_is_a_row_and_there_is_no_figure() -> None:
    (came,) = launched(Mock(Manners(error="drop", error_from=20)))
    assert isinstance(came.outcome, Void) and "of 20 requests failed" in came.outcome.reason
    assert came.seen is not None and came.seen.load is not None
    failed = [r for r in came.seen.load.requests if r.failed]
    assert len(failed) == 8 and all(r.tokens == 2 for r in failed)


def test_a_server_that_fails_while_it_warms_up_is_a_failure() -> None:
    (came,) = launched(Mock(Manners(error="status")))
    assert isinstance(came.outcome, Failed) and came.outcome.phase == "warm-up"
    assert "status 503" in came.outcome.reason


def test_a_server_without_room_for_all_that_warms_it_up_is_no_failure() -> None:
    """Five of the second ten are turned away; the load is judged by itself, and none is left."""
    wanted = asks(concurrencies=(), offline=True)
    (came,) = launched(Mock(Manners(error="status", error_from=15)), wanted)
    assert isinstance(came.outcome, Void), came.outcome
    assert came.outcome.reason.startswith("no answer under load could be checked: status 503")


def test_a_server_that_dies_under_load_leaves_every_request_of_it() -> None:
    """20 requests warm it up, 20 are the first load: it dies in the second."""
    wanted = asks(concurrencies=(1, 4), offline=True)
    first, second, third = launched(Mock(Manners(dies_after=20 + 20 + 10)), wanted)
    assert isinstance(first.outcome, Measured), first.outcome
    assert isinstance(second.outcome, Failed) and second.seen is not None
    assert second.seen.load is not None and len(second.seen.load.requests) == 20
    failed = sum(bool(request.failed) for request in second.seen.load.requests)
    assert failed >= 6
    assert second.outcome.message.startswith(f"{failed} of 20 requests failed: the server closed")
    assert "did not answer: the server closed" in second.outcome.message
    assert isinstance(third.outcome, Failed)


@pytest.mark.parametrize(
    ("manners", "other", "why"),
    [
        (Manners(word="v"), {}, "not of the exported model's tokenizer: 'v"),
        (Manners(ttft=5.0), {"request_seconds": 0.05}, "give it longer: --request-limit"),
        (Manners(error="status"), {}, "status 503"),
    ],
)
def test_a_warm_up_that_fails_says_what_to_do(
    manners: Manners, other: dict[str, Any], why: str
) -> None:
    (came,) = launched(Mock(manners), **other)
    assert isinstance(came.outcome, Failed) and came.outcome.phase == "warm-up"
    assert why in came.outcome.message


def test_strings_alone_are_said_to_need_an_option() -> None:
    hint = session._hint(ask("http://127.0.0.1:9"), "status 400: prompts are strings")
    assert hint.endswith("give --text")
    assert session._hint(ask("http://127.0.0.1:9", as_text=True), "status 400: x") == ""


def test_an_interrupt_beside_the_reference_keeps_the_loads() -> None:
    """They are not answered for, but they are there; and the interrupt goes on."""

    def interrupted(folder: Path, texts: Sequence[Text], wrong: bool) -> Truth:
        if not wrong:
            raise KeyboardInterrupt
        return reference(folder, texts, wrong)

    with Mock(Manners()).running() as url, pytest.raises(session.Interrupted) as caught:
        session.launch(ask(url), 0, interrupted, None, lambda _: None)
    (came,) = caught.value.came
    assert isinstance(came.outcome, Failed) and "interrupted before" in came.outcome.message
    assert came.seen is not None and came.seen.load is not None


def test_an_interrupt_beside_the_first_reference_is_no_failure_of_it() -> None:
    """The reference's own process dies of the same Ctrl-C, which says nothing of its memory."""

    def interrupted(folder: Path, texts: Sequence[Text], wrong: bool) -> Truth:
        signal.raise_signal(signal.SIGINT)
        raise AccelmarkError("the reference failed (KeyboardInterrupt)")

    with Mock(Manners()).running() as url, pytest.raises(session.Interrupted) as caught:
        session.launch(ask(url), 0, interrupted, None, lambda _: None)
    assert caught.value.came == []


@pytest.mark.parametrize(
    ("manners", "other", "why"),
    [
        (Manners(token="abc"), {}, "it wants a token"),
        (Manners(token="abc"), {"token": "abd"}, "does not take the token .* Put a right one"),
        (Manners(), {"model": "n"}, "--model n: the server has m"),
        (Manners(), {"command": "true"}, "a server answers there already"),
    ],
)
def test_a_server_that_cannot_be_measured_as_asked_is_bad_input(
    manners: Manners, other: dict[str, Any], why: str
) -> None:
    with pytest.raises(ServerError, match=why):
        launched(Mock(manners), **other)


def test_no_server_is_bad_input_and_one_that_dies_a_failure() -> None:
    with Mock(Manners()).running() as url:
        pass
    with pytest.raises(ServerError, match="no connection"):
        session.launch(ask(url), 0, reference, None, lambda _: None)
    command = f"{sys.executable} -c 'print(\"no such model\"); raise SystemExit(3)'"
    (came,) = session.launch(ask(url, command=command), 0, reference, None, lambda _: None)
    assert isinstance(came.outcome, Failed) and came.outcome.phase == "start"
    assert "exit code 3" in came.outcome.reason and "no such model" in came.outcome.reason


def test_a_server_that_never_names_a_model_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would take all of --ready-limit each time."""
    started = []

    class Nameless(server.Process):
        async def ready(self, *given: Any) -> None:
            started.append(given)
            raise server.NoModel("it names no model")

    with Mock(Manners()).running() as url:
        pass
    monkeypatch.setattr(server, "Process", Nameless)
    with pytest.raises(ServerError, match="names no model"):
        run.run(ask(url, command="sleep 60"), 3, out=tmp_path, reference=reference)
    assert len(started) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wanted", "requests"),
    [
        (asks(concurrencies=(1,), rates=(16.0,), requests=None), 40),
        (asks(concurrencies=(1, 32), rates=(16.0,), requests=None), 64),
        (asks(concurrencies=(), offline=True, requests=500), 64),
        (asks(concurrencies=(4,)), 8),
    ],
)
def test_a_server_is_warmed_up_for_the_widest_load_of_any_kind(
    wanted: cases.Asks, requests: int
) -> None:
    """Half of them at a time: what an open load has in flight is not said beforehand."""
    assert len(cases.warm_up(cases.cases(wanted, MANIFEST), 512, 1)) == requests


def test_prompts_of_two_seeds_differ_and_lengths_and_arrivals_do_not() -> None:
    (case,) = cases.cases(asks(concurrencies=(), rates=(4.0,)), MANIFEST)
    first, second = (cases.drawn(case, 512, seed, set()) for seed in (1, 2))
    assert first.load.digest == second.load.digest
    starts = {asked.prompt for asked in (*first.asked, *second.asked)}
    assert len(starts) == 40


def test_no_prompt_of_a_load_begins_as_one_before_it() -> None:
    """In all of a launch: a cache that keeps single tokens would know the first."""
    mock = Mock(Manners(cheap=True))
    launched(mock, asks(concurrencies=(1, 10), requests=40))
    firsts = [body["prompt"][0] for body in mock.bodies]
    spoken = [not body.get("stream") for body in mock.bodies]
    # 20 warm it up, four are asked before and after, and each load has 40.
    assert len(firsts) == 20 + 4 + (40 + 4) * 2
    for start in (20 + 4, 20 + 4 + 40 + 4):
        load = firsts[start : start + 40]
        assert not any(spoken[start : start + 40])
        assert len({*load}) == 40 and not {*load} & {*firsts[:start]}


def test_prompts_begin_alike_only_where_there_are_no_more_tokens() -> None:
    (case,) = cases.cases(asks(), MANIFEST)
    firsts = [one.prompt[0] for one in cases.drawn(case, 12, 1, {0, 1}).asked]
    assert len(firsts) == 20 and {*firsts[:10]} == {*range(2, 12)}


def test_a_reference_that_takes_too_long_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(asked_of_it, "LIMIT_SECONDS", 0.01)
    with pytest.raises(AccelmarkError, match=r"had not answered after 0.01 s. It computes 1 texts"):
        asked_of_it.in_a_process(tmp_path, [Text(prompt=(1,), tokens=(2,))], False)


def test_a_reference_that_fails_after_the_load_costs_the_figure_and_not_the_load() -> None:
    calls = []

    def failing(folder: Path, texts: Sequence[Text], wrong: bool) -> Truth:
        calls.append(wrong)
        if len(calls) > 1:
            raise AccelmarkError("no memory for a layer in float64")
        return reference(folder, texts, wrong)

    with Mock(Manners()).running() as url:
        (came,) = session.launch(ask(url), 0, failing, None, lambda _: None)
    assert isinstance(came.outcome, Failed) and came.outcome.phase == "numerics"
    assert calls == [True, False] and came.seen is not None and came.seen.load is not None


def test_a_reference_that_fails_leaves_the_loads_that_it_has_spoken_of() -> None:
    """It is asked of each load by itself; and of what one has cost, no other is tried."""
    calls = []

    def failing(folder: Path, texts: Sequence[Text], wrong: bool) -> Truth:
        calls.append(len(texts))
        if len(calls) == 3:
            raise AccelmarkError("no memory for a layer in float64")
        return reference(folder, texts, wrong)

    with Mock(Manners()).running() as url:
        given = ask(url, asks(concurrencies=(1, 2, 4)))
        came = session.launch(given, 0, failing, None, lambda _: None)
    first, second, third = (one.outcome for one in came)
    assert isinstance(first, Measured), first
    assert isinstance(second, Failed) and isinstance(third, Failed)
    assert calls == [4, 4 + 4, 4 + 4] and all(one.seen is not None for one in came)


def test_a_load_under_which_the_client_stood_still_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stood(*given: Any) -> Driven:
        found = await drive(*given)
        found.stood = [(0, 10**12, 10**12)]
        return found

    monkeypatch.setattr(session, "drive", stood)
    (came,) = launched(Mock(Manners()))
    assert isinstance(came.outcome, Measured) and came.outcome.flags == ("STOPPED",)
    assert came.outcome.causes["STOPPED"] == "the client stood still for 1e+03 s"
