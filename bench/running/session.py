"""The main job: every case, launch after launch, round-robin, each on disk before the next."""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
import sys
import time
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from bench import catalogue, stats
from bench.backend import Backend, DeviceInfo
from bench.measuring.worker import Progress, Request
from bench.planning.sweep import Limits, too_large, without_batch
from bench.planning.tuning import Key, Search, hopeless, key_of, memory_format, settled, too_many
from bench.records import environment
from bench.records.case import Case, Choice
from bench.records.outcome import Measured
from bench.records.run import SCHEMA_VERSION, End, Launch, Run, Settings
from bench.records.runfile import Writer
from bench.running import launcher
from bench.running.launcher import Finished
from bench.running.monitor import Monitor
from bench.running.sampler import Order
from bench.telemetry import contention
from bench.telemetry.flags import hindered

TOGETHER = 2
"""Workers that import side by side, where there are as many cores."""
EndReason = Literal["complete", "budget", "interrupted"]
Launcher = Callable[
    [Sequence[Request], dict[str, str], Callable[[Progress], None]], Generator[Finished, None, None]
]
"""`bench.running.launcher.launch_together`, or a script of it in tests."""


class Face(Protocol):
    """Who watches a run."""

    def turn(self, side: str) -> None:
        """Whose turn it is, where two sides are measured."""

    def starts(self, case: Case, launch: int, seconds_left: float | None) -> None:
        """A worker is being started; seconds_left is an estimate, None while nothing is known."""

    def progress(self, progress: Progress) -> None:
        """The worker says where it is."""

    def ends(self, launch: Launch, rates: Sequence[float]) -> None:
        """A launch is on disk; rates: throughput of every measured launch of its case so far."""


class Kept(NamedTuple):
    """Of a launch that is on disk, what planning the next ones needs: a run may have thousands."""

    seconds: float
    rate: float | None
    """Items/s; None unless it was measured."""
    samples: Sequence[float] = ()
    """Its steady timing samples, seconds a step."""
    steady_seconds: float = 0.0
    hindered: bool = False
    """Whether something outside the job slowed it: then it is left out of the figures."""
    hopeless: bool = False
    """Whether its failure is no accident: out of memory, a wrong result, an impossible case."""

    @classmethod
    def of(cls, launch: Launch) -> Kept:
        """The part of a launch that stays in memory."""
        outcome = launch.outcome
        if isinstance(outcome, Measured):
            samples = array("d", outcome.samples)
            slowed = hindered(outcome)
            return cls(launch.seconds, outcome.throughput, samples, outcome.steady_seconds, slowed)
        return cls(launch.seconds, None, hopeless=hopeless(outcome))


