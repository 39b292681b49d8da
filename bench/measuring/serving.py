"""A launch of a load: warmed, served, looked at, and its answers checked."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import msgspec

from bench.measuring import asked
from bench.measuring.gates import serving_gate
from bench.measuring.serving_loop import Loaded, Loop, prompts
from bench.measuring.timing.blocks import collected
from bench.measuring.timing.usage import peak, suspended_ns
from bench.planning.arrivals import load_of
from bench.records.cpu_limits import affinity_cores
from bench.records.outcome import Block, Measured, Memory, Numerics, Outcome, Void, Work
from bench.records.served import Window
from bench.serving_job import ServingJob
from bench.telemetry import contention, standstill
from bench.telemetry.contention import Counters, HostCounters

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.measuring.launch import Launch

WARM_STEPS = 5
"""Whole forwards before the load, once every variant has run."""


def measured(
    launch: Launch,
    work: Work,
    parameters: Any,
    job: ServingJob,
    device: Device,
    verdict: Numerics,
) -> Outcome:
    """Serves the case's load on a job that is built; work: of the whole load."""
    request, channel = launch.request, launch.channel
    load = load_of(parameters)
    texts = prompts(load, job.vocabulary, request.seed)
    channel.enter("warm-up")
    launch.cold["first_step_seconds"] = _warmed(job, device, request.settings.warmup_seconds)
    device.reset_peak_memory()
    channel.enter("measure")
    marks: list[Counters] = []
    counters = HostCounters().read if device.synchronous else None
    suspended = suspended_ns()
    witness = job.witness()
    with collected():
        loaded = Loop(job, load, texts, parameters.ramp).run(
            lambda ended, tokens, ns: channel.blocks(
                "measure",
                [Block(wall_ns=ns, step_ns=(ns,) * ended)],
                Work(items=max(tokens // ended, 1), unit=work.unit),
            ),
            lambda: None if counters is None else marks.append(counters()),
        )
    suspended = suspended_ns() - suspended
    launch.first_step_ns = loaded.started_ns
    memory = peak(device)
    witnesses = (witness, job.witness())
    channel.enter("report")
    wrong = asked.late(launch, job, device) or _complaint(loaded, witnesses)
    window = loaded.served.window
    if wrong or window is None:
        return Void(reason=wrong or "the load has no steady part", numerics=verdict)
    job.empty()
    device.release_memory()
    answers = serving_gate.timed_answers(job, loaded, request.case.precision, request.seed)
    verdict = msgspec.structs.replace(verdict, checks=(*verdict.checks, answers))
    if not verdict.passed:
        return Void(reason=f"numerics: {verdict.complaint}", numerics=verdict)
    block = Block(
        start_ns=window.start_ns,
        wall_ns=window.end_ns - window.start_ns,
        step_ns=(window.end_ns - window.start_ns,),
    )
    slowed, beside = {}, None
    if len(marks) == 2:
        threads = int(launch.environment["threads"])
        begun, ended = marks
        beside = contention.over(begun, ended, [block], threads, affinity_cores())
        slowed = dict(contention.causes(beside))
    served = loaded.served
    if stopped := standstill.seen([block], beside, suspended_ns=suspended, served=served):
        slowed["STOPPED"] = stopped
    return _outcome(work, window, block, loaded, verdict, memory, witnesses, slowed, beside)


def _outcome(
    work: Work,
    window: Window,
    block: Block,
    loaded: Loaded,
    verdict: Numerics,
    memory: Memory,
    witness: tuple[float, float],
    slowed: dict[Any, str],
    beside: Any,
) -> Measured:
    """FLOP as those of the whole load, by its output tokens."""
    flop, least = (
        None if count is None else round(count * window.tokens / work.items)
        for count in (work.flop, work.least_flop)
    )
    return Measured(
        work=msgspec.structs.replace(work, items=window.tokens, flop=flop, least_flop=least),
        numerics=verdict,
        warmup=(),
        steady=(block,),
        step_clock="host",
        memory=memory,
        witness=witness,
        served=loaded.served,
        flags=tuple(slowed),
        causes={str(flag): cause for flag, cause in slowed.items()},
        contention=beside,
        energy_absent="not observable: nobody looked",
    )


def _complaint(loaded: Loaded, witnesses: tuple[float, float]) -> str:
    """What is wrong with what the load gave; empty if nothing is."""
    if not all(map(math.isfinite, witnesses)):
        return "output is not finite: {} before the load, {} after it".format(*witnesses)
    short = [request for request in loaded.served.requests if request.failed]
    if short:
        return f"{len(short)} requests were not answered as asked: {short[0].failed}"
    return ""


def _warmed(job: ServingJob, device: Device, seconds: float) -> float:
    """Every variant, and then whole forwards until clocks have settled; what the variants took."""
    start = time.perf_counter()
    job.warm()
    device.synchronize()
    variants = time.perf_counter() - start
    least = seconds if device.needs_warmup_under_load else 0.0
    steps, start = 0, time.perf_counter()
    while steps < WARM_STEPS or time.perf_counter() - start < least:
        job.step()
        device.synchronize()
        steps += 1
    return variants
