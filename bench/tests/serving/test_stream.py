"""One streamed answer: its times, its tokens, and each way in which it may go wrong."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator

import pytest

from bench.judging.serving import Limits, tpot, ttft
from bench.serving.framing import Broken
from bench.serving.stream import Answer, Asked, Dialect, Spoken, decoded, speak, stream
from bench.serving.wire import Endpoint, Pool
from bench.tests.serving import mock as mocking
from bench.tests.serving.mock import Manners, Mock

ASKED = Asked(prompt=tuple(range(40)), new_tokens=12)
MS = 10**6


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Mock, str]]:
    mock = Mock(Manners())
    with mock.running() as url:
        yield mock, url


@pytest.fixture
def mock(server: tuple[Mock, str]) -> Mock:
    found = server[0]
    found.manners, found.streams = Manners(), 0
    found.truths.clear()
    return found


def asked(url: str, limit: float = 20.0, dialect: Dialect | None = None) -> Answer:
    async def one() -> Answer:
        pool = Pool(Endpoint.of(url))
        answer = Answer(ASKED, time.perf_counter_ns())
        await stream(pool, dialect or Dialect(model="m"), answer, limit)
        pool.close()
        return answer

    return asyncio.run(one())


@pytest.mark.parametrize("per_chunk", [1, 5])
def test_tokens_and_times_are_the_servers(
    mock: Mock, server: tuple[Mock, str], per_chunk: int
) -> None:
    """Nothing arrives before it was written: a busy machine may only make it later."""
    mock.manners = Manners(ttft=0.02, gap=0.002, per_chunk=per_chunk, stall_after=6, stall=0.02)
    answer = asked(server[1])
    assert len(mock.truths) == 1
    request = answer.served(answer.due_ns)
    assert answer.failed == "" and request.tokens == 12
    assert answer.chunks == -(-12 // per_chunk)
    assert answer.arrived[0][0] >= answer.due_ns + 0.02e9
    # Of the last tokens too, after the stall.
    gaps = answer.chunks - 1
    assert answer.arrived[-1][0] >= answer.due_ns + 0.02e9 + gaps * 0.002e9 + 0.02e9
    assert answer.words == tuple(mocking.answer(ASKED.prompt, 12)[0])


def test_the_time_of_a_token_is_over_tokens_that_came_after_the_first_burst() -> None:
    """12 tokens in 3 chunks, 10 ms apart but for a stall of 50: 8 of them took 70 ms."""
    answer = Answer(ASKED, 5 * MS)
    answer.sent_ns = 6 * MS
    for moment, words in ((25, " w1 w2 w3 w4"), (35, " w5 w6 w7 w8 w9 w1"), (95, "0 w11 w12")):
        said = b'{"choices": [{"text": "%s"}]}' % words.encode()
        answer.take(moment * MS, decoded(said))
    answer.take(96 * MS, decoded(b'{"usage": {"completion_tokens": 12, "prompt_tokens": 40}}'))
    request = answer.served(5 * MS)
    assert answer.check() == "" and answer.words == tuple(range(1, 13))
    assert ttft(request) == 0.02
    assert request.first_tokens == 4
    assert tpot(request) == pytest.approx(0.07 / 8)
    assert answer.arrived == [(25 * MS, 4), (35 * MS, 6), (95 * MS, 2)]


@pytest.mark.parametrize(("burst", "each"), [(1, 0.02), (8, 0.02), (16, 0.02), (32, None)])
def test_the_time_of_a_token_is_that_of_the_server_whatever_is_in_a_burst(
    burst: int, each: float | None
) -> None:
    """A token each 20 ms, handed on as so many are there; a burst comes in pieces, 0.1 ms apart."""
    answer = Answer(Asked(prompt=(1,), new_tokens=32), 0)
    answer.sent_ns = 0
    for token in range(32):
        moment = 20 * MS * (token // burst + 1) * burst + token % burst // 5 * MS // 10
        answer.take(moment, decoded(b'{"choices": [{"text": " w1"}]}'))
    answer.take(moment, decoded(b'{"usage": {"completion_tokens": 32}}'))
    request = answer.served(0)
    assert answer.check() == "" and request.first_tokens == burst
    assert tpot(request) == (None if each is None else pytest.approx(each, rel=0.002))
    for limit, kept in ((0.03, True), (0.019, False)):
        assert Limits(ttft_seconds=10.0, tpot_seconds=limit).kept(request) is kept


@pytest.mark.parametrize(
    ("manners", "why"),
    [
        (Manners(error="status"), "status 503: .*no room"),
        (Manners(error="event"), "the server says: .*engine is dead"),
        (Manners(error="drop"), "closed the connection in the middle"),
        (Manners(error="garbage"), "a chunk of size"),
        (Manners(error="no end"), r"ended without \[DONE\], after 12 tokens"),
        (Manners(short=3), "9 tokens, not 12 as asked"),
        (Manners(usage=False), "no usage"),
        (Manners(stall_after=6, stall=30.0), "no whole answer within 0.2 s"),
    ],
)
def test_what_goes_wrong_is_a_row_with_its_reason(
    mock: Mock, server: tuple[Mock, str], manners: Manners, why: str
) -> None:
    mock.manners = manners
    answer = asked(server[1], limit=0.2 if manners.stall else 20.0)
    assert re.search(why, answer.failed), answer.failed
    assert answer.served(answer.due_ns).failed == answer.failed


def test_usage_and_text_must_agree() -> None:
    answer = Answer(ASKED, 0)
    answer.take(1, decoded(b'{"choices": [{"text": " w1 w2"}]}'))
    answer.take(2, decoded(b'{"choices": [], "usage": {"completion_tokens": 12}}'))
    assert answer.check() == "usage says 12 tokens, the text has 2"
    assert Answer(ASKED, 0).check().startswith("the server gave no usage")


def test_a_prompt_that_was_read_otherwise_is_refused() -> None:
    answer = Answer(ASKED, 0)
    answer.take(1, decoded(b'{"usage": {"completion_tokens": 12, "prompt_tokens": 41}}'))
    assert "read 41 tokens of a prompt of 40" in answer.check()


def test_prompts_go_as_text_where_a_server_wants_that(mock: Mock, server: tuple[Mock, str]) -> None:
    answer = asked(server[1], dialect=Dialect(model="m", as_text=True))
    assert answer.failed == "" and isinstance(mock.bodies[-1]["prompt"], str)
    assert mock.bodies[-1]["temperature"] == 0 and mock.bodies[-1]["max_tokens"] == 12


def spoken(url: str, dialect: Dialect | None = None) -> Spoken | None:
    async def one() -> Spoken | None:
        pool = Pool(Endpoint.of(url))
        try:
            return await speak(pool, dialect or Dialect(model="m"), ASKED, 20.0)
        finally:
            pool.close()

    return asyncio.run(one())


def test_log_probabilities_are_read(mock: Mock, server: tuple[Mock, str]) -> None:
    found = spoken(server[1])
    tokens, logprobs = mocking.answer(ASKED.prompt, 12)
    assert found == Spoken(prompt=ASKED.prompt, tokens=tuple(tokens), logprobs=tuple(logprobs))
    mock.manners = Manners(logprobs=False)
    assert spoken(server[1]) is None
    mock.manners = Manners(as_text_only=True)
    with pytest.raises(Broken, match=r"status 400: .*strings"):
        spoken(server[1])
    assert spoken(server[1], Dialect(model="m", as_text=True)) == found


@pytest.mark.parametrize("said", [b"{", b"[]", b'{"error": "\xff"}', b'{"x": ' + b"[" * 10**5])
def test_what_is_no_event_breaks_its_stream_alone(said: bytes) -> None:
    with pytest.raises(Broken, match="an event that is none"):
        decoded(said)
