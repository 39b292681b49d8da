"""What wakes a parent that listens to several workers: a word of one, its end, another host."""

from __future__ import annotations

import contextlib
import selectors
from collections.abc import Hashable
from types import TracebackType
from typing import Protocol

from bench.running import child
from bench.running.worker_process import WorkerProcess


class Wakes(Protocol):
    """Something that a selector can wait for."""

    def fileno(self) -> int:
        """Its descriptor."""


class Ears:
    """Sleeps in the kernel until somebody who is attended says something, or ends."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ends: dict[Hashable, contextlib.ExitStack] = {}

    def __enter__(self) -> Ears:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for key in list(self._ends):
            self.leave(key)
        self._selector.close()

    def attend(self, key: Hashable, worker: WorkerProcess) -> None:
        """A worker of this host: its words and its end wake us."""
        with contextlib.ExitStack() as undo:
            ended = undo.enter_context(child.end_of(worker.process))
            self.attend_to(key, worker.stdout)
            undo.callback(self._selector.unregister, worker.stdout.fileno())
            if ended is not None:
                self._selector.register(ended, selectors.EVENT_READ, (key, False))
                undo.callback(self._selector.unregister, ended)
            self._ends[key] = undo.pop_all()

    def attend_to(self, key: Hashable, source: Wakes) -> None:
        """Whoever else has something to say."""
        self._selector.register(source.fileno(), selectors.EVENT_READ, (key, True))

    def leave(self, key: Hashable) -> None:
        """Attends no longer to a worker."""
        if key in self._ends:
            self._ends.pop(key).close()

    def ready(self, seconds: float) -> dict[Hashable, bool]:
        """Who has something to say within so long; False of who has only ended."""
        found: dict[Hashable, bool] = {}
        for entry, _ in self._selector.select(seconds):
            key, speaks = entry.data
            found[key] = found.get(key, False) or speaks
        return found
