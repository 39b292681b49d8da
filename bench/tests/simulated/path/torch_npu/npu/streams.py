"""`torch.npu` streams and events, on the virtual timeline of a device."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch

from .. import _devices  # noqa: TID252
from .._settings import SETTINGS  # noqa: TID252

_next_stream = itertools.count(1)


class Stream:
    """A queue of its own on a device; stream 0 is the default one."""

    def __init__(self, device: Any = None, priority: int = 0, *, stream_id: int | None = None):
        self._device = _devices.device(device)
        self.stream_id = next(_next_stream) if stream_id is None else stream_id
        self.priority = priority

    @property
    def device(self) -> torch.device:
        return torch.device(_devices.TYPE, self._device.index)

    @property
    def device_index(self) -> int:
        return self._device.index

    def synchronize(self) -> None:
        moment = self._device.timeline.end(self.stream_id)
        self._device.wait_until(moment, "AclrtSynchronizeStreamWithTimeout")

    def query(self) -> bool:
        if self._device.capture is not None:
            self._device.capture.refuse("aclrtStreamQuery")
        return self._device.timeline.end(self.stream_id) <= time.perf_counter()

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and hash(self) == hash(other)

    def __hash__(self) -> int:
        return hash((self._device.index, self.stream_id))


class Event:
    """A moment on a stream's timeline: when what was queued before it is done."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        self._timing = enable_timing
        self._moment: float | None = None
        self._device: _devices.Device | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        self._device = stream._device
        self._moment = self._device.timeline.end(stream.stream_id)

    def wait(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        if self._moment is not None:
            stream._device.timeline.hold(stream.stream_id, self._moment)

    def query(self) -> bool:
        if self._device is not None and self._device.capture is not None:
            self._device.capture.refuse("aclrtQueryEventStatus")
        return self._moment is None or self._moment <= time.perf_counter()

    def synchronize(self) -> None:
        if self._device is not None and self._moment is not None:
            self._device.wait_until(self._moment, "aclrtSynchronizeEvent")

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to another; waits for both, as torch_npu does."""
        if not (self._timing and end._timing):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if self._moment is None or end._moment is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        self.synchronize()
        end.synchronize()
        return (end._moment - self._moment) * 1e3 * SETTINGS.events


def current_stream(device: Any = None) -> Stream:
    index = _devices.device(device).index
    return Stream(index, stream_id=_devices.current_stream(index))


def default_stream(device: Any = None) -> Stream:
    return Stream(device, stream_id=0)


def set_stream(stream: Stream) -> None:
    _devices.CURRENT.streams[stream.device_index] = stream.stream_id


@contextlib.contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Queues on `stream` within the block."""
    if stream is None:
        yield
        return
    before = current_stream(stream.device_index)
    set_stream(stream)
    try:
        yield
    finally:
        set_stream(before)
