"""One launch: its own process opens the device, checks the numerics, measures and reports.

Reads one `Request` (a JSON line) from stdin, imports what it needs, and waits for a second line
before it opens the device, so that several workers may import side by side. Writes `Progress` lines
and one final `Report` to the stdout that it was started with. Everything else that prints, C
libraries included, goes to stderr, so nothing can garble the report. When stdin closes, the parent
is gone and the worker leaves.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import queue
import signal
import sys
from typing import BinaryIO

import msgspec

from bench import lifeline
from bench.measuring.launch import Launch
from bench.measuring.messages import Channel, Request
from bench.records.encoding import own_stdout
from bench.records.outcome import Measured

STACKS_SIGNAL = getattr(signal, "SIGUSR1", None)
"""At this a worker writes the stacks of its threads to stderr; None where there is no such."""
ANSWER_SECONDS = 1.0
"""For the parent's answer, at most."""


def begun() -> BinaryIO:
    """What a process does first that is asked for one thing; gives where its answers go."""
    lifeline.hold()
    gc.disable()  # a sixth of the import time; the engine wants it off anyway
    faulthandler.enable()  # a segmentation fault leaves its Python stack on stderr
    if STACKS_SIGNAL is not None:
        faulthandler.register(STACKS_SIGNAL, all_threads=True)
    return own_stdout()


def main(imported_seconds: float | None = None) -> None:
    """The worker process: `python -m bench.measuring.worker`, or a fork of `bench.measuring.stem`,
    which took so long to import."""
    private = begun()
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    channel = Channel(private)
    launch = Launch(request, channel, lifeline.wait_for_turn)
    launch.imported_seconds = imported_seconds
    report = launch.run()
    if isinstance(report.outcome, Measured):
        with contextlib.suppress(queue.Empty):  # the parent has long answered, but for a busy host
            answered_ns = lifeline.ANSWERS.get(timeout=ANSWER_SECONDS)
            report = msgspec.structs.replace(report, clock_ns=answered_ns)
    channel.send(report)
    private.close()
    # Neither a plug-in's exit handlers nor a device's teardown may turn a report into a crash.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
