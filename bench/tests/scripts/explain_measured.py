"""What `bench.tests.scripts.explain_check` measures, each case in a process of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench import catalogue
from bench.judging.explained import ExplainedCase, explained_case
from bench.planning.plan import parameters_of, plan
from bench.planning.suite_file import find_suite, read_suite
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.explained import Account, Explained, Explanation, Tried
from bench.records.run import RunFile
from bench.workload import Job, Site

NO_MODELS = ("gemm", "memory", "launch", "transfer", "attention", "collective")
"""Workloads that are one operator."""
LAYOUTS = ("contiguous", "channels_last")
PLANTED_SECONDS = 0.010
STEPS = 12
"""Of a job with a remedy and of one without, each in a process of its own."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to do."""

    case: Case
    how: str = ""
    """`planted`, a memory format, `advice` or `steps`; empty for the step as it is."""
    remedy: str = ""
    seconds: float
    cpu_time: bool


def models() -> list[Case]:
    """The models of `quick` by one device, eager."""
    return [
        case
        for case in plan(read_suite(find_suite("quick")), 2)
        if case.workload not in NO_MODELS and case.devices == 1 and case.execution == "eager"
    ]


class Measurer:
    """Measures, and keeps what it has measured."""

    def __init__(self, script: str, seconds: float, *, cpu_time: bool) -> None:
        """script: the module that answers `--of`; seconds: of turns."""
        self._script, self._seconds, self._cpu_time = script, seconds, cpu_time
        self._found: dict[tuple[str, str, bool], tuple[Case, Account]] = {}

    def case(
        self, case: Case, how: str = "", *, wall: bool = False, times: float = 1.0
    ) -> ExplainedCase:
        """A case explained; wall: by the wall's clock, whatever else is asked for; times: as long
        as others."""
        by_cpu = self._cpu_time and not wall
        key = case.fingerprint, how, by_cpu
        if key not in self._found:
            account = self._apart(Account, times, case=case, how=how, cpu_time=by_cpu)
            self._found[key] = case, account
            one = explained_case(case, [explanation(case, account)])
            covered = f"{one.coverage.value:7.1%}" if one.coverage else one.reason
            flags = " ".join(one.flags)
            print(f"{case.name:<20}{case.precision:<10}{how:<14}{covered}  {flags}", flush=True)
        return explained_case(case, [explanation(*self._found[key])])

    def accounts(self) -> dict[str, Explained]:
        """All that are explained, by fingerprint and how."""
        return {
            f"{fingerprint}{how}": account
            for (fingerprint, how, _), (_, account) in self._found.items()
            if isinstance(account, Explained)
        }

    def advice(self, case: Case, remedy: str) -> tuple[Tried, float, float]:
        """What is said of a remedy; and ns of steps without and with it, in processes apart."""
        asked: dict[str, Any] = {"case": case, "cpu_time": self._cpu_time}
        tried = self._apart(Tried, **asked, how="advice", remedy=remedy)
        before, after = (
            float(statistics.median(self._apart(list[int], **asked, how="steps", remedy=which)))
            for which in ("", remedy)
        )
        return tried, before, after

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

    asked = msgspec.json.decode(words, type=Asked)
    if asked.cpu_time:
        torch.set_num_threads(1)
    clock = time.thread_time_ns if asked.cpu_time else time.perf_counter_ns
    case = asked.case
    workload, precision = catalogue.workload(case.workload), PRECISIONS[case.precision]
    import_libraries(workload, workload.modes[case.mode])
    backend = catalogue.backend("cpu")
    device = backend.open(0, precision)
    layout = asked.how if asked.how in LAYOUTS else workload.memory_formats[0]
    site = Site(device=device.torch_device, precision=precision, seed=0, memory_format=layout)
    parameters = parameters_of(case, workload)

    def job_of(given: Any, where: Site) -> Job:
        made = workload.build(case.mode, given, where)
        made = Beside(made, clock) if asked.how == "planted" else made
        for _ in range(3):
            made.refill()
            made.step()
        return made

    job = job_of(parameters, site)
    if asked.how not in ("advice", "steps"):
        account = in_order.explained(job, device, clock, seconds=asked.seconds)
        return msgspec.json.encode(account).decode()
    bench = launch.bench_of(workload, case.mode, parameters, site, backend, device)
    chosen = remedies.Remedy("", site, parameters)
    if asked.remedy:
        (chosen,) = [one for one in remedies.remedies(bench, job) if one.name == asked.remedy]
    if asked.how == "advice":
        return msgspec.json.encode(remedies.try_one(bench, job, chosen, clock)).decode()
    del job
    steps = []
    with chosen.around(), in_order.collected():
        changed = job_of(chosen.parameters, chosen.site)
        for _ in range(STEPS):
            changed.refill()
            start = clock()
            changed.step()
            steps.append((clock() - start) // chosen.times_items)
    return msgspec.json.encode(steps).decode()


# --- Whole runs -----------------------------------------------------------------------------------


def runs(suite: Path, launches: int) -> tuple[RunFile, RunFile]:
    """Two runs of a suite, the second of which explains as well."""
    from bench.records.runfile import read

    folder, paths = suite.parent, []
    for name, more in (("plain", ()), ("explaining", ("--explain",))):
        out = folder / name
        words = ["run", str(suite), "--device", "cpu", "--launches", str(launches), *more]
        subprocess.run(
            [sys.executable, "-m", "bench", *words, "--out", str(out)],
            cwd=folder,
            capture_output=True,
            check=False,  # what was not explained is no fault of the timed launches
        )
        paths += sorted(out.glob("*.jsonl"))
    plain, explaining = (read(path) for path in paths)
    return plain, explaining
