"""Launches for the error rates of the proof of equal work: each is done once, and may be kept.

A launch is a case, a seed, a stack and perhaps a planted fault. What a stack must set before a
library is loaded it sets in a process of its own, which answers for all its launches.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from bench import catalogue
from bench.measuring import asked
from bench.measuring.gates import numerics
from bench.measuring.proving.watch import Watch
from bench.measuring.timing.engine import Engine
from bench.planning import plan
from bench.precision import PRECISIONS
from bench.records import environment
from bench.records.case import Case
from bench.records.execution import is_compiled, is_recorded
from bench.records.proof import Proof
from bench.records.run import Settings
from bench.tests.validation import planted
from bench.tests.validation.planted import LAZY, Absent, OnlyTheLast
from bench.workload import Job, Site, Unsupported

if TYPE_CHECKING:
    from bench.backend import Device

SHORTEST_SECONDS = 0.001
"""A shorter step may be left out of a block unseen, and is nobody's benchmark."""
BLOCKS = Settings(
    block_seconds=0.002, warmup_seconds=0.0, warmup_limit_seconds=0.1, steady_limit_seconds=0.1
)


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """How one side of a pair runs."""

    device: str = "cpu"
    execution: str = "eager"
    threads: int = 1
    layout: bool = False
    """In the workload's other memory format."""
    environment: dict[str, str] = {}
    """Of a process of its own, for what a library reads once."""


def _instructions(products: str, rest: str) -> Stack:
    return Stack(environment={"ONEDNN_MAX_CPU_ISA": products, "ATEN_CPU_CAPABILITY": rest})


