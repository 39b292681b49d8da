"""One worker process, as its parent has it: started, listened to, bounded in time, ended whole.

The parent blocks in the kernel while a worker measures: one that polls takes a core from it. The
worker's stderr goes to a file, so that no amount of it can block the worker, and the parent keeps
its end. A worker runs in a process group of its own, which is ended whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec

from bench.lifeline import Lifeline
from bench.measuring.messages import Progress, Report, Request
from bench.records.encoding import encoded
from bench.records.limits import SHORTEST_LIMIT_SECONDS, phase_limit
from bench.records.outcome import Cold, Failed, FailureKind, Phase, Skipped
from bench.records.reason import reason
from bench.records.run import Settings
from bench.records.runfile import UNREADABLE
from bench.running import child
from bench.running.clocks import Clocks
from bench.running.ears import Ears, awake
from bench.running.stems import Stem

LAST_GAP_SECONDS = 0.25
"""When its time is over a worker is heard until it is silent for so long: its parent may have been
held up, and a whole report lie in the pipe. Less than lies between two lines of a slow one."""
LAST_SECONDS = 2.0
"""That, at most."""
WAIT_SECONDS = 10.0
"""Of a pause of all processes no limit counts more than this."""
DECODER = msgspec.json.Decoder(Progress | Report)
IMPORTING: tuple[Phase, ...] = ("start", "import")
"""Phases that may overlap with those of another worker: nothing is timed in them but themselves."""

Listener = Callable[[Progress], None]


Started = TypeVar("Started")


def start_worker(make: Callable[[], Started]) -> Started | Report:
    """A worker, or the report that the system refuses one: no processes, memory, descriptors."""
    try:
        return make()
    except OSError as error:
        why = f"no worker could be started: {error.strerror or error}"
        return failed("error", "start", why)


class Worker:
    """What a worker has said so far, wherever it is."""

    def __init__(self) -> None:
        self.phase: Phase = "start"
        self.report: Report | None = None
        self.arrivals = 0
        """How often in its phase it has come to where all ranks meet."""
        self.died = False
        """Whether it ended without a report."""

    def take(self, message: Progress | Report, listen: Listener) -> None:
        """It said that."""
        if isinstance(message, Report):
            self.report = message
            return
        self.arrivals = self.arrivals + message.arrived if message.phase == self.phase else 0
        self.phase = message.phase
        listen(message)


class WorkerProcess(Worker):
    """A worker process of this host."""

    def __init__(
        self,
        request: Request,
        given: Mapping[str, str],
        command: tuple[str, ...],
        pass_fds: tuple[int, ...] = (),
        stem: Stem | None = None,
    ) -> None:
        """Starts the process and gives it its request.

        pass_fds: descriptors that it gets too; stem: what it is forked from, if it is.
        """
        super().__init__()
        self.request = request
        self._given = given
        self._limit = request.limit_seconds
        self._of_phases = request.settings.launch_limit_seconds
        self._rest = bytearray()
        self._clocks = Clocks()
        self._stacks_from = 0
        self._memory_kills = child.memory_kills()
        with contextlib.ExitStack() as undo:
            self._stderr = undo.enter_context(tempfile.TemporaryFile())
            lifeline = Lifeline()
            self.process: child.Process
            if stem is not None:
                self.process = lifeline.lend(lambda ends: stem.fork(ends, self._stderr))
            else:
                self.process = lifeline.start(
                    command,
                    given,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    pass_fds=pass_fds,
                )
            undo.callback(lifeline.cut)
            self._close = undo.pop_all().close
        child.tell(self.process, encoded(request))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def hang_up(self) -> None:
        """Closes its stdin, at which it leaves."""
        child.hang_up(self.process)

    def leave(self) -> None:
        """Ends it, and lets go of what belongs to it."""
        self.end()
        self._close()

    def until_imported(self) -> None:
        """Waits until it has imported its libraries, or has ended."""
        self._listen(lambda: self.phase not in IMPORTING, lambda progress: None)
        if self.report is not None:  # what hangs takes no core from the others
            self.end()

    def measure(self, listen: Listener) -> Report:
        """Lets it open the device and go on to its report, its end, or its time limit."""
        if self.report is None:  # else it has ended already
            self.let_go()
            self._listen(lambda: False, listen)
        assert self.report is not None
        return self.report

    def let_go(self) -> None:
        """Lets it open the device, when it has imported its libraries."""
        self._clocks.lets_go()
        child.tell(self.process, b"")

    def take(self, message: Progress | Report, listen: Listener) -> None:
        """It said that. Where it has measured it is answered: its clock is held to ours."""
        if isinstance(message, Report):
            message = self._clocks.held(message)
        elif self._clocks.asks(message):
            child.tell(self.process, b"")
        super().take(message, listen)

    def end(self) -> None:
        """Ends its whole process group."""
        child.end(self.process)

    def stderr_tail(self) -> str:
        """The end of what it wrote to stderr."""
        return child.tail(self._stderr, self._given)

    def stderr_lines(self) -> Iterator[str]:
        """All that it wrote to stderr, however much: what matters may stand at its start."""
        self._stderr.seek(0)
        while line := self._stderr.readline(child.LINE_BYTES):
            yield line.decode("utf-8", errors="replace")

    def ask_for_stacks(self) -> None:
        """Has it write its threads' stacks to stderr; waits for nothing."""
        self._stacks_from = self._stderr_size()
        child.signal_for_stacks(self.process)

    def stacks(self) -> str:
        """What it has written to stderr since it was asked."""
        size = self._stderr_size() - self._stacks_from
        read = os.pread(self._stderr.fileno(), size, self._stacks_from)
        return read.decode("utf-8", errors="replace")

    def cpu_seconds(self) -> float:
        """What it and those whom it has compile have used of the host's cores, as far as it is
        seen; of those that ended without being waited for nothing is."""
        import psutil

        used = 0.0
        with contextlib.suppress(psutil.Error):
            own = psutil.Process(self.pid)
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    used += sum(process.cpu_times()[:4])  # with those of children that ended
        return used

    def _stderr_size(self) -> int:
        return os.fstat(self._stderr.fileno()).st_size

    def _listen(self, enough: Callable[[], bool], listen: Listener) -> None:
        """Reads what it says until that is enough or there is a report; makes one if it ends."""
        try:
            with Ears() as ears:
                ears.attend(self.pid, self.process)
                self._listen_with(ears, enough, listen)
        except OSError as error:  # no descriptors left to listen with
            self.report = failed(
                "error", self.phase, f"the worker cannot be heard: {error.strerror or error}"
            )

    def _listen_with(self, ears: Ears, enough: Callable[[], bool], listen: Listener) -> None:
        # Nothing is asked of a worker while others take their turns: its time runs from here.
        launch_end = awake() + self._limit
        phase, phase_end = self.phase, self._phase_end()
        last: float | None = None
        while self.report is None and not enough():
            if phase != self.phase:
                phase, phase_end, last = self.phase, self._phase_end(), None
            now = awake()
            left = min(launch_end, phase_end, now + WAIT_SECONDS) - now
            if left <= 0:
                last = last or now + LAST_SECONDS
                left = min(LAST_GAP_SECONDS, last - now)
            ready = ears.ready(left) if left > 0 else {}
            if not ready and awake() >= min(launch_end, phase_end):
                self._give_up(whole_launch=launch_end <= phase_end)
            for speaks in ready.values():
                self.listen(speaks=speaks, listen=listen)

    def _phase_end(self) -> float:
        return awake() + phase_limit(self.phase, self._of_phases)

    def _give_up(self, whole_launch: bool) -> None:
        """Its time is over: its stacks go to its stderr, and the report says which limit it was."""
        child.ask_for_stacks(self.process)
        phase = self.phase
        message = f"no report within {self._limit:.0f} s; ended in its {phase} phase"
        if not whole_launch:
            limit = phase_limit(phase, self._of_phases)
            message = f"its {phase} phase took more than {limit:.0f} s of the launch's "
            message += f"{self._of_phases:.0f} s; ended"
        self.report = failed("timeout", phase, message)

    def listen(self, *, speaks: bool, listen: Listener) -> None:
        """Hears what woke its parent: a word, or its end where a child of its holds its stdout."""
        assert self.process.stdout is not None
        self.hear(os.read(self.process.stdout.fileno(), 1 << 20) if speaks else b"", listen)

    def hear(self, chunk: bytes, listen: Listener) -> None:
        """Takes what it said; nothing is its end."""
        if not chunk:
            self.died = True
            self.report = self._death()
            return
        self._rest += chunk
        if b"\n" not in chunk:  # nor copied: a long report comes in hundreds of chunks
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            try:
                message = DECODER.decode(line)
            except UNREADABLE as error:
                text = reason(f"the worker's report is garbled: {error}", self._given)
                self.report = failed("crash", self.phase, text)
                return
            self.take(message, listen)
            if self.report is not None:
                return

    def _death(self) -> Report:
        """The report of its end; of memory where the kernel has killed for it since the start."""
        said = reason(child.epitaph(self.process, self._stderr, self._given), self._given)
        killed = self.process.returncode == -signal.SIGKILL
        if killed and child.memory_kills() > self._memory_kills:
            return failed("oom", self.phase, said.replace("perhaps ", "", 1))
        return failed("crash", self.phase, said)


def within(settings: Settings, budget_seconds: float | None, least: float = 0.0) -> Settings:
    """A launch that hangs ends with the budget, if not with its own limit, of so much at least."""
    limit = max(settings.launch_limit_seconds, least)
    if budget_seconds is not None:
        limit = min(limit, max(budget_seconds, SHORTEST_LIMIT_SECONDS))
    return msgspec.structs.replace(settings, launch_limit_seconds=limit)


def failed(kind: FailureKind, phase: Phase, message: str) -> Report:
    """The report of a worker that makes none."""
    return without_worker(Failed(kind=kind, phase=phase, message=message))


def without_worker(outcome: Skipped | Failed) -> Report:
    """The report of a launch that nobody made."""
    return Report(outcome=outcome, cold=Cold(), environment={})
