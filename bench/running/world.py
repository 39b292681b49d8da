"""One launch of many ranks: started together, listened to together, ended together.

Each rank is a worker process as any other. The parent sleeps in the kernel until one of them says
something or ends. As long as all is well their reports become one; else the launch is what went
wrong with the rank that was first, by its name: its peers fail of its closed connections within a
millisecond, and say so.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from bench import catalogue
from bench.measuring.messages import Place, Report, Request
from bench.measuring.ranks import joining
from bench.planning.memory_fit import INSTEAD
from bench.records.cpu_limits import usable_cores
from bench.records.limits import phase_limit
from bench.records.outcome import Failed, Measured, Outcome, Phase, Skipped, Void
from bench.running import blame, child
from bench.running.ears import Ears, awake
from bench.running.hosts import seating, wire
from bench.running.hosts.leader import Leader
from bench.running.hosts.remote import RemoteHost, RemoteWorker
from bench.running.one_report import End, first, merged
from bench.running.worker_process import (
    IMPORTING,
    LAST_GAP_SECONDS,
    LAST_SECONDS,
    Listener,
    WorkerProcess,
    failed,
)
from bench.telemetry.joined import Sight, Where

HOST = "127.0.0.1"
"""Where ranks of one host meet."""
GRACE_SECONDS = 1.0
"""After the first bad news the others get so long to say whether theirs is the same."""
POLL_SECONDS = 1.0
"""Between looks at who is quiet."""


class World:
    """The ranks of one launch, as `WorkerProcess` is one worker's."""

    def __init__(
        self,
        request: Request,
        given: Mapping[str, str],
        command: tuple[str, ...],
        leader: Leader | None = None,
    ) -> None:
        """Starts every rank. Raises OSError where the system refuses one; then none is left.

        leader: of several hosts, which are enough (`seating.lacking`); None for this one alone.
        """
        self._limit = request.limit_seconds
        self._given = given
        self._request = request
        self._own_devices = not catalogue.backend(request.backend).is_host
        """Whether each rank has a device of its own; ranks of a host that computes share it."""
        self._reports: dict[int, Report] = {}
        """By rank, in the order in which they reported or ended."""
        self._bad_since: float | None = None
        self._seats = seating.seats(
            request.case.devices,
            seating.ONE if leader is None else leader.hosts,
            own_devices=self._own_devices,
        )
        self._hosts = [] if leader is None else leader.others[: self._seats[-1].host]
        """Other ones, which take part."""
        hosts = 1 + len(self._hosts)
        address = leader.address if leader is not None and self._hosts else HOST
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(
                socket.create_server((address, 0), family=wire.family(address))
            )
            self.workers: list[WorkerProcess | RemoteWorker] = []
            for rank, seat in enumerate(self._seats):
                place = Place(
                    rank=rank,
                    size=len(self._seats),
                    local_rank=seat.local_rank,
                    local_size=seat.local_size,
                    host=seat.host,
                    hosts=hosts,
                    launcher="" if leader is None else leader.placement.launcher,
                    cores=leader.hosts.cores if leader is not None and hosts > 1 else None,
                    machines=0 if leader is None else len(set(leader.machines[:hosts])),
                    parallelism=request.case.parallelism,
                    address=address,
                    port=listener.getsockname()[1],
                    listener=None if rank else listener.fileno(),
                )
                own = msgspec.structs.replace(request, place=place, index=self._device(rank))
                self.workers.append(self._started(own, place, command))
                undo.callback(self.workers[-1].leave)
            listener.close()  # rank 0 has it
            self._leave = undo.pop_all().close
        now = awake()
        cores = usable_cores()  # of another host one at the least
        self._watches = [
            blame.Watched(
                worker.cpu_seconds, now, min(1.0, (1 if seat.host else cores) / seat.local_size)
            )
            for worker, seat in zip(self.workers, self._seats, strict=True)
        ]
        self._ranks = {worker: rank for rank, worker in enumerate(self.workers)}
        self._named = 0
        """The rank whose words are the launch's."""

    def _started(
        self, request: Request, place: Place, command: tuple[str, ...]
    ) -> WorkerProcess | RemoteWorker:
        """A rank, here or on its host."""
        if place.host:
            return self._hosts[place.host - 1].start(request)
        interface = wire.interface_of(place.address)
        shared = not self._own_devices
        variables = joining.variables(self._given, place, usable_cores(), shared, interface)
        held = () if place.listener is None else (place.listener,)
        return WorkerProcess(request, variables, command, pass_fds=held)

    @property
    def pids_here(self) -> list[int]:
        """Process ids of the ranks of this host."""
        return [one.pid for one in self.workers if isinstance(one, WorkerProcess)]

    @property
    def first_steps_ns(self) -> dict[int, int | None]:
        """Of each device of this host, when its first rank's first step began; see `Report`."""
        found: dict[int, int | None] = {}
        for rank, seat in enumerate(self._seats):
            if seat.host:
                continue
            report = self._reports.get(rank)
            found.setdefault(self._device(rank), None if report is None else report.first_step_ns)
        return found

    @property
    def sights_elsewhere(self) -> dict[Where, Sight]:
        """What other hosts saw of their devices, once their workers are ended."""
        return {
            (seat.host, self._device(rank)): worker.sight
            for rank, (seat, worker) in enumerate(zip(self._seats, self.workers, strict=True))
            if isinstance(worker, RemoteWorker)
        }

    def _device(self, rank: int) -> int:
        """Index of its device, on its host."""
        return self._seats[rank].local_rank if self._own_devices else self._request.index

    def leave(self) -> None:
        """Ends all, and lets go of what belongs to them."""
        self.end()
        self._leave()

    def end(self) -> None:
        """Ends every rank's whole process group, those of one host together."""
        for worker in self.workers:
            worker.hang_up()
        elsewhere = [one for one in self.workers if isinstance(one, RemoteWorker)]
        for worker in elsewhere:
            worker.ask_to_end()
        child.end(*(one.process for one in self.workers if isinstance(one, WorkerProcess)))
        for worker in elsewhere:
            worker.end()

    def until_imported(self) -> None:
        """Waits until all have imported their libraries, or one has ended."""
        self._listen(
            lambda: all(worker.phase not in IMPORTING for worker in self.workers),
            lambda progress: None,
        )
        if self._bad_since is not None:
            self._hear_the_others()
            self.end()

    def measure(self, listen: Listener) -> Report:
        """Lets them open their devices and go on to their reports, an end, or a time limit."""
        if self._bad_since is None:
            for worker in self.workers:
                worker.let_go()
            self._listen(lambda: False, listen)
            self._hear_the_others()
        return self._joined()

    def stderr_tail(self) -> str:
        """The end of what the rank wrote to stderr whose words are the launch's."""
        return self.workers[self._named].stderr_tail()

    def stderr_lines(self) -> Iterator[str]:
        """All that they wrote to stderr, rank after rank."""
        for worker in self.workers:
            yield from worker.stderr_lines()

    def _listen(self, enough: Callable[[], bool], listen: Listener) -> None:
        """Reads what they say until that is enough, all have reported, or one has bad news."""
        launch_end = awake() + self._limit
        now = awake()
        for watch in self._watches:
            watch.begins(now)
        for host in self._hosts:
            host.begins(now)
        with self._ears() as ears:
            while not enough() and self._bad_since is None and self._waiting():
                self._hear(ears, POLL_SECONDS, listen)
                if self._over(launch_end):
                    self._hear_last_words(ears, listen)
                if self._bad_since is None and self._waiting() and not enough():
                    self._look(launch_end)

    def _hear_last_words(self, ears: Ears, listen: Listener) -> None:
        """Whatever they have said while this process was held up."""
        end = awake() + LAST_SECONDS
        while self._waiting() and (left := end - awake()) > 0:
            if not self._hear(ears, min(left, LAST_GAP_SECONDS), listen):
                break

    def _hear_the_others(self) -> None:
        """Whatever comes within the grace after bad news."""
        if self._bad_since is None:
            return
        with self._ears() as ears:
            while self._waiting() and (left := self._bad_since + GRACE_SECONDS - awake()) > 0:
                self._hear(ears, left, lambda progress: None)

    def _waiting(self) -> list[int]:
        """Ranks that have not reported."""
        return [rank for rank in range(len(self.workers)) if rank not in self._reports]

    @contextlib.contextmanager
    def _ears(self) -> Iterator[Ears]:
        """What wakes us: a line, an end, or another host."""
        with Ears() as ears:
            for rank in self._waiting():
                worker = self.workers[rank]
                if isinstance(worker, WorkerProcess):
                    ears.attend(rank, worker.process)
            for host in self._hosts:
                if not host.lost:
                    ears.attend_to(host, host)
            yield ears

    def _hear(self, ears: Ears, seconds: float, listen: Listener) -> bool:
        """Hears what comes within so long, up to the first; whether anything does."""
        ready = ears.ready(seconds)
        for key, speaks in ready.items():
            if isinstance(key, RemoteHost):
                self._heard(key.hear(), ears)
            elif isinstance(key, int) and key not in self._reports:
                worker = self.workers[key]
                assert isinstance(worker, WorkerProcess)
                worker.listen(speaks=speaks, listen=listen if key == 0 else lambda progress: None)
                self._heard([worker], ears)
        for host in self._hosts:
            host.look_whether_it_lives()
        # That a host is lost, now or while it was told something, wakes nobody.
        elsewhere = [worker for worker in self.workers if isinstance(worker, RemoteWorker)]
        self._heard([worker for worker in elsewhere if worker.report is not None], ears)
        return bool(ready)

    def _heard(self, news: Sequence[WorkerProcess | RemoteWorker], ears: Ears) -> None:
        """Some of them have said something, or ended."""
        for worker in news:
            rank = self._ranks.get(worker)  # none of one of an earlier launch
            if rank is None or rank in self._reports:
                continue
            self._watches[rank].heard(worker.phase, awake(), worker.arrivals)
            if worker.report is not None:
                self._take(rank, worker.report)
                ears.leave(rank)

    def _take(self, rank: int, report: Report) -> None:
        self._reports[rank] = report
        if not isinstance(report.outcome, Measured) and self._bad_since is None:
            self._bad_since = awake()

    def _over(self, launch_end: float) -> bool:
        """Whether the launch's time is over, or that of a phase which a rank is in."""
        now, limit = awake(), self._request.settings.launch_limit_seconds
        return now >= launch_end or any(
            now - self._watches[rank].entered > phase_limit(self.workers[rank].phase, limit)
            for rank in self._waiting()
        )

    def _look(self, launch_end: float) -> None:
        """Whether somebody stands still, or a time limit is over; then that is the news."""
        now, over = awake(), self._over(launch_end)
        phases: dict[int, Phase] = {rank: self.workers[rank].phase for rank in self._waiting()}
        late = blame.late(self._watches, phases, now, over=over)
        if late is None and not over and not blame.all_quiet(self._watches, phases, now):
            return
        waiting = sorted(phases)
        stacks = blame.stacks([(rank, self.workers[rank]) for rank in waiting])
        found = blame.stands_alone(stacks) if late is None else late
        named = {rank: self._seat(rank) for rank in waiting} if self._hosts else blame.NOWHERE
        message = blame.said(
            *(found, stacks, len(self.workers)), over=over, limit=self._limit, seats=named
        )
        blamed = waiting[0] if found is None else found.rank
        self._bad_since = now
        self._named = blamed
        report = failed("timeout", phases.get(blamed, "start"), message)
        # Of all that stand still nobody's later word is the cause.
        self._reports |= dict.fromkeys((blamed, *waiting), report)

    def _joined(self) -> Report:
        """Their reports as one."""
        if self._bad_since is None:
            devices = [self._device(rank) for rank in range(len(self._seats))]
            return merged(self._reports, self._seats, devices, self._given)
        rank = first(self._ends())
        self._named = rank
        report = self._reports[rank]
        alike = {_reason(one.outcome).partition(INSTEAD)[0] for one in self._reports.values()}
        if len(alike) == 1 and len(self._reports) == len(self.workers) and not _hung(report):
            # All say the same: no rank's fault. One may have had no time left to say what to do.
            return max((report, *self._reports.values()), key=lambda one: len(_reason(one.outcome)))
        return msgspec.structs.replace(report, outcome=self._signed(rank, report.outcome))

    def _ends(self) -> list[End]:
        """How each of those ended that did, in their order."""
        return [
            End(rank, report, self.workers[rank].died)
            for rank, report in self._reports.items()
            if not isinstance(report.outcome, Measured)
        ]

    def _signed(self, rank: int, outcome: Outcome) -> Outcome:
        """An outcome with the rank and device whose it is."""
        if _hung(self._reports[rank]):
            return outcome  # says so itself
        who = f"rank {rank} ({self._seat(rank)})"
        if isinstance(outcome, Failed):
            return msgspec.structs.replace(outcome, message=f"{who}: {outcome.message}")
        if isinstance(outcome, Void | Skipped):
            return msgspec.structs.replace(outcome, reason=blame.signed(who, outcome.reason))
        return outcome

    def _seat(self, rank: int) -> str:
        """Where it is: its device, and of several hosts its host."""
        seat = self._seats[rank]
        index = f":{seat.local_rank}" if self._own_devices else ""
        host = f"host {seat.host}, " if self._hosts else ""
        return f"{host}{self._request.backend}{index}"


def _reason(outcome: Outcome) -> str:
    return "" if isinstance(outcome, Measured) else outcome.reason


def _hung(report: Report) -> bool:
    return isinstance(report.outcome, Failed) and report.outcome.kind == "timeout"
