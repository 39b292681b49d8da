"""Does `explain` tell the truth here? What its users may demand, measured over quick's models.

    python -m bench.tests.scripts.explain_check [--cpu-time] [--seconds 4] [--only GLOB] [--json F]

Of each model of the suite `quick`, on the CPU, in a process of its own: the coverage of its step;
shares of the classes against torch.profiler's; operators' counts against the profiler's. Then an
operator of known time, planted beside BERT; and ResNet-50 in two memory formats, whose classes'
differences must be that of the steps. Exit code 1 where any of it is not as it must be.

--cpu-time: one thread, by its CPU time, which is honest on a machine that has much else to do; by
default torch's threads and the wall clock, for an idle one. Ten to fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench import catalogue
from bench.judging.explained import ExplainedCase, explained_case
from bench.judging.explained_pairs import pair
from bench.planning.plan import parameters_of, plan
from bench.planning.suite_file import find_suite, read_suite
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.explained import Account, Explained, Explanation
from bench.workload import Job, Site

NO_MODELS = ("gemm", "memory", "launch", "transfer", "attention", "collective")
"""Workloads that are one operator."""
LEAST, MOST = 0.90, 1.03
"""Coverage of a model's step."""
OF_TEN = 9
"""Models of ten that must have it."""
SHARE_POINTS = 0.03
PLANTED_SECONDS = 0.010
PLANTED_WITHIN = 0.10
SUM_WITHIN = 0.05
PLANTED_IN = "bert-infer"
LAYOUTS = ("contiguous", "channels_last")
LAID_OUT = "resnet50-train"
LAID_OUT_BATCH = 8
"""At quick's batch of 2 the layouts differ by 2 % of the step, as much as coverage spreads."""


class Judged(NamedTuple):
    """A demand, and whether it was met."""

    what: str
    met: bool
    seen: str


def coverage(cases: Sequence[ExplainedCase]) -> Judged:
    """Nine of ten steps explained, and no more than there is."""
    within = [c for c in cases if c.coverage and LEAST <= c.coverage.value <= MOST]
    said = f"{len(within)} of {len(cases)} within {LEAST:.0%} to {MOST:.0%}"
    return Judged("coverage", len(within) * 10 >= OF_TEN * len(cases) > 0, said)


def shares(cases: Sequence[ExplainedCase]) -> Judged:
    """No class further from the profiler's share than three points."""
    apart = {
        f"{c.case.name} {row.kind}": row.replayed_share - row.profiled_share
        for c in cases
        for row in c.classes
        if row.profiled_share is not None and row.kind != "other"
    }
    worst = max(apart, key=lambda name: abs(apart[name]), default="")
    met = bool(apart) and abs(apart[worst]) <= SHARE_POINTS
    return Judged("class shares", met, f"furthest: {worst} {apart.get(worst, 0.0):+.1%}")


def counts(cases: Sequence[ExplainedCase], accounts: dict[str, Explained]) -> Judged:
    """Operators are called as often as the profiler saw, or flagged."""
    from bench.judging.explained import changed_names

    wrong = [
        c.case.name
        for c in cases
        if changed_names([accounts[c.case.fingerprint]]) and "CHANGED-BY-RECORDING" not in c.flags
    ]
    flagged = sum("CHANGED-BY-RECORDING" in c.flags for c in cases)
    return Judged("counts", not wrong, f"{flagged} flagged; neither: {', '.join(wrong) or 'none'}")


def planted(case: ExplainedCase) -> Judged:
    """The operator of 10 ms, with its time, in its class."""
    found = [row for row in case.operators if row.name == "planted::layer_norm" and row.ms]
    took = found[0].ms.value / 1e3 if found and found[0].ms else 0.0
    right = abs(took - PLANTED_SECONDS) <= PLANTED_WITHIN * PLANTED_SECONDS
    kind = found[0].kind if found else "not there"
    return Judged("planted operator", right and kind == "normalization", f"{took:.4f} s, {kind}")


def layouts(contiguous: ExplainedCase, channels_last: ExplainedCase) -> Judged:
    """Classes and freeing, without the host, make up the difference of the steps."""
    both = pair(contiguous, channels_last)
    parts = sum(part.difference_ms for part in both.parts if part.name != "host")
    off = abs(parts - both.difference_ms) / abs(both.difference_ms or 1.0)
    said = f"{parts:+.1f} ms of {both.difference_ms:+.1f} ms{both.reason and f'; {both.reason}'}"
    return Judged("layouts", off <= SUM_WITHIN and not both.reason, said)


