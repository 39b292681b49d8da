"""What wakes a parent that listens to its children: a word of one, its end, another host."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING, ClassVar

from bench import lifeline
from bench.running.child import Process

if TYPE_CHECKING:
    from _typeshed import HasFileno

LATE_SECONDS = 1.0
"""Nobody wakes so late who was not suspended: with a container, or by SIGSTOP."""


class Ears:
    """Sleeps in the kernel until somebody who is attended says something, or ends."""

    suspended: ClassVar[float] = 0.0
    """Seconds that this process was, in all."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ends: dict[Hashable, contextlib.ExitStack] = {}

    def __enter__(self) -> Ears:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._ends):
            self.leave(key)
        self._selector.close()

    def attend(self, key: Hashable, process: Process) -> None:
        """A child: its words wake us, and so does its end where the system says it (Linux)."""
        assert process.stdout is not None
        with contextlib.ExitStack() as undo:
            self.attend_to(key, process.stdout)
            undo.callback(self._selector.unregister, process.stdout.fileno())
            ended = lifeline.ending(process.pid)
            if ended is not None:
                undo.callback(os.close, ended)
                self._selector.register(ended, selectors.EVENT_READ, (key, False))
                undo.callback(self._selector.unregister, ended)
            self._ends[key] = undo.pop_all()

    def attend_to(self, key: Hashable, source: HasFileno) -> None:
        """Whoever else has something to say."""
        self._selector.register(source.fileno(), selectors.EVENT_READ, (key, True))

    def leave(self, key: Hashable) -> None:
        """Attends no longer to a child."""
        if key in self._ends:
            self._ends.pop(key).close()

    def ready(self, seconds: float) -> dict[Hashable, bool]:
        """Who has something to say within so long; False of who has only ended."""
        found: dict[Hashable, bool] = {}
        end = time.monotonic() + seconds
        entries = self._selector.select(seconds)
        if (late := time.monotonic() - end) > LATE_SECONDS:
            Ears.suspended += late
        for entry, _ in entries:
            key, speaks = entry.data
            found[key] = found.get(key, False) or speaks
        return found


def awake() -> float:
    """Monotonic seconds by a clock that stood still whenever this process, with all others, did."""
    return time.monotonic() - Ears.suspended


class Lines:
    """What a child says, line by line."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._rest = b""
        self.late = False
        """Whether it said nothing in time, the last time, and had not ended."""

    def next(self, deadline: float) -> bytes | None:
        """A line, by that moment in monotonic seconds; None where none comes.

        Raises OSError where nobody can listen.
        """
        assert self._process.stdout is not None
        with Ears() as ears:
            ears.attend(0, self._process)
            while b"\n" not in self._rest:
                ready = ears.ready(max(deadline - time.monotonic(), 0.0))
                self.late = not ready
                chunk = os.read(self._process.stdout.fileno(), 1 << 20) if ready.get(0) else b""
                if not chunk:
                    return None
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line
