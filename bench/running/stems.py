"""The parent's side of `bench.measuring.stem`: launches forked from what has imported for them.

A process draws its layout of memory and the order of its hashes when it starts. The interval is
over launches of a case, which must draw apart: a stem gives each case one launch, and then another
stem takes its place.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from typing import IO

import msgspec

from bench import catalogue
from bench.backend import Backend
from bench.lifeline import Lifeline
from bench.measuring.messages import Request
from bench.measuring.stem import AVAILABLE, MESSAGE_BYTES, Born, Ended, Order, Ready, Word, common
from bench.running import child

READY_SECONDS = 120.0
"""A stem that imports for longer is ended, and launches import by themselves."""
DECODER = msgspec.json.Decoder(Word)
COMMAND = ("-m", "bench.measuring.stem")


class Stem:
    """One such process."""

    def __init__(self, order: Order, python: str, given: Mapping[str, str]) -> None:
        """python: the interpreter; given: its variables. OSError where none can be started."""
        self.cases: set[str] = set()
        """Fingerprints of those that have had a launch from here."""
        self._codes: dict[int, int] = {}
        self._lifeline = Lifeline()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = self._lifeline.start(
                    (python, *COMMAND, str(theirs.fileno())),
                    given,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
        except BaseException:
            self._socket.close()
            raise
        with contextlib.suppress(OSError):
            self._socket.send(msgspec.json.encode(order))

    def ready(self, seconds: float = READY_SECONDS) -> bool:
        """Waits until it has imported; whether it will fork."""
        try:
            return isinstance(self._hear(seconds), Ready)
        except ConnectionError:
            return False

    def fork(self, ends: tuple[int, ...], stderr: IO[bytes]) -> Forked:
        """A launch that holds its lifeline's ends. OSError where it gives none."""
        read, theirs_in = os.pipe()
        theirs_out, write = os.pipe()
        # Named from the launch's side: it reads `read` and writes `write`.
        try:
            socket.send_fds(self._socket, [b"fork"], [read, write, stderr.fileno(), *ends])
            born = self._hear(child.GRACE_SECONDS)
            while isinstance(born, Ended):
                born = self._hear(child.GRACE_SECONDS)
            if not isinstance(born, Born):
                raise TimeoutError("no launch is forked")
        except BaseException:
            os.close(theirs_in)
            os.close(theirs_out)
            raise
        finally:
            os.close(read)
            os.close(write)
        return Forked(self, born.pid, os.fdopen(theirs_in, "wb"), os.fdopen(theirs_out, "rb"))

    def code(self, pid: int, seconds: float | None) -> int | None:
        """How a launch ended; None if it has not within that time.

        Without the stem nobody could say so: then it is ended, as the stem was, by a signal.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while pid not in self._codes:
            left = None if end is None else max(end - time.monotonic(), 0.0)
            try:
                if self._hear(left) is None:
                    return None
            except ConnectionError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                self._codes[pid] = -signal.SIGKILL
        return self._codes[pid]

    def _hear(self, seconds: float | None) -> Word | None:
        """Its next word; None if it says nothing in that time. ConnectionError if it is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            if not selector.select(seconds):
                return None
        said = self._socket.recv(MESSAGE_BYTES)
        if not said:
            raise ConnectionResetError("the process that launches are forked from is gone")
        word: Word = DECODER.decode(said)
        if isinstance(word, Ended):
            self._codes[word.pid] = word.code
        return word

    def end(self) -> None:
        """It goes; its launches stay."""
        self._socket.close()
        child.end(self._process)
        self._lifeline.cut()


class Forked:
    """A launch's process, as `subprocess.Popen` would have it."""

    def __init__(self, stem: Stem, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._stem = stem

    def poll(self) -> int | None:
        """Its exit code, or minus its signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._stem.code(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, when it has ended. TimeoutExpired if it has not within that time."""
        if self.returncode is None:
            self.returncode = self._stem.code(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a launch", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To it alone, while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Stems:
    """Those of one run: one for each set of libraries, as far as one can be had."""

    def __init__(self, python: str, scratch: str | None) -> None:
        """python: the launches' interpreter; scratch: the run's folder."""
        self._python, self._scratch = python, scratch
        self._stems: dict[tuple[str, ...], Stem] = {}
        self._refused = False

    @staticmethod
    def of(backend: Backend, python: str, scratch: str | None) -> Stems | None:
        """None where launches of this backend are not forked."""
        return Stems(python, scratch) if AVAILABLE and backend.forks else None

    def stem(self, request: Request, given: Mapping[str, str]) -> Stem | None:
        """One that this case has had no launch from; None where launches import by themselves."""
        workload = catalogue.workload(request.case.workload)
        mode = workload.modes[request.case.mode]
        libraries = common((*workload.libraries, *mode.libraries))
        if self._refused or not libraries:
            return None
        found = self._stems.get(libraries)
        if found is not None and request.case.fingerprint in found.cases:
            self._stems.pop(libraries).end()
            found = None
        if found is None:
            found = self._started(request, libraries, given)
        if found is not None:
            found.cases.add(request.case.fingerprint)
        return found

    def _started(
        self, request: Request, libraries: tuple[str, ...], given: Mapping[str, str]
    ) -> Stem | None:
        order = Order(backend=request.backend, libraries=libraries, scratch=self._scratch)
        with contextlib.suppress(OSError):
            stem = Stem(order, self._python, given)
            if stem.ready():
                self._stems[libraries] = stem
                return stem
            stem.end()
        self.give_up()
        return None

    def give_up(self) -> None:
        """No launch is forked any more: one could not be."""
        self._refused = True
        self.close()

    def close(self) -> None:
        """None is left."""
        while self._stems:
            self._stems.popitem()[1].end()
