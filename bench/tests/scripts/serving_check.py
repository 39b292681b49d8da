"""Is the engine in its own way, and is its schedule the same in every launch?

    python -m bench.tests.scripts.serving_check [--suite serving-small] [--launches 3]
        [--device cpu] [RUN.jsonl]

Runs the suite's served loads (or reads a run), and prints for each case the engine's own share of
its busy time in each launch (wanted: 3 % or less, of every launch) and how many different schedules
its launches had (wanted: one, where requests do not come at random). Exit 1 where either is not so.
A script and no test: what it measures is the machine too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import api
from bench.judging.served import OVERHEAD_LIMIT, limits_of
from bench.judging.serving import figures
from bench.records.outcome import Measured
from bench.records.run import Launch, RunFile
from bench.records.runfile import by_case


def judged(run: RunFile) -> Iterator[tuple[str, bool]]:
    """Of each served case what was found, in words, and whether that is as it should be."""
    for launches in by_case(run.launches).values():
        case = launches[0].case
        if case.workload == "serve":
            yield from _of_case([*launches])


def _of_case(launches: list[Launch]) -> Iterator[tuple[str, bool]]:
    case = launches[0].case
    found = [x.outcome.served for x in launches if isinstance(x.outcome, Measured)]
    served = [one for one in found if one is not None]
    for launch in launches:
        if not isinstance(launch.outcome, Measured) or launch.outcome.served is None:
            why = getattr(launch.outcome, "reason", "no load")
            yield f"{case.label}: launch {launch.launch} has no figure: {why}", False
    if not served:
        return
    each = [figures(one, limits_of(case.parameters)) for one in served]
    shares = [one.overhead for one in each if one is not None and one.overhead is not None]
    words = ", ".join(f"{share:.2%}" for share in shares)
    right = len(shares) == len(served) and max(shares) <= OVERHEAD_LIMIT
    yield f"{case.label}: engine {words} of busy time (at most {OVERHEAD_LIMIT:.0%})", right
    if case.parameters["arrival"] != "poisson":
        schedules = {one.schedule for one in served}
        words = f"{len(schedules)} schedules in {len(served)} launches"
        yield f"{case.label}: {words}", len(schedules) == 1 and "" not in schedules


def main() -> None:
    """Prints a line a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--suite", default="serving-small")
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = (
            api.read_run(given.run)
            if given.run
            else api.run_suite(
                given.suite, device=given.device, launches=given.launches, out=Path(folder)
            )
        )
        found = list(judged(run))
    for words, right in found:
        print("ok  " if right else "NOT ", words)
    if not found:
        print("NOT  a served load among its cases")
    sys.exit(not found or not all(right for _, right in found))


if __name__ == "__main__":
    main()
