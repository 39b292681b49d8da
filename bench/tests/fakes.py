"""Stand-ins with exact times: a scripted clock, devices, jobs, a backend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from bench.backend import Backend, Device, DeviceInfo
from bench.precision import Precision
from bench.records.outcome import Memory

if TYPE_CHECKING:
    import torch

MS = 1_000_000
"""Nanoseconds in a millisecond."""


class ScriptedClock:
    """Nanoseconds that pass only when the script says so."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def advance(self, nanoseconds: int) -> None:
        self.now += nanoseconds


class FakeEvent:
    """The moment at which the device's main stream reaches it."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.time: int | None = None

    def record(self) -> None:
        self.device.log.append("e")
        self.time = max(self.device.clock.now, self.device.main_free)


class FakeDevice(Device):
    """A device on the scripted clock.

    Synchronous: a step's time passes while it is called. Asynchronous: a step only queues its work,
    and nothing but `synchronize` (or time spent on the host) moves the clock. `log` holds one
    letter an action: S synchronize, s step, e event record, w witness, r reset of the peak.
    """

    def __init__(
        self,
        clock: ScriptedClock,
        synchronous: bool,
        *,
        sync_ns: int = 0,
        warmup_under_load: bool = False,
    ) -> None:
        self.info = DeviceInfo(backend="fake", index=0, name="Fake device", memory_bytes=None)
        self.clock = clock
        self.synchronous = synchronous
        self.needs_warmup_under_load = warmup_under_load
        self.sync_ns = sync_ns
        self.main_free = 0
        """When the main stream has done all that is queued on it."""
        self.all_free = 0
        """When every stream has."""
        self.log: list[str] = []

    @property
    def actions(self) -> str:
        """The log as one string, for matching."""
        return "".join(self.log)

    @property
    def blocks(self) -> list[str]:
        """What happened between every two neighbouring synchronizations."""
        return re.split("S", self.actions)

    def work(self, nanoseconds: int, side_ns: int = 0) -> None:
        """One step of work; side_ns: on a stream that the events do not see, at the same time."""
        if self.synchronous:
            self.clock.advance(nanoseconds)
            return
        begin = max(self.clock.now, self.main_free)
        self.main_free = begin + nanoseconds
        self.all_free = max(self.all_free, self.main_free, begin + side_ns)

    @property
    def torch_device(self) -> torch.device:
        raise NotImplementedError

    def synchronize(self) -> None:
        self.log.append("S")
        self.clock.now = max(self.clock.now, self.all_free) + self.sync_ns
        self.main_free = max(self.main_free, self.all_free)

    def event(self) -> FakeEvent | None:
        return None if self.synchronous else FakeEvent(self)

    def elapsed_ns(self, start: FakeEvent, end: FakeEvent) -> int:
        assert start.time is not None and end.time is not None, "an event was never recorded"
        assert end.time <= self.clock.now, "events were read before the device reached them"
        return end.time - start.time

    def release_memory(self) -> None:
        """Holds none."""

    def reset_peak_memory(self) -> None:
        self.log.append("r")

    def memory(self) -> Memory:
        self.log.append("m")
        return Memory(peak_bytes=1, scope="fake", host_rss_bytes=1)


class FakeJob:
    """Steps of scripted durations; the last one is repeated for ever."""

    def __init__(
        self,
        device: FakeDevice,
        step_ns: Iterable[int],
        *,
        host_ns: int = 0,
        side_ns: int = 0,
        witness: Sequence[float] = (1.0, 0.5),
    ) -> None:
        """host_ns: what the host spends on queueing a step; witness: one value a call."""
        self.device = device
        self.script = list(step_ns)
        self.host_ns = host_ns
        self.side_ns = side_ns
        self.steps = 0
        self.witnesses = list(witness)

    def step(self) -> None:
        self.device.log.append("s")
        self.device.clock.advance(self.host_ns)
        self.device.work(self.script[min(self.steps, len(self.script) - 1)], self.side_ns)
        self.steps += 1

    def witness(self) -> float:
        self.device.log.append("w")
        self.device.clock.now = max(self.device.clock.now, self.device.all_free)
        return self.witnesses.pop(0)


class FakeBackend(Backend):
    """A backend of one fake device; no process is ever started for it."""

    name = "fake"
    vendor = "nobody"

    def worker_environment(self) -> Mapping[str, str]:
        return {"FAKE_BACKEND": "1"}

    def devices(self) -> list[DeviceInfo]:
        return [FakeDevice(ScriptedClock(), synchronous=True).info]

    def open(self, index: int, precision: Precision) -> Device:
        return FakeDevice(ScriptedClock(), synchronous=True)
