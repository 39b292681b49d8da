"""Another host as the leader has it, and the workers there: as `WorkerProcess` is one here."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.measuring.messages import Request
from bench.running.ears import awake
from bench.running.hosts import wire
from bench.running.hosts.alike import Host
from bench.running.hosts.wire import Beat, Connection, Finish, Found, Frames, Gone, Left, Said
from bench.running.worker_process import Worker, failed
from bench.telemetry.joined import Sight

BEAT_SECONDS = 4.0
"""Between two words of a follower that has nothing to say."""
SILENT_SECONDS = 20.0
"""A follower that has said nothing for so long, while workers of its measure, stands still."""
LOOK_SECONDS = 150.0
"""For a follower to look for its devices, each backend of whose asks no longer than 120 s."""
FINISH_SECONDS = 40.0
"""For a follower to look at its devices once more, and to end its workers of a launch, which may
take `bench.running.child` 18 s."""
STACKS_SECONDS = 2.0
"""For stacks to come, after those of this host are there."""


@dataclass(eq=False)
class RemoteHost:
    """A follower's host."""

    host: Host
    _connection: Connection
    facts: Mapping[str, Any]
    """What it says of its software."""
    machine: str
    """Of the kernel that it runs on."""

    def __post_init__(self) -> None:
        self.lost = ""
        """Why it is not there any more; empty while it is."""
        self.workers: dict[int, RemoteWorker] = {}
        self._started = 0
        self._heard = awake()
        self._found: Found | None = None

    def fileno(self) -> int:
        """What wakes who listens; there is none once the host is lost."""
        return self._connection.fileno()

    def begins(self, now: float) -> None:
        """Nobody has listened to it until now, in monotonic seconds."""
        self._heard = now

    def start(self, request: Request) -> RemoteWorker:
        """A worker there, which has begun to start."""
        self._started += 1
        worker = RemoteWorker(self, self._started)
        self.workers[worker.number] = worker
        self.send(wire.Start(worker.number, request))
        if self.lost:
            worker.end_with(self.lost)
        return worker

    def look(self, backend: str) -> None:
        """Asks for its devices: `found` waits for the answer."""
        self._found = None
        self.send(wire.Look(backend))

    def found(self) -> Found:
        """Its devices, or why it says none."""
        self.wait_for(lambda: self._found is not None, LOOK_SECONDS)
        if self._found is None:
            return Found((), {}, self.lost or f"no answer within {LOOK_SECONDS:.0f} s")
        return self._found

    def over(self, code: int, said: str) -> None:
        """The run has ended."""
        self.send(wire.Over(code, said))
        self._connection.close()

    def send(self, message: wire.Message) -> None:
        """Says it; a host that does not take it is lost."""
        if self.lost:
            return
        try:
            self._connection.send(message)
        except Gone as why:
            self.lose(str(why))

    def hear(self) -> list[RemoteWorker]:
        """What has come; of which workers that is news."""
        if self.lost:
            return []
        try:
            messages = self._connection.receive()
        except Gone as why:
            self.lose(str(why))
            return []
        self._heard = awake()
        news = [self._take(message) for message in messages]
        return [worker for worker in news if worker is not None]

    def look_whether_it_lives(self) -> None:
        """A host of which nothing has been heard for long is lost."""
        if not self.lost and awake() - self._heard >= SILENT_SECONDS:
            self.lose(f"nothing heard for {SILENT_SECONDS:.0f} s")

    def lose(self, why: str) -> None:
        """It is gone, and its workers with it that had not reported."""
        self.lost = why
        self._connection.close()
        for worker in self.workers.values():
            if worker.report is None:
                worker.end_with(why)

    def wait_for(self, true: Callable[[], bool], seconds: float) -> None:
        """Listens until something is true, the host is lost, or so long is over."""
        end = time.monotonic() + seconds
        while not self.lost and not true() and (left := end - time.monotonic()) > 0:
            if select.select([self], [], [], left)[0]:
                self.hear()

    def _take(self, message: wire.Message) -> RemoteWorker | None:
        """The worker that it is news of."""
        match message:
            case Found():
                self._found = message
            case Beat(used):
                for number in used.keys() & self.workers.keys():
                    self.workers[number].used = used[number]
            case Said(number) | Frames(number) | Left(number) if number in self.workers:
                self.workers[number].heard(message)
                return self.workers[number] if isinstance(message, Said) else None
        return None


class RemoteWorker(Worker):
    """A worker on another host."""

    def __init__(self, host: RemoteHost, number: int) -> None:
        super().__init__()
        self.host = host
        self.number = number
        self.used = 0.0
        self._stacks: str | None = None
        self._left: Left | None = None
        self._asked = False
        """Whether its host has been asked to end it."""

    def heard(self, message: Said | Frames | Left) -> None:
        """Its host says something of it."""
        if isinstance(message, Left):
            self._left = message
        elif isinstance(message, Frames):
            self._stacks = message.text
        elif self.report is None:  # else nobody waits for its words any more
            self.died = message.died
            self.take(message.message, lambda progress: None)

    def end_with(self, why: str) -> None:
        """Its host is gone."""
        self.died = True
        self.report = failed("crash", self.phase, f"its host is gone: {why}")

    def let_go(self) -> None:
        """Lets it open the device, when it has imported its libraries."""
        self.host.send(wire.LetGo(self.number))

    def hang_up(self) -> None:
        """Closes its stdin, at which it leaves."""
        if self._left is None:
            self.host.send(wire.HangUp(self.number))

    def ask_to_end(self) -> None:
        """Has its host end its whole process group; waits for nothing."""
        if self._left is None and not self._asked:
            self._asked = True
            self.host.send(Finish(self.number))

    def end(self) -> None:
        """Ends its whole process group, and waits until it is gone, or its host is."""
        self.ask_to_end()
        if self._left is None and not self.host.lost:
            self.host.wait_for(lambda: self._left is not None, FINISH_SECONDS)

    def leave(self) -> None:
        """Ends it; what its host says of it from here on is no news."""
        with contextlib.suppress(KeyError):
            self.end()
            del self.host.workers[self.number]

    def cpu_seconds(self) -> float:
        """What it had used of its host's cores when that was last heard."""
        return self.used

    def ask_for_stacks(self) -> None:
        """Has it write its threads' stacks; waits for nothing."""
        self._stacks = None
        self.host.send(wire.Stacks(self.number))

    def stacks(self) -> str:
        """What it has written of them."""
        self.host.wait_for(lambda: self._stacks is not None, STACKS_SECONDS)
        return self._stacks or ""

    @property
    def sight(self) -> Sight:
        """What its host saw of its device meanwhile; or why there is nothing."""
        if self._left is not None and self._left.sight is not None:
            return self._left.sight
        why = f"its host is gone: {self.host.lost}" if self.host.lost else "nobody looked"
        return Sight(index=0, telemetry=why)

    def stderr_tail(self) -> str:
        """The end of what it wrote to stderr."""
        return "" if self._left is None else self._left.tail

    def stderr_lines(self) -> Iterator[str]:
        """What of its stderr says that the host did the device's work."""
        return iter(() if self._left is None else self._left.lines)
