"""The load: what is due when, who is late, and when the queue only grows."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from typing import Any

import msgspec
import pytest

from bench.planning.arrivals import Lengths, Load, closed, poisson
from bench.records.served import Window
from bench.serving import load as loading
from bench.serving import wire
from bench.serving.load import Drawn, Driven, Queue, drive
from bench.serving.stream import GIVEN_UP, Answer, Asked, Dialect
from bench.serving.wire import Connection, Endpoint, Pool
from bench.tests.serving.mock import Manners, Mock

SECOND = 10**9


def drawn(load: Load) -> Drawn:
    words = random.Random(1)
    return Drawn(
        load=load,
        asked=tuple(
            Asked(
                prompt=tuple(words.randrange(512) for _ in range(one.prompt_tokens)),
                new_tokens=one.new_tokens,
                due_ns=one.due_ns,
            )
            for one in load.requests
        ),
    )


def driven(mock: Mock, load: Load, kind: type[Pool] = Pool) -> Driven:
    async def one(url: str) -> Driven:
        pool = kind(Endpoint.of(url))
        try:
            return await drive(pool, Dialect(model="m"), drawn(load), 20.0)
        finally:
            pool.close()

    with mock.running() as url:
        return asyncio.run(one(url))


LENGTHS = Lengths(input_tokens=4, output_tokens=4)


def test_a_closed_loop_keeps_so_many_in_flight() -> None:
    found = driven(Mock(Manners()), closed(12, LENGTHS, concurrency=3, seed=1))
    served = found.served(3)
    assert len(served.requests) == 12 and not any(r.failed for r in served.requests)
    assert [r.due_ns for r in served.requests[:3]] == [0, 0, 0]
    # The next is due when one has ended: not when the client has noticed it.
    ends = {(answer.ended_ns or 0) - found.zero_ns for answer in found.answers}
    assert {r.due_ns for r in served.requests[3:]} <= ends
    assert sum(served.arrived_tokens) == 48
    assert min(found.client.late_ns) >= 0 and found.client.chunks == 48
    assert 0 < found.cpu_seconds <= found.wall_seconds + 0.02  # the clocks' ticks differ


def test_a_closed_load_that_is_cancelled_asks_no_more() -> None:
    """As Ctrl-C does it: whoever keeps one in flight must not take the next."""
    mock = Mock(Manners(ttft=0.02, cheap=True))

    async def cancelled(url: str) -> int:
        pool = Pool(Endpoint.of(url))
        load = drawn(closed(40, LENGTHS, concurrency=2, seed=1))
        making = asyncio.create_task(drive(pool, Dialect(model="m"), load, 20.0))
        while len(mock.truths) < 4:
            await asyncio.sleep(0.001)
        making.cancel()
        asked = mock.streams
        with pytest.raises(asyncio.CancelledError):
            await making
        pool.close()
        return asked

    with mock.running() as url:
        asked = asyncio.run(cancelled(url))
    # The two in flight may have ended, and been followed, while the mock was looked at.
    assert asked <= mock.streams <= asked + 2


def test_requests_come_when_they_are_due_whatever_the_server_does() -> None:
    """One slot: each waits for all before it, and that is in its TTFT."""
    found = driven(Mock(Manners(slots=1, ttft=0.02)), poisson(8, LENGTHS, rate=400.0, seed=1))
    served = found.served(1)
    planned = [one.due_ns for one in found.drawn.load.requests]
    assert [r.due_ns for r in served.requests] == planned
    last = served.requests[-1]
    # All are due within 40 ms or so, and each of eight keeps the slot for 20 or more.
    assert last.first_ns is not None and last.first_ns >= 8 * 0.02e9


def test_no_request_waits_until_a_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server looks at a new one 0.15 s late, and requests come further apart than one idles."""
    monkeypatch.setattr(wire, "IDLE_SECONDS", 1.0)
    monkeypatch.setattr(wire, "KEEP_SECONDS", 0.25)
    mock = Mock(Manners(accepts=0.15))
    planned = closed(3, LENGTHS, concurrency=1, seed=1).requests
    apart = [
        msgspec.structs.replace(one, due_ns=number * 1_400_000_000)
        for number, one in enumerate(planned, start=1)
    ]
    found = driven(mock, Load(requests=tuple(apart), process="poisson"))
    assert not any(answer.failed for answer in found.answers)
    ours = [
        answer.arrived[0][0] - answer.due_ns - (first - asked)
        for answer, (asked, first, _) in zip(found.answers, sorted(mock.truths), strict=True)
    ]
    assert statistics.median(ours) < 0.15 * SECOND


