"""The devices of this process: each with its timeline, its memory, and its end."""

from __future__ import annotations

import os
import threading
from typing import Any, NoReturn

import torch

from ._capture import Capture
from ._memory import Memory
from ._settings import SETTINGS
from ._timeline import Timeline, sleep_until

TYPE = SETTINGS.type


class Device:
    """One die."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.timeline = Timeline()
        self.memory = Memory(index, SETTINGS.memory_bytes)
        self.lost = False
        self.capture: Capture | None = None
        """What is being recorded."""

    def queue(self, seconds: float) -> None:
        """Work on the current stream; with ASCEND_LAUNCH_BLOCKING=1 the host waits for it."""
        stream = current_stream(self.index)
        self.timeline.queue(stream, seconds)
        if os.environ.get("ASCEND_LAUNCH_BLOCKING") == "1":
            sleep_until(self.timeline.end(stream))

    @property
    def capturing(self) -> Capture | None:
        """What is recorded of the current stream."""
        capture = self.capture
        here = capture is not None and capture.stream == current_stream(self.index)
        return capture if here else None

    def synchronize(self) -> None:
        """Waits for every stream; SIMNPU_LOST may mean this."""
        if SETTINGS.lost == "synchronize" and not self.lost:
            self.lost = _used_up("synchronize")
        moment = self.timeline.last_end()
        if "early-synchronize" in SETTINGS.broken:
            moment = 0.0
        elif "one-stream" in SETTINGS.broken:
            moment = self.timeline.end(current_stream(self.index))
        self.wait_until(moment, "AclrtSynchronizeDeviceWithTimeout")

    def wait_for_stream(self) -> None:
        """What a host read does: waits for the current stream, or raises where that is an error."""
        if CURRENT.sync_debug_mode == "error":
            raise RuntimeError("called a synchronizing NPU operation [simulated]")
        moment = self.timeline.end(current_stream(self.index))
        self.wait_until(moment, "AclrtSynchronizeStreamWithTimeout")

    def wait_until(self, moment: float, call: str) -> None:
        """Blocks the host until then; on a device that was lost, the call that waits says so."""
        if self.capture is not None:
            self.capture.refuse(call)
        if self.lost:
            raise_lost(call)
        sleep_until(moment)


class _Current(threading.local):
    """What a thread has made current."""

    sync_debug_mode = "default"
    """Of all threads: what comes of who waits for the device."""

    def __init__(self) -> None:
        self.index = 0
        self.streams: dict[int, int] = {}
        self.fused = False
        """Whether compiled code runs."""


CURRENT = _Current()
DEVICES = [Device(index) for index in range(SETTINGS.devices)]
_lost_calls: dict[str, int] = {}


def current() -> Device:
    """The current device of this thread."""
    return device(None)


def device(of: Any) -> Device:
    """The device that a torch.device, a string, an index or None (the current one) names."""
    index = index_of(of)
    if not 0 <= index < len(DEVICES):
        raise RuntimeError(
            f"Invalid device ID. [simulated: there are {len(DEVICES)} devices, not {TYPE}:{index}]"
        )
    return DEVICES[index]


def index_of(of: Any) -> int:
    """The index alone; the current one where none is given."""
    if of is None or isinstance(of, int):
        return CURRENT.index if of is None or of < 0 else of
    if isinstance(of, torch.device) and of.type == TYPE:  # most are, and texts are slow
        return CURRENT.index if of.index is None else of.index
    text = str(of)
    if text.partition(":")[0] != TYPE:
        raise ValueError(f"Expected a {TYPE} device, but got: {text}")
    return int(text.partition(":")[2]) if ":" in text else CURRENT.index


def current_stream(index: int) -> int:
    """The stream on which this thread queues work on a device; 0 is the default one."""
    return CURRENT.streams.get(index, 0)


def operator_may_lose(name: str, on: Device) -> None:
    """Called before each operator: the device is lost in the one that SIMNPU_LOST names."""
    if SETTINGS.lost == name and not on.lost:
        on.lost = _used_up(name)
    if on.lost:
        raise_lost(f"aclnn{name.title().replace('_', '')}")


def _used_up(name: str) -> bool:
    """Whether this call is one more than SIMNPU_LOST_AFTER allows."""
    _lost_calls[name] = _lost_calls.get(name, 0) + 1
    return _lost_calls[name] > SETTINGS.lost_after


def raise_lost(call: str) -> NoReturn:
    """The words of a real one: a kernel that fails takes the process's context with it."""
    if "lost-words" in SETTINGS.broken:
        raise RuntimeError("the thing is gone [simulated]")
    raise RuntimeError(
        f"Sync:../torch_npu/csrc/framework/OpCommand.cpp:340 NPU function error: {call}, error "
        f"code is 507018\n[ERROR] (PID:{os.getpid()}, Device:0, RankID:-1) ERR00100 PTA call acl "
        "api failed\n[Error]: The aicpu execution is abnormal. [simulated]"
    )
