"""What goes wrong in every process of a run, and not in its workload alone.

Python imports this at its start, in the parent and in each worker. SYSTEM=clock: the time of day
jumps by a day back and forth at each look. SYSTEM=fork: no worker can be started. SYSTEM=read-only:
the record's file system becomes read-only after its first line.
"""

# mypy: ignore-errors

import datetime
import errno
import itertools
import os
import subprocess
import time

SYSTEM = os.environ.get("SYSTEM", "")
DAY = 86_400.0

if SYSTEM == "clock":
    jumps = itertools.cycle((-DAY, DAY))
    true_time, true_datetime = time.time, datetime.datetime

    class Jumping(true_datetime):
        @classmethod
        def now(cls, tz=None):
            return true_datetime.now(tz) + datetime.timedelta(seconds=next(jumps))

    time.time = lambda: true_time() + next(jumps)
    time.time_ns = lambda: int(time.time() * 1e9)
    datetime.datetime = Jumping

if SYSTEM == "fork":
    true_popen = subprocess.Popen.__init__

    def refuse(self, command, *arguments, **options):
        if "bench.measuring.worker" in command:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        true_popen(self, command, *arguments, **options)

    subprocess.Popen.__init__ = refuse

if SYSTEM == "read-only":
    true_fsync, calls = os.fsync, itertools.count()

    def fsync(descriptor):
        if next(calls):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        true_fsync(descriptor)

    os.fsync = fsync
