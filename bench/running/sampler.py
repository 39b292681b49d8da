"""The side process that reads the telemetry of devices: `python -m bench.running.sampler`.

Reads one `Order` (a JSON line) from stdin and then looks at each device, at most five times a
second, and less often where looking is dear: for half a percent of the host, of all devices
together, but at least every five seconds. One process for all, as each would cost 24 MB and the
imports; a thread for each, so that a source that hangs costs the others nothing. At each further
line it answers with what it has seen since the last one, an `Answer` a device. Nothing waits for
it: a source that hangs, hangs here, and the answer says so. When stdin closes, the parent is gone,
and this process ends with whatever it has started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from bench import catalogue, lifeline
from bench.records.cpu_limits import usable_cores
from bench.records.encoding import encoded, own_stdout
from bench.records.observed import Reading, Scope
from bench.telemetry import figures
from bench.telemetry.source import SAYINGS, NotObservable, Process, Source, of_this_device

LEAST_INTERVAL_SECONDS = 0.2
MOST_INTERVAL_SECONDS = 5.0
"""However dear a look is: less often than this it would say nothing of a launch."""
HOST_SHARE = 0.005
"""Share of the usable cores that looking may take, at all devices together."""
USERS_SECONDS = 2.0
"""Least time between two looks at who else is there."""
OPENINGS = 3
"""A source that does not open so many times, does not open."""
OPENING_SECONDS = 1.0
"""Between two of them."""
FAILED_LOOKS = 5
"""After so many that failed one after the other, there is one every `MOST_INTERVAL_SECONDS`."""
KEPT_SECONDS = 0.5
"""For so long what a vendor's program printed for one device is good for the others."""
PATIENCE_SECONDS = 12.0
"""After this long a look that has not ended is said to hang."""
MOST_READINGS = 50_000
"""Of a device. Bounds the memory; nearly three hours of five a second."""
NICENESS = 10
"""Where both want a core, it is the job's."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices to look at."""

    backend: str
    indices: tuple[int, ...]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look; times by `time.perf_counter_ns`, which all processes of a host share."""

    at_ns: int
    reading: Reading
    users: tuple[Process, ...] | None = None
    """Processes on the device, where it was time to ask."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What has been seen of one device since the last answer."""

    source: str = ""
    scope: Scope = "board"
    card: str = ""
    card_devices: int | None = None
    """As `Source` has them."""
    interval_seconds: float = LEAST_INTERVAL_SECONDS
    seen: tuple[Seen, ...] = ()
    absent: dict[str, str] = {}
    """What could not be read, why, and in how many looks if not in all; `looks`: those that failed
    altogether."""
    trouble: str | None = None
    """Why the last look that failed did; there will be others."""
    problem: str | None = None
    """Why there is nothing, or nothing any more."""


class _Tally:
    """What was missed since the last answer."""

    def __init__(self) -> None:
        self.looks = 0
        self.failed = 0
        self.trouble: str | None = None
        self.lost: dict[str, tuple[int, str]] = {}

    def add(self, absent: Mapping[str, str]) -> None:
        """Of one look."""
        self.looks += 1
        for quantity, why in absent.items():
            self.lost[quantity] = (self.lost.get(quantity, (0, ""))[0] + 1, why)

    def absent(self) -> dict[str, str]:
        """As `Answer` has it. Others on the device are not asked for at every look: no number."""
        found = {
            quantity: why
            if times == self.looks or quantity == "processes"
            else f"{why} (in {times} of {self.looks} looks)"
            for quantity, (times, why) in self.lost.items()
        }
        if self.failed:
            found["looks"] = f"{self.failed} of {self.looks + self.failed} failed: {self.trouble}"
        return found


class _State:
    """Of one device: between the thread that looks at it and the one that answers."""

    def __init__(self) -> None:
        self.source: Source | None = None
        self.seen: deque[Seen] = deque(maxlen=MOST_READINGS)
        self.problem: str | None = None
        self.busy_since: float | None = None
        self._tally = _Tally()
        self._lock = threading.Lock()

    def saw(self, seen: Seen, absent: Mapping[str, str]) -> None:
        """A look, and what it did not see."""
        with self._lock:
            self.seen.append(seen)
            self._tally.add(absent)

    def missed(self, why: str) -> None:
        """A look that failed."""
        with self._lock:
            self._tally.failed += 1
            self._tally.trouble = why

    def answer(self) -> Answer:
        with self._lock:
            seen = tuple(self.seen.popleft() for _ in range(len(self.seen)))
            tally, self._tally = self._tally, _Tally()
        problem = self.problem
        since = self.busy_since
        if problem is None and since is not None and time.monotonic() - since > PATIENCE_SECONDS:
            problem = f"its source has not answered for {time.monotonic() - since:.0f} s"
        if self.source is None:
            return Answer(problem=problem, trouble=tally.trouble)
        return Answer(
            source=self.source.name,
            scope=self.source.scope,
            card=self.source.card,
            card_devices=self.source.card_devices,
            interval_seconds=max(self.source.interval_seconds, LEAST_INTERVAL_SECONDS),
            seen=seen,
            absent=tally.absent(),
            trouble=tally.trouble,
            problem=problem,
        )