# --- Measuring -----------------------------------------------------------------------------------


def models(pattern: str = "*") -> list[Case]:
    """The models of `quick` by one device, eager."""
    found = plan(read_suite(find_suite("quick")), 2)
    return [
        case
        for case in found
        if case.workload not in NO_MODELS
        and case.devices == 1
        and case.execution == "eager"
        and fnmatch.fnmatchcase(case.name, pattern)
    ]


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


def measured(case: Case, how: str, seconds: float, *, cpu_time: bool) -> Account:
    """In this process: how is `planted`, a memory format, or empty."""
    import torch

    from bench.measuring.explaining.in_order import explained
    from bench.measuring.surroundings import import_libraries

    if cpu_time:
        torch.set_num_threads(1)
    clock = time.thread_time_ns if cpu_time else time.perf_counter_ns
    workload, precision = catalogue.workload(case.workload), PRECISIONS[case.precision]
    import_libraries(workload, workload.modes[case.mode])
    device = catalogue.backend("cpu").open(0, precision)
    layout = how if how in LAYOUTS else workload.memory_formats[0]
    site = Site(device=device.torch_device, precision=precision, seed=0, memory_format=layout)
    job = workload.build(case.mode, parameters_of(case, workload), site)
    job = Beside(job, clock) if how == "planted" else job
    for _ in range(3):
        job.refill()
        job.step()
    return explained(job, device, clock, seconds=seconds)


def apart(case: Case, how: str, seconds: float, *, cpu_time: bool) -> Account:
    """`measured`, in a process of its own with a worker's environment."""
    variables = catalogue.backend("cpu").worker_environment()
    words = ["--of", msgspec.json.encode(case).decode(), "--how", how, "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, *words, *(["--cpu-time"] if cpu_time else [])],
        env={**variables, **os.environ},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: Account = msgspec.json.decode(done.stdout.splitlines()[-1], type=Account)
    return found


def of(case: Case, account: Account) -> ExplainedCase:
    """One account, judged."""
    return explained_case(
        case,
        [
            Explanation(
                case=case,
                fingerprint=case.fingerprint,
                number=0,
                seed=0,
                started_at="",
                seconds=1.0,
                environment={},
                account=account,
            )
        ],
    )


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0, help="of turns, for each case")
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all accounts")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    parser.add_argument("--how", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.of is not None:
        case = msgspec.json.decode(given.of, type=Case)
        found = measured(case, given.how, given.seconds, cpu_time=given.cpu_time)
        print(msgspec.json.encode(found).decode(), flush=True)
        return
    begin = time.monotonic()
    all_models = models()
    wanted = [case for case in all_models if fnmatch.fnmatchcase(case.name, given.only)]
    accounts: dict[str, Explained] = {}
    cases: list[ExplainedCase] = []

    def take(case: Case, how: str = "") -> ExplainedCase:
        account = apart(case, how, given.seconds, cpu_time=given.cpu_time)
        one = of(case, account)
        covered = f"{one.coverage.value:7.1%}" if one.coverage else one.verdict
        flags = " ".join(one.flags)
        print(f"{case.name:<20}{case.precision:<10}{how:<14}{covered}  {flags}", flush=True)
        if isinstance(account, Explained):
            accounts[f"{case.fingerprint}{how}"] = account
        return one

    for case in wanted:
        cases.append(take(case))
    results = [coverage(cases), shares(cases), counts(cases, accounts)]
    by_name = {case.name: case for case in all_models}
    if PLANTED_IN in {case.name for case in wanted}:
        results.append(planted(take(by_name[PLANTED_IN], "planted")))
    if LAID_OUT in {case.name for case in wanted}:
        given_case = by_name[LAID_OUT]
        larger = msgspec.structs.replace(
            given_case, parameters={**given_case.parameters, "batch_size": LAID_OUT_BATCH}
        )
        results.append(layouts(*(take(larger, layout) for layout in LAYOUTS)))
    for judged in results:
        print(f"{'met' if judged.met else 'NOT MET':<8}{judged.what}: {judged.seen}")
    print(f"{time.monotonic() - begin:.0f} s")
    if given.json is not None:
        kept = {key: msgspec.to_builtins(account) for key, account in accounts.items()}
        given.json.write_text(json.dumps(kept), encoding="utf-8")
    sys.exit(0 if all(judged.met for judged in results) else 1)


if __name__ == "__main__":
    main()
