"""The load: each request when it is due, whatever came of those before it.

The client must not be in the figures: how late it was, and how much of its core it took, is kept
beside them. A server that takes in less than arrives has no steady state, so the load is given up
as soon as that is plain, and that is its result.
"""

from __future__ import annotations

import asyncio
import bisect
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from bench.measuring.timing.usage import suspended_ns
from bench.planning.arrivals import Load
from bench.records.endpoint import Client
from bench.records.served import SATURATED, Served, Window
from bench.serving.stream import GIVEN_UP, Answer, Asked, Dialect, stream
from bench.serving.wire import Pool
from bench.telemetry.standstill import STOP_SECONDS, STOP_SHARE

LOOK_SECONDS = 0.25
"""How often is looked whether the queue only grows."""
GROWTH_SECONDS = 4.0
"""Least time over which that is said."""
GROWTH_SPANS = 2
"""And so many times what the quickest answer took."""
GROWTH_REQUESTS = 20
"""And so many that were due meanwhile."""
KEPT_UP = 0.8
"""A server that begins to answer this share of what arrives meanwhile is not said to be
saturated."""
GROWTH_SIGMAS = 4.0
"""Nor one that falls behind by no more than so many standard deviations of what arrives meanwhile:
arrivals are at random, and they are looked at many times."""
BEAT_SECONDS = 0.05
"""How often the client notes that it runs."""
SPARE = 4
"""Connections that lie ready for requests at random, each of which needs one at once."""

Made = Callable[[Answer], Coroutine[Any, Any, None]]
"""Makes one request."""


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """A load, with the words of its prompts."""

    load: Load
    asked: tuple[Asked, ...]


class Driven:
    """What came of a load."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        self.zero_ns = 0
        """When it began (`time.perf_counter_ns`)."""
        self.answers: list[Answer] = []
        self.bodies: list[bytes] = []
        """Of the requests, made before any is due."""
        self.saturated = ""
        """Why the load was given up; empty where it was made to its end."""
        self.cpu_seconds = 0.0
        """Of the client's own thread."""
        self.wall_seconds = 0.0
        self.stood: list[tuple[int, int, int]] = []
        """Of each time in which the client stood still: begin and end, and for how many ns."""

    def due(self, number: int, due_ns: int, could_ns: int = 0) -> Answer:
        """A request is due: from here on it is in the record, whatever comes of it."""
        answer = Answer(self.drawn.asked[number], due_ns, self.bodies[number])
        answer.started_ns = answer.could_ns = max(due_ns, could_ns)
        answer.failed = GIVEN_UP
        self.answers.append(answer)
        return answer

    @property
    def client(self) -> Client:
        """What this process may have added to the figures."""
        return Client(
            late_ns=tuple((a.sent_ns or a.started_ns) - a.could_ns for a in self.answers),
            cpu_seconds=self.cpu_seconds,
            wall_seconds=self.wall_seconds,
            chunks=sum(answer.chunks for answer in self.answers),
        )

    @property
    def cached(self) -> int | None:
        """Tokens of prompts that the server says it had already; None where it says nothing."""
        said = [a.cached for a in self.answers if a.cached is not None]
        return sum(said) if said else None

    def stopped(self, window: Window) -> str:
        """How long it stood still, where any of it is in the window; empty where that is little."""
        inside = [ns for s, e, ns in self.stood if s < window.end_ns and e > window.start_ns]
        seconds = sum(inside) / 1e9
        least = max(STOP_SECONDS, STOP_SHARE * window.seconds)
        return f"the client stood still for {seconds:.2g} s" if seconds >= least else ""

    def served(self, ramp: int) -> Served:
        """For the record."""
        counts: Counter[int] = Counter()
        for answer in self.answers:
            for ns, tokens in answer.arrived:
                counts[ns - self.zero_ns] += tokens
        moments = sorted(counts)
        return Served(
            requests=tuple(answer.served(self.zero_ns) for answer in self.answers),
            arrived_ns=tuple(moments),
            arrived_tokens=tuple(counts[ns] for ns in moments),
            ramp=ramp,
            load=self.drawn.load.digest,
        )


async def drive(pool: Pool, dialect: Dialect, drawn: Drawn, limit_seconds: float) -> Driven:
    """Makes a load's requests, each of which may take `limit_seconds`; raises `Broken` where no
    connection can be made beforehand."""
    load = drawn.load
    most = load.concurrency or (SPARE if load.process == "poisson" else len(drawn.asked))
    await pool.open(min(most, len(drawn.asked)))
    driven = Driven(drawn)
    driven.bodies = [dialect.body(asked, stream=True) for asked in drawn.asked]
    cpu, zero = time.thread_time(), time.perf_counter_ns()
    driven.zero_ns = zero

    made = functools.partial(stream, pool, dialect, limit_seconds=limit_seconds)
    beside = [asyncio.create_task(_beat(driven))]
    try:
        if load.process == "closed":
            await _closed(driven, made, most)
        else:
            beside.append(asyncio.create_task(pool.keep(SPARE)))
            await _open(driven, made)
    finally:
        for task in beside:
            task.cancel()
    driven.wall_seconds = (time.perf_counter_ns() - zero) / 1e9
    driven.cpu_seconds = time.thread_time() - cpu
    return driven


