"""How long steps waited for their inputs: what the device lost by it, not what the host did.

The host waits for a batch while a device that queues is at work on the step before. Lost is only
what the device then has nothing to do. So the device itself is asked, by events that are read
after the block; where it has none, or does not queue, the host's own time stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.backend import Device


def waited_ns(job: object) -> int | None:
    """What a job's steps have waited for inputs so far, of the host's time; None where it has no
    pipeline."""
    waited: int | None = getattr(job, "input_wait_ns", None)
    return waited


class Arrivals:
    """An event of the device for each step of a block, recorded as its input has come."""

    def __init__(self, device: Device, steps: int) -> None:
        """device: one that has events. They are let go with this, so a block's are all there are;
        steps: 0 where inputs lie ready."""
        self._device = device
        self._events = [device.event() for _ in range(steps)]
        for event in self._events:
            event.record()  # as a driver makes it then, and not in a step
        self._marked = 0

    def mark(self) -> None:
        """The next step's input has come, and nothing of it is queued yet."""
        if self._marked < len(self._events):
            self._events[self._marked].record()
        self._marked += 1

    def waited_ns(self, ends: Sequence[Any]) -> int | None:
        """Device time between each step's end and the next one's input, after a synchronization.

        ends: events before the first step and behind each. None unless each step marked once.
        """
        if not self._events or self._marked != len(self._events):
            return None
        elapsed = self._device.elapsed_ns
        pairs = zip(ends[:-1], self._events, strict=True)
        return sum(max(elapsed(end, come), 0) for end, come in pairs)


@contextmanager
def noted(job: object, device: Device, steps: int) -> Iterator[Arrivals]:
    """Has a job's steps mark when their inputs have come, if they wait for any."""
    on_input: Callable[[Callable[[], None] | None], None] | None = None
    if waited_ns(job) is not None:
        on_input = getattr(job, "on_input", None)
    if on_input is None:
        yield Arrivals(device, 0)
        return
    found = Arrivals(device, steps)
    on_input(found.mark)
    try:
        yield found
    finally:
        on_input(None)
