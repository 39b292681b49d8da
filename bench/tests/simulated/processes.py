"""Code that runs with the simulated device, each time in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.tests.simulated import environment

SECONDS = 120
ZYGOTE = """
import json, os, sys, traceback
import torch  # once: without the plug-in, which each fork loads with its own variables
import torch._dynamo  # a second, at the first step of any optimizer

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[stream], os.O_WRONLY | os.O_CREAT), number)
        os.environ.update(request["variables"])
        try:
            import torch_npu
            exec(request["code"], {"torch": torch, "torch_npu": torch_npu})
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


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
    """Runs code with the simulated device, each time in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        variables = environment() | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "OMP_NUM_THREADS": "1"}
        self.zygote = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
        )

    def run(self, code: str, real: dict[str, str] | None = None, **faults: object) -> Ended:
        """code: Python with `torch` and `json` at hand; real: variables of torch_npu's own."""
        assert self.zygote.stdin is not None and self.zygote.stdout is not None
        streams = {name: self._folder / name for name in ("out", "err")}
        for path in streams.values():
            path.write_text("")
        request = {
            "code": "import json, time\n" + code,
            "variables": environment(**faults) | (real or {}),
            **{name: str(path) for name, path in streams.items()},
        }
        self.zygote.stdin.write(json.dumps(request) + "\n")
        self.zygote.stdin.flush()
        code_number = int(self.zygote.stdout.readline())
        return Ended(code_number, **{name: path.read_text() for name, path in streams.items()})


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
