"""Is the right rank named, each time? Every fault of `test_world_faults`, again and again.

    python -m bench.tests.scripts.world_faults [--times 10]

Patience is short (3 s rather than 40 s), the groups are real (gloo). Prints how often each was
named right, and seconds from the launch to its outcome. Exit code 1 if one was not, or if a process
was left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from bench.records.outcome import Measured
from bench.tests import forked
from bench.tests.running.test_world_faults import KINDS, expected, impatient, made
from bench.tests.stage import FAULTY


def left() -> list[int]:
    """Workers that are still there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "FAULT" in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def main() -> int:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=10)
    times = parser.parse_args().times
    sys.path.insert(0, str(FAULTY))
    wrong = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        forked.nursery(),
        pytest.MonkeyPatch.context() as patch,
    ):
        os.chdir(folder)
        patch.setattr(subprocess, "Popen", forked.Popen)
        impatient(patch)
        for kind in KINDS:
            seconds, said = [], set()
            right = 0
            for _ in range(times):
                start = time.monotonic()
                outcome = made(kind)
                seconds.append(time.monotonic() - start)
                reason = "measured" if isinstance(outcome, Measured) else outcome.reason
                right += reason.startswith(expected(kind))
                if not reason.startswith(expected(kind)):
                    said.add(reason)
            wrong += times - right
            median = statistics.median(seconds)
            print(f"{kind.name:32} {right:3} of {times}  {median:5.2f} s", *said, flush=True)
        time.sleep(1)
        orphans = left()
    print(f"left: {len(orphans)} processes")
    return 1 if wrong or orphans else 0


if __name__ == "__main__":
    sys.exit(main())
