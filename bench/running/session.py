"""The main job: every case, launch after launch, round-robin, each on disk before the next."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Literal

from bench import catalogue, stats
from bench.backend import Backend, DeviceInfo
from bench.errors import HostsError
from bench.measuring.kept import byte_code
from bench.measuring.messages import Progress, Request
from bench.planning.shapes import Shapes
from bench.planning.sweep import Limits, too_large
from bench.planning.tuning import memory_format, searches, settled
from bench.records.case import Case
from bench.records.cpu_limits import usable_cores
from bench.records.limits import SHORTEST_LIMIT_SECONDS
from bench.records.outcome import Outcome
from bench.records.run import End, Launch, RunFile, Settings
from bench.records.runfile import Writer
from bench.running import child, launcher, scratch
from bench.running.case_state import CaseState, groups
from bench.running.elsewhere import TORCH
from bench.running.explanations import NOTHING, Explaining, explain
from bench.running.face import Ahead, Face, Start
from bench.running.handing import Handing
from bench.running.header import utc_now
from bench.running.hosts.leader import Leader
from bench.running.launcher import Finished
from bench.running.monitor import Monitor, watched
from bench.running.rehearsals import Rehearsals, counted
from bench.running.resume import Software
from bench.running.sampler import Order
from bench.running.stems import Stems
from bench.running.time_left import Span, TimeLeft
from bench.running.worker_process import within

TOGETHER = 2
"""Workers that import side by side, where there are as many cores."""
EndReason = Literal["complete", "budget", "interrupted"]
Launcher = Callable[
    [Sequence[Request], dict[str, str], Callable[[Progress], None]], Generator[Finished, None, None]
]
"""`bench.running.launcher.launch_together`, or a script of it in tests."""


@dataclass(eq=False)
class Session:
    """One run under way."""

    cases: InitVar[Sequence[Case]]
    settings: Settings
    device: DeviceInfo
    backend: Backend
    writer: Writer
    face: Face
    launcher: Launcher
    budget_seconds: float | None = None
    """No launch is started that would end later; None for no limit."""
    together: int = 1
    """How many workers import side by side before they measure in turn."""
    clock: Callable[[], float] = time.monotonic
    recorded: tuple[str, ...] = ()
    """Names of environment variables to record beside the usual ones."""
    done: InitVar[Sequence[Launch]] = ()
    """Launches that the record holds already."""
    monitor: Monitor | None = None
    """What looks at the device, ended with the session."""
    here: int = 1
    """How many devices of its kind there are."""
    left_out: Collection[str] = ()
    """Fingerprints of cases that are not tried."""
    folder: Path | None = None
    """One for what launches leave to the next ones, gone with the session."""
    stems: Stems | None = None
    """What launches are forked from, likewise."""
    rehearsals: Rehearsals | None = None
    """What counts the memory of cases beforehand."""
    explaining: Explaining = NOTHING
    """What is explained after all launches."""
    framework: str = TORCH
    """What computes."""

    def __post_init__(self, cases: Sequence[Case], done: Sequence[Launch]) -> None:
        self.states = [CaseState(case, self.settings) for case in cases]
        self.order = self._done = len(done)
        self._place = {case.fingerprint: k for k, case in enumerate(cases)}
        self._rehearsals = self.rehearsals or Rehearsals()
        self.limits = Limits()
        self._shapes = Shapes(self.settings)
        self.software = Software(itertools.chain(done, self.explaining.done))
        for launch in done:
            if launch.fingerprint in self._place:
                self.states[self._place[launch.fingerprint]].keep(launch, self._launch_settings())
            self.limits.note(launch.case, launch.outcome)
            self._shapes.note(launch.case, launch.outcome)
        self._leave_out_what_is_beyond()
        self._left = self._time_left()
        self._start: float | None = None
        """By the clock, when its first launch was planned."""

    def begin(self) -> None:
        """Tells who watches what is to come."""
        self._start = self.clock()
        plan = [state.case for state in self.states if not state.finished]
        self.face.begins(plan, self._ahead())

    def run(self) -> EndReason:
        """Runs to the end, the budget's end or Ctrl-C; the record says which."""
        with contextlib.closing(self):
            try:
                self.begin()
                reason = "complete" if self.explaining.only else self._rounds()
                reason = explain(self) if reason == "complete" else reason
            except (KeyboardInterrupt, HostsError):  # a host that is gone says so by its leader
                reason = "interrupted"
            self.end(reason)
        return reason

    def _rounds(self) -> EndReason:
        """One launch of every unfinished case in turn, so that drift of the machine hits all."""
        while unfinished := [state for state in self.states if not state.finished]:
            before = self.order
            if self.stems is not None:
                rounds = max(state.launches_left() for state in unfinished)
                self.stems.expect([state.case for state in unfinished], rounds)
            for group in groups(unfinished, self.together):
                going = self._fitting(group)
                self._rehearsals.ahead(going, unfinished, self.request)  # may take its time
                self.launch(self._fitting(going))
            if self.order == before:  # nothing that is left fits
                return "budget"
        return "complete"

    def launch(self, states: Sequence[CaseState]) -> None:
        """One launch of each, in turn, while they fit; each is on disk before the next measures."""
        requests = [self.request(state) for state in states]
        variables = dict(self.backend.worker_environment())
        launches = self.launcher(requests, variables, self.face.progress)
        with contextlib.closing(launches):
            for state, request in zip(states, requests, strict=True):
                if state is not states[0] and not self.fits(state):  # the one before was slow
                    break
                self.face.starts(self._start_of(state), self._ahead())
                started_at = utc_now()
                finished = next(launches)
                self._keep(state, self._launch_of(state, request.seed, started_at, finished))

    def fits(self, state: CaseState, least: float = 0.0) -> bool:
        """Whether another launch of a case is expected to end within the budget; least: seconds
        that it takes, however short those before it were."""
        return max(self._expected(state), least) <= self._budget_left()

    def _fitting(self, group: Iterable[CaseState]) -> list[CaseState]:
        """Those whose launches fit, one after the other; the very first has the whole budget,
        however long the way to it took."""
        found: list[CaseState] = []
        for state in group:
            left = self._budget_left()
            if self.budget_seconds is not None and not found and self.order == self._done:
                left = self.budget_seconds
            if not state.finished and sum(map(self._expected, [*found, state])) <= left:
                found.append(state)
        return found

    def _expected(self, state: CaseState) -> float:
        """Seconds of a case's next launch; with a budget of its first what its shapes say, at the
        least, and endless of a load that comes for too long by the budget alone."""
        case, late, now = state.case, launcher.comes_for_too_long, self._launch_settings()
        if now != self.settings and late(case, now) and not late(case, self.settings):
            return math.inf
        first = self.budget_seconds is not None and not state.seconds
        least = self._shapes.least_seconds(case) if first else 0.0
        return max(self._left.expected(state), least)

    def _budget_left(self) -> float:
        """Seconds until the budget is spent; endless without one."""
        if self.budget_seconds is None:
            return math.inf
        return self.budget_seconds - (0 if self._start is None else self.clock() - self._start)

    def _time_left(self) -> TimeLeft:
        """An estimate that begins with the suite's own times: ten samples of a block each."""
        each = self.settings.block_seconds if self.settings.timing == "block" else 0.0
        return TimeLeft(self.states, stats.MINIMUM_SAMPLES * each)

    def _ahead(self) -> Ahead:
        left, end = self._left.total(), max(self._budget_left(), 0.0)
        most = end if left.most is None else min(left.most, end)
        span = Span(min(left.least, end), None if most == math.inf else most)
        return Ahead(self.order, self._left.launches, self._left.more, span)

    def _start_of(self, state: CaseState) -> Start:
        """What is said of a launch as it starts."""
        search, left = state.search, state.launches_left()
        if state.searching:
            number, of, more = search.choices - search.left + 1, search.choices, False
        else:
            number, of = len(state.launches) + 1, len(state.launches) + left
            more = state.launches_left(to_the_last_look=True) > left
        return Start(
            state.case,
            number,
            max(number, of),  # a side goes on with the other, though it has enough itself
            more,
            state.choice,
            state.searching,
            self._left.expected(state),
            self._next(state),
        )

    def _next(self, state: CaseState) -> Case | None:
        """The case whose launch is expected after this one's."""
        here = self._place[state.case.fingerprint]
        others = itertools.chain(self.states[here + 1 :], self.states[:here])
        again = state.case if state.launches_left() > 1 else None
        return next((other.case for other in others if not other.finished), again)

    def request(self, state: CaseState) -> Request:
        """What is asked of the next launch's worker."""
        choice = state.choice or {}
        return Request(
            case=settled(state.case, choice),
            backend=self.device.backend,
            index=self.device.index,
            framework=self.framework,
            settings=self._launch_settings(),
            most_seconds=self._most_seconds(state),
            samples=state.samples(),
            seed=self.settings.seed + len(state.launches),
            thorough=not state.measured,
            recorded=self.recorded,
            memory_format=memory_format(choice),
            searches=searches(choice),
            here=self.here,
            scratch=None if self.folder is None else str(self.folder),
            rehearse=state.searching or not state.seconds,
            estimated_peak_bytes=self._rehearsals.bytes_of(state.case),
        )

    def _launch_settings(self) -> Settings:
        return within(self.settings, self.budget_seconds)

    def _most_seconds(self, state: CaseState) -> float | None:
        """What a budget leaves, and time enough for what begins late; None where not known."""
        if self.budget_seconds is None or not state.seconds or state.searching:
            return None
        return max(self._budget_left(), 3 * self._expected(state), SHORTEST_LIMIT_SECONDS)

    def _launch_of(
        self, state: CaseState, seed: int, started_at: str, finished: Finished
    ) -> Launch:
        """What the record says of a launch that has ended."""
        return Launch(
            case=state.case,
            fingerprint=state.case.fingerprint,
            launch=len(state.seconds),
            order=self.order,
            seed=seed,
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

    def _keep(self, state: CaseState, launch: Launch) -> None:
        """A launch goes to disk, and what follows from it into the plan."""
        self.software.require(launch, self.writer)
        self.writer.append(launch)
        state.keep(launch)
        self._shapes.note(launch.case, launch.outcome)
        self.order += 1
        self._left.update(state)
        self.note_limits(launch.case, launch.outcome)
        self.face.ends(launch, state.rates, state.finished)

    def note_limits(self, case: Case, outcome: Outcome) -> None:
        """What does not fit takes the points of its sweep beyond it out of the plan."""
        self.limits.note(case, outcome)
        if too_large(outcome):
            self._leave_out_what_is_beyond()
            self._left = self._time_left()

    def _leave_out_what_is_beyond(self) -> None:
        """Takes the points of a sweep that cannot fit, or are not to be tried, out of the plan."""
        for state in self.states:
            state.beyond = state.case.fingerprint in self.left_out or (
                not state.seconds and self.limits.beyond(state.case) is not None
            )

    def end(self, reason: EndReason) -> None:
        """Says in the record why no launch follows."""
        self.writer.append(End(reason=reason, finished_at=utc_now()))

    def close(self) -> None:
        """Nobody looks at the device any more, and nothing is left but the record."""
        if self.monitor is not None:
            self.monitor.close()
        if self.stems is not None:
            self.stems.close()
        scratch.gone(self.folder)


def open_session(
    writer: Writer,
    device: DeviceInfo,
    face: Face,
    budget_seconds: float | None = None,
    python: str = sys.executable,
    forced: Mapping[str, str] = launcher.NOTHING,
    done: RunFile | None = None,
    here: int = 1,
    leader: Leader | None = None,
    *,
    trying: bool = False,
) -> Session:
    """A session with real workers, of what the writer's header plans.

    python: the workers' interpreter; forced: what their environment must say, which is recorded;
    done: what the record holds already; leader: of several hosts; trying: whether explanations try
    known remedies; the others: as of `Session`. Raises `OutputError` where a framework that is not
    torch has no place for what it is handed.
    """
    run = writer.run
    assert run is not None, "a session goes on from a header"
    cases, framework, left_out = run.plan, run.framework, run.left_out
    backend = catalogue.backend(device.backend)
    folder = scratch.made()
    own = {} if folder is None or python != sys.executable else byte_code(folder)
    handing = Handing.of(framework, folder, backend)
    variables = child.variables(backend, {**own, **forced})
    stems = rehearsals = None
    if framework == TORCH:
        stems = Stems.of(backend, python, None if folder is None else str(folder))
    if stems is not None:
        rehearsals = Rehearsals(functools.partial(counted, given=variables, stems=stems))
    each = here if leader is None else leader.hosts.each
    order = Order(backend=device.backend, indices=watched(cases, device, backend, each, left_out))
    monitor = Monitor(order, variables)
    return Session(
        cases,
        run.settings,
        device,
        backend,
        writer,
        face,
        functools.partial(
            launcher.launch_together,
            command=(python, *launcher.COMMAND[1:]),
            forced={**own, **forced},
            monitor=monitor,
            leader=leader,
            stems=stems,
            handing=handing,
        ),
        budget_seconds,
        together=1 if stems is not None else min(TOGETHER, usable_cores()),
        recorded=tuple(forced),
        done=() if done is None else done.launches,
        monitor=monitor,
        here=here,
        left_out=left_out,
        folder=folder,
        stems=stems,
        rehearsals=rehearsals,
        explaining=Explaining(
            run.explanations,
            run.only_explained,
            trying,
            () if done is None else done.explanations,
        ),
        framework=framework,
    )
