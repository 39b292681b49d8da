"""The loop that serves a load: requests as they fall due, one forward after the other.

Clock and sleep are passed in, so tests script them.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from bench.measuring.serving_schedule import Asked, Schedule
from bench.planning.arrivals import Load
from bench.records.served import EngineSteps, Served
from bench.serving_job import ServingJob

Listener = Callable[[int, int, int], None]
"""Told between forwards, when requests have ended: how many so far, tokens so far, ns."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A load that was served, and what nobody keeps: its texts."""

    served: Served
    requests: tuple[Asked, ...]
    started_ns: int
    """When the load began, by the loop's clock."""


def prompts(load: Load, vocabulary: int, seed: int) -> list[list[int]]:
    """Random tokens for each request: no two prompts begin alike but by chance.

    Other seeds give other prompts, so nobody can have their answers ready.
    """
    draw = random.Random(f"prompts {seed}")
    every = range(vocabulary)
    return [draw.choices(every, k=request.prompt_tokens) for request in load.requests]


@dataclass(eq=False)
class Loop:
    """One load on one job."""

    job: ServingJob
    load: Load
    texts: Sequence[Sequence[int]]
    """The prompts, one a request."""
    ramp: int
    """See `Served.ramp`."""
    clock: Callable[[], int] = time.perf_counter_ns
    """Monotonic ns."""
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.job.slots, self.job.chunk)

    def run(
        self,
        listen: Listener = lambda ended, tokens, ns: None,
        mark: Callable[[], None] = lambda: None,
    ) -> Loaded:
        """Serves it to its end.

        mark: called twice, by the first forward of the steady window and by the last.
        """
        clock, schedule = self.clock, self.schedule
        coming = deque(enumerate(self.load.requests))
        requests: list[Asked] = []
        arrived: list[tuple[int, int]] = []
        steps: list[tuple[int, int, int, int, int]] = []
        ended = tokens = admitted = 0
        started = clock()
        while coming or schedule.busy:
            begun = clock() - started
            while coming and self._is_due(coming[0][1].due_ns, begun, len(requests) - ended):
                index, planned = coming.popleft()
                # In a closed loop the moment that another one has ended.
                due = arrived[-1][0] if planned.due_ns is None else planned.due_ns
                asked = Asked(index, self.texts[index], planned.new_tokens, due)
                requests.append(asked)
                schedule.add(asked)
            if not schedule.busy:
                self.sleep(max(((coming[0][1].due_ns or 0) - begun) / 1e9, 0.0))
                continue
            rows = schedule.rows(clock() - started)
            queued = clock()
            found = self.job.forward(rows)
            now = clock()
            count, done = schedule.take(found, now - started)
            if count:
                arrived.append((now - started, count))
            tokens += count
            before, ended = ended, ended + len(done)
            if done:
                listen(ended, tokens, now - started)
            if before < self.ramp <= ended:
                mark()
            if admitted < len(self.load.requests) == schedule.admitted:
                mark()
            admitted = schedule.admitted
            wall = clock() - started - begun
            steps.append((begun, wall, now - queued, len(rows.decoding), len(rows.prompt)))
        return self._loaded(requests, arrived, steps, started)

    def _is_due(self, due_ns: int | None, now_ns: int, in_flight: int) -> bool:
        if self.load.concurrency is not None:
            return in_flight < self.load.concurrency
        return due_ns is not None and due_ns <= now_ns

    def _loaded(
        self,
        requests: list[Asked],
        arrived: list[tuple[int, int]],
        steps: list[tuple[int, int, int, int, int]],
        started: int,
    ) -> Loaded:
        start, wall, forward, decode, prompt = zip(*steps, strict=True)
        served = Served(
            requests=tuple(request.record for request in requests),
            arrived_ns=tuple(ns for ns, _ in arrived),
            arrived_tokens=tuple(count for _, count in arrived),
            ramp=self.ramp,
            load=self.load.digest,
            schedule=self.schedule.digest,
            steps=EngineSteps(
                start_ns=start,
                wall_ns=wall,
                forward_ns=forward,
                decode_rows=decode,
                prompt_rows=prompt,
                slots=self.job.slots,
                chunk=self.job.chunk,
            ),
        )
        return Loaded(served=served, requests=tuple(requests), started_ns=started)
