"""Code that runs with the simulated device, each time in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from bench.tests.forked import Popen
from bench.tests.simulated import environment

SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> Any:
        """The JSON that it printed, if it succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)


class Processes:
    """Runs code with the simulated device, each time in a fork of its own; needs the nursery."""

    def run(self, code: str, real: dict[str, str] | None = None, **faults: object) -> Ended:
        """code: Python with `torch` and `json` at hand; real: variables of torch_npu's own."""
        variables = environment(**faults) | {"OMP_NUM_THREADS": "1"} | (real or {})
        with Popen(
            [sys.executable, "-c", "import json, time, torch, torch_npu\n" + code],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            out, err = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, out, err)


def autoloaded(code: str, **faults: object) -> Ended:
    """A whole new process, in which `import torch` finds the plug-in by itself."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment(**faults) | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


TIMED = """
x = torch.ones(4, device="npu")
torch.npu.synchronize()

def timed(wait):
    start = time.perf_counter()
    for _ in range(10):
        x.erfinv()
    wait()
    return time.perf_counter() - start
"""
"""Code before which ten operators are `timed`, up to a wait."""
