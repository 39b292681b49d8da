"""A pytest run inside a test: real, or scripted for what a real one does not do on demand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from bench.records import runfile
from bench.records.run import RunFile

SUITE = """
{top}
[settings]
launches = {launches}
block_seconds = 0.001
warmup_seconds = 0.0
warmup_limit_seconds = 5.0
steady_limit_seconds = 1.0

[[case]]
workload = "gemm"
precision = "fp32"
shape = {shapes}
"""

SCRIPTED = '''
"""No worker is started: launch k of a case does what the script says."""
import json, os, signal

from bench.running import launcher, probe
from bench.backend import DeviceInfo
from bench.running.launcher import Finished
from bench.records.outcome import Cold, Skipped, Void
from bench.tests.values import failed, make_measured
from bench.measuring.messages import Report

SCRIPT = json.loads(os.environ["SCRIPT"])
WORDS = {
    "failed": failed(message="it broke"),
    "void": Void(reason="numerics: output off by 0.5"),
    "skipped": Skipped(reason="no such arithmetic"),
    "hot": make_measured(
        0.01, items=10**9, unit="FLOP", flags=("THROTTLED",), causes={"THROTTLED": "thermal"}
    ),
    "brief": make_measured(0.01, items=10**9, unit="FLOP", step_clock="device event"),
}


def launch_together(requests, variables, listen, **_):
    for request in requests:
        what = SCRIPT[request.case.parameters["shape"]][request.seed]
        if what == "interrupt":
            raise KeyboardInterrupt
        if what == "terminate":
            signal.raise_signal(signal.SIGTERM)
        if what == "bug":
            raise RuntimeError("nobody thought of it")
        outcome = WORDS.get(what) or make_measured(what, items=10**9, unit="FLOP", flop=10**9)
        report = Report(outcome=outcome, cold=Cold(), environment={})
        yield Finished(report=report, seconds=1.0, stderr_tail="")


launcher.launch_together = launch_together
info = DeviceInfo(backend="cpu", index=0, name="Fake CPU", memory_bytes=None)
probe.choose_of = lambda address: probe.Chosen(
    info, ["cuda: none here, or pass --device cpu"], 1
)
'''.replace("cuda", "other")


QUICK = (
    *("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio"),
    "--assert=plain",
)
"""Without plugins that are nothing to us and slow to load; no assertion is looked at."""


class Run:
    """An inner pytest that has ended."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *QUICK, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
                "COLUMNS": "100",
                "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
                **environment,
            },
            timeout=300,
        )
        self.folder = folder
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def record(self) -> RunFile:
        (path,) = (self.folder / "out").glob("*.jsonl")
        return runfile.read(path)

    @property
    def outcomes(self) -> dict[str, int]:
        """The last line: `1 failed, 2 passed in 0.1s`."""
        last = self.out.splitlines()[-1]
        return {
            word: int(count) for count, word in re.findall(r"(\d+) (\w+)", last.split(" in ")[0])
        }

    def row(self, name: str) -> dict[str, float]:
        """Mean (s), OPS (items/s) and rounds of a row of the table, its unit undone."""
        table = self.out[self.out.index("Name (time in ") :]
        time_unit, ops_unit = re.search(
            r"Name \(time in (\w?)s\) .* OPS(?: \((\w)ops/s\))? ", table
        ).groups()  # type: ignore[union-attr]
        factor = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
        times = {None: 1.0, "K": 1e3, "M": 1e6}
        line = next(text for text in table.splitlines() if text.startswith(name))
        mean, ops, rounds = (
            float(word.replace(",", ""))
            for word in re.sub(r"\([^()]*\)", "", line.removeprefix(name)).split()
        )
        return {"mean": mean * factor[time_unit], "ops": ops * times[ops_unit], "rounds": rounds}


COLUMNS = "--benchmark-columns=mean,ops,rounds"


NAME = "gemm-matmul-fp32[32x32x32]"
SHAPES = ("8x8x8", "9x9x9", "10x10x10", "11x11x11", "12x12x12")


def suite(folder: Path, *shapes: str, launches: int = 2, top: str = "") -> Path:
    path = folder / "tiny.toml"
    path.write_text(SUITE.format(top=top, launches=launches, shapes=json.dumps(shapes)))
    return path


def scripted(
    folder: Path,
    script: dict[str, list[Any]],
    *arguments: str,
    launches: int = 2,
    top: str = "",
    **extra: str,
) -> Run:
    """Runs the ready suite over the script's shapes; its record lies in `out`."""
    suite(folder, *script, launches=launches, top=top)
    (folder / "scripted.py").write_text(SCRIPTED)
    return Run(
        folder,
        *("-p", "scripted", "--pyargs", "bench.suite", "--accelmark-suite", "tiny.toml"),
        *arguments,
        SCRIPT=json.dumps(script),
        **extra,
    )


def anonymous(run: RunFile) -> RunFile:
    """Without what is of its file, not of the run."""
    return msgspec.structs.replace(run, path="", whole_bytes=0, passing=False)


def saved(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
