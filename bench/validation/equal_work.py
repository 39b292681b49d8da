"""Does the proof of equal work tell honest work from other work? Both error rates, counted.

    python -m bench.validation.equal_work [--pairs 300] [--seed 1000] [--faults 1]
        [--suite smoke] [--only 'llama-*'] [--stacks threads,layout] [--device cpu]

Honest pairs: the same case and seed under two stacks, eager against each of `--stacks` (see
`STACKS`), as two records of a run would hold them; instruction sets are limited in processes of
their own. Planted: each fault of `bench.validation.planted`, `--faults` seeds a case, against the
honest step. Cases are those of the suite, each at every precision that it is made for and that the
device has. `--device` runs the other side of every pair, and the faults, on another device.

Printed are both rates, with the exact (Clopper-Pearson) 95 % intervals, and what was refused or
missed. The exit code is 1 where more than one honest pair in a thousand was refused, or less than
99 % of the faults were caught.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import math
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bench import catalogue
from bench.judging.equal_work import EqualWork, judged
from bench.measuring.engine import Engine
from bench.measuring.watch import Watch
from bench.planning import plan, suite_file
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.proof import Proof
from bench.records.run import Settings
from bench.validation.planted import FAULTS, LAZY, NOT_TOLD, Absent, Fault, OnlyTheLast
from bench.workload import Job, Site, Unsupported

LEVEL = 0.95
SHORTEST_SECONDS = 0.001
"""A shorter step may be left out of a block unseen, and is nobody's benchmark."""
REFUSED, CAUGHT = 0.001, 0.99
"""Most honest pairs refused; least faults caught."""
BLOCKS = Settings(
    block_seconds=0.002, warmup_seconds=0.0, warmup_limit_seconds=0.1, steady_limit_seconds=0.1
)


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """How the other side of a pair runs."""

    execution: str = "eager"
    threads: int | None = None
    layout: bool = False
    """In the workload's other memory format."""
    environment: dict[str, str] = {}
    """Of a process of its own, for what a library reads once."""


STACKS = {
    "again": Stack(),
    "threads": Stack(threads=2),
    "layout": Stack(layout=True),
    "compile": Stack(execution="compile"),
    "graph": Stack(execution="graph"),
    "avx2": Stack(environment={"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    "plain": Stack(environment={"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}),
}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What one launch says of itself."""

    proof: Proof
    complaint: str = ""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One launch, for a process of its own."""

    case: Case
    seed: int
    stack: Stack
    device: str
    thorough: bool = False


def watched(ask: Ask, fault: Fault | None = None, lazy: bool = False) -> Told:
    """The first three steps of a case under watch, and what follows the timing.

    lazy: on a device that does the last step of a block only. Raises Unsupported where the stack
    cannot run it, and `Absent` of the fault, or where a step is too short to be missed.
    """
    import torch

    case, stack = ask.case, ask.stack
    precision = PRECISIONS[case.precision]
    backend = catalogue.backend(ask.device)
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
        recorder=device.recorder() if stack.execution == "graph" else None,
        memory_format=formats[1] if stack.layout else formats[0],
    )
    before = torch.get_num_threads()
    torch.set_num_threads(stack.threads or 1)
    build = functools.partial(workload.build, case.mode, plan.parameters_of(case, workload), site)
    if lazy:
        _require_long(build(), device)
    job = build()
    try:
        if fault is not None:
            torch.manual_seed(ask.seed)
            fault(job)
        watch = Watch(job, device, precision, ask.seed, ask.thorough)
        watch.start()
        if lazy:
            _run_lazily(job, device, watch)
        else:
            for step in (1, 2, 3):
                job.step()
                device.synchronize()
                watch.after(step)
            watch.finish(math.inf)
        return Told(proof=watch.proof, complaint=watch.complaint)
    finally:
        job.close()
        torch.set_num_threads(before)