def test_a_client_that_connects_is_late() -> None:
    """Not when it began to, but when it has sent what was due."""

    class Far(Pool):
        async def connection(self) -> Connection:
            await asyncio.sleep(0.05)
            return await super().connection()

    found = driven(Mock(Manners()), poisson(4, LENGTHS, rate=400.0, seed=1), Far)
    assert min(found.client.late_ns) >= 0.05 * SECOND


ANSWER = (
    b'data: {"choices": [{"text": " w1 w1 w1 w1"}]}\n\n'
    b'data: {"choices": [], "usage": {"completion_tokens": 4}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(ANSWER), b"\r\n0\r\n\r\n"),
        (b"Connection: close\r\n\r\n", b""),
    ],
)
def test_a_server_that_ends_its_responses_late_is_not_the_client(begin: bytes, end: bytes) -> None:
    """As middleware makes it: all tokens are there, and the connection is not free."""
    seconds, answering = 0.02, []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
                writer.write(b"HTTP/1.1 200 OK\r\n" + begin + ANSWER + end[:2])
                await asyncio.sleep(seconds)
                if not end:
                    break
                writer.write(end[2:])
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def load() -> Driven:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        pool = Pool(Endpoint.of(f"http://{host}:{port}"))
        async with server:
            requests = drawn(closed(3, LENGTHS, concurrency=1, seed=1))
            made = await drive(pool, Dialect(model="m"), requests, 20.0)
            pool.close()
            await asyncio.gather(*filter(None, answering))
            return made

    found = asyncio.run(load())
    assert not any(answer.failed for answer in found.answers)
    late = found.client.late_ns[1:]
    for before, next_one, ns in zip(found.answers, found.answers[1:], late, strict=False):
        assert before.ended_ns and before.freed_ns and next_one.sent_ns
        assert next_one.due_ns == before.ended_ns <= before.freed_ns - 0.9 * seconds * SECOND
        assert ns == next_one.sent_ns - before.freed_ns >= 0


def test_a_server_that_falls_behind_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "GROWTH_SECONDS", 0.2)
    monkeypatch.setattr(loading, "LOOK_SECONDS", 0.05)
    load = poisson(2000, LENGTHS, rate=200.0, seed=1)
    found = driven(Mock(Manners(slots=1, ttft=0.02)), load)
    assert found.saturated.startswith("saturated: ") and "requests/s came" in found.saturated
    assert len(found.answers) < 500
    given_up = [a for a in found.answers if a.failed]
    assert given_up and {a.failed for a in given_up} == {
        "given up by the client: the load was ended"
    }
    assert any(not a.failed for a in found.answers)


@pytest.mark.parametrize("computes", [False, True])
def test_a_client_that_stands_still_knows_it(
    monkeypatch: pytest.MonkeyPatch, computes: bool
) -> None:
    """Asleep it computes nothing, as one that was stopped; one that computes is another matter."""
    monkeypatch.setattr(loading, "STOP_SECONDS", 0.1)
    if computes:
        monkeypatch.setattr(time, "thread_time_ns", time.perf_counter_ns)

    class Stopped(Pool):
        async def connection(self) -> Connection:
            if self._all:
                time.sleep(0.3)
            return await super().connection()

    found = driven(Mock(Manners()), closed(3, LENGTHS, concurrency=1, seed=1), Stopped)
    assert all(0 <= start < end <= found.wall_seconds * SECOND for start, end, _ in found.stood)
    long = sum(ns >= 0.3 * SECOND for *_, ns in found.stood)
    assert long == 0 if computes else long >= 2


