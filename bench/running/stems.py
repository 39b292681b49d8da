"""The parent's side of `bench.measuring.stem`: launches forked from what has imported for them.

A process draws its layout of memory and the order of its hashes when it starts. The interval is
over launches of a case, which must draw apart: a stem, with all that grew from it, gives each case
one launch, and then another takes its place.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO

import msgspec

from bench import catalogue
from bench.backend import Backend
from bench.lifeline import Lifeline, command
from bench.measuring.messages import Request
from bench.measuring.stem import (
    AVAILABLE,
    FORK,
    GROW,
    MESSAGE_BYTES,
    Born,
    Ended,
    Order,
    Ready,
    Word,
    common,
)
from bench.records.case import Case
from bench.records.cpu_limits import usable_cores
from bench.running import child

READY_SECONDS = 120.0
"""A stem that imports for longer is ended, and launches import by themselves."""
DECODER = msgspec.json.Decoder(Word)
GENERATIONS = 2
"""At most so many import side by side, where there are as many cores: one that waits for its round
holds memory."""
Chain = tuple[str, ...]
"""What stems have imported that grew from one another, in order."""
Start = Callable[[Lifeline, int], child.Process]
"""Starts a stem's process, with a lifeline and its end of the socket."""


class Stem:
    """One such process."""

    def __init__(self, order: Order, start: Start) -> None:
        """start: of its process. OSError where none can be started."""
        self._codes: dict[int, int] = {}
        self._asked = self._answered = 0
        """Of its forks: one that comes too late for its word is no other's."""
        self._born = 0
        """The process id of the last one."""
        self._lifeline = Lifeline()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = start(self._lifeline, theirs.fileno())
        except BaseException:
            self._socket.close()
            raise
        with contextlib.suppress(OSError):
            self._socket.send(msgspec.json.encode(order))

    @classmethod
    def first(cls, order: Order, python: str, given: Mapping[str, str]) -> Stem:
        """python: the interpreter; given: its variables."""

        def started(held: Lifeline, theirs: int) -> child.Process:
            return held.start(
                (*command("bench.measuring.stem", python), str(theirs)),
                given,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs,),
            )

        return cls(order, started)

    def grown(self, order: Order) -> Stem:
        """Another one, which imports this besides."""

        def started(held: Lifeline, theirs: int) -> child.Process:
            return held.lend(lambda ends: Forked(self, self._child(GROW, (theirs, *ends))))

        return Stem(order, started)

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
            pid = self._child(FORK, (read, write, stderr.fileno(), *ends))
        except BaseException:
            os.close(theirs_in)
            os.close(theirs_out)
            raise
        finally:
            os.close(read)
            os.close(write)
        return Forked(self, pid, os.fdopen(theirs_in, "wb"), os.fdopen(theirs_out, "rb"))

    def _child(self, word: bytes, descriptors: Sequence[int]) -> int:
        """The process id of what is forked at a word. OSError where nothing is in time: what is
        forked later finds its lifeline cut, and goes."""
        socket.send_fds(self._socket, [word], descriptors)
        self._asked += 1
        while self._answered < self._asked:
            if not isinstance(self._hear(child.GRACE_SECONDS), Born | Ended):
                raise TimeoutError("nothing is forked")
        return self._born

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
        elif isinstance(word, Born):
            self._answered += 1
            self._born = word.pid
        return word

    def end(self) -> None:
        """It goes; its launches stay."""
        self._socket.close()
        child.end(self._process)
        self._lifeline.cut()


