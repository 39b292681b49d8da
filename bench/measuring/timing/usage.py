"""What this process has used of the host so far, and of the device; and how long the machine was
suspended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bench import units
from bench.records.outcome import Memory

if TYPE_CHECKING:
    from bench.backend import Device

CLOCKS = (("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"), ("CLOCK_MONOTONIC_RAW", "CLOCK_UPTIME_RAW"))
"""Pairs of which the first runs on in a suspended machine: of Linux, and of macOS, whose
CLOCK_MONOTONIC goes with the time of day when that is set."""
SAID = 1.06
"""Times what a device says it has, its most: Intel's cards say 0.95 of that on Linux."""
Usage = Callable[[], tuple[float, int]]
"""CPU seconds of the process so far, all threads, and its involuntary context switches."""


def process_usage() -> Usage | None:
    """The host's usage counters; None where there are none (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    getrusage, who = resource.getrusage, resource.RUSAGE_SELF

    def usage() -> tuple[float, int]:
        now = getrusage(who)
        return now.ru_utime + now.ru_stime, now.ru_nivcsw

    return usage


def suspended_ns() -> int:
    """How far the clock that runs on in a suspended machine is beyond the one that does not.

    Only differences mean anything. 0 where the system has no two such clocks (Windows).
    """
    for running, standing in CLOCKS:
        if hasattr(time, running) and hasattr(time, standing):
            first, second = getattr(time, running), getattr(time, standing)
            return time.clock_gettime_ns(first) - time.clock_gettime_ns(second)
    return 0


def peak(device: Device) -> Memory:
    """The device's peak. MemoryError where tensors had more than that: a driver lent it the
    host's memory without a word (on Windows, WSL 2), and steps took as long as the bus did."""
    found, whole = device.memory(), device.info.memory_bytes
    of_tensors = found.scope.startswith("device allocator") and not device.shares_host_memory
    if whole is not None and of_tensors and found.peak_bytes > SAID * whole:
        held = f"{units.memory(found.peak_bytes)} of tensors are more than the device says it has"
        raise MemoryError(f"{held} ({units.memory(whole)}): its driver kept the rest on the host")
    return found