async def _beat(driven: Driven) -> None:
    """Notes when the client, or its machine, stood still; while it computes it does not."""
    while True:
        start, before = time.perf_counter_ns(), suspended_ns() - time.thread_time_ns()
        await asyncio.sleep(BEAT_SECONDS)
        end = time.perf_counter_ns()
        still = end - start + suspended_ns() - time.thread_time_ns() - before
        if still >= STOP_SECONDS * 1e9:
            driven.stood.append((start - driven.zero_ns, end - driven.zero_ns, still))


async def _closed(driven: Driven, made: Made, most: int) -> None:
    """The next request is due the moment that one ends, not when somebody has noticed it; it can
    be sent when its response has ended too, which is the server's doing."""
    waiting = iter(range(len(driven.drawn.asked)))

    async def keep_one_going() -> None:
        due = freed = driven.zero_ns
        for number in waiting:
            answer = driven.due(number, due, freed)
            await made(answer)
            due = answer.ended_ns or time.perf_counter_ns()
            freed = answer.freed_ns or due

    await asyncio.gather(*(keep_one_going() for _ in range(most)))


async def _open(driven: Driven, made: Made) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def arrive() -> None:
        for number, asked in enumerate(driven.drawn.asked):
            due = driven.zero_ns + (asked.due_ns or 0)
            if (wait := due - time.perf_counter_ns()) > 0:
                await asyncio.sleep(wait / 1e9)
            tasks.append(asyncio.create_task(made(driven.due(number, due))))

    arriving, queue = asyncio.create_task(arrive()), Queue()
    while not arriving.done():
        await asyncio.wait([arriving], timeout=LOOK_SECONDS)
        if driven.drawn.load.process == "poisson":
            driven.saturated = queue.growing(driven.answers, time.perf_counter_ns())
        if driven.saturated:
            for task in (arriving, *tasks):
                task.cancel()
            break
    # Those that were not even begun end as cancelled tasks, and are rows all the same.
    await asyncio.gather(arriving, *tasks, return_exceptions=True)


class Queue:
    """Requests up to now, of which those that were answered are kept as sorted times."""

    def __init__(self) -> None:
        self._taken = 0
        self._going: list[Answer] = []
        self._due: list[int] = []
        self._begun: list[int] = []
        self._quickest = self._first_end = math.inf

    def growing(self, answers: Sequence[Answer], now_ns: int) -> str:
        """Why the queue can be said only to grow, by the requests up to now; empty if it does not.

        A request waits from when it is due until its first token: what is being answered is in no
        queue, and one that failed no more. Looked at is the later half of the time, or a longer
        stretch where that is short (`GROWTH_SECONDS`, `GROWTH_SPANS`, `GROWTH_REQUESTS`): more wait
        at the end of each third of it than at the end of the one before, and fewer got a first
        token in it than were due, by `KEPT_UP` and by more than chance (`GROWTH_SIGMAS`).
        """
        going = [*self._going, *answers[self._taken :]]
        self._taken = len(answers)
        for one in going:
            if not one.failed:
                end = one.arrived[-1][0]
                bisect.insort(self._due, one.due_ns)
                bisect.insort(self._begun, one.arrived[0][0])
                self._quickest = min(self._quickest, end - one.due_ns)
                self._first_end = min(self._first_end, end)
        self._going = going = [one for one in going if one.failed == GIVEN_UP]
        due = sorted([*self._due, *(one.due_ns for one in going)])
        begun = sorted([*self._begun, *(one.arrived[0][0] for one in going if one.arrived)])
        if not self._due or len(due) < GROWTH_REQUESTS:
            return ""
        stretch = max(GROWTH_SECONDS * 1e9, GROWTH_SPANS * self._quickest, (now_ns - due[0]) / 2)
        start = int(min(now_ns - stretch, due[-GROWTH_REQUESTS]))
        if start < self._first_end:  # until then it fills, however fast the server is
            return ""

        def waiting(ns: float) -> int:
            return bisect.bisect_right(due, ns) - bisect.bisect_right(begun, ns)

        depths = [waiting(start + third * (now_ns - start) / 3) for third in range(4)]
        came = bisect.bisect_right(due, now_ns) - bisect.bisect_right(due, start)
        went = bisect.bisect_right(begun, now_ns) - bisect.bisect_right(begun, start)
        if depths != sorted(set(depths)) or went >= KEPT_UP * came:
            return ""
        if came - went <= GROWTH_SIGMAS * math.sqrt(came):
            return ""
        seconds = (now_ns - start) / 1e9
        return (
            f"{SATURATED}: within {seconds:.1f} s {came / seconds:.2f} requests/s came and "
            f"{went / seconds:.2f} got a first token; {depths[-1]} wait for theirs"
        )
