"""Ranks that go wrong in a real group (gloo): who is named, at each phase, and what is said.

`python -m bench.tests.scripts.world_faults` makes each of them ten times.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from bench import catalogue
from bench.errors import EXIT_INTERRUPTED
from bench.measuring.messages import Request
from bench.records import limits
from bench.records.case import Case
from bench.records.outcome import Measured, Outcome
from bench.records.run import Settings
from bench.running import blame, child
from bench.running.launcher import launch_together
from bench.tests.stage import FAULTY, RANKS_CASE, Stage, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the faulty plug-in is of Linux"),
    pytest.mark.usefixtures("forked", "plugged"),
]


class Kind(NamedTuple):
    """Something that one rank of some does."""

    what: str
    phase: str
    ranks: int
    bad: int
    said: str
    """Beginning of the outcome's reason; {bad} stands for the rank, ... for any text."""

    @property
    def name(self) -> str:
        return f"{self.what}@{self.phase}:{self.bad} of {self.ranks}"


DIED = "crash in {phase}: rank {bad} (faulty): the worker "
HANGS = "timeout in {phase}: rank {bad} of {ranks} hangs: "
KINDS = (
    Kind("kill", "import", 2, 1, DIED + "was killed by SIGKILL"),
    Kind("leave", "open", 3, 2, DIED + "left with exit code 3"),
    Kind("fail", "numerics", 3, 1, "error in {phase}: rank {bad} (faulty): RuntimeError: planted"),
    Kind("want_memory", "build", 2, 0, "oom in {phase}: rank {bad} (faulty): MemoryError"),
    Kind("differ", "open", 3, 1, "rank {bad} differs in its device: 'Another device', the others "),
    Kind("kill", "warm-up", 3, 0, DIED + "was killed by SIGKILL"),
    Kind("fail", "measure", 2, 0, "error in {phase}: rank {bad} (faulty): RuntimeError: planted"),
    Kind("hang_in_python", "numerics", 2, 1, HANGS),
    Kind("spin", "build", 2, 0, HANGS),
    Kind("spin", "numerics", 2, 1, HANGS + "still in its numerics phase"),
    Kind("stop", "warm-up", 2, 1, HANGS + "gives no stack"),
    Kind("hang_in_python", "warm-up", 3, 2, HANGS),
    Kind("skip", "warm-up", 3, 1, HANGS + "stands where no other does"),
    Kind("skip", "warm-up", 2, 1, "timeout in {phase}: all ranks stand still, and none can be"),
)


LONG = (
    *("spin@build:0 of 2", "spin@numerics:1 of 2"),
    *("stop@warm-up:1 of 2", "hang_in_python@warm-up:2 of 3"),
)
"""What only waits for its patience, by rules that `test_world` tries with scripted ranks: the
script's alone."""


def made(kind: Kind, limit_seconds: float = 60.0) -> Outcome:
    """What comes of a launch with it."""
    faulty = catalogue.workload("faulty")
    case = Case(
        workload=faulty.name,
        version=1,
        mode="many",
        precision="fp32",
        parameters=msgspec.to_builtins(faulty.modes["many"].parameters()),
        devices=kind.ranks,
    )
    settings = Settings(
        launches=1,
        block_seconds=0.001,
        warmup_seconds=0.0,
        steady_limit_seconds=0.1,
        launch_limit_seconds=limit_seconds,
    )
    request = Request(case=case, backend="faulty", index=0, settings=settings, samples=10, seed=1)
    fault = f"{kind.what}@{kind.phase}:{kind.bad}" if kind.what else ""
    path = os.pathsep.join([str(FAULTY), *filter(None, sys.path)])
    forced = {"PYTHONPATH": path, "FAULT": fault}
    with contextlib.closing(launch_together([request], {}, forced=forced)) as finished:
        return next(finished).report.outcome


def expected(kind: Kind) -> str:
    return kind.said.format(phase=kind.phase, bad=kind.bad, ranks=kind.ranks)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The plug-in is here, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FAULTY))
    monkeypatch.setenv("PYTHONPATH", str(FAULTY), prepend=os.pathsep)
    monkeypatch.delenv("FAULT", raising=False)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blame, "QUIET_SECONDS", 3.0)
    monkeypatch.setattr(blame, "LATE_SECONDS", 3.0)
    monkeypatch.setattr(limits, "SHORTEST_LIMIT_SECONDS", 20.0)  # of who spins: it is at work
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.5)


TRIED = [kind for kind in KINDS if kind.name not in LONG]


@pytest.mark.parametrize("kind", TRIED, ids=[kind.name for kind in TRIED])
def test_the_guilty_rank_is_named(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind.said.startswith(("timeout", HANGS)):
        impatient(monkeypatch)
    outcome = made(kind)
    assert not isinstance(outcome, Measured)
    assert outcome.reason.startswith(expected(kind)), outcome.reason


def test_without_a_fault_it_is_measured() -> None:
    outcome = made(Kind("", "", 2, 0, ""))
    assert isinstance(outcome, Measured), outcome
    assert [share.rank for share in outcome.ranks] == [0, 1]


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    """Ctrl-C while ranks wait for one that hangs: all end, what was measured stays."""
    folder = tmp_path / "stage"  # in which this process is not
    folder.mkdir()
    stage = Stage(folder)
    stage.suite(RANKS_CASE, launches=2)
    process = stage.start("hang_in_python@build:1")
    stage.wait_for("reached")
    process.send_signal(signal.SIGINT)
    assert stage.end(process) == EXIT_INTERRUPTED
    wait_until(lambda: not stage.left())
    assert stage.file is not None and not stage.file.launches
    assert stage.run("", "--resume", str(stage.records[0])) == 0, stage.said
    assert [type(launch.outcome) for launch in stage.file.launches] == [Measured, Measured]
    assert stage.file.run.plan[0].devices == 2
