"""The side process that reads a device's telemetry: `python -m bench.running.sampler`.

Reads one `Order` (a JSON line) from stdin and then looks at the device, at most five times a
second, and less often where looking is dear: it may take no more than half a percent of the host.
At each further line it answers with what it has seen since the last one. Nothing waits for it: a
source that hangs, hangs here, and the answer says so. When stdin closes, the parent is gone, and
this process ends with whatever it has started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import BinaryIO

import msgspec

from bench import catalogue, lifeline
from bench.records.cpu_limits import usable_cores
from bench.records.observed import Reading, Scope
from bench.telemetry.source import NotObservable, Process, Source

LEAST_INTERVAL_SECONDS = 0.2
MOST_INTERVAL_SECONDS = 5.0
"""However dear a look is: less often than this it would say nothing of a launch."""
HOST_SHARE = 0.005
"""Share of the usable cores that looking may take."""
USERS_SECONDS = 2.0
"""Least time between two looks at who else is there."""
PATIENCE_SECONDS = 12.0
"""After this long a look that has not ended is said to hang."""
MOST_READINGS = 50_000
"""Bounds the memory; nearly three hours of five a second."""
NICENESS = 10
"""Where both want a core, it is the job's."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which device to look at."""

    backend: str
    index: int


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look; times by `time.perf_counter_ns`, which all processes of a host share."""

    at_ns: int
    reading: Reading
    users: tuple[Process, ...] | None = None
    """Processes on the device, where it was time to ask."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What has been seen since the last answer."""

    source: str = ""
    scope: Scope = "board"
    interval_seconds: float = LEAST_INTERVAL_SECONDS
    seen: tuple[Seen, ...] = ()
    absent: dict[str, str] = {}
    problem: str | None = None
    """Why there is nothing, or nothing any more."""


class _State:
    """Between the thread that looks and the one that answers."""

    def __init__(self) -> None:
        self.source: Source | None = None
        self.seen: deque[Seen] = deque(maxlen=MOST_READINGS)
        self.problem: str | None = None
        self.busy_since: float | None = None

    def answer(self) -> Answer:
        seen = tuple(self.seen.popleft() for _ in range(len(self.seen)))
        problem = self.problem
        since = self.busy_since
        if problem is None and since is not None and time.monotonic() - since > PATIENCE_SECONDS:
            problem = f"its source has not answered for {time.monotonic() - since:.0f} s"
        if self.source is None:
            return Answer(problem=problem)
        return Answer(
            source=self.source.name,
            scope=self.source.scope,
            interval_seconds=max(self.source.interval_seconds, LEAST_INTERVAL_SECONDS),
            seen=seen,
            absent=dict(self.source.absent),
            problem=problem,
        )


def look(source: Source, with_users: bool) -> Seen:
    """One reading, timed in its middle: a program may take a while to say it."""
    before = time.perf_counter_ns()
    reading = source.read()
    at_ns = (before + time.perf_counter_ns()) // 2
    return Seen(at_ns=at_ns, reading=reading, users=source.processes() if with_users else None)


def pause_seconds(cpu_seconds: float, interval_seconds: float, cores: int) -> float:
    """How long to sleep after a look that took so much CPU time."""
    least = max(interval_seconds, LEAST_INTERVAL_SECONDS)
    return min(max(least, cpu_seconds / (HOST_SHARE * cores)), MOST_INTERVAL_SECONDS)


def _cpu_seconds() -> float:
    """Of this process and of the programs that it has run."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _look_on(state: _State, order: Order) -> None:
    """Looks until there is nothing more to see; then the problem says why."""
    cores = usable_cores()
    asked_users = -USERS_SECONDS
    try:
        state.busy_since = time.monotonic()
        source = catalogue.backend(order.backend).telemetry(order.index)
        while True:
            before, cpu_before = time.monotonic(), _cpu_seconds()
            with_users = before - asked_users >= USERS_SECONDS
            asked_users = before if with_users else asked_users
            state.busy_since = before
            state.seen.append(look(source, with_users))
            state.source, state.busy_since = source, None
            pause = pause_seconds(_cpu_seconds() - cpu_before, source.interval_seconds, cores)
            time.sleep(max(0.0, pause - (time.monotonic() - before)))
    except NotObservable as why:
        state.problem = str(why)
    except Exception as error:  # noqa: BLE001 - a vendor's library fails as it likes
        state.problem = f"{type(error).__name__}: {error}"


def _answer_on(state: _State, questions: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the parent is gone; then ends this process and what it has started."""
    with contextlib.suppress(OSError, ValueError):
        while questions.readline():
            answers.write(msgspec.json.encode(state.answer()) + b"\n")
            answers.flush()
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """The side process. It leads a group of its own, as whoever starts it must see to."""
    lifeline.hold()
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a vendor's library prints must not garble an answer
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    order = msgspec.json.decode(questions.readline(), type=Order)
    state = _State()
    threading.Thread(target=_look_on, args=(state, order), daemon=True).start()
    _answer_on(state, questions, answers)


if __name__ == "__main__":
    main()
