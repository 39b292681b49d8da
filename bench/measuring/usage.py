"""What this process has used of the host so far: CPU time and context switches."""

from __future__ import annotations

from collections.abc import Callable

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