def _require_long(job: Job, device: Any) -> None:
    """Raises Absent where a step is too short to be missed."""
    job.step()
    start = time.perf_counter()
    job.step()
    device.synchronize()
    job.close()
    if time.perf_counter() - start < SHORTEST_SECONDS:
        raise Absent


def _run_lazily(job: Job, device: Any, watch: Watch) -> None:
    """As the engine measures, for it shows in blocks only."""
    OnlyTheLast(job, device)
    series = Engine(job, device, BLOCKS, watch=watch.after).measure(samples=10)
    device.synchronous = False  # what leaves steps for later queues
    watch.finish(statistics.median(block.sample_seconds for block in series.steady))


@functools.cache
def _beside(variables: tuple[tuple[str, str], ...]) -> subprocess.Popen[bytes]:
    """A process of this script with these variables, which answers a line with a line."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench.validation.equal_work", "--answer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **dict(variables)},
    )


def other_side(ask: Ask) -> Told | None:
    """The other stack's launch, in a process of its own where it must be; None if it cannot run."""
    if not ask.stack.environment:
        return _maybe(ask)
    process = _beside(tuple(ask.stack.environment.items()))
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(ask) + b"\n")
    process.stdin.flush()
    return msgspec.json.decode(process.stdout.readline(), type=Told | None)


def answer() -> None:
    """Such a process: whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(_maybe(msgspec.json.decode(line, type=Ask))) + b"\n")
        answers.flush()


def cases(suite: str, only: str) -> Iterator[Case]:
    """Of a suite, each at every precision that its mode is made for; no tuned ones."""
    seen = set()
    for case in plan.plan(suite_file.read_suite(suite_file.find_suite(suite))):
        for name in catalogue.workload(case.workload).modes[case.mode].precisions:
            one = msgspec.structs.replace(case, precision=name, execution="eager")
            fits = fnmatch.fnmatchcase(f"{one.name} {name}", only)
            if fits and not case.space and one.fingerprint not in seen:
                seen.add(one.fingerprint)
                yield one


class Counted:
    """What came of the pairs or of the faults."""

    def __init__(self) -> None:
        self.total = self.told = 0
        self.kinds: Counter[str] = Counter()
        self.found: list[str] = []
        self.noted: Counter[tuple[str, bool]] = Counter()

    def add(self, kind: str, name: str, refusal: str, worth_saying: bool) -> None:
        """One comparison; refusal: why the two are not the same work, or empty."""
        self.total += 1
        self.told += bool(refusal)
        self.kinds[kind] += 1
        self.noted[kind, bool(refusal)] += 1
        if bool(refusal) is worth_saying:
            self.found.append(f"  {kind}: {name}: {refusal or 'not told'}")

    def lines(self) -> Iterator[str]:
        """By kind, and what is worth saying."""
        for kind in self.kinds:
            yield f"  {kind}: {self.noted[kind, True]} of {self.kinds[kind]}"
        yield from self.found


def refusal_of(first: Told, base: Told, other: Told, seed: int, precision: str) -> str:
    """Why `other` is not the work of `base`; first: the case's first launch, which took noise."""
    if other.complaint:
        return other.complaint
    told: EqualWork = judged(
        [(-1, first.proof), (seed, base.proof)], [(seed, other.proof)], precision
    )
    return "" if told.proved else told.words


