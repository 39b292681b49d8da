"""Workers that are a few lines of code, and what the tests ask of their launches."""

from __future__ import annotations

import selectors
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from bench.measuring.messages import Progress, Report, Request
from bench.records.outcome import Cold, Failed
from bench.records.run import Settings
from bench.running import ears
from bench.running.launcher import Finished
from bench.tests.launching import launch
from bench.tests.values import make_case, make_measured

REPORT = Report(
    outcome=make_measured(), cold=Cold(build_seconds=0.5), environment={"torch": "2.13.0"}
)


def request(limit_seconds: float = 30.0) -> Request:
    return Request(
        case=make_case(),
        backend="cpu",
        index=0,
        settings=Settings(launch_limit_seconds=limit_seconds),
        samples=10,
        seed=7,
    )


def scripted(code: str, *arguments: str) -> tuple[str, ...]:
    """A worker that is only this code; `REPORT` in it is a whole report line."""
    line = msgspec.json.encode(REPORT) + b"\n"
    head = f"import json, os, signal, sys, time\nREPORT = {line!r}\n"
    return (sys.executable, "-c", head + textwrap.dedent(code), *arguments)


def run(
    code: str,
    limit_seconds: float = 30.0,
    variables: Mapping[str, str] | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
) -> Finished:
    """Launches a worker that is only this code."""
    return launch(request(limit_seconds), variables or {}, listen, scripted(code))


def suspend(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Has all be suspended for so long, as it seems, amid the first wait that nobody ends."""
    lost, waited = [0.0], selectors.DefaultSelector.select

    def select(
        self: selectors.DefaultSelector, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        found = waited(self, timeout)
        lost[0] = lost[0] or (0.0 if found else seconds)
        return found

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + lost[0])
    monkeypatch.setattr(ears, "time", clock)
    monkeypatch.setattr(selectors.DefaultSelector, "select", select)


def failure(finished: Finished) -> Failed:
    assert isinstance(finished.report.outcome, Failed), finished
    return finished.report.outcome


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


FAMILY = """
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open({pids!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
"""
"""The beginning of a worker that has a child of its own, and says who they are."""


def pids(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()]
