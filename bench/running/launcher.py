"""Launches: workers start together and measure in turn; whatever one does becomes an outcome."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterable, Mapping, Sequence

import msgspec

from bench import catalogue, lifeline
from bench.measuring.messages import Report, Request
from bench.planning.arrivals import load_of
from bench.planning.plan import parameters_of
from bench.records import environment
from bench.records.case import Case
from bench.records.limits import SHARES, phase_limit
from bench.records.observed import Telemetry
from bench.records.outcome import Measured, Skipped, Void
from bench.records.run import Settings
from bench.running.handing import Handing
from bench.running.hosts import seating
from bench.running.hosts.leader import Leader
from bench.running.monitor import Monitor
from bench.running.stems import Stems
from bench.running.worker_process import Listener, WorkerProcess, start_worker, without_worker
from bench.running.world import World
from bench.telemetry.joined import Sight, Where, observed


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """A launch as the parent saw it."""

    report: Report
    seconds: float
    """Its share of the run's time: of workers launched together, the first has the imports."""
    stderr_tail: str
    telemetry: Telemetry | str = "nobody looked"
    """What was seen of the device meanwhile, or why nothing was."""


COMMAND = lifeline.command("bench.measuring.worker")
"""A worker."""
NOTHING: Mapping[str, str] = {}


def launch_together(
    requests: Sequence[Request],
    variables: Mapping[str, str],
    listen: Listener = lambda progress: None,
    command: tuple[str, ...] = COMMAND,
    forced: Mapping[str, str] = NOTHING,
    monitor: Monitor | None = None,
    leader: Leader | None = None,
    stems: Stems | None = None,
    handing: Handing | None = None,
) -> Generator[Finished, None, None]:
    """Runs workers to their ends, one after the other; only their imports overlap.

    Importing torch and a model library takes longer than many a measurement, and one core. All
    workers import first, side by side; none opens the device before all have; then each in turn
    measures alone, while the others wait in the kernel.

    variables: the backend's environment, set unless the user has set them; forced: set whatever
    the user's environment says; monitor: what looks at the device meanwhile; leader: of several
    hosts; stems: what launches of one device are forked from; handing: of launches in another
    framework. Never raises for what a worker does;
    `HostsError` where a host is gone already. When it is closed, or an exception passes through,
    no worker is left.
    """
    if leader is not None:
        leader.require_all()
    start = time.monotonic()
    unset = catalogue.backend(requests[0].backend).silencing_variables()
    given = environment.worker_variables(variables, forced, unset)
    with contextlib.ExitStack() as stack:
        workers: list[WorkerProcess | World | Report] = []
        for request in requests:
            worker = _started(request, given, command, leader, stems, handing)
            workers.append(worker)
            if not isinstance(worker, Report):
                stack.callback(worker.leave)
        if monitor is not None:
            monitor.start()  # it sees the device idle while they import
        if len(workers) > 1 or monitor is not None:
            for worker in workers:
                if not isinstance(worker, Report):
                    worker.until_imported()
        for request, worker in zip(requests, workers, strict=True):
            if monitor is not None:
                monitor.lets_go()
            if isinstance(worker, Report):
                report = worker
            else:
                report = worker.measure(listen)
                worker.end()
                report = _voided_by_fallback(report, request.backend, worker.stderr_lines())
            seen: Telemetry | str = "nobody looked"
            if monitor is not None:
                report, seen = _observed(report, _sights(monitor, request, worker, report))
            end = time.monotonic()
            yield Finished(
                report=report,
                seconds=end - start,
                stderr_tail="" if isinstance(worker, Report) else worker.stderr_tail(),
                telemetry=seen,
            )
            start = time.monotonic()


def _started(
    request: Request,
    given: Mapping[str, str],
    command: tuple[str, ...],
    leader: Leader | None,
    stems: Stems | None,
    handing: Handing | None,
) -> WorkerProcess | World | Report:
    """A worker, or as many as the case takes devices; or what is said where there is none."""
    if late := comes_for_too_long(request.case, request.settings):
        return without_worker(Skipped(reason=late))
    if handing is not None:
        handed = handing.handed(request)
        if not isinstance(handed, Request):
            return without_worker(handed)
        request = handed
    if request.case.devices == 1:
        if stems is not None and (stem := stems.stem(request, given)) is not None:
            forked = start_worker(lambda: WorkerProcess(request, given, command, stem=stem))
            if isinstance(forked, WorkerProcess):
                return forked
            stems.give_up()
        return start_worker(lambda: WorkerProcess(request, given, command))
    hosts = seating.ONE if leader is None else leader.hosts
    if lacking := seating.lacking(request, hosts):
        return without_worker(Skipped(reason=lacking))
    return start_worker(lambda: World(request, given, command, leader))


def comes_for_too_long(case: Case, settings: Settings) -> str:
    """Why a load cannot be answered in the time that a launch measures; empty where it may be.

    Arrivals are drawn beforehand, so when the last request is due is known.
    """
    workload = catalogue.workload(case.workload)
    if not workload.modes[case.mode].serves:
        return ""
    seconds = load_of(parameters_of(case, workload)).arrives_over_seconds
    limit = phase_limit("measure", settings.launch_limit_seconds)
    if seconds <= limit:
        return ""
    enough = 100 * math.ceil(1.1 * seconds / SHARES["measure"] / 100)
    return (
        f"its requests come over {seconds:,.0f} s, and a launch measures for {limit:,.0f} s at "
        f"most: fewer requests, a higher rate, or launch_limit_seconds = {enough} "
        "(and no shorter budget) would do"
    )


def _voided_by_fallback(report: Report, backend: str, stderr: Iterable[str]) -> Report:
    """A figure to which the host contributed operators is not the device's."""
    if not isinstance(report.outcome, Measured):
        return report
    operators = catalogue.backend(backend).fallbacks(stderr)
    if not operators:
        return report
    void = Void(reason=f"host fallback: {', '.join(operators)}", numerics=report.outcome.numerics)
    return msgspec.structs.replace(report, outcome=void)


def _sights(
    monitor: Monitor,
    request: Request,
    worker: WorkerProcess | World | Report,
    report: Report,
) -> dict[Where, Sight]:
    """What was seen of each device of the launch, here and on other hosts."""
    elsewhere: dict[Where, Sight] = {}
    pids = [worker.pid] if isinstance(worker, WorkerProcess) else []
    first_steps = {request.index: report.first_step_ns}
    if isinstance(worker, World):
        pids, first_steps = worker.pids_here, worker.first_steps_ns
        elsewhere = worker.sights_elsewhere
    here = {(0, sight.index): sight for sight in monitor.saw(pids, first_steps)}
    return {**here, **elsewhere}


def _observed(report: Report, sights: Mapping[Where, Sight]) -> tuple[Report, Telemetry | str]:
    """With the energy of its steady blocks, and the flags that the devices themselves raise; and
    what was seen of the first."""
    if not isinstance(report.outcome, Measured):
        return report, next((sight.telemetry for sight in sights.values()), "nobody looked")
    outcome, seen = observed(report.outcome, sights)
    return msgspec.structs.replace(report, outcome=outcome), seen
