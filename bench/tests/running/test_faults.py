"""The fault matrix: each fault of `faults.py`, on the real command line, held to its line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.running.child import STDERR_TAIL_BYTES
from bench.tests.faults import FAULTS, README, Fault, identity, table
from bench.tests.stage import Stage, rows_of, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="made with /proc and limits"),
    pytest.mark.usefixtures("forked"),
]
AT_ONCE = 4
"""Faults that are made side by side: most of them wait, or start an interpreter."""


@dataclass(frozen=True)
class Made:
    """What came of a fault."""

    code: int
    said: str
    file: RunFile | None
    resumed: RunFile | None


def make(fault: Fault, stage: Stage) -> Made:
    """The fault; then nothing may be left of it; then the rest of the run, where that is tried."""
    code = fault.act(stage)
    said, file = stage.said, stage.file
    wait_until(lambda: not stage.left(), 30.0)
    resumed = None
    if fault.resumed:
        assert stage.run("", "--resume", str(stage.records[0])) == 0, stage.said
        resumed = stage.file
    return Made(code, said, file, resumed)


@pytest.fixture(scope="module")
def under_way(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Made]]]:
    """Every fault that is asked for, several at once."""
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    names = {spec.id for spec in asked if spec is not None}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            identity(fault): pool.submit(make, fault, Stage(tmp_path_factory.mktemp("fault")))
            for fault in FAULTS
            if identity(fault) in names and not fault.needs()
        }


@pytest.mark.parametrize("fault", FAULTS, ids=identity)
def test_a_fault_becomes_what_its_line_says(
    fault: Fault, under_way: dict[str, Future[Made]]
) -> None:
    if identity(fault) not in under_way:
        pytest.skip(f"cannot be made here: {fault.needs()}")
    made = under_way[identity(fault)].result()
    assert made.code == fault.code, made.said
    assert fault.said in made.said
    rows = rows_of(made.file)
    assert len(rows) == len(fault.rows), rows
    for row, expected in zip(rows, fault.rows, strict=True):
        assert re.fullmatch(".*".join(map(re.escape, expected.split("..."))), row, re.DOTALL), row
    assert end_of(made.file) == fault.end
    for launch in made.file.launches if made.file else ():
        assert fault.stderr_tail in launch.stderr_tail
        assert len(launch.stderr_tail) <= STDERR_TAIL_BYTES
    if made.resumed is not None:
        assert end_of(made.resumed) == "complete" and len(made.resumed.resumed) == 1
        found = [isinstance(x.outcome, Measured) for x in made.resumed.launches]
        assert found == [False] * len(fault.rows) + [True]


def end_of(file: RunFile | None) -> str:
    if file is None:
        return "no record"
    return "none" if file.end is None else file.end.reason


def test_the_names_of_the_faults_differ() -> None:
    """Else one would hide another."""
    assert len({identity(fault) for fault in FAULTS}) == len(FAULTS)


def test_the_table_is_the_one_that_was_tried() -> None:
    """If a change was meant: `python -m bench.tests.scripts.regenerate`, and read the diff."""
    assert README.read_text(encoding="utf-8") == table()
