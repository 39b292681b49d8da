"""What `bench.tests.scripts.explain_check` measures, each case in a process of its own."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench import catalogue
from bench.backend import DeviceInfo
from bench.judging.explaining.explained import ExplainedCase, explained_case
from bench.planning.instead import wanted
from bench.planning.plan import parameters_of, whole
from bench.planning.suite_file import find_suite, read_suite
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.explained import Account, Explained, Explanation, Tried, Unexplained
from bench.running import probe
from bench.workload import Job, Site

NO_MODELS = ("gemm", "memory", "launch", "transfer", "attention", "collective")
"""Workloads that are one operator."""
LAYOUTS = ("contiguous", "channels_last")
PLANTED_SECONDS = 0.010
STEPS = 16
"""Of a job with a remedy and of one without, in turns."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to do."""

    case: Case
    how: str = ""
    """`planted`, `layouts`, `advice` or `steps`; empty for the step as it is."""
    remedy: str = ""
    seconds: float
    cpu_time: bool


@functools.cache
def host() -> DeviceInfo:
    """The CPU, as it was asked."""
    return probe.choose_of("cpu").device


@functools.cache
def models() -> list[Case]:
    """The models of `quick` by one device, eager, in the precisions that this host computes."""
    return [
        case
        for case in whole(read_suite(find_suite("quick")), wanted=wanted(host())).cases
        if case.workload not in NO_MODELS and case.devices == 1 and case.execution == "eager"
    ]


class Measurer:
    """Measures, and keeps what it has measured."""

    def __init__(self, script: str, seconds: float, launches: int, *, cpu_time: bool) -> None:
        """script: the module that answers `--of`; seconds: of turns; launches: processes that
        explain a case as it is."""
        self._script, self._seconds, self._cpu_time = script, seconds, cpu_time
        self._launches = launches
        self._found: dict[tuple[str, str, bool], tuple[Case, list[Account]]] = {}

    def case(self, case: Case, how: str = "", *, wall: bool = False) -> ExplainedCase:
        """A case explained; wall: by the wall's clock, whatever else is asked for."""
        by_cpu = self._cpu_time and not wall
        key = case.fingerprint, how, by_cpu
        if key not in self._found:
            accounts = [
                self._account(case, how, by_cpu) for _ in range(1 if how else self._launches)
            ]
            self._keep(case, how, by_cpu, accounts)
        found, accounts = self._found[key]
        return explained_case(found, [explanation(found, account) for account in accounts])

    def _account(self, case: Case, how: str, by_cpu: bool) -> Account:
        try:
            account: Account = self._apart(Account, case=case, how=how, cpu_time=by_cpu)
        except subprocess.CalledProcessError:  # it has said why
            return Unexplained(reason="its process failed")
        return account

    def layouts(self, case: Case, times: float) -> list[ExplainedCase]:
        """A case in each of `LAYOUTS`, in turns within one process; times: as long as others."""
        asked = {"case": case, "how": "layouts", "cpu_time": self._cpu_time}
        try:
            found = self._apart(list[Account], times, **asked)
        except subprocess.CalledProcessError:  # it has said why
            found = [Unexplained(reason="its process failed") for _ in LAYOUTS]
        each = zip(LAYOUTS, found, strict=True)
        return [self._keep(case, layout, self._cpu_time, [account]) for layout, account in each]

    def _keep(self, case: Case, how: str, by_cpu: bool, accounts: list[Account]) -> ExplainedCase:
        """Says what the accounts come to."""
        self._found[case.fingerprint, how, by_cpu] = case, accounts
        one = explained_case(case, [explanation(case, account) for account in accounts])
        covered = f"{one.coverage.value:7.1%}" if one.coverage else one.reason
        flags = " ".join(one.flags)
        print(f"{case.name:<20}{case.precision:<10}{how:<14}{covered}  {flags}", flush=True)
        return one

    def accounts(self) -> dict[str, Explained]:
        """The first of each that is explained, by fingerprint and how."""
        firsts = {
            f"{fingerprint}{how}": next((one for one in some if isinstance(one, Explained)), None)
            for (fingerprint, how, _), (_, some) in self._found.items()
        }
        return {name: account for name, account in firsts.items() if account is not None}

    def advice(self, case: Case, remedy: str) -> tuple[Tried, float, float]:
        """What is said of a remedy; and ns of steps without and with it, in another process."""
        asked: dict[str, Any] = {"case": case, "cpu_time": self._cpu_time, "remedy": remedy}
        tried = self._apart(Tried, **asked, how="advice")
        pairs = self._apart(list[tuple[int, int]], **asked, how="steps")
        before = statistics.median(one for one, _ in pairs)
        return tried, before, before * statistics.median(other / one for one, other in pairs)

    def _apart(self, type_: Any, times: float = 1.0, **asked: Any) -> Any:
        """In a process of its own, with a worker's environment."""
        words = msgspec.json.encode(Asked(**asked, seconds=times * self._seconds)).decode()
        variables = catalogue.backend("cpu").worker_environment()
        done = subprocess.run(
            [sys.executable, "-m", self._script, "--of", words],
            env={**variables, "KINETO_LOG_LEVEL": "99", **os.environ},
            stdout=subprocess.PIPE,
            check=True,
        )
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=type_)