def exact(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Clopper-Pearson interval of a rate, by bisection on the binomial distribution.

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    tail = (1 - level) / 2

    def at_most(k: int, p: float) -> float:
        if p in (0.0, 1.0):
            return float(p == 0.0 or k >= total)
        logs = (
            math.lgamma(total + 1)
            - math.lgamma(i + 1)
            - math.lgamma(total - i + 1)
            + i * math.log(p)
            + (total - i) * math.log1p(-p)
            for i in range(k + 1)
        )
        return sum(map(math.exp, logs))

    def solved(below: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) else (low, middle)
        return low

    low = 0.0 if count == 0 else solved(lambda p: 1 - at_most(count - 1, p) < tail)
    high = 1.0 if count == total else solved(lambda p: at_most(count, p) > tail)
    return low, high


def sentence(what: str, count: int, total: int) -> str:
    """A rate with its counts."""
    if not total:
        return f"{what}: none of none"
    low, high = exact(count, total)
    return f"{what}: {count} of {total} = {count / total:.2%} (95 % {low:.2%} to {high:.2%})"


def honest(
    chosen: Sequence[Case], stacks: Mapping[str, Stack], pairs: int, seed: int, device: str
) -> Counted:
    """So many pairs, cases and stacks in turn, on fresh seeds."""
    counted = Counted()
    first: dict[str, Told] = {}
    while counted.total < pairs:
        before = counted.total
        for case in chosen:
            key = case.fingerprint
            ask = Ask(case=case, seed=seed, stack=Stack(), device="cpu", thorough=key not in first)
            base = _maybe(ask)
            if base is None:
                continue
            first.setdefault(key, base)
            for name, stack in stacks.items():
                there = msgspec.structs.replace(ask, stack=stack, device=device, thorough=False)
                other = other_side(there)
                if other is None or counted.total >= pairs:
                    continue
                said = refusal_of(first[key], base, other, seed, case.precision)
                counted.add(name, f"{case.label} seed {seed}", said, worth_saying=True)
        print(f"seed {seed}: {counted.total} pairs", file=sys.stderr)
        seed += 1
        if counted.total == before:
            break
    return counted


def planted(
    chosen: Sequence[Case], faults: Mapping[str, Fault], seeds: int, seed: int, device: str
) -> Counted:
    """Every fault that a case can have, on so many seeds."""
    counted = Counted()
    for case in chosen:
        first: Told | None = None
        for number in range(seed, seed + seeds):
            ask = Ask(case=case, seed=number, stack=Stack(), device="cpu", thorough=first is None)
            base = _maybe(ask)
            if base is None or base.complaint:  # what is wrong already says nothing of a fault
                continue
            first = first or base
            for name, fault in faults.items():
                there = msgspec.structs.replace(ask, device=device, thorough=True)
                with contextlib.suppress(Absent, Unsupported):
                    other = watched(there, fault, lazy=name == LAZY)
                    said = refusal_of(first, base, other, number, case.precision)
                    counted.add(name, f"{case.label} seed {number}", said, worth_saying=False)
        print(f"{case.label}: {counted.told} of {counted.total} faults", file=sys.stderr)
    return counted


def _maybe(ask: Ask) -> Told | None:
    with contextlib.suppress(Unsupported):
        return watched(ask)
    return None


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=300, help="honest pairs, at least")
    parser.add_argument("--faults", type=int, default=1, help="seeds of each planted fault")
    parser.add_argument("--seed", type=int, default=1000, help="the first")
    parser.add_argument("--suite", default="smoke")
    parser.add_argument("--only", default="*", metavar="GLOB", help="of 'WORKLOAD-MODE PRECISION'")
    parser.add_argument("--stacks", default="again,threads,layout", help=", ".join(STACKS))
    parser.add_argument("--device", default="cpu", help="of the other side, and of the faults")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        answer()
        return
    chosen = list(cases(arguments.suite, arguments.only))
    stacks = {name: STACKS[name] for name in arguments.stacks.split(",")}
    good = honest(chosen, stacks, arguments.pairs, arguments.seed, arguments.device)
    every = {**FAULTS, LAZY: lambda job: None}
    bad = planted(chosen, every, arguments.faults, arguments.seed, arguments.device)
    small = planted(chosen, NOT_TOLD, min(arguments.faults, 1), arguments.seed, arguments.device)
    print(sentence("honest pairs refused", good.told, good.total), *good.lines(), sep="\n")
    print(sentence("faults caught", bad.told, bad.total), *bad.lines(), sep="\n")
    print(sentence("not to be told, and told", small.told, small.total))
    sys.exit(int(good.told > REFUSED * good.total or bad.told < CAUGHT * bad.total))


if __name__ == "__main__":
    main()
