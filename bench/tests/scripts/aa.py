"""Does `compare` call the same thing faster? Real A/A pairs on this machine, interleaved.

    python -m bench.tests.scripts.aa [--pairs 20] [--launches 5]

Each pair is an `accelmark ab` of the CPU against itself on a small matrix product: whatever it
calls FASTER or SLOWER is wrong. Exit code 1 if more than one pair in twenty is. A script and no
test: what it measures is the machine too. Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.judging.comparing.compare import compare
from bench.records.runfile import read

SUITE = """
description = "A small matrix product"

[settings]
warmup_limit_seconds = 5.0
steady_limit_seconds = 2.0

[[case]]
workload = "gemm"
precision = "fp32"
shape = "512x512x512"
"""
ALLOWED_SHARE = 1 / 20


def pair(folder: Path, launches: int) -> str:
    """Runs one pair; its verdict, with its figures on stdout."""
    (folder / "aa.toml").write_text(SUITE, encoding="utf-8")
    sides = ("--device", "cpu", "--device", "cpu")
    subprocess.run(
        [sys.executable, "-m", "bench", "ab", "aa.toml", *sides, "--launches", str(launches)],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    a, b = (read(path) for path in sorted((folder / "runs").glob("*.jsonl")))
    (case,) = compare(a, b).cases
    interval = case.interval
    between = f"{interval.low:.3f} to {interval.high:.3f}" if interval else "no interval"
    print(f"{case.ratio:.3f} ({between}) {case.verdict}", flush=True)
    return case.verdict


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--launches", type=int, default=5)
    arguments = parser.parse_args()
    verdicts = []
    for _ in range(arguments.pairs):
        with tempfile.TemporaryDirectory() as folder:
            verdicts.append(pair(Path(folder), arguments.launches))
    wrong = sum(verdict in ("FASTER", "SLOWER") for verdict in verdicts)
    for verdict in sorted(set(verdicts)):
        print(f"{verdict}: {verdicts.count(verdict)}")
    print(f"{wrong} of {len(verdicts)} pairs called different")
    sys.exit(wrong > ALLOWED_SHARE * len(verdicts))


if __name__ == "__main__":
    main()
