"""Are the estimates of memory right? Each case of a suite on the CPU, beside its measured peak.

    python -m bench.tests.scripts.fit [--suite quick] [--only 'llama-*']

Each case runs in a fork of a process that has imported and done nothing else, as a worker runs it:
the gate, then the job, as many steps as a warm-up has at least, and some more. Measured is the peak
of the process's resident set, less what it was before the job was built. Exit code 1 if fewer than
six are within 20 %.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import msgspec

from bench import catalogue, units
from bench.measuring.gates import numerics
from bench.planning import memory_fit, plan, selected, suite_file
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.stats import WARMUP_MINIMUM
from bench.workload import Site

STEPS = 5
WITHIN = 0.20
ENOUGH = 6


class Found(msgspec.Struct, frozen=True):
    """Bytes of one case."""

    estimate: int
    measured: int

    @property
    def ratio(self) -> float:
        """Estimate / measured."""
        return self.estimate / self.measured


def measure(case: Case) -> Found:
    """Both figures of one case, in this process, which has run nothing before."""
    workload = catalogue.workload(case.workload)
    precision = PRECISIONS[case.precision]
    device = catalogue.backend("cpu").open(0, precision)
    site = Site(device=device.torch_device, precision=precision, seed=0)
    parameters = plan.parameters_of(case, workload)
    estimate = memory_fit.estimate(workload, case.mode, parameters, site)
    assert estimate is not None
    numerics.gate(workload, case.mode, parameters, site)
    gc.collect()
    device.release_memory()
    before = device.memory().host_rss_bytes
    job = workload.build(case.mode, parameters, site)
    for _ in range(WARMUP_MINIMUM):
        job.step()
    device.reset_peak_memory()
    for _ in range(STEPS):
        job.step()
    return Found(estimate, device.memory().peak_bytes - before)


def measure_each(cases: Sequence[Case]) -> Iterator[Found]:
    """Each in a fork of this process, once all that they need is imported."""
    for case in cases:
        workload = catalogue.workload(case.workload)
        for library in (*workload.libraries, *workload.modes[case.mode].libraries):
            importlib.import_module(library)
    for case in cases:
        read, write = os.pipe()
        if not os.fork():
            os.write(write, msgspec.json.encode(measure(case)))
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            yield msgspec.json.decode(answer.read(), type=Found)
        os.wait()


def in_fresh_processes(cases: Sequence[Case]) -> list[Found]:
    """Both figures of each case, under the environment of a worker."""
    environment = {**os.environ, **catalogue.backend("cpu").worker_environment()}
    done = subprocess.run(
        [sys.executable, "-m", "bench.tests.scripts.fit", "--worker"],
        input=msgspec.json.encode(cases),
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
    )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Found])


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--only", default="*")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        asked = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Case])
        print(msgspec.json.encode([*measure_each(asked)]).decode())
        return
    cases = plan.plan(suite_file.read_suite(suite_file.find_suite(arguments.suite)))
    near: set[str] = set()
    chosen = selected.select(cases, arguments.only)
    for case, found in zip(chosen, in_fresh_processes(chosen), strict=True):
        if abs(found.ratio - 1) <= WITHIN:
            near.add(case.workload)
        figures = f"{units.memory(found.estimate):>9} {units.memory(found.measured):>9}"
        print(f"{figures} {found.ratio:5.2f}  {case.label}", flush=True)
    print(f"within {WITHIN:.0%}: {len(near)} workloads ({', '.join(sorted(near))})")
    sys.exit(len(near) < ENOUGH)


if __name__ == "__main__":
    main()