def explanation(case: Case, account: Account) -> Explanation:
    """A line of a record."""
    return Explanation(
        case=case,
        fingerprint=case.fingerprint,
        number=0,
        seed=0,
        started_at="",
        seconds=1.0,
        environment={},
        account=account,
    )


# --- In the process of its own --------------------------------------------------------------------


class Beside(Job):
    """A job with 10 ms of work planted after each step."""

    def __init__(self, job: Job, clock: Callable[[], int]) -> None:
        import torch

        self.facts, self.job = job.facts, job
        self._library = torch.library.Library("planted", "DEF")
        self._library.define("layer_norm(Tensor x) -> Tensor")

        def work(x: torch.Tensor) -> torch.Tensor:
            end = clock() + round(PLANTED_SECONDS * 1e9)
            while clock() < end:
                pass
            return x.clone()

        self._library.impl("layer_norm", work, "CPU")
        self._x, self._work = torch.ones(8), torch.ops.planted.layer_norm

    def refill(self) -> None:
        self.job.refill()

    def step(self) -> None:
        self.job.step()
        self._work(self._x)

    def witness(self) -> float:
        return self.job.witness()

    def probe(self) -> dict[str, Any]:
        return self.job.probe()


def here(words: str) -> str:
    """Does what is asked for, and gives it as JSON."""
    import torch

    from bench.measuring.explaining import in_order, launch, remedies
    from bench.measuring.surroundings import import_libraries
    from bench.measuring.timing.blocks import collected

    asked = msgspec.json.decode(words, type=Asked)
    if asked.cpu_time:
        torch.set_num_threads(1)
    clock = time.thread_time_ns if asked.cpu_time else time.perf_counter_ns
    case = asked.case
    workload, precision = catalogue.workload(case.workload), PRECISIONS[case.precision]
    import_libraries(workload, workload.modes[case.mode])
    backend = catalogue.backend("cpu")
    device = backend.open(0, precision)
    layout = workload.memory_formats[0]
    site = Site(device=device.torch_device, precision=precision, seed=0, memory_format=layout)
    parameters = parameters_of(case, workload)

    def job_of(given: Any, where: Site) -> Job:
        made = workload.build(case.mode, given, where)
        made = Beside(made, clock) if asked.how == "planted" else made
        for _ in range(3):
            made.refill()
            made.step()
        return made

    if asked.how == "layouts":
        sites = [msgspec.structs.replace(site, memory_format=one) for one in LAYOUTS]
        jobs = [job_of(parameters, one) for one in sites]
        accounts = in_order.together(jobs, device, clock, seconds=asked.seconds)
        return msgspec.json.encode(accounts).decode()
    job = job_of(parameters, site)
    if asked.how not in ("advice", "steps"):
        account = in_order.explained(job, device, clock, seconds=asked.seconds)
        return msgspec.json.encode(account).decode()
    bench = launch.bench_of(workload, case.mode, parameters, site, backend, device)
    (chosen,) = [one for one in remedies.remedies(bench, job) if one.name == asked.remedy]
    if asked.how == "advice":
        return msgspec.json.encode(remedies.try_one(bench, job, chosen, clock)).decode()
    with chosen.around():
        changed = job_of(chosen.parameters, chosen.site)

    def taken(which: Job) -> int:
        which.refill()
        start = clock()
        which.step()
        return clock() - start

    pairs = []
    with collected():
        for turn in range(STEPS):
            before = taken(job) if turn % 2 else 0
            with chosen.around():
                after = taken(changed)
            pairs.append((before or taken(job), after // chosen.times_items))
    return msgspec.json.encode(pairs).decode()


# --- Whole runs -----------------------------------------------------------------------------------


def timed(suite: Path, explaining: bool) -> float:
    """ns of a step of a suite's one case, by the one timed launch of a run; explaining: whether the
    run goes on to explain it."""
    from bench.records.outcome import Measured
    from bench.records.runfile import read

    more = ["--explain"] if explaining else []
    with tempfile.TemporaryDirectory(dir=suite.parent) as out:
        words = ["run", str(suite), "--device", "cpu", "--launches", "1", *more, "--out", out]
        subprocess.run(
            [sys.executable, "-m", "bench", *words],
            cwd=suite.parent,
            capture_output=True,
            check=False,  # what was not explained is no fault of the timed launches
        )
        (path,) = Path(out).glob("*.jsonl")
        (launch,) = read(path).launches
    if not isinstance(launch.outcome, Measured):
        raise SystemExit(f"the timed launch: {launch.outcome}")
    return statistics.median(ns for block in launch.outcome.steady for ns in block.step_ns)
