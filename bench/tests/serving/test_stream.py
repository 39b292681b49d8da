"""One streamed answer: its times, its tokens, and each way in which it may go wrong."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import Callable, Iterator

import pytest

from bench.judging.serving import tpot, ttft
from bench.serving.framing import Broken
from bench.serving.stream import Answer, Asked, Dialect, Spoken, decoded, speak, stream
from bench.serving.wire import Endpoint, Pool
from bench.tests.serving import mock as mocking
from bench.tests.serving.mock import Manners, Mock

ASKED = Asked(prompt=tuple(range(40)), new_tokens=12)
Put = Callable[..., Mock]


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
def test_times_and_tokens_are_the_servers(
    mock: Mock, server: tuple[Mock, str], per_chunk: int
) -> None:
    mock.manners = Manners(ttft=0.03, gap=0.006, per_chunk=per_chunk)
    answer = asked(server[1])
    (truth,) = mock.truths
    request = answer.served(answer.due_ns)
    assert answer.failed == "" and request.tokens == 12
    assert answer.chunks == -(-12 // per_chunk)
    first, each = ttft(request), tpot(request)
    assert first is not None and each is not None
    # Not sooner than it was written; and as long after the first as the server took.
    assert first >= 0.03
    assert each == pytest.approx((truth[2] - truth[1]) / 1e9 / 11, abs=0.004)
    assert answer.words == tuple(mocking.answer(ASKED.prompt, 12)[0])


def test_a_stall_is_in_the_time_of_a_token(mock: Mock, server: tuple[Mock, str]) -> None:
    mock.manners = Manners(stall_after=6, stall=0.1)
    answer = asked(server[1])
    moments = [ns for ns, _ in answer.arrived]
    longest = max(b - a for a, b in itertools.pairwise(moments))
    each = tpot(answer.served(answer.due_ns))
    assert answer.failed == "" and longest >= 0.09e9
    assert each is not None and each >= 0.1 / 11


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
