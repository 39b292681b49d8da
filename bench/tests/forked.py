"""Python processes that a test starts, forked from one that has imported torch once: a tenth of
the time, the same code.

While the fixture `forked` holds, `subprocess.Popen` of this interpreter (`-m`, `-c` or OWN), here
and in the processes that are started so, asks a nursery for a fork instead of starting one. The
fork gets the streams, folder, variables, session and arguments that the process would have had;
`import torch`, of which nothing is seen before, then only loads the plug-ins that the variables
name. What an interpreter or a library reads from its variables when it is loaded (the locale,
OpenMP's but for the number of threads, one by default) is the nursery's, but for PYTHONIOENCODING:
tests of that start real ones (`Real`), or a nursery with such variables. Linux only.

There are two: from the first grows one that has imported all libraries of workloads besides. That
forks the processes of pytest-xdist, and launches, if they have no plug-in of their own on
PYTHONPATH: some of those libraries look for one of torch's when they are imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.lifeline import OWN, tells_ends

AVAILABLE = tells_ends()
ERRORS = ("-W", "error")
"""Words before these that a fork can follow."""
SAFE = "-P"
"""Another, by which nothing of the current folder is found."""
READY_SECONDS = 120.0
WIDE = ".wide"
"""At the end of the place of the second nursery."""
LAUNCHES = frozenset(
    ("bench.measuring.stem", "bench.measuring.worker", "bench.tests.rank_processes")
)
"""What may import any library."""
Real = subprocess.Popen
PLACES: list[str] = []
"""Where the nursery listens, in this process and in those that come from it."""


class Popen(Real[Any]):
    """A process that a nursery forks, if it can; that tells how it ended."""

    FORKS = True
    """Whether it starts its own so, too."""
    _waiter: socket.socket | None = None

    def _execute_child(self, args: Any, *rest: Any) -> None:
        _executable, preexec, _close, pass_fds, cwd, env, *_windows, shell = rest[:9]
        streams, (*_ids, new_session, _group) = rest[9:15], rest[15:]
        words = [] if isinstance(args, (str, bytes)) else [os.fsdecode(word) for word in args]
        if preexec or shell or not _can(words):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        read, _, _, write, _, error = streams
        ends = [end if end != -1 else number for number, end in enumerate((read, write, error))]
        variables = dict(os.environ if env is None else env)
        request = {
            "words": [as_bytes(word) for word in words[1:]],
            "folder": as_bytes(cwd or Path.cwd()),
            "variables": {as_bytes(name): as_bytes(value) for name, value in variables.items()},
            "forks": self.FORKS,
            "session": new_session,
            "descriptors": [0, 1, 2, *pass_fds],
        }
        waiter = socket.socket(socket.AF_UNIX)
        try:
            waiter.connect(self._place(words[1:], variables))
            text = json.dumps(request).encode()
            waiter.sendall(len(text).to_bytes(4, "big"))
            socket.send_fds(waiter, [text[:1]], [*ends, *pass_fds])
            waiter.sendall(text[1:])
            self.pid = int.from_bytes(exactly(waiter, 4), "big")
        except BaseException:
            waiter.close()
            raise
        self._waiter = waiter
        self._child_created = True
        self._close_pipe_fds(*streams)  # type: ignore[attr-defined]

    def _place(self, words: Sequence[str], variables: Mapping[str, str]) -> str:
        """Of the nursery that is asked."""
        own = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
        wide = PLACES[-1] + WIDE
        if LAUNCHES.isdisjoint(words) or not Path(wide).exists():
            return PLACES[-1]
        return PLACES[-1] if any(any(Path(entry).glob("*.dist-info")) for entry in own) else wide

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._waiter is None:
            answer: tuple[int, int] = super()._try_wait(wait_flags)  # type: ignore[misc]
            return answer
        if wait_flags & os.WNOHANG and not select.select([self._waiter], [], [], 0)[0]:
            return 0, 0
        status = int.from_bytes(exactly(self._waiter, 4), "big")
        self._waiter.close()
        return self.pid, status

    def _internal_poll(self, *rest: Any, **named: Any) -> int | None:
        if self._waiter is None:
            code: int | None = super()._internal_poll(*rest, **named)  # type: ignore[misc]
            return code
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid == self.pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


class Plain(Popen):
    """One that itself starts what it starts: a process of pytest-xdist."""

    FORKS = False


def _can(words: Sequence[str]) -> bool:
    if not words or words[0] != sys.executable:
        return False
    rest = target_of(words[1:])
    return len(rest) > 1 and rest[0] in ("-m", "-c", OWN)


def target_of(words: Sequence[str]) -> Sequence[str]:
    """From `-m`, `-c` or our file on."""
    return words[2:] if tuple(words[:2]) == ERRORS else words[words[:1] in (["-u"], [SAFE]) :]


def as_bytes(text: str | os.PathLike[str]) -> str:
    """With a character for each byte that the system would give a process."""
    return os.fsencode(text).decode("latin-1")


def exactly(connection: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        more = connection.recv(count - len(read))
        if not more:
            raise EOFError("the nursery is gone")
        read += more
    return read


@contextlib.contextmanager
def nursery() -> Iterator[None]:
    """One is there, and `Popen` of this process knows where."""
    with starting() as place, known(place):
        yield


@contextlib.contextmanager
def starting(only: str = "", variables: Mapping[str, str] = os.environ) -> Iterator[str]:
    """One starts, to be there until the end: its place, for `known`.

    only: modules, instead of what is imported else; variables: the interpreter's."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/nursery"
        code = f"from bench.tests import nursery; nursery.serve({place!r}, {only!r})"
        with Real(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={
                **variables,
                "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
                "OMP_NUM_THREADS": "1",
                "GOMP_SPINCOUNT": "0",
            },
        ) as process:
            assert process.stdin is not None
            try:
                yield place
            finally:
                process.stdin.close()


@contextlib.contextmanager
def known(place: str) -> Iterator[None]:
    """`Popen` of this process asks the nursery at that place, once that is there."""
    end = time.monotonic() + READY_SECONDS
    while not Path(place).exists():
        assert time.monotonic() < end, "the nursery did not start"
        time.sleep(0.02)
    PLACES.append(place)
    try:
        yield
    finally:
        PLACES.remove(place)
