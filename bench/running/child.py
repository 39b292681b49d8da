"""What a parent does with a child process in a group of its own: hear how it ended, and end it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, BinaryIO, Protocol

import bench
from bench.backend import Backend
from bench.measuring.worker import STACKS_SIGNAL
from bench.records import environment, private
from bench.records.cpu_limits import groups

STDERR_TAIL_BYTES = 4000
"""How much of the end of a child's stderr is kept."""
LINE_BYTES = 1 << 16
"""Longest line of a child's stderr that is looked at in one piece."""
FATAL = b"Fatal Python error:"
"""How `faulthandler` begins."""
LEAVING_SECONDS = 0.5
"""Between closing a child's stdin, at which it leaves, and asking it to end."""
GRACE_SECONDS = 3.0
"""Between asking a child to end and ending it."""
KILLED_SECONDS = 15.0
"""What one that was killed gets to be gone: until its driver lets go it holds the device, and the
next launch would share it."""
STACKS_SECONDS = 0.5
"""What a child that hangs gets to write its stacks."""


def variables(backend: Backend, forced: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child that has to do with a backend; see `worker_variables`."""
    unset = backend.silencing_variables()
    return environment.worker_variables(backend.worker_environment(), forced, unset)


class Process(Protocol):
    """What is asked of a child: a `subprocess.Popen`, or what stands for one."""

    pid: int
    returncode: int | None

    @property
    def stdin(self) -> IO[bytes] | None:
        """What it hears by."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """What it says."""

    def poll(self) -> int | None:
        """Its exit code, or minus its signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The same, when it has ended; TimeoutExpired if it has not within that time."""

    def send_signal(self, number: int, /) -> None:
        """To it alone, while it runs."""


def tell(process: Process, line: bytes) -> None:
    """Writes a line to its stdin; nothing to one that died, whose end is told elsewhere."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write(line + b"\n")
        process.stdin.flush()


def hang_up(process: Process) -> None:
    """Closes its stdin, at which it leaves."""
    with contextlib.suppress(BrokenPipeError):
        if process.stdin is not None:
            process.stdin.close()


def ask_for_stacks(process: Process) -> None:
    """Has a worker that hangs write its threads' stacks to stderr, even from within a C call.

    One that does not know the signal yet is ended by it, which comes next anyway.
    """
    if signal_for_stacks(process):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STACKS_SECONDS)


def signal_for_stacks(process: Process) -> bool:
    """The asking alone, which waits for nothing; whether the system can."""
    if STACKS_SIGNAL is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(STACKS_SIGNAL)
    return True


def epitaph(process: Process, stderr: BinaryIO, given: Mapping[str, str] = os.environ) -> str:
    """How a worker without a report ended, and the last thing it said.

    given: the environment whose secrets are not told.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    code = process.returncode
    if code is None:
        how = "the worker closed its report without one"
    elif code < 0:
        named = -code in {s.value for s in signal.Signals}  # real-time signals have no name
        name = signal.Signals(-code).name if named else f"signal {-code}"
        hint = ", perhaps by the kernel for want of memory" if name == "SIGKILL" else ""
        how = f"the worker was killed by {name}{hint}"
    else:
        how = f"the worker left with exit code {code} and no report"
    last = _last_words(stderr, given)
    return f"{how}: {last}" if last else how


def memory_kills() -> int:
    """How many of this control group the kernel has killed for want of memory; 0 where it does not
    say."""
    kills = 0
    for _, folder in groups("memory"):
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError, ValueError, KeyError):  # the other version, or old
                lines = (folder / name).read_text(encoding="ascii").splitlines()
                kills = int(dict(line.split() for line in lines)["oom_kill"])
    return kills


def _last_words(stderr: BinaryIO, given: Mapping[str, str]) -> str:
    """The last line; where Python's own account of a fatal error follows it, that one's first too.

    The account ends with the stack and every extension module there is, which nobody asked for.
    """
    stderr.seek(0)
    last = before = fatal = b""
    for line in iter(lambda: stderr.readline(LINE_BYTES), b""):
        if line.startswith(FATAL):
            before, fatal = last, line
        last = (line.strip() and line) or last
    words = [before, fatal] if fatal else [last]
    said = ": ".join(w.decode("utf-8", errors="replace").strip() for w in words if w.strip())
    return _cleaned(said, given)


def tail(stderr: BinaryIO, given: Mapping[str, str] = os.environ) -> str:
    """The end of what a worker wrote to stderr, without what tells whose machine it was.

    given: the environment whose secrets are not told.
    """
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - STDERR_TAIL_BYTES))
    return _cleaned(stderr.read().decode("utf-8", errors="replace"), given)


def _cleaned(text: str, given: Mapping[str, str]) -> str:
    """A record is handed round: tracebacks need not say whose home they are from.

    Secrets go first: of one that looks like a path the cleaner would leave a part.
    """
    text = environment.without_secrets(text, given)
    return private.cleaned(text, PUBLIC_FOLDERS, OWN_NAMES)


def _public_folders() -> dict[str, str]:
    """Folders that are alike for everybody: below them a traceback may name its files in full."""
    paths = sysconfig.get_paths()
    folders = [(Path(bench.__file__).parents[1], ".")]
    folders += [(Path(paths[name]), Path(paths[name]).name) for name in ("stdlib", "purelib")]
    return {str(folder): name for folder, name in folders if folder != Path(folder.anchor)}


# Asked while there are descriptors to ask with: a launch may end for want of them.
PUBLIC_FOLDERS = _public_folders()
OWN_NAMES = private.own_names()


def end(*processes: Process) -> None:
    """Ends the whole process group of each: politely, then not; returns when all are gone.

    All are asked, and all are killed, before one is waited for: what drivers that hold on to theirs
    take, they take together. One whose stdout is closed was ended: its number may be another's.
    """
    processes = tuple(p for p in processes if p.stdout is None or not p.stdout.closed)
    for process in processes:
        hang_up(process)
    _wait_for(processes, LEAVING_SECONDS)
    for sign, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, KILLED_SECONDS)):
        left = [process for process in processes if process.poll() is None]
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
        _wait_for(left, seconds)
    for process in processes:
        # What the worker itself started, and left, goes with it.
        with contextlib.suppress(ProcessLookupError, PermissionError, ChildProcessError):
            os.killpg(process.pid, signal.SIGKILL)
            if process.returncode is not None:
                reap(process.pid)
        if process.stdout is not None:
            process.stdout.close()


def reap(group: int) -> None:
    """Orphans of a group that was killed, as they end: they are ours where we are PID 1.

    Raises `ChildProcessError` as soon as none is left, which is at once elsewhere.
    """
    until = time.monotonic() + LEAVING_SECONDS
    while time.monotonic() < until:
        if not os.waitpid(-group, os.WNOHANG)[0]:
            time.sleep(0.001)


def _wait_for(processes: Iterable[Process], seconds: float) -> None:
    """Until all have ended, or so long is over."""
    end = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(end - time.monotonic(), 0.0))
