"""The virtual clock of a device: operators are done at once on the host, and their time is owed.

A call returns when its work is queued, and the stream it was queued on stays busy until the work's
simulated time has passed in wall time. Whoever waits for the device sleeps until then. So a clock
that is read without a synchronization before it shows far too little, as on a real device.
"""

from __future__ import annotations

import threading
import time


class Timeline:
    """When each stream of one device will be idle, in seconds of `time.perf_counter`."""

    def __init__(self) -> None:
        self._ends: dict[int, float] = {}
        self._lock = threading.Lock()

    def queue(self, stream: int, seconds: float) -> None:
        """Work of that length behind everything that the stream has."""
        with self._lock:
            self._ends[stream] = self._end(stream) + seconds

    def hold(self, stream: int, until: float) -> None:
        """What is queued from now on starts no earlier than `until`: the stream waits for that."""
        with self._lock:
            self._ends[stream] = max(self._end(stream), until)

    def end(self, stream: int) -> float:
        """When the stream is done with what it has: now, if it is idle."""
        with self._lock:
            return self._end(stream)

    def last_end(self) -> float:
        """When every stream is done."""
        with self._lock:
            return max([time.perf_counter(), *self._ends.values()])

    def _end(self, stream: int) -> float:
        return max(self._ends.get(stream, 0.0), time.perf_counter())


def sleep_until(moment: float) -> None:
    """Blocks the host, as a synchronization does."""
    remaining = moment - time.perf_counter()
    if remaining > 0:
        time.sleep(remaining)
