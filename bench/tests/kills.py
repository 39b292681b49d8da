"""Kills a run at random moments, resumes it each time, and looks at what is left.

    python -m bench.tests.kills [--kills 50] [--seed 1]

A real run of a tiny case is ended with SIGKILL again and again. At the end every launch must be in
the record once, the file must validate, and no worker may be left. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import psutil

from bench.record import Measured
from bench.runfile import read
from bench.tests.regenerate import command
from bench.tests.test_cli import TINY
from bench.tests.test_resume import kill_again_and_again, record_of


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    launches = 2 * arguments.kills
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.toml").write_text(TINY.format(launches=launches), encoding="utf-8")
        kill_again_and_again(folder, arguments.kills, most_seconds=4.0)
        before = len(read(record_of(folder)).launches)
        done = command("run", "--resume", str(record_of(folder)), folder=folder)
        file = read(record_of(folder))
    numbers = [launch.launch for launch in file.launches]
    measured = sum(isinstance(launch.outcome, Measured) for launch in file.launches)
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if _is_worker(p)]
    print(f"{len(file.resumed)} resumptions; {before} of {launches} launches survived the kills")
    print(f"{len(numbers)} launches, {measured} measured, {len(set(numbers))} different")
    print(f"damage: {file.damage}; end: {file.end.reason if file.end else None}; workers: {left}")
    good = numbers == list(range(launches)) and measured == launches and not left
    sys.exit(not (good and file.damage is None and done.returncode == 0))


def _is_worker(process: psutil.Process) -> bool:
    return "bench.worker" in (process.info["cmdline"] or [])


if __name__ == "__main__":
    main()
