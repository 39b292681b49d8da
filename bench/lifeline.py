"""A child process that does not outlive its parent, nor leaves children, however the parent ends.

The parent holds one end of a pipe into which nothing is ever written; the child asks the kernel to
kill its whole process group when that end closes. No thread of the child has to run for it, so a
child that hangs in a C call, or before it has imported anything, goes too. Linux only: elsewhere,
and where a sandbox refuses it, a child has its stdin to watch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import bench

VARIABLE = "ACCELMARK_LIFELINE"
"""Names the child's end to it."""
OWN = str(Path(bench.__file__).with_name("_own.py"))
"""Runs a module of this package."""
Started = TypeVar("Started")
ANSWERS: queue.SimpleQueue[int] = queue.SimpleQueue()
"""`time.perf_counter_ns` at each word of the parent's after its child's turn has come."""


def command(module: str, python: str = sys.executable) -> tuple[str, ...]:
    """What runs the `main` of a module of this very package.

    By `python -m`, what lies in the current folder would go before it, and before Python's own.
    """
    return (python, "-P", OWN, module)


class Lifeline:
    """The parent's end."""

    def __init__(self) -> None:
        self._ends: tuple[int, ...] = ()

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Starts the child, in a session of its own; streams and descriptors are `Popen`'s.

        Raises OSError where the system refuses a process or the descriptors for one; then nothing
        is left open.
        """

        def started(childs: tuple[int, ...]) -> subprocess.Popen[bytes]:
            variables = {VARIABLE: str(childs[0])} if childs else {}
            return subprocess.Popen(
                command,
                env={**environment, **variables},
                pass_fds=(*childs, *pass_fds),
                start_new_session=True,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )

        return self.lend(started)

    def lend(self, start: Callable[[tuple[int, ...]], Started]) -> Started:
        """Starts a child otherwise; `start` hands it its end, if there is one."""
        self._ends = os.pipe() if sys.platform == "linux" else ()
        try:
            return start(self._ends[:1])
        except BaseException:
            self.cut()
            raise
        finally:
            for end in self._ends[:1]:  # the child has it: nobody else keeps it
                os.close(end)
            self._ends = self._ends[1:]

    def cut(self) -> None:
        """Kills what is left of the child's process group, if the child holds on."""
        for end in self._ends:
            os.close(end)
        self._ends = ()


def hold() -> tuple[int, ...]:
    """Called by a child that leads a process group of its own, first of all; its end, if any."""
    end = os.environ.pop(VARIABLE, "")
    if sys.platform != "linux" or not end.isdecimal() or os.getpgrp() != os.getpid():
        return ()
    import fcntl

    with contextlib.suppress(OSError):
        os.set_inheritable(int(end), False)
        fcntl.fcntl(int(end), fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(int(end), fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(int(end), fcntl.F_GETFL)
        fcntl.fcntl(int(end), fcntl.F_SETFL, flags | os.O_ASYNC)
        if select.select([int(end)], [], [], 0)[0]:  # the parent died before all that
            os.killpg(0, signal.SIGKILL)
    return (int(end),)


def ending(pid: int) -> int | None:
    """A descriptor that can be read from the end of a process on; None where the system has none:
    not Linux, a kernel before 5.3, a sandbox that refuses it. Raises OSError otherwise."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            return None
        raise


def tells_ends() -> bool:
    """Whether `ending` has a descriptor of any process here."""
    found = ending(os.getpid())
    if found is not None:
        os.close(found)
    return found is not None


def leave_with_parent(stream: BinaryIO) -> None:
    """Ends this process when the parent's end of stdin closes, however the parent died.

    Reads below Python's buffer: its lock, held here for ever, would hang a forked process of a
    job's, which closes its stdin first.
    """
    while os.read(stream.fileno(), 1):
        ANSWERS.put(time.perf_counter_ns())
    os._exit(1)


def wait_for_turn() -> None:
    """Returns at the parent's next line; from then on this process ends when the parent does."""
    if not sys.stdin.buffer.readline():
        os._exit(1)
    threading.Thread(target=leave_with_parent, args=(sys.stdin.buffer,), daemon=True).start()
