"""Kills a run at random moments, resumes it each time, and looks at what is left.

    python -m bench.tests.scripts.kills [--kills 50] [--seed 1]

A real run of four tiny cases is ended with SIGKILL again and again; after each kill no process of
it may be left. At the end every launch must be in the record once, measured, and the file must
validate. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.records.outcome import Measured
from bench.records.runfile import read
from bench.tests.running.test_resume import kill_again_and_again, record_of

CASES = 4
SUITE = """
[settings]
launches = {launches}
block_seconds = 0.001
warmup_seconds = 0.0

[[case]]
workload = "gemm"
precision = ["fp32", "bf16"]
shape = ["32x32x32", "64x64x64"]
"""


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    launches = -(-3 * arguments.kills // CASES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tiny.toml").write_text(SUITE.format(launches=launches), encoding="utf-8")
        kills = kill_again_and_again(folder, arguments.kills, most_seconds=3.0, most_launches=2)
        before = len(read(record_of(folder)).launches)
        last = [sys.executable, "-m", "bench", "run", "--resume", str(record_of(folder))]
        done = subprocess.run(last, cwd=folder, stdout=subprocess.DEVNULL)
        file = read(record_of(folder))
    planned = {(case.fingerprint, k) for case in file.run.plan for k in range(launches)}
    found = [(x.fingerprint, x.launch) for x in file.launches]
    measured = sum(isinstance(x.outcome, Measured) for x in file.launches)
    print(f"{kills} kills, {len(file.resumed)} resumptions; nothing was left after any of them")
    print(f"{before} of {len(planned)} launches survived the kills")
    print(f"{len(found)} launches, {measured} measured, {len(set(found))} different")
    print(f"damage: {file.damage}; end: {file.end.reason if file.end else None}")
    good = sorted(found) == sorted(planned) and measured == len(planned) and file.damage is None
    sys.exit(not (good and kills == arguments.kills and done.returncode == 0))


if __name__ == "__main__":
    main()
