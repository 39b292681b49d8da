"""How much a long run and a large record cost the harness itself.

    python -m bench.tests.scripts.load [--cases 5000] [--megabytes 1024]

First a run of many cases, one launch each, whose workers are scripted: what is left is the
harness. Then a record of that size, reported, each report in a process of its own whose peak
memory is the operating system's figure. Nothing here is timed for a verdict.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import psutil

from bench.commands.plain import PlainFace
from bench.measuring.messages import Progress, Report, Request
from bench.records.case import Case
from bench.records.outcome import Cold
from bench.records.run import Launch, Settings
from bench.records.runfile import Writer
from bench.running.launcher import Finished
from bench.running.session import Session
from bench.tests.fakes import FakeBackend
from bench.tests.values import COMPLETE, make_case, make_launch, make_measured, make_run

SAMPLES = 200
"""Steady samples of a launch: the most that a launch takes."""
CASES_OF_A_LARGE_RECORD = 20
REPORTS = ("table", "markdown", "csv", "html")


def cases(count: int) -> list[Case]:
    """That many cases, all different."""
    return [make_case(parameters={"shape": f"{k + 1}x1x1"}) for k in range(count)]


class Harness:
    """A run of many cases with scripted workers; what it cost, by number of cases done."""

    def __init__(self, count: int, folder: Path, every: int) -> None:
        self.every = every
        self.memory: list[int] = []
        """Resident bytes after each `every` cases."""
        self.done = 0
        settings = Settings(launches=1)
        backend = FakeBackend()
        plan = cases(count)
        self.writer = Writer(folder / "many.jsonl")
        self.writer.append(make_run(plan, settings=settings))
        self.session = Session(
            plan,
            settings,
            backend.devices()[0],
            backend,
            self.writer,
            PlainFace(lambda line: None, settings),
            self._launch,
        )

    def _launch(
        self,
        requests: Sequence[Request],
        variables: dict[str, str],
        listen: Callable[[Progress], None],
    ) -> Generator[Finished, None, None]:
        for _ in requests:
            outcome = make_measured([0.01] * SAMPLES)  # a fresh one: nothing is shared
            report = Report(outcome=outcome, cold=Cold(build_seconds=1.0), environment={})
            self.done += 1
            if self.done % self.every == 0:
                self.memory.append(psutil.Process().memory_info().rss)
            yield Finished(report=report, seconds=1.0, stderr_tail="")

    def run(self) -> float:
        """Seconds a case."""
        start = time.perf_counter()
        self.session.run()
        self.writer.close()
        return (time.perf_counter() - start) / len(self.session.states)


def large_record(
    path: Path, size_bytes: int, count: int = CASES_OF_A_LARGE_RECORD, steps: int = 50_000
) -> int:
    """Writes a valid record of at least that size; how many launches it has.

    steps: of each launch.
    """
    plan = cases(count)
    written = 0
    writer = Writer(path)
    writer.append(make_run(plan, settings=Settings(launches=1000)))
    while path.stat().st_size < size_bytes:
        for case in plan:
            writer.append(_heavy_launch(case, written // count, written, steps))
            written += 1
    writer.append(COMPLETE)
    writer.close()
    return written


def _heavy_launch(case: Case, launch: int, order: int, steps: int) -> Launch:
    seconds = [0.0001 + (order * 31 + k) % 97 * 1e-7 for k in range(steps)]
    return make_launch(make_measured(seconds), case, launch=launch, order=order)


PEAK = (
    "import resource, sys; from bench.cli import main\n"
    "try: main()\n"
    "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
)


def peak_of(record: Path, report: str) -> tuple[float, int]:
    """Seconds and peak resident bytes of the command `report` on a record."""
    arguments = ["report", str(record), "--format", report, "--output", str(record) + ".out"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, int(done.stderr.split()[-1]) * 1024


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--megabytes", type=int, default=1024)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        harness = Harness(arguments.cases, Path(name), every=max(arguments.cases // 5, 1))
        print(f"{harness.run() * 1e3:.2f} ms a case, each on disk before the next")
        print(f"resident: {', '.join(f'{m >> 20} MiB' for m in harness.memory)}")
        record = Path(name) / "large.jsonl"
        launches = large_record(record, arguments.megabytes << 20)
        print(f"a record of {record.stat().st_size >> 20} MiB, {launches} launches")
        for report in REPORTS:
            seconds, peak = peak_of(record, report)
            print(f"  {report}: peak {peak >> 20} MiB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
