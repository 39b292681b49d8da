"""Collectives on a simulated library of known speed, and of known faults.

    python -m bench.tests.scripts.collectives [--ranks 2] [--launches 3] [--only all-reduce]

Real launches, whose processes are joined by `bench/tests/fabric`. Of each operation latency and
bandwidth are read back, to within 5 %; and every fault that is planted in one rank, from the start
or after so many operations, must make the launch void, with that rank in the reason (a wire that is
too narrow blames nobody). Exit code 1 if not. Timings want a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import api
from bench.judging.summary import summarize
from bench.records.outcome import Void
from bench.records.run import RunFile
from bench.tests import forked
from bench.tests.fabric.fabric import VARIABLE, Fabric

FOLDER = Path(__file__).parents[1] / "fabric"
MODES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "send-receive")
FAULTS = ("lost", "doubled", "stale", "bit", "narrow")
LATENCY, BANDWIDTH = 0.010, 1e8
WITHIN = 0.05
SIZES = (1024, 2**19, 2**22)
LATE = 40
"""Operations that go well before a late fault: more than the gate's."""
SUITE = """
[settings]
launches = {launches}
warmup_seconds = 0.0
warmup_limit_seconds = 20.0
block_seconds = 0.15

[[case]]
workload = "collective"
mode = "{mode}"
precision = "fp32"
size_bytes = {sizes}
"""


def planted_by(**given: Any) -> Fabric:
    """A fabric of that description."""
    return Fabric(**given)


@contextlib.contextmanager
def joined_by(fabric: Fabric) -> Iterator[None]:
    """Here, and in what is started meanwhile, the simulated library is installed."""
    before, path = dict(os.environ), list(sys.path)
    sys.path.insert(0, str(FOLDER))
    os.environ[VARIABLE] = json.dumps(asdict(fabric))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *filter(None, sys.path)])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.path[:] = path


def run(
    folder: Path, mode: str, fabric: Fabric, ranks: int, launches: int, *sizes: int, more: str = ""
) -> RunFile:
    """The run of one operation over sizes; more: lines of its case."""
    suite = folder / "suite.toml"
    text = SUITE.format(mode=mode, launches=launches, sizes=list(sizes))
    suite.write_text(text + more, encoding="utf-8")
    with joined_by(fabric):
        return api.run_suite(suite, device="fabric", devices=ranks, out=folder)


def speed(folder: Path, mode: str, ranks: int, launches: int) -> bool:
    """Whether latency and bandwidth are read back."""
    fabric = Fabric(latency=LATENCY, bandwidth=BANDWIDTH)
    row = summarize(run(folder, mode, fabric, ranks, launches, *SIZES))[0]
    if row.link is None:
        print(f"{mode}: no line: {row.reason}")
        return False
    found = (row.link.latency.value / LATENCY, row.link.bandwidth.value / BANDWIDTH)
    print(f"{mode}: latency {found[0]:.3f}, bandwidth {found[1]:.3f} of the truth", flush=True)
    return all(abs(one - 1) <= WITHIN for one in found)


def fault(folder: Path, mode: str, ranks: int, planted: Fabric) -> bool:
    """Whether a planted fault is void, and names its rank."""
    (launch,) = run(folder, mode, planted, ranks, 1, 2**16).launches
    said = launch.outcome.reason if isinstance(launch.outcome, Void) else "NOT VOID"
    named = f"rank {planted.rank}" in said.rpartition("; ")[2]
    if planted.fault == "narrow":
        named = "elements are wrong" in said
    when = "late" if planted.after else "from the start"
    print(f"{mode}, {planted.fault} {when}: {'ok' if named else 'NO'}: {said}", flush=True)
    return named


def planted(mode: str, ranks: int) -> Iterator[Fabric]:
    """The faults of an operation that have a consequence."""
    for name in FAULTS:
        # What a rank gives that is not the root is nothing to a broadcast.
        rank = 0 if mode == "broadcast" and name in ("lost", "doubled") else ranks - 1
        for after in (0, LATE):
            yield Fabric(fault=name, rank=rank, after=after)


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--only", choices=MODES)
    arguments = parser.parse_args()
    good = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if forked.AVAILABLE:
            stack.enter_context(forked.nursery())
            subprocess.Popen = forked.Popen  # type: ignore[misc]
        for mode in [arguments.only] if arguments.only else MODES:
            good.append(speed(folder, mode, arguments.ranks, arguments.launches))
            good += [
                fault(folder, mode, arguments.ranks, one) for one in planted(mode, arguments.ranks)
            ]
    print(f"{sum(good)} of {len(good)} as they must be")
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
