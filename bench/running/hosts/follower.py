"""A process on another host than the leader's: starts its host's workers on the leader's word.

It forwards what they say, and ends them on the leader's word or when the connection is lost. What
it is told is data: requests for the worker that this installation has, and nothing else runs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from bench import catalogue
from bench.errors import EXIT_INCOMPLETE
from bench.measuring.kept import byte_code
from bench.measuring.messages import Progress, Report, Request
from bench.measuring.ranks import joining
from bench.records.cpu_limits import usable_cores
from bench.running import blame, child, launcher, probe, scratch
from bench.running.ears import Ears
from bench.running.hosts import alike, greeting, wire
from bench.running.hosts.placement import Placement, few_cores
from bench.running.hosts.remote import BEAT_SECONDS
from bench.running.hosts.wire import (
    Connection,
    Finish,
    Gone,
    HangUp,
    LetGo,
    Look,
    Over,
    Stacks,
    Start,
)
from bench.running.monitor import Monitor
from bench.running.sampler import Order
from bench.running.worker_process import WorkerProcess, start_worker
from bench.telemetry.joined import Sight

LEADER = "leader"


def follow(
    placement: Placement,
    facts: Mapping[str, Any],
    say: Callable[[str], None],
    command: tuple[str, ...] = launcher.COMMAND,
) -> int:
    """Follows to the end of the run; the exit code of the leader.

    facts: `alike.software` of this host; say: tells the user; command: what a worker is. Raises
    `HostsError` where there is no leader, or where it will not have this host.
    """
    connection = greeting.joined(placement, facts, greeting.join_seconds())
    with contextlib.closing(connection):
        say(
            f"host {placement.rank} of {placement.hosts} ({placement.launcher}): follows "
            f"{placement.address}; the run is shown and recorded there{few_cores()}."
        )
        over = Follower(connection, command).run()
    if over.said:
        say(f"error: {over.said}")
    return over.code


class Follower:
    """The workers of this host."""

    def __init__(self, connection: Connection, command: tuple[str, ...]) -> None:
        self._connection = connection
        self._command = command
        self._folder = scratch.made()
        self._workers: dict[int, WorkerProcess] = {}
        self._ended: dict[int, WorkerProcess] = {}
        """Of the last launch: those whose last words the leader has not asked for."""
        self._eyes = Eyes()

    def run(self) -> Over:
        """Does what the leader says, until it says that it is over, or is gone."""
        try:
            with Ears() as ears:
                ears.attend_to(LEADER, self._connection)
                return self._listen(ears)
        except Gone as why:
            return Over(EXIT_INCOMPLETE, f"the leader is gone: {why}. Its record ends there.")
        finally:
            child.end(*(worker.process for worker in self._workers.values()))
            for worker in (*self._workers.values(), *self._ended.values()):
                worker.leave()
            self._eyes.close()
            scratch.gone(self._folder)

    def _listen(self, ears: Ears) -> Over:
        beat = time.monotonic()
        while True:
            if (now := time.monotonic()) >= beat:
                used = {number: w.cpu_seconds() for number, w in self._workers.items()}
                self._connection.send(wire.Beat(used))
                beat = now + BEAT_SECONDS
            for key, speaks in ears.ready(max(0.0, beat - time.monotonic())).items():
                if isinstance(key, int):
                    self._forward(ears, key, speaks=speaks)
                    continue
                for order in self._connection.receive():
                    if isinstance(order, Over):
                        return order
                    self._obey(ears, order)

    def _forward(self, ears: Ears, number: int, *, speaks: bool) -> None:
        worker = self._workers.get(number)
        if worker is None or worker.report is not None:
            return
        said: list[Progress] = []
        worker.listen(speaks=speaks, listen=said.append)
        for progress in said:
            self._connection.send(wire.Said(number, progress))
        if worker.report is not None:
            ears.leave(number)
            self._connection.send(wire.Said(number, worker.report, died=worker.died))

    def _obey(self, ears: Ears, order: wire.Message) -> None:
        match order:
            case Look(backend):
                found = _look(backend)
                self._eyes.count = len(found.devices)
                self._connection.send(found)
            case Start(number, request):
                self._start(ears, number, request)
            case Stacks(number) if number in self._workers:
                self._workers[number].ask_for_stacks()
                time.sleep(blame.STACK_SECONDS)
                self._connection.send(wire.Frames(number, self._workers[number].stacks()))
            case LetGo(number) if number in self._workers:
                self._eyes.lets_go()
                self._workers[number].let_go()
            case HangUp(number) if number in self._workers:
                self._workers[number].hang_up()
            case Finish(number):
                self._connection.send(self._finish(ears, number))

    def _start(self, ears: Ears, number: int, request: Request) -> None:
        plug_in = catalogue.backend(request.backend)
        place = request.place
        assert place is not None, "a follower starts ranks alone"
        # The leader's folder is on the leader's host.
        here = None if self._folder is None else str(self._folder)
        own = {} if self._folder is None else byte_code(self._folder)
        request = msgspec.structs.replace(request, scratch=here)
        given = child.variables(plug_in, own)
        interface = wire.interface_of(self._connection.own_address)
        variables = joining.variables(given, place, usable_cores(), plug_in.is_host, interface)
        worker = start_worker(lambda: WorkerProcess(request, variables, self._command))
        if isinstance(worker, Report):
            self._connection.send(wire.Said(number, worker, died=True))
            return
        self._workers[number] = worker
        self._eyes.start(request, given)
        ears.attend(number, worker.process)

    def _finish(self, ears: Ears, number: int) -> wire.Left:
        """Ends a worker, and with the first of a launch all others, which are ended, too."""
        if number in self._workers:
            self._eyes.saw(self._workers.values())
            for one in self._workers:
                ears.leave(one)
            child.end(*(worker.process for worker in self._workers.values()))
            self._ended.update(self._workers)
            self._workers.clear()
        worker = self._ended.pop(number, None)
        if worker is None:
            return wire.Left(number, "", ())
        request = worker.request
        plug_in = catalogue.backend(request.backend)
        lines: dict[tuple[str, ...], str] = {}
        for line in worker.stderr_lines():
            if operators := plug_in.fallbacks([line]):
                lines.setdefault(operators, line)
        tail = worker.stderr_tail()
        worker.leave()
        return wire.Left(number, tail, tuple(lines.values()), self._eyes.sights.get(request.index))


class Eyes:
    """What this host sees of its devices, launch after launch."""

    def __init__(self) -> None:
        self.count = 0
        """Devices of this host, once the leader has asked for them: then they are watched."""
        self.sights: dict[int, Sight] = {}
        """Of the launch whose first worker has been ended, by the device."""
        self._monitor: Monitor | None = None
        self._let_go = False
        """Whether a worker of the launch under way has been."""

    def start(self, request: Request, given: Mapping[str, str]) -> None:
        """A worker of a launch is there. given: its environment."""
        self._let_go = False
        if self.count == 0:
            return
        if self._monitor is None:
            is_host = catalogue.backend(request.backend).is_host
            indices = (request.index,) if is_host else tuple(range(self.count))
            self._monitor = Monitor(Order(backend=request.backend, indices=indices), given)
        self._monitor.start()

    def lets_go(self) -> None:
        """A worker is about to open its device."""
        if self._monitor is not None and not self._let_go:
            self._monitor.lets_go()
            self._let_go = True

    def saw(self, workers: Collection[WorkerProcess]) -> None:
        """Fills `sights`, before the first of these workers is ended."""
        if self._monitor is None:
            return
        first_steps: dict[int, int | None] = {}
        for worker in workers:
            report = worker.report
            first = None if report is None else report.first_step_ns
            first_steps.setdefault(worker.request.index, first)
        pids = [worker.pid for worker in workers]
        self.sights = {one.index: one for one in self._monitor.saw(pids, first_steps)}

    def close(self) -> None:
        """Nobody looks any more."""
        if self._monitor is not None:
            self._monitor.close()


def _look(backend: str) -> wire.Found:
    """What is here of that backend."""
    (found,) = probe.probe([backend])
    if not found.devices:
        return wire.Found((), {}, found.reason)
    return wire.Found(found.devices, alike.conditions(backend), cores=usable_cores())
