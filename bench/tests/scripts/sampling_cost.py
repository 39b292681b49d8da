"""What does looking at the device cost the job? The side process is stopped and let go in turns.

    python -m bench.tests.scripts.sampling_cost [--launches 6] [--turns 20] [--backend cpu]
        [--devices 1]

Each launch builds a small matrix product on the CPU, on all its cores, and runs blocks of it with
the side process of `bench.running.monitor` looking and stopped (SIGSTOP), in changing order, a
block of a second each. Printed: throughput with it over throughput without it, median over the
turns of a launch, geometric mean over launches with its 95 % t interval (wanted: 0.995 or more),
and the CPU time of the side process over the time that it was looking. `--backend` names whose
source is looked at: `cuda` looks at a GPU while the CPU, which then has the driver's work to do,
computes, and `--devices` how many of them. A script and no test: what it measures is the machine
too.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

from bench import catalogue, stats
from bench.measuring.timing.engine import Engine
from bench.precision import PRECISIONS
from bench.records.run import Settings
from bench.running.monitor import Monitor
from bench.running.sampler import Order

BLOCK_SECONDS = 1.0
SIZE = 1024


class Product:
    """A matrix product on every core."""

    def __init__(self) -> None:
        import torch

        self._a, self._b = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
        self._out: Any = None

    def step(self) -> None:
        """One product."""
        self._out = self._a @ self._b

    def witness(self) -> float:
        """Its first element."""
        return float(self._out[0, 0])


def one_launch(turns: int, backend: str, devices: int) -> None:
    """Prints the median ratio of the turns, and the side process's share of a core."""
    device = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    engine = Engine(Product(), device, Settings())
    steps = max(1, round(BLOCK_SECONDS * 1e9 / (engine.block(20).wall_ns / 20)))
    watch = Monitor(Order(backend=backend, indices=tuple(range(devices))), os.environ)
    watch.start()
    assert watch._process is not None
    while not watch._ask()[0].seen:
        time.sleep(0.1)
    process = psutil.Process(watch._process.pid)
    ratios, looking, before = [], 0.0, _cpu_seconds(process)
    for turn in range(turns):
        seconds = {}
        for on in (True, False) if turn % 2 == 0 else (False, True):
            process.send_signal(signal.SIGCONT if on else signal.SIGSTOP)
            seconds[on] = engine.block(steps).wall_ns / 1e9
        looking += seconds[True]
        ratios.append(seconds[False] / seconds[True])
    process.send_signal(signal.SIGCONT)
    share = (_cpu_seconds(process) - before) / looking
    watch.close()
    print(statistics.median(ratios), share)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--launches", type=int, default=6)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one_launch(arguments.turns, arguments.backend, arguments.devices)
        return
    ratios, shares = [], []
    for launch in range(arguments.launches):
        options = ("--turns", str(arguments.turns), "--backend", arguments.backend)
        devices = ("--devices", str(arguments.devices))
        command = [
            sys.executable,
            "-m",
            "bench.tests.scripts.sampling_cost",
            "--one",
            *options,
            *devices,
        ]
        said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        ratio, share = (float(word) for word in said.split())
        ratios.append(ratio)
        shares.append(share)
        print(f"launch {launch + 1}: {ratio:.4f}, {share:.2%} of a core", flush=True)
    found = stats.log_estimate(ratios, stats.FIXED_LEVEL)
    spread = f"{found.low:.4f} to {found.high:.4f}" if found else "no interval"
    mean = stats.geometric_mean(ratios)
    print(f"with / without looking: {mean:.4f} ({spread}, {len(ratios)} launches)")
    print(f"the side process: {statistics.mean(shares):.2%} of a core")


if __name__ == "__main__":
    main()