STACKS = {
    "eager": Stack(),
    "again": Stack(environment={"PYTHONHASHSEED": "1"}),
    # Two that spin where they wait would take the core from whoever they wait for.
    "threads": Stack(threads=2, environment={"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}),
    "layout": Stack(layout=True),
    # No pool of compilers: each of them would import torch.
    "compile": Stack(execution="compile", environment={"TORCHINDUCTOR_COMPILE_THREADS": "1"}),
    "graph": Stack(execution="graph"),
    "compile-graph": Stack(execution="compile-graph"),
    "avx512": _instructions("AVX512_CORE", "avx512"),
    "avx2": _instructions("AVX2", "avx2"),
    "plain": _instructions("SSE41", "default"),
    # torch's own kernels only. Without AVX-512's bfloat16 a product of 2,048 in bf16 takes minutes.
    "kernels-avx2": Stack(environment={"ATEN_CPU_CAPABILITY": "avx2"}),
    "kernels-plain": Stack(environment={"ATEN_CPU_CAPABILITY": "default"}),
}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one launch says of itself."""

    proof: Proof
    complaint: str = ""
    gate: str = ""
    """Why the numerics gate makes it void, where that is what was asked; empty if it passed."""


GATE_ONLY = Told(proof=Proof(absent="the numerics gate was asked, and no step taken"))


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One launch."""

    case: Case
    seed: int
    stack: Stack = Stack()
    thorough: bool = False
    """The first of its run: noise is taken."""
    fault: str = ""
    """Of `bench.tests.validation.planted`."""
    gate: bool = False
    """The numerics gate, and nothing else: it takes longer than the steps do."""


class Launches:
    """Gives what launches say; does each once."""

    def __init__(self, kept: Path | None = None) -> None:
        """kept: a file of JSON lines; what it holds is not done again, what is done is added."""
        self._file = kept
        self._told: dict[bytes, Told | None] = {}
        self._beside: dict[bytes, subprocess.Popen[bytes]] = {}
        if kept is not None and kept.exists():
            for line in kept.read_bytes().splitlines():
                ask, told = msgspec.json.decode(line, type=tuple[msgspec.Raw, Told | None])
                self._told[bytes(ask)] = told

    def told(self, ask: Ask) -> Told | None:
        """None where the stack cannot run it, or the case cannot have the fault."""
        line = msgspec.json.encode(ask)
        if line not in self._told:
            self._told[line] = found = self._do(ask, line)
            if self._file is not None:
                with self._file.open("ab") as file:
                    file.write(msgspec.json.encode((msgspec.Raw(line), found)) + b"\n")
        return self._told[line]

    def _do(self, ask: Ask, line: bytes) -> Told | None:
        if not ask.stack.environment:
            return _maybe(ask)
        process = self._process(ask.stack.environment)
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # no answer comes then, which is said below
            process.stdin.write(line + b"\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"the process with {ask.stack.environment} ended ({process.wait()}) in "
                f"{ask.case.label} at seed {ask.seed}. Its own words are above; what --keep holds "
                "is not done again"
            )
        return msgspec.json.decode(answer, type=Told | None)

    def _process(self, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """One that has these variables, and answers a line with a line."""
        key = msgspec.json.encode(variables)
        if key not in self._beside:
            self._beside[key] = subprocess.Popen(
                [sys.executable, "-c", f"import {__name__} as launches; launches.answer()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **variables},
            )
        return self._beside[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the processes."""
        for process in self._beside.values():
            process.communicate()


def answer() -> None:
    """In a process beside: a line for a line. Whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(_maybe(msgspec.json.decode(line, type=Ask))) + b"\n")
        answers.flush()


def _maybe(ask: Ask) -> Told | None:
    with contextlib.suppress(Absent, Unsupported):
        try:
            return watched(ask)
        finally:
            gc.collect()  # a job of some gigabytes sits in cycles, and the next one comes at once
    return None


def watched(ask: Ask) -> Told:
    """The first three steps of a case under watch, and what follows the timing; or its gate.

    Raises Unsupported where the stack cannot run it, and `Absent` where the case cannot have the
    fault, or a step is too short to be missed.
    """
    import torch

    case, stack = ask.case, ask.stack
    precision = PRECISIONS[case.precision]
    backend = catalogue.backend(stack.device)
    device = backend.open(0, precision)
    if lacking := backend.unsupported(device.info, precision):
        raise Unsupported(lacking)
    workload = catalogue.workload(case.workload)
    formats = workload.memory_formats
    if stack.layout and len(formats) < 2:
        raise Unsupported("one memory format")
    if stack.execution not in workload.modes[case.mode].executions:
        raise Unsupported(stack.execution)
    site = Site(
        device=device.torch_device,
        precision=precision,
        seed=ask.seed,
        execution=stack.execution,
        recorder=device.recorder() if is_recorded(stack.execution) else None,
        compiler=backend.compilers[0],
        products=backend.products,
        memory_format=formats[1] if stack.layout else formats[0],
    )
    parameters = plan.parameters_of(case, workload)
    build = functools.partial(workload.build, case.mode, parameters, site)
    before = torch.get_num_threads()
    torch.set_num_threads(stack.threads)
    try:
        if ask.gate:
            said = numerics.gate(workload, case.mode, parameters, site).complaint
            return msgspec.structs.replace(GATE_ONLY, gate=said)
        if ask.fault == LAZY:
            _require_long(build(), device)
        with _compiled(stack) as complaints:
            job = build()
            watch = Watch(job, device, precision, ask.seed, ask.thorough, stack.execution)
            try:
                _run(job, device, watch, ask)
            finally:
                job.close()
        complaints += [watch.complaint] if watch.complaint else []
        return Told(proof=watch.proof, complaint="; ".join(complaints))
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _compiled(stack: Stack) -> Iterator[list[str]]:
    """As a fresh process compiles, and what makes a launch void that did not; else nothing."""
    complaints: list[str] = []
    if not is_compiled(stack.execution):
        yield complaints
        return
    import torch

    torch.compiler.reset()  # after some models of the same code the compiler gives up, and says so
    before = environment.compiler()
    yield complaints
    done = {name: count - before[name] for name, count in environment.compiler().items()}
    if said := asked.complaint(asked.compiled(done, stack.execution)):
        complaints.append(said)


def _run(job: Job, device: Device, watch: Watch, ask: Ask) -> None:
    import torch

    faults: Mapping[str, Any] = {**planted.FAULTS, **planted.NOT_TOLD}
    if ask.fault in faults:
        torch.manual_seed(ask.seed)
        faults[ask.fault](job)
    watch.start()
    if ask.fault == LAZY:
        _run_lazily(job, device, watch)
        return
    for step in (1, 2, 3):
        job.step()
        device.synchronize()
        watch.after(step)
    watch.finish(math.inf)


def _require_long(job: Job, device: Device) -> None:
    """Raises Absent where a step is too short to be missed."""
    job.step()
    start = time.perf_counter()
    job.step()
    device.synchronize()
    job.close()
    if time.perf_counter() - start < SHORTEST_SECONDS:
        raise Absent


def _run_lazily(job: Job, device: Device, watch: Watch) -> None:
    """As the engine measures, for it shows in blocks only."""
    OnlyTheLast(job, device)
    series = Engine(job, device, BLOCKS, watch=watch.after).measure(samples=10)
    device.synchronous = False  # what leaves steps for later queues
    watch.finish(statistics.median(block.sample_seconds for block in series.steady))
