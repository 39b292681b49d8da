"""What a worker does to explain its case, last of all; whatever happens becomes an account."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from bench.backend import is_out_of_memory
from bench.measuring.explaining import in_order, kernels, profiled, remedies, rotated
from bench.precision import PRECISIONS
from bench.records.cpu_limits import affinity_cores
from bench.records.explained import Account, Explained, Seen, Tried, Unexplained
from bench.records.outcome import Block
from bench.records.reason import of_error, reason
from bench.telemetry import contention
from bench.telemetry.contention import HostCounters

if TYPE_CHECKING:
    from bench.backend import Backend, Device
    from bench.records.case import Case
    from bench.records.outcome import Numerics
    from bench.workload import Job, Site, Workload


class Host:
    """What else ran on the host meanwhile."""

    def __init__(self, threads: int) -> None:
        """threads: with which the job computes."""
        self._read = HostCounters().read
        self._before = self._read()
        self._threads = threads

    def causes(self) -> dict[Seen, str]:
        """What its counters say, from when this was made."""
        blocks = [Block(wall_ns=1, step_ns=(1,))]  # of which nothing is asked here
        seen = contention.over(self._before, self._read(), blocks, self._threads, affinity_cores())
        found = contention.causes(seen)
        names: tuple[Seen, ...] = ("CONTENDED", "QUOTA")
        return {name: found[name] for name in names if name in found}


def prepare(execution: str) -> None:
    """Before torch is imported: keeps its profiler from writing to stderr, and has compiled code
    tell its kernels' names."""
    os.environ.setdefault(profiled.LOG_LEVEL, "99")
    if execution != "eager":
        os.environ.setdefault(kernels.WRITES_KERNEL_NAMES, "1")
        read = sys.modules.get("torch._inductor.config")  # in a process that was forked from a stem
        if read is not None:
            read.cpp.enable_kernel_profile = os.environ[kernels.WRITES_KERNEL_NAMES] == "1"


def bench_of(
    workload: Workload, mode: str, parameters: Any, site: Site, backend: Backend, device: Device
) -> remedies.Bench:
    """What remedies are tried with, each checked by the numerics gate."""
    from bench.measuring import kept
    from bench.measuring.gates import numerics

    def gate(given: Any, changed: Site) -> Numerics:
        return numerics.gate(
            *(workload, mode, given, changed, backend.library_switches), kept.NOTHING
        )

    return remedies.Bench(workload, mode, parameters, site, backend, device, gate)


def account(
    job: Job, device: Device, case: Case, threads: int, trying: remedies.Bench | None = None
) -> Account:
    """Why a step takes as long as it does, or why that cannot be told. The job is spoiled by it.

    threads: with which the job computes on this host; trying: with what remedies are tried before.
    """
    batch = case.parameters.get("batch_size")
    batch = batch if isinstance(batch, int) else None
    done: tuple[Tried, ...] = ()
    try:
        done = () if trying is None else remedies.tried(trying, job)
        found = _account(job, device, case, threads, batch)
        return msgspec.structs.replace(found, tried=done)
    except Exception as error:  # noqa: BLE001 - what was timed before is none the worse for it
        with contextlib.suppress(OSError):
            traceback.print_exc()
        said = reason(of_error(error))
        if is_out_of_memory(error) and batch is not None and batch > 1:
            said += f": explain it at batch_size = {batch // 2}"
        return Unexplained(reason=said, tried=done)


def _account(
    job: Job, device: Device, case: Case, threads: int, batch: int | None
) -> Explained | Unexplained:
    causes = Host(threads).causes
    if case.execution != "eager":
        arithmetic = PRECISIONS[case.precision].arithmetic
        return kernels.explained(job, device, arithmetic, disturbed=causes)
    if device.synchronous:
        return in_order.explained(job, device, disturbed=causes, batch=batch)
    return rotated.explained(job, device, disturbed=causes, batch=batch)
