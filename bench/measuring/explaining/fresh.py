"""Memory that the system gives anew: each of its pages is cleared where it is first touched.

A step in its steady state pays for none: its allocator has all that it takes. But whatever was
allocated between two turns, the profiler's events most of all, lies in the gaps that large blocks
had; the next step or replay does not find them free and takes others, which are fresh (of Llama's
training 60 to 100 thousand pages a replay: a gradient's zeroes took six times as long as in the
step). So a turn that got fresh pages is not counted, and taken again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NS_A_BYTE = 0.2
"""What clearing fresh memory takes: 0.7 us a page of 4 KiB."""
MOST_SHARE = 0.002
"""Of the time of what is measured; less is not seen."""
MOST_TIMES = 4
"""After which it counts as it is: what gets fresh pages every time gets them in the step too."""


def settled(
    work: Callable[[], T],
    given: Callable[[], tuple[int, ...]] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> T:
    """What `work` gives as soon as it gets no fresh memory to speak of.

    given: bytes that this process was given so far, by each that counts them; clock: ns.
    """
    given = given or given_bytes
    for _ in range(MOST_TIMES):
        before, start = given(), clock()
        found = work()
        took, after = clock() - start, given()
        fresh = max(now - then for then, now in zip(before, after, strict=True))
        if fresh * NS_A_BYTE <= MOST_SHARE * took:
            break
    return found


def given_bytes() -> tuple[int, int]:
    """Bytes that the system has given this process so far: pages by its count of faults, of which a
    huge page is one; and what is resident, in which memory that comes and goes is not seen. 0 where
    nobody counts them."""
    faults = resident = 0
    with contextlib.suppress(ImportError):  # Windows
        import resource

        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize()
        with contextlib.suppress(OSError):  # no Linux
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            resident = pages * resource.getpagesize()
    return faults, resident
