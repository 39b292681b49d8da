"""What a worker does, phase by phase: opens the device, checks the numerics, measures, reports."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench import catalogue
from bench.backend import Device
from bench.framework import Executing
from bench.measuring import asked, kept, serving
from bench.measuring.explaining import launch, remedies
from bench.measuring.gates.gating import gated
from bench.measuring.gates.handed import HandedOver, built
from bench.measuring.messages import Channel, Report, Request
from bench.measuring.proving.watch import Watch
from bench.measuring.ranks import agreed, joining, pairs
from bench.measuring.ranks.edges import SINGLE, Edges, Together
from bench.measuring.ranks.hush import Hush
from bench.measuring.surroundings import harmful, hide_plug_ins
from bench.measuring.timing import silent_blocks
from bench.measuring.timing.engine import Engine
from bench.measuring.timing.usage import process_usage, suspended_ns
from bench.measuring.work import work_of
from bench.planning import memory_fit
from bench.planning.plan import parameters_of
from bench.precision import PRECISIONS
from bench.ranks import Ranks
from bench.records import environment
from bench.records.execution import EAGER
from bench.records.explained import Account
from bench.records.limits import phase_limit
from bench.records.outcome import (
    Block,
    Cold,
    Failed,
    Measured,
    Numerics,
    Outcome,
    Skipped,
    Void,
    Work,
)
from bench.records.reason import of_error, reason
from bench.records.silent import Silent
from bench.serving_job import ServingJob
from bench.telemetry.contention import HostCounters, causes
from bench.workload import Job, Look, Mode, Site, Unsupported, Workload, Wrong

ALLOW_SIMULATED = "ACCELMARK_ALLOW_SIMULATED"
"""At 1, a simulated device's samples are kept: for this program's own tests."""


class Launch:
    """The phases of one launch, in order; whatever happens becomes an outcome."""

    def __init__(
        self, request: Request, channel: Channel, wait: Callable[[], None] = lambda: None
    ) -> None:
        """wait: called once everything is imported and nothing opened; returns when it may go."""
        self.request = request
        self.channel = channel
        self.wait = wait
        self.imported_seconds: float | None = None
        """What the stem took to import that this process was forked from, if it was."""
        self.cold: dict[str, float] = {}
        self.environment: dict[str, Any] = {}
        self.first_step_ns: int | None = None
        self.estimated_peak_bytes: int | None = None
        self.execution: Executing | None = None
        self.ranks: Ranks | None = None
        self.edges: Edges = SINGLE
        self.busy_ns: tuple[int, ...] = ()
        self.peer_ns: tuple[int, ...] = ()
        self.silent_ns: tuple[int, ...] = ()
        self.blames_peer = False
        self.account: Account | None = None
        self._bench: remedies.Bench | None = None

    def run(self) -> Report:
        """Measures, or says why not."""
        self.backend = catalogue.backend(self.request.backend)
        self.framework = catalogue.framework(self.request.framework)
        try:
            outcome: Outcome = self._phases()
        except Unsupported as why:
            outcome = Skipped(reason=str(why))
        except Wrong as why:
            outcome = Void(reason=f"numerics: {why}")
        except Exception as error:  # noqa: BLE001 - any exception is this launch's outcome
            with contextlib.suppress(OSError):  # a full disk is no other outcome
                traceback.print_exc()  # to stderr, whose end the record keeps
            outcome = self._outcome_of(error)
        return Report(
            outcome=outcome,
            cold=Cold(**self.cold),
            environment=self.environment,
            first_step_ns=self.first_step_ns,
            estimated_peak_bytes=self.estimated_peak_bytes,
            busy_ns=self.busy_ns,
            peer_ns=self.peer_ns,
            silent_ns=self.silent_ns,
            blames_peer=self.blames_peer,
            account=self.account,
        )

    def _outcome_of(self, error: Exception) -> Outcome:
        """A failure, or void where a runtime that may not fall back says what would have."""
        kind = self.backend.failure_kind(error)
        self.blames_peer = kind == "error" and self.ranks is not None and joining.blames_peer(error)
        if operators := self.backend.fallbacks(str(error).splitlines()):
            return Void(reason=f"host fallback: {', '.join(operators)}")
        if kind == "error" and self.execution and (lacking := self.execution.lacking()):
            return Skipped(reason=lacking)
        return Failed(kind=kind, phase=self.channel.phase, message=reason(of_error(error)))

    def _phases(self) -> Outcome:
        request, channel = self.request, self.channel
        precision = PRECISIONS[request.case.precision]
        workload = catalogue.workload(request.case.workload)
        parameters = parameters_of(request.case, workload)
        mode = request.case.mode
        declared = workload.modes[mode]
        harm = self._prepare()
        if self.framework.hands_over and (lacking := elsewhere(request, declared)):
            return Skipped(reason=f"{request.framework}: {lacking}")
        channel.enter("import")
        start = time.perf_counter()
        if absent := self.framework.imported(workload, declared):
            return Skipped(reason=absent)
        # Of one that was forked, what it would have taken alone.
        self.cold["import_seconds"] = time.perf_counter() - start + (self.imported_seconds or 0.0)
        self.environment["imports_shared"] = self.imported_seconds is not None
        handed = None if request.handed is None else HandedOver(Path(request.handed))
        if handed is not None and handed.threads is not None:
            self.framework.compute_with(handed.threads)

        channel.enter("open")
        self.wait()
        device = self.framework.open(self.backend, request.index, precision)
        # Before anything can fail: a failure's record names its stack too.
        self.describe(device)
        if harm:
            return Void(reason=harm)
        if declared.multiplies:
            missing = self.framework.unsupported(self.backend, device.info, precision)
            if missing is not None:
                return Skipped(reason=f"{precision.name}: {missing}")
        if unasked := asked.complaint(self.framework.switches(device, precision)):
            return Void(reason=unasked)
        memory_format = self._memory_format(workload)
        if unlike := self._join(device):
            return Void(reason=unlike)
        self.execution = self.framework.execution(
            request.case.execution, self.backend, device, request.searches
        )
        site = Site(
            device=device.place,
            precision=precision,
            seed=request.seed,
            execution=request.case.execution,
            compiler=self.execution.compiler,
            recorder=self.execution.recorder,
            products=self.backend.products,
            memory_format=memory_format,
            ranks=self.ranks,
        )
        self._bench = launch.bench_of(workload, mode, parameters, site, self.backend, device)
        if request.rehearse:
            self._require_memory(workload, parameters, site, device, handed)
        if request.rehearsal_only:
            return Skipped(reason="it was to be rehearsed, and no more")
        channel.enter("numerics")
        verdict, wrong = gated(self, workload, parameters, site, device, handed)
        if wrong:
            return Void(reason=f"numerics: {wrong}", numerics=verdict)
        if unasked := asked.complaint(self.executed()):
            return Void(reason=unasked, numerics=verdict)
        self.execution.gated()
        channel.enter("build")
        start = time.perf_counter()
        draws = None if handed is None else handed.draws("job")
        job = built(self.framework, workload, mode, parameters, site, draws)
        device.synchronize()
        self.cold["build_seconds"] = time.perf_counter() - start
        try:
            outcome = self._measure(workload, parameters, job, device, verdict)
        finally:
            job.close()
        if device.info.simulated and isinstance(outcome, Measured):
            return simulated(outcome)
        return outcome

    def _memory_format(self, workload: Workload) -> str:
        """Of the job. Raises `Unsupported` where the one that is asked for is not here."""
        asked_for = self.request.memory_format
        wanted = asked_for or workload.memory_formats[0]
        own = wanted in workload.modes[self.request.case.mode].layouts
        given = wanted if own else self.backend.memory_format(wanted)
        if asked_for is not None and given != wanted:
            raise Unsupported(f"{wanted}: the backend {self.backend.name} does not have it")
        return given

    def _require_memory(
        self,
        workload: Workload,
        parameters: Any,
        site: Site,
        device: Device,
        handed: HandedOver | None,
    ) -> None:
        """Counts the case's memory, and raises for what cannot fit; see `memory_fit.require`."""
        of = (workload, self.request.case.mode, parameters, site)
        most = phase_limit("open", self.request.settings.launch_limit_seconds)
        until = time.monotonic() + most / 4  # what would do instead must not cost the answer
        own, shared = not self.backend.is_host, device.shares_host_memory  # own: of each rank
        capacity = device.capacity_bytes()  # as long as no other rank of this host has built
        needed = self.request.estimated_peak_bytes
        if needed is None:
            needed = memory_fit.estimate(*of) if handed is None else handed.estimated_peak_bytes
        self.estimated_peak_bytes = needed
        whole = device.info.memory_bytes if shared else capacity
        whole = whole if own else memory_fit.of_host(whole)
        margin = memory_fit.MARGIN_OF_HOST if own and shared else memory_fit.MARGIN
        wider = functools.partial(memory_fit.more_devices, *of, whole, until, margin)
        remedy, ranks = (wider, 1) if own else (str, self.request.local_size)
        memory_fit.require(needed, whole, remedy, ranks, capacity, margin)

    def _join(self, device: Device) -> str:
        """Meets the other ranks, where several do the step; in what one differs from the rest."""
        place = self.request.place
        if place is None:
            return ""
        limit = self.request.settings.launch_limit_seconds
        self.ranks = joining.join(place, self.backend, device, limit, self.channel.arrive)
        self.edges = Together(self.ranks)
        self.environment["world"] = joining.described(place, self.backend, device)
        shared = self.backend.is_host
        return joining.unlike(self.ranks, self.environment, device.info.name, shared)

    def _prepare(self) -> str:
        """Before any library that sets variables of its own. Gives what voids all measurements."""
        request = self.request
        harm = harmful(self.backend, self.framework)
        hide_plug_ins(self.backend)
        self._note_variables()
        named = (request.case.workload, request.backend, request.framework)
        self.environment |= catalogue.versions(*named)
        folders = (*self.backend.compiler_folders, *self.framework.compiler_folders)
        kept.keep_compiled(request.scratch, folders)
        if request.explain:
            launch.prepare(request.case.execution)
        return harm

    def _note_variables(self) -> None:
        own = (self.backend.recorded_variables(), self.framework.recorded_variables())
        words = environment.looked_for(*own, self.request.recorded)
        given = self.backend.heeded(os.environ)
        self.environment["variables"] = environment.variables(words, given)
        self.environment["variables_looked_for"] = words
        if compared := list(self.request.recorded):
            self.environment["variables_compared"] = compared

    def _measure(
        self, workload: Workload, parameters: Any, job: Job, device: Device, verdict: Numerics
    ) -> Outcome:
        request, channel, mode = self.request, self.channel, self.request.case.mode
        precision = PRECISIONS[request.case.precision]
        work = job.own_work or work_of(request.case, workload, parameters, self.ranks)
        if isinstance(job, ServingJob):
            return serving.measured(self, work, parameters, job, device, verdict)
        latency_name = workload.modes[mode].latency
        seen = (job, device, precision, request.seed, request.thorough, request.case.execution)
        watch = Watch(*seen, edges=self.edges, framework=self.framework)
        channel.enter("warm-up")
        watch.start()
        engine = Engine(
            job,
            device,
            request.settings,
            usage=process_usage(),
            host=HostCounters().read,
            threads=int(self.environment["threads"]) * request.local_size,
            suspended=suspended_ns,
            watch=watch.after,
            edges=self.edges,
            before=watch.before,
            burst=workload.modes[mode].burst,
            calls_operators=request.case.execution == EAGER and not self.framework.hands_over,
        )
        series = engine.measure(
            samples=request.samples,
            latency=latency_name is not None,
            progress=lambda phase, blocks: channel.blocks(phase, blocks, work),
        )
        self.first_step_ns, self.busy_ns = series.started_ns, series.busy_ns
        self.cold["first_step_seconds"] = series.first_step_ns / 1e9
        if self.ranks is not None:
            self.peer_ns = pairs.peer_ns(
                *(job, self.ranks.size, device, self.edges, time.perf_counter_ns),
                lambda: channel.blocks("measure", [*series.steady], work),
            )
        channel.enter("report")
        watch.finish(statistics.median(block.sample_seconds for block in series.steady))
        job.thorough = request.thorough
        wrong = asked.late(self, job, device, watch.executed)  # which may know who did it
        if not wrong and not all(math.isfinite(w) for w in series.witness):
            first, last = series.witness
            wrong = f"output is not finite: {first} after the first step, {last} after the last"
        progress = functools.partial(channel.blocks, "report", [], work)
        if wrong := agreed.of_all(self.ranks, wrong or watch.complaint, job, progress):
            return Void(reason=wrong, numerics=verdict)
        work = job.counted(work)
        slowed = {} if series.contention is None else dict(causes(series.contention))
        slowed |= {"STOPPED": series.stopped} if series.stopped else {}
        silent = self._silent(job, device, series.steady, work)  # late: it spoils the weights
        if request.explain:  # last: so does this
            channel.enter("explain")
            trying = self._bench if request.try_remedies else None
            self.account = launch.account(job, device, request.case, engine.threads, trying)
        return Measured(
            work=work,
            numerics=verdict,
            warmup=series.warmup,
            steady=series.steady,
            step_clock=series.step_clock,
            memory=series.memory,
            latency_name=latency_name,
            request_ns=series.request_ns,
            queue_ns=series.queue_ns,
            witness=series.witness,
            flags=(*series.flags, *slowed),
            causes={str(flag): cause for flag, cause in slowed.items()},
            contention=series.contention,
            proof=watch.proof,
            silent=silent,
            executed=watch.executed,
            energy_absent="not observable: nobody looked",
        )

    def _silent(
        self, job: Job, device: Device, steady: tuple[Block, ...], work: Work
    ) -> Silent | None:
        """The step without communication, of ranks that compute one model together."""
        ranks, channel = self.ranks, self.channel
        if ranks is None or ranks.parallelism.scheme in ("none", "replicas"):
            return None
        found = silent_blocks.taken(
            *(job, device, self.request.settings, steady),
            Hush(device.torch_device.type, ranks.control),
            self.edges,
            lambda: channel.blocks("report", [], work),
        )
        self.silent_ns = found.own_ns
        if found.absent:
            self.environment["world"]["silent_absent"] = found.absent
        return found.silent

    def executed(self) -> list[Look]:
        """Whether the execution is the case's, as far as it has come."""
        return self.execution.looks(self.environment) if self.execution else []

    def describe(self, device: Device) -> None:
        """The stack and device as they stand now."""
        self.environment.update(self.framework.stack())
        self.environment["device"] = msgspec.to_builtins(device.info)
        self.environment["device_state"] = device.facts()
        self.environment["float32_reduced"] = device.float32_reduced()


def elsewhere(request: Request, mode: Mode) -> str:
    """Why a framework that is handed its numbers cannot do what is asked; empty where it may."""
    if request.case.devices > 1:
        return "one device only, so far; several are torch's"
    if mode.serves:
        return "no serving, so far; that is torch's"
    if request.explain:
        return "no step is taken apart, so far, but torch's"
    return "" if request.handed else "nothing was handed over to it"


def simulated(outcome: Measured) -> Outcome:
    """What a device that is none has measured: void, but for the tests that ask for it."""
    if os.environ.get(ALLOW_SIMULATED) == "1":
        return outcome
    return Void(
        reason="simulated device: its times are those of a program", numerics=outcome.numerics
    )
