"""The numerics gate of every case that the shipped suites name, on this CPU, each in its process.

    python -m bench.tests.scripts.gates [--only 'deepseek-*'] [--suite large]

A gate's twin has the widths of its model, cut to two layers, so even the largest model's fits a
laptop; a tolerance that is too narrow for one of them would make every run of it void, on a device
that computes rightly. Printed: each distinct gate with its quantities, the error of each and its
tolerance, the seconds and the peak memory. What this CPU cannot do at that precision is said to be
skipped. A script and no test: the widest take minutes and gigabytes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import msgspec

from bench import catalogue, units
from bench.measuring.gates import numerics
from bench.planning import plan, suite_file
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.tests.validation.matching import matching
from bench.workload import Site, Unsupported


def gates(suites: list[str]) -> list[Case]:
    """One case for each distinct gate: of a mode and precision, one for each twin.

    Of work over several devices `python -m bench.tests.scripts.sharded` tries the gate.
    """
    found: dict[str, Case] = {}
    for name in suites:
        for case in plan.plan(suite_file.read_suite(suite_file.find_suite(name))):
            if case.devices > 1:
                continue
            workload = catalogue.workload(case.workload)
            twin = workload.twin(case.mode, plan.parameters_of(case, workload))
            gate = msgspec.structs.replace(
                case, execution="eager", tuned=msgspec.UNSET, parameters=msgspec.to_builtins(twin)
            )
            found.setdefault(gate.fingerprint, gate)
    return list(found.values())


def one(case: Case) -> str:
    """The verdict of one gate, in words."""
    backend = catalogue.backend("cpu")
    precision = PRECISIONS[case.precision]
    (info,) = backend.devices()
    device = backend.open(0, precision)
    refusal = backend.unsupported(info, precision)
    if refusal is not None:
        return f"skipped: {refusal}"
    workload = catalogue.workload(case.workload)
    site = Site(device=device.torch_device, precision=precision, seed=0)
    start = time.perf_counter()
    try:
        verdict = numerics.gate(workload, case.mode, plan.parameters_of(case, workload), site)
    except Unsupported as reason:
        return f"skipped: {reason}"
    peak = units.memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    checks = ", ".join(f"{c.quantity} {c.error:.2g} of {c.tolerance:.2g}" for c in verdict.checks)
    word = "passed" if verdict.passed else "FAILED"
    return f"{word} ({checks}) in {time.perf_counter() - start:.0f} s, {peak}"


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--suite", choices=list(catalogue.suites()))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(one(msgspec.json.decode(sys.stdin.buffer.read(), type=Case)))
        return
    suites = [arguments.suite] if arguments.suite else list(catalogue.suites())
    failed = 0
    for case in matching(parser, "--only", arguments.only, gates(suites), lambda case: case.name):
        done = subprocess.run(
            [sys.executable, "-m", "bench.tests.scripts.gates", "--one"],
            input=msgspec.json.encode(case),
            capture_output=True,
        )
        said = done.stdout.decode().strip() or f"FAILED: {done.stderr.decode().strip()[-300:]}"
        failed += "FAILED" in said
        print(f"{case.label}: {said}", flush=True)
    print(f"{failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