class CaseState:
    """What is known of one case while the run goes on."""

    def __init__(self, case: Case, settings: Settings) -> None:
        self.case = case
        self.settings = settings
        self.launches: list[Kept] = []
        """Those that make up its figure."""
        self.seconds: list[float] = []
        """Of each launch, those of a search included."""
        self._of_choice: dict[Key, float] = {}
        """Of the last launch of each choice."""
        self.search = Search(case)
        self.beyond = False
        """Whether a smaller batch of the same did not fit, so that this one is not tried."""

    def keep(self, launch: Launch) -> None:
        """Takes note of a launch that is on disk."""
        chosen = self.choice
        self.seconds.append(launch.seconds)
        self._of_choice[key_of(launch.choice or {})] = launch.seconds
        self.search.note(launch)
        if not launch.search:
            self.launches.append(Kept.of(launch))
        if self.choice != chosen:  # another is the best now, or the best failed after all
            self.launches.clear()

    @property
    def searching(self) -> bool:
        """Whether the next launch of a tuned case is to find its best choice."""
        return self.search.next is not None

    @property
    def choice(self) -> Choice | None:
        """What the next launch of a tuned case runs with; None of a fixed one, or if none works."""
        return self.search.next or self.search.best

    @property
    def expected_seconds(self) -> float | None:
        """How long its next launch will take: as the last of the same choice, or as the longest of
        the others; None before the first."""
        longest = max(self.seconds, default=None)
        return self._of_choice.get(key_of(self.choice or {}), longest)

    @property
    def measured(self) -> list[Kept]:
        """Launches with samples."""
        return [x for x in self.launches if x.rate is not None]

    @property
    def rates(self) -> list[float]:
        """Items/s of each measured launch that nothing slowed from outside; of all if none is."""
        clean = [x.rate for x in self.measured if not x.hindered and x.rate is not None]
        return clean or [x.rate for x in self.measured if x.rate is not None]

    @property
    def hopeless(self) -> bool:
        """Whether what went wrong would go wrong again.

        A failure is tried again, since it may be an accident, until there are two and they are
        more than a third of the launches.
        """
        if self.searching:
            return False
        failures = len(self.launches) - len(self.measured)
        if (
            self.beyond
            or (self.case.space and self.choice is None)
            or any(x.hopeless for x in self.launches)
        ):
            return True
        return too_many(failures, len(self.launches))

    @property
    def finished(self) -> bool:
        """Whether another launch would add nothing."""
        if self.searching:
            return False
        if self.hopeless:
            return True
        if self.settings.launches == "auto":
            enough = stats.enough_launches(self.rates, self.settings.target_half_width)
            return enough or self._in_vain
        return len(self.measured) >= self.settings.launches

    @property
    def _in_vain(self) -> bool:
        """Whether so many launches were slowed from outside that no further look is worth it."""
        measured = self.measured
        slowed = sum(x.hindered for x in measured)
        return len(measured) >= stats.LOOKS[1] and slowed > len(measured) / 3

    def samples(self) -> int:
        """Steady samples that the next launch should take."""
        measured = self.measured
        return stats.samples_per_launch(
            [x.samples for x in measured],
            overheads=[x.seconds - x.steady_seconds for x in measured],
            costs=[x.steady_seconds / len(x.samples) for x in measured],
        )

    def launches_left(self) -> int:
        """How many more are planned; for `auto`, up to the next look.

        Of a tuned case, all choices that are left, and the launches that follow.
        """
        if self.finished:
            return 0
        if self.searching:
            return self.search.left + self._planned(0)
        auto = self.settings.launches == "auto"
        return self._planned(len(self.rates if auto else self.measured))

    def _planned(self, done: int) -> int:
        if self.settings.launches == "auto":
            return next(look for look in stats.LOOKS if look > done) - done
        return self.settings.launches - done


