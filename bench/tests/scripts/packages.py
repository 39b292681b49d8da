"""Two packages of two simulated dies: is energy counted once a package, and told for each?

    python -m bench.tests.scripts.packages

One launch of four ranks on the simulated device, whose dies read one power a package: 71.7 W on the
first, 81.7 W on the second. Wanted: 153.4 W times the steady seconds, to a thousandth; two
packages; each die's figures in the record. A script, for it takes four workers and half a minute.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

from bench.judging.summary import summarize
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.tests.backends.simulated_commands import Command, device

WATTS = (71.7, 81.7)
"""Of the packages, as the simulated tool has them."""
SUITE = """
[[case]]
workload = "collective"
mode = "all-reduce"
precision = "fp32"
size_bytes = 4096
"""
BLOCK_SECONDS = "2.1"


def complaints(run: RunFile) -> list[str]:
    """What is not as it must be, in words."""
    (row,) = summarize(run)
    found = [] if row.packages == len(WATTS) else [f"{row.packages} packages"]
    for launch in run.launches:
        outcome = launch.outcome
        if not isinstance(outcome, Measured):
            return [f"{outcome.reason}"]
        joules, wanted = outcome.energy_joules, sum(WATTS) * outcome.steady_seconds
        if joules is None or not math.isclose(joules, wanted, rel_tol=1e-3):
            found.append(f"{joules or 0:.0f} J ({outcome.energy_absent}), not {wanted:.0f} J")
        for share in outcome.ranks:
            seen = share.watched
            card = share.device // 2
            if seen is None or (seen.card, seen.power_watts) != (card, WATTS[card]):
                found.append(f"rank {share.rank}: {seen}")
    return found


def main() -> None:
    """The script."""
    variables = device(device_name="Ascend910_9391", devices=4, smi="A3")
    line = "run --device ascend --devices 4"
    command = Command(line, SUITE, variables, block_seconds=BLOCK_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        done = command.run(Path(folder))
        print(done.out or done.err)
        wrong = complaints(done.runs[0]) if done.runs else ["there is no record"]
    for one in wrong or ["energy is counted once a package"]:
        print(one)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
