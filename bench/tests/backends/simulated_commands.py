"""Commands on the simulated Ascend device, under way side by side, shared by tests."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch

from bench.measuring.launch import ALLOW_SIMULATED
from bench.records.case import Case
from bench.records.outcome import Outcome
from bench.records.run import Launch, RunFile
from bench.records.runfile import read
from bench.tests import simulated

SETTINGS = """
[settings]
launches = 1
warmup_seconds = 0.0
warmup_limit_seconds = 0.3
block_seconds = 0.001
steady_limit_seconds = 0.3
launch_limit_seconds = 200.0
"""
GEMM = '[[case]]\nworkload = "gemm"\nprecision = "fp32"\nshape = "64x64x64"\n'
SCALE = '[[case]]\nworkload = "memory"\nmode = "scale"\nprecision = "fp32"\nsize_bytes = 4096\n'


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str
    runs: tuple[RunFile, ...]

    @property
    def launches(self) -> dict[str, list[Launch]]:
        """Of the one run, by the case's name."""
        (run,) = self.runs
        found: dict[str, list[Launch]] = {}
        for launch in run.launches:
            found.setdefault(name_of(launch.case), []).append(launch)
        return found

    def last(self, name: str) -> Outcome:
        """How the last launch of a case ended."""
        return self.launches[name][-1].outcome


def name_of(case: Case) -> str:
    return f"{case.name} {case.precision}{case.variant}"


def device(allowed: bool = True, **faults: object) -> dict[str, str]:
    """The environment of a user with the simulated device; as theirs, without TORCH_ variables."""
    variables = simulated.environment(**faults)
    del variables["TORCH_DEVICE_BACKEND_AUTOLOAD"]
    return {**variables, **({ALLOW_SIMULATED: "1"} if allowed else {})}


DIES = device(device_name="Ascend910_9391", devices=2, smi="A3", smi_users="0:7:9 1:4242:512")
Commands = dict[str, Future[Done]]


class Command(NamedTuple):
    """What is typed."""

    line: str
    suite: str = ""
    variables: Mapping[str, str] = {}
    module: str = "bench"
    """What Python runs."""
    block_seconds: str = "0.001"

    def run(self, folder: Path) -> Done:
        """In a folder of its own; a run's suite and its record lie there."""
        words = self.typed(folder)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELMARK", "TORCH_"))}
        done = subprocess.run(
            [sys.executable, "-m", self.module, *words],
            cwd=folder,
            env={**kept, **self.variables, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=900,
        )
        return Done(done.returncode, done.stdout, done.stderr, records(folder))

    def here(self, main: Callable[[], None], folder: Path) -> Done:
        """The same in this process, by the `main` of that module, whose imports are ours."""
        words, threads = self.typed(folder), torch.get_num_threads()
        out, err, code = io.StringIO(), io.StringIO(), 0
        torch.set_num_threads(1)  # as the variable says, which torch read long ago
        with (
            contextlib.chdir(folder),
            mock.patch.dict(os.environ, {**self.variables, "OMP_NUM_THREADS": "1"}),
            mock.patch.object(sys, "argv", ["accelmark", *words]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as error:
                code = int(error.code or 0)
            finally:
                torch.set_num_threads(threads)
        return Done(code, out.getvalue(), err.getvalue(), records(folder))

    def typed(self, folder: Path) -> list[str]:
        """Its words, with the suite of a run in the folder."""
        settings = SETTINGS.replace(
            "block_seconds = 0.001", f"block_seconds = {self.block_seconds}"
        )
        (folder / "suite.toml").write_text(settings + self.suite, encoding="utf-8")
        verb, *rest = self.line.split()
        if verb == "run":
            rest = ["suite.toml", "--out", "out", *rest]
        return [verb, *rest]


def records(folder: Path) -> tuple[RunFile, ...]:
    """Those of the runs that lie there."""
    return tuple(read(path) for path in sorted((folder / "out").glob("*.jsonl")))


@contextlib.contextmanager
def under_way(
    commands: Mapping[str, Command], folders: pytest.TempPathFactory
) -> Iterator[Commands]:
    """Every command, two at a time in their order."""
    places = {name: folders.mktemp("command") for name in commands}  # not thread-safe
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(one.run, places[name]) for name, one in commands.items()}
        pool.shutdown(cancel_futures=True)