class Session:
    """One run under way."""

    def __init__(
        self,
        cases: Sequence[Case],
        settings: Settings,
        device: DeviceInfo,
        backend: Backend,
        writer: Writer,
        face: Face,
        launcher: Launcher,
        budget_seconds: float | None = None,
        together: int = 1,
        clock: Callable[[], float] = time.monotonic,
        recorded: tuple[str, ...] = (),
        done: Sequence[Launch] = (),
        monitor: Monitor | None = None,
    ) -> None:
        """budget_seconds: no launch is started that would end later; None for no limit.

        together: how many workers import side by side before they measure in turn; recorded: names
        of environment variables to record beside the usual ones; done: launches that the record
        holds already; monitor: what looks at the device, ended with the session.
        """
        self.monitor = monitor
        self.states = [CaseState(case, settings) for case in cases]
        self.settings = settings
        self.device = device
        self.backend = backend
        self.writer = writer
        self.face = face
        self.launcher = launcher
        self.budget_seconds = budget_seconds
        self.together = together
        self.recorded = recorded
        self.clock = clock
        self.order = len(done)
        states = {state.case.fingerprint: state for state in self.states}
        self._limits = Limits()
        for launch in done:
            if launch.fingerprint in states:
                states[launch.fingerprint].keep(launch)
            self._limits.note(launch.case, launch.outcome)
        self._leave_out_what_is_beyond()
        self._left = _TimeLeft(self.states)

    def run(self) -> EndReason:
        """Runs to the end, the budget's end or Ctrl-C; the record says which."""
        with contextlib.closing(self):
            try:
                reason = self._rounds()
            except KeyboardInterrupt:
                reason = "interrupted"
            self.end(reason)
        return reason

    def end(self, reason: EndReason) -> None:
        """Says in the record why no launch follows."""
        self.writer.append(End(reason=reason, finished_at=utc_now()))

    def close(self) -> None:
        """Nobody looks at the device any more."""
        if self.monitor is not None:
            self.monitor.close()

    def _rounds(self) -> EndReason:
        """One launch of every unfinished case in turn, so that drift of the machine hits all."""
        start = self.clock()
        while unfinished := [state for state in self.states if not state.finished]:
            before = self.order
            for group in self._groups(unfinished):
                self.launch([s for s in group if not s.finished and self._fits(s, start)])
            if self.order == before:  # nothing that is left fits
                return "budget"
        return "complete"

    def _groups(self, states: Sequence[CaseState]) -> Iterator[list[CaseState]]:
        """Those whose workers import side by side.

        Of a sweep's points that have not run, one: whether it fits decides about the next.
        """
        group: list[CaseState] = []
        sweeps: set[str] = set()
        for state in states:
            sweep = without_batch(state.case).fingerprint
            if len(group) == self.together or (sweep in sweeps and not state.seconds):
                yield group
                group, sweeps = [], set()
            group.append(state)
            sweeps.add(sweep)
        if group:
            yield group

    def _leave_out_what_is_beyond(self) -> None:
        """Takes the points of a sweep that cannot fit out of the plan."""
        for state in self.states:
            state.beyond = not state.seconds and self._limits.beyond(state.case) is not None

    def _fits(self, state: CaseState, start: float) -> bool:
        """Whether another launch of a case is expected to end within the budget."""
        end = self.clock() - start + self._left.expected(state)
        return self.budget_seconds is None or end <= self.budget_seconds

    def launch(self, states: Sequence[CaseState]) -> None:
        """One launch of each, in turn; each is on disk before the next one measures."""
        requests = [self._request(state) for state in states]
        variables = dict(self.backend.worker_environment())
        launches = self.launcher(requests, variables, self.face.progress)
        with contextlib.closing(launches):
            for state, request in zip(states, requests, strict=True):
                self.face.starts(state.case, len(state.seconds), self._left.total())
                started_at = utc_now()
                self._keep(state, request, started_at, next(launches))

    def _request(self, state: CaseState) -> Request:
        choice = state.choice or {}
        return Request(
            case=settled(state.case, choice),
            backend=self.device.backend,
            index=self.device.index,
            settings=self._launch_settings(),
            samples=state.samples(),
            seed=self.settings.seed + len(state.launches),
            recorded=self.recorded,
            memory_format=memory_format(choice),
            rehearse=state.searching or not state.seconds,
        )

    def _launch_settings(self) -> Settings:
        """A launch that hangs ends with the budget, if not with its own limit."""
        if self.budget_seconds is None:
            return self.settings
        limit = max(self.budget_seconds, launcher.SHORTEST_LIMIT_SECONDS)
        limit = min(limit, self.settings.launch_limit_seconds)
        return msgspec.structs.replace(self.settings, launch_limit_seconds=limit)

    def _keep(
        self, state: CaseState, request: Request, started_at: str, finished: Finished
    ) -> None:
        launch = Launch(
            case=state.case,
            fingerprint=state.case.fingerprint,
            launch=len(state.seconds),
            order=self.order,
            seed=request.seed,
            started_at=started_at,
            seconds=finished.seconds,
            cold=finished.report.cold,
            environment=finished.report.environment,
            outcome=finished.report.outcome,
            telemetry=None if isinstance(finished.telemetry, str) else finished.telemetry,
            telemetry_absent=finished.telemetry if isinstance(finished.telemetry, str) else None,
            stderr_tail=finished.stderr_tail,
            estimated_peak_bytes=finished.report.estimated_peak_bytes,
            choice=state.choice,
            search=state.searching,
        )
        self.writer.append(launch)
        state.keep(launch)
        self._limits.note(launch.case, launch.outcome)
        self.order += 1
        if too_large(launch.outcome):
            self._leave_out_what_is_beyond()
            self._left = _TimeLeft(self.states)
        else:
            self._left.update(state)
        self.face.ends(launch, state.rates)