def look(source: Source, with_users: bool) -> tuple[Seen, dict[str, str]]:
    """One look, its time that of its middle; and what it did not see, with the reasons.

    Whatever cannot be is left out, and so are the whole's power and energy where this is a part.
    with_users: whether to ask who else is there as well.
    """
    before = time.perf_counter_ns()
    reading = source.read()
    at_ns = (before + time.perf_counter_ns()) // 2
    reading, wrong = figures.possible(reading)
    reading, whole = of_this_device(source, reading)
    wrongs = {quantity: f"{source.name}: {why}" for quantity, why in wrong.items()}
    absent = {**source.absent, **wrongs, **whole}
    users = None
    if with_users:
        try:
            users = source.processes()
            if users:  # who looks has the device open too, and is no user of it
                users = tuple(p for p in users if p.pid != os.getpid())
        except Exception as error:  # noqa: BLE001 - costs this one quantity
            absent["processes"] = reason_of(error)
        else:
            if "processes" in source.absent:
                absent["processes"] = source.absent["processes"]
    return Seen(at_ns=at_ns, reading=reading, users=users), absent


def reason_of(error: Exception) -> str:
    """An exception in words."""
    return str(error) if isinstance(error, NotObservable) else f"{type(error).__name__}: {error}"


def pause_seconds(cpu_seconds: float, interval_seconds: float, cores: int) -> float:
    """How long to sleep after a round of looks, one at each device, that took so much CPU time."""
    least = max(interval_seconds, LEAST_INTERVAL_SECONDS)
    return min(max(least, cpu_seconds / (HOST_SHARE * cores)), MOST_INTERVAL_SECONDS)


class _Costs:
    """What one look at each device costs together, so that all of them keep to one share."""

    def __init__(self) -> None:
        self._own: dict[int, float] = {}
        """Of each device, CPU seconds of its thread in its last look."""

    def of_a_round(self, index: int, own: float, programs: float) -> float:
        """own: of that device's look now; programs: of all programs that ended since its last one,
        whichever device they were run for: about one look's of each."""
        self._own[index] = own
        return sum(self._own.copy().values()) + programs


def _programs_seconds() -> float:
    """CPU time of the programs that this process has run."""
    times = os.times()
    return times.children_user + times.children_system


def _look_on(state: _State, backend: str, index: int, costs: _Costs) -> None:
    """Looks for as long as it is let; a look that fails is counted, and there is another."""
    cores = usable_cores()
    source = _opened(state, backend, index)
    if source is None:
        return
    asked_users = -USERS_SECONDS
    failed = 0
    programs = _programs_seconds()
    while True:
        before, cpu_before = time.monotonic(), time.thread_time()
        with_users = before - asked_users >= USERS_SECONDS
        asked_users = before if with_users else asked_users
        state.busy_since = before
        try:
            state.saw(*look(source, with_users))
            failed = 0
        except Exception as error:  # noqa: BLE001 - a vendor's library fails as it likes
            state.missed(reason_of(error))
            failed += 1
        state.source, state.busy_since = source, None
        ended, programs = programs, _programs_seconds()
        spent = costs.of_a_round(index, time.thread_time() - cpu_before, programs - ended)
        pause = pause_seconds(spent, source.interval_seconds, cores)
        pause = pause if failed < FAILED_LOOKS else MOST_INTERVAL_SECONDS
        time.sleep(max(0.0, pause - (time.monotonic() - before)))


def _opened(state: _State, backend: str, index: int) -> Source | None:
    """The source of the device; None, with the problem said, where it does not open at last."""
    for attempt in range(1, OPENINGS + 1):
        state.busy_since = time.monotonic()
        try:
            return catalogue.backend(backend).telemetry(index)
        except Exception as error:  # noqa: BLE001 - a vendor's library fails as it likes
            why = reason_of(error)
        state.busy_since = None
        if attempt < OPENINGS:
            state.missed(why)
            time.sleep(OPENING_SECONDS)
    state.problem = why
    return None


def _answer_on(states: Sequence[_State], questions: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the parent is gone; then ends this process and what it has started."""
    with contextlib.suppress(OSError, ValueError):
        while questions.readline():
            answers.write(encoded([state.answer() for state in states]) + b"\n")
            answers.flush()
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """The side process. It leads a group of its own, as whoever starts it must see to."""
    lifeline.hold()
    questions, answers = sys.stdin.buffer, own_stdout()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
        if os.getsid(0) == os.getpid():  # of a session's own group Linux asks how nice that is
            Path("/proc/self/autogroup").write_text(str(NICENESS), encoding="ascii")
    order = msgspec.json.decode(questions.readline(), type=Order)
    SAYINGS.kept_seconds = KEPT_SECONDS
    states, costs = [_State() for _ in order.indices], _Costs()
    for state, index in zip(states, order.indices, strict=True):
        looking = (state, order.backend, index, costs)
        threading.Thread(target=_look_on, args=looking, daemon=True).start()
    _answer_on(states, questions, answers)


if __name__ == "__main__":
    main()