def test_a_machine_that_was_suspended_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the load does not run on meanwhile."""
    moments = iter(range(0, 10**15, 2 * SECOND))
    monkeypatch.setattr(loading, "suspended_ns", lambda: next(moments))
    mock = Mock(Manners(ttft=3 * loading.BEAT_SECONDS))
    found = driven(mock, closed(1, LENGTHS, concurrency=1, seed=1))
    assert found.stood and min(ns for *_, ns in found.stood) >= 2 * SECOND


@pytest.mark.parametrize(
    ("stood", "said"),
    [
        ([(40, 900, 860)], "the client stood still for 0.86 s"),
        # Its end counts too: what came meanwhile is in the window's first moment.
        ([(0, 600, 600), (70, 80, 4000)], "the client stood still for 4.6 s"),
        ([(0, 30, 2000), (61_000, 70_000, 9000)], ""),
        ([(40, 540, 500)], ""),
    ],
)
def test_only_what_stood_still_in_the_window_counts(
    stood: list[tuple[int, int, int]], said: str
) -> None:
    """And of a minute no 0.5 s."""
    found = Driven(drawn(closed(1, LENGTHS, concurrency=1, seed=1)))
    found.stood = [(s * 10**6, e * 10**6, ns * 10**6) for s, e, ns in stood]
    assert found.stopped(Window(start_ns=33 * 10**6, end_ns=60_033 * 10**6, tokens=1)) == said


def queue(rate: float, capacity: float, seed: int, seconds: float, spans: float) -> list[Answer]:
    """Requests to a server of one queue: each takes `spans` seconds, and it ends `capacity` of them
    a second."""
    draw, at, free = random.Random(seed), 0.0, 0.0
    answers = []
    while (at := at + draw.expovariate(rate)) < seconds:
        free = max(free, at) + 1 / capacity
        answer = Answer(Asked(prompt=(1,), new_tokens=1), round(at * SECOND))
        answer.arrived = [(round((free + spans) * SECOND), 1)]
        answers.append(answer)
    return answers


def ever(rate: float, seed: int, spans: float = 1.0) -> bool:
    """Whether it is said at any look of a minute that the queue only grows."""
    whole = queue(rate, 10.0, seed, 60.0, spans)
    for look in range(4, 60, 2):
        now = look * SECOND
        if Queue().growing(known_at(whole, now), now):
            return True
    return False


def test_a_queue_that_only_grows_is_told_from_one_that_fills() -> None:
    """Ten a second are what the server ends."""
    assert all(ever(20.0, seed) for seed in range(5))
    assert not any(ever(7.0, seed) for seed in range(5))
    # At first nothing ends, however fast the server is.
    assert not any(ever(7.0, seed, spans=8.0) for seed in range(3))


def known_at(answers: list[Answer], now: int) -> list[Answer]:
    """What is known of requests at a moment."""
    known = []
    for answer in answers:
        if answer.due_ns <= now:
            copy = Answer(answer.asked, answer.due_ns)
            copy.arrived = [(ns, count) for ns, count in answer.arrived if ns <= now]
            copy.failed = "" if len(copy.arrived) == len(answer.arrived) else GIVEN_UP
            known.append(copy)
    return known


def of_load(rate: float, spans: float, slots: int | None = None) -> list[Answer]:
    """The requests that a run makes, first come, first served: each takes `spans` seconds from when
    it has a slot, and its first token comes 20 ms after that. slots: None if they never end."""
    answers: list[Answer] = []
    ends: list[float] = []
    for one in poisson(500, LENGTHS, rate=rate, seed=0).requests:
        begins = one.due_ns or 0
        if slots is not None and len(ends) >= slots:
            begins = max(begins, round(sorted(ends)[-slots]))
        ends.append(begins + spans * SECOND)
        answer = Answer(Asked(prompt=(1,), new_tokens=2), one.due_ns or 0)
        answer.arrived = [(begins + SECOND // 50, 1), (round(ends[-1]), 1)]
        answers.append(answer)
    return answers


def looks(answers: list[Answer], seconds: float) -> list[str]:
    """What is said at each look while requests come, where anything is."""
    every = round(seconds * SECOND)
    moments = range(every, answers[-1].due_ns, every)
    return [said for now in moments if (said := Queue().growing(known_at(answers, now), now))]


@pytest.mark.parametrize(("rate", "spans", "every"), [(1.0, 10.0, 0.5), (8.0, 2.0, 0.25)])
def test_a_server_where_nobody_waits_is_never_saturated(
    rate: float, spans: float, every: float
) -> None:
    """What is in flight varies by chance; each has its first token at once."""
    assert looks(of_load(rate, spans), every) == []


def test_a_server_of_too_few_slots_is_saturated_and_one_of_enough_is_not() -> None:
    """1 request/s of 10 s each: ten slots are busy in the mean."""
    said = looks(of_load(1.0, 10.0, slots=5), 10.0)
    assert said and all("got a first token" in one for one in said)
    assert looks(of_load(1.0, 10.0, slots=13), 2.0) == []


def test_a_request_that_failed_waits_no_more() -> None:
    """Of a server that turns away half of what comes."""
    answers = known_at(of_load(8.0, 0.5), 40 * SECOND)
    for answer in answers[::2]:
        answer.arrived, answer.failed = [], "status 503: no room"
    assert Queue().growing(answers, 40 * SECOND) == ""


def test_a_look_costs_by_what_is_in_flight() -> None:
    """What has been answered is not looked at again, and all that is said is the same."""
    whole, one = of_load(1.0, 10.0, slots=5), Queue()
    answers: list[Any] = []
    said = []
    for now in range(10 * SECOND, 240 * SECOND, 10 * SECOND):
        known = known_at(whole, now)
        for before, after in zip(answers, known, strict=False):
            if before is not None:
                before.arrived, before.failed = after.arrived, after.failed
        answers += known[len(answers) :]
        said.append(Queue().growing(known, now))
        assert one.growing(answers, now) == said[-1]
        answers = [answer if answer is not None and answer.failed else None for answer in answers]
    assert any(said) and answers.count(None) > 50