class _TimeLeft:
    """How long the rest of a plan will take, kept up to date launch by launch."""

    def __init__(self, states: Sequence[CaseState]) -> None:
        self._unseen = sum(not (state.seconds or state.beyond) for state in states)
        self._seconds = sum(sum(state.seconds) for state in states)
        self._launches = sum(len(state.seconds) for state in states)
        self._of_case: dict[str, float] = {}
        self._total = 0.0
        for state in states:
            if state.seconds:
                self._note(state)

    def update(self, state: CaseState) -> None:
        """Takes note of the last launch of a case."""
        self._unseen -= len(state.seconds) == 1
        self._seconds += state.seconds[-1]
        self._launches += 1
        self._note(state)

    def _note(self, state: CaseState) -> None:
        left = self.expected(state) * state.launches_left()
        self._total += left - self._of_case.get(state.case.fingerprint, 0.0)
        self._of_case[state.case.fingerprint] = left

    def expected(self, state: CaseState) -> float:
        """Seconds that the next launch of a case will take: as its last, else as all so far."""
        if state.expected_seconds is not None:
            return state.expected_seconds
        return self._seconds / self._launches if self._launches else 0.0

    def total(self) -> float | None:
        """Seconds until the plan is done, once every case has run once."""
        return None if self._unseen else max(self._total, 0.0)


def alternate(first: Session, second: Session) -> EndReason:
    """Two sessions of the same cases in turns: AB, BA, AB, ... of each case, round after round.

    What drifts on the host then hits both alike. A case goes on until both have enough launches of
    it, or one of them is hopeless: then there is nothing to compare. Of a tuned case each side has
    found its best choice before either measures it.
    """
    reason: EndReason = "complete"
    with contextlib.closing(first), contextlib.closing(second):
        try:
            _take_turns(first, second)
        except KeyboardInterrupt:
            reason = "interrupted"
        for session in (first, second):
            session.end(reason)
    return reason


def _take_turns(first: Session, second: Session) -> None:
    order = [first, second]
    cases = range(len(first.states))
    while under_way := [k for k in cases if _goes_on(first.states[k], second.states[k])]:
        for k in under_way:
            searching = [s for s in order if s.states[k].searching]
            for session in searching or order:
                session.face.turn("A" if session is first else "B")
                session.launch([session.states[k]])
        order.reverse()


def _goes_on(first: CaseState, second: CaseState) -> bool:
    enough = first.finished and second.finished
    return not (enough or first.hopeless or second.hopeless)


def begin(
    path: Path,
    identity: str,
    suite: str,
    cases: Sequence[Case],
    settings: Settings,
    device: DeviceInfo,
    command: Sequence[str],
) -> Writer:
    """A new record with its header on disk."""
    writer = Writer(path)
    writer.append(
        Run(
            schema=SCHEMA_VERSION,
            run_id=identity,
            suite=suite,
            plan=tuple(cases),
            settings=settings,
            command=tuple(command),
            started_at=utc_now(),
            host={**environment.host(), "load": contention.load()},
            device=msgspec.to_builtins(device),
        )
    )
    return writer


def open_session(
    writer: Writer,
    cases: Sequence[Case],
    settings: Settings,
    device: DeviceInfo,
    face: Face,
    budget_seconds: float | None = None,
    python: str = sys.executable,
    forced: Mapping[str, str] = launcher.NOTHING,
    done: Sequence[Launch] = (),
) -> Session:
    """A session with real workers.

    python: their interpreter; forced: what their environment must say, which is recorded.
    """
    backend = catalogue.backend(device.backend)
    variables = environment.worker_variables(backend.worker_environment(), forced)
    monitor = Monitor(Order(backend=device.backend, index=device.index), variables)
    return Session(
        cases,
        settings,
        device,
        backend,
        writer,
        face,
        functools.partial(
            launcher.launch_together,
            command=(python, *launcher.COMMAND[1:]),
            forced=forced,
            monitor=monitor,
        ),
        budget_seconds,
        together=min(TOGETHER, environment.usable_cores()),
        recorded=tuple(forced),
        done=done,
        monitor=monitor,
    )


def command_line(program: str, arguments: Sequence[str]) -> list[str]:
    """A command line as typed, without the folders of whoever typed it and without secrets."""
    return [program, *(_without_folders(environment.redacted(word)) for word in arguments)]


def _without_folders(argument: str) -> str:
    return re.sub(r"[^=\s]*[/\\]", "", argument)


def utc_now() -> str:
    """The time of day for the record; nothing is measured by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def run_id() -> str:
    """A name for a run that no other bears: UTC time and four random hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