class Forked:
    """A launch's process, as `subprocess.Popen` would have it."""

    def __init__(
        self, stem: Stem, pid: int, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> None:
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
    """Those of one run: one for each set of libraries, as far as one can be had, all grown from
    one."""

    def __init__(self, python: str, scratch: str | None) -> None:
        """python: the launches' interpreter; scratch: the run's folder."""
        self._python, self._scratch = python, scratch
        self._stems: dict[Chain, Stem] = {}
        """By what they have imported, in order: each grew from that of all but the last."""
        self._waiting: list[dict[Chain, Stem]] = []
        """Others, of the rounds that follow: they have imported beside these."""
        self._cases: set[str] = set()
        """Fingerprints of those that have had a launch from one of these."""
        self._expected: set[Chain] = set()
        self._rounds = 1
        self._refused: set[Chain] = set()

    @staticmethod
    def of(backend: Backend, python: str, scratch: str | None) -> Stems | None:
        """None where launches of this backend are not forked."""
        return Stems(python, scratch) if AVAILABLE and backend.forks else None

    def expect(self, cases: Iterable[Case], rounds: int = 1) -> None:
        """What is wanted of the next ones: they import side by side, before anything measures.

        rounds: of launches that are still to come, this one included.
        """
        self._expected = {_libraries(case) for case in cases}
        self._rounds = rounds

    def stem(self, request: Request, given: Mapping[str, str]) -> Stem | None:
        """One that this case has had no launch from; None where launches import by themselves."""
        libraries = _libraries(request.case)
        if request.case.fingerprint in self._cases:
            self._turn()
        found = self._one_with(libraries, request.backend, given)
        if found is not None:
            self._cases.add(request.case.fingerprint)
        return found

    def rehearsing(self, request: Request, given: Mapping[str, str]) -> Stem | None:
        """One for a process that measures nothing, of which a case may have any number; None where
        there is none.

        A rehearsal imports torch's compiler, whatever the launch itself imports.
        """
        libraries = _libraries(request.case)
        if libraries:
            libraries = max(libraries, common(("torch._dynamo",)), key=len)
        return self._one_with(libraries, request.backend, given)

    def _one_with(self, libraries: Chain, backend: str, given: Mapping[str, str]) -> Stem | None:
        """One that has imported these, grown now where there is none."""
        if not libraries:
            return None
        if not self._stems:
            side_by_side = min(self._rounds, GENERATIONS, usable_cores())
            self._waiting = [{} for _ in range(side_by_side - 1)]
            fresh = self._waiting
        else:
            fresh = []
        chains = {libraries, *self._expected}
        for length in range(1, max(map(len, chains)) + 1):
            wanted = {chain[:length] for chain in chains if len(chain) >= length}
            self._grow(wanted, [self._stems, *fresh], backend, given)
        return self._stems.get(libraries)

    def _grow(
        self,
        wanted: Iterable[Chain],
        generations: Sequence[dict[Chain, Stem]],
        backend: str,
        given: Mapping[str, str],
    ) -> None:
        """Those of them that are lacking and can be had, side by side."""
        started: list[tuple[dict[Chain, Stem], Chain, Stem]] = []
        for libraries, stems in itertools.product(sorted(wanted), generations):
            before = stems.get(libraries[:-1])
            known = libraries in stems or libraries in self._refused
            if known or (libraries[:-1] and before is None):
                continue
            order = Order(backend=backend, libraries=libraries[-1:], scratch=self._scratch)
            try:
                if before is None:
                    stem = Stem.first(order, self._python, given)
                else:
                    stem = before.grown(order)
            except OSError:
                self._refused.add(libraries)
            else:
                started.append((stems, libraries, stem))
        for stems, libraries, stem in started:
            if stem.ready():
                stems[libraries] = stem
            else:
                stem.end()
                self._refused.add(libraries)

    def _turn(self) -> None:
        """Those of the next round take the place of these."""
        self._cases.clear()
        while self._stems:
            self._stems.popitem()[1].end()
        self._stems = self._waiting.pop(0) if self._waiting else {}

    def give_up(self) -> None:
        """No launch is forked any more: one could not be."""
        self._refused |= {libraries[:1] for libraries in self._stems}
        self.close()

    def close(self) -> None:
        """None is left."""
        while self._stems or self._waiting:
            self._turn()
        self._cases.clear()


def _libraries(case: Case) -> Chain:
    """What is imported for a case, stem by stem."""
    workload = catalogue.workload(case.workload)
    return common((*workload.libraries, *workload.modes[case.mode].libraries))
