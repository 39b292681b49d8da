"""The session before the first item, its lines, its record and its card."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import catalogue
from bench.records import runfile
from bench.report import Canvas
from bench.tests.pytest_plugin.inner import SHAPES, Run, scripted


def test_the_run_is_announced_line_by_line_and_ends_in_the_card(real: Run) -> None:
    lines = real.out.splitlines()
    assert any(line.startswith("device: cpu, ") for line in lines)
    said = [line for line in lines if line.startswith("gemm-matmul fp32 (32x32x32), ")]
    assert len(said) == 1, "a line a case"
    assert said[0].startswith("gemm-matmul fp32 (32x32x32), 2 launches: ")
    assert "FLOP/s (no interval yet)" in said[0]
    card = catalogue.load("reports", "table").render([real.record], Canvas(width=100))
    assert card in real.out
    assert "record: out/tiny-cpu-" in real.out
    assert real.out.index("Legend:") < real.out.index("= accelmark =")


def test_the_record_says_what_was_typed_and_no_folder(real: Run) -> None:
    run = real.record.run
    assert run.command[:3] == ("pytest", "-p", "no:cacheprovider")
    assert "--benchmark-json=run.json" in run.command
    assert run.suite == "tiny"
    (path,) = (real.folder / "out").glob("*.jsonl")
    assert str(real.folder) not in path.read_text()


def test_launches_of_different_cases_take_turns(mixed: Run) -> None:
    shapes = [x.case.parameters["shape"] for x in mixed.record.launches]
    assert shapes == [*SHAPES, SHAPES[0], SHAPES[1], SHAPES[4]]


@pytest.mark.parametrize("how", ["interrupt", "terminate"])
def test_an_interrupted_run_keeps_what_was_measured(tmp_path: Path, how: str) -> None:
    """In a folder that it names, though none was asked for."""
    run = scripted(tmp_path, {"8x8x8": [0.01, how], "9x9x9": [0.02, 0.02]})
    assert run.code == pytest.ExitCode.INTERRUPTED, run.out
    assert "INTERRUPTED" in run.out and "KeyboardInterrupt" in run.out
    path = Path(run.out.split("record: ")[1].split()[0])
    found = runfile.read(path)
    assert [x.case.parameters["shape"] for x in found.launches] == ["8x8x8", "9x9x9"]
    assert found.end is not None and found.end.reason == "interrupted"
    assert run.out.count("record: ") == 1
    path.unlink()
    path.parent.rmdir()


LIMITED = """
import pytest

from bench.running import launcher

launches = launcher.launch_together
within = []

def limited(*asked, **options):
    if within:
        pytest.fail("Timeout (>24.0s) from pytest-timeout.")
    return launches(*asked, **options)

launcher.launch_together = limited

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    within.append(item)
    try:
        return (yield)
    finally:
        within.clear()
"""
"""As pytest-timeout does with what an item takes."""


def test_nothing_is_measured_within_an_item_whose_time_may_be_limited(tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    run = scripted(
        tmp_path, {"8x8x8": [0.01, 0.02], "9x9x9": [0.01, 0.02]}, "-p", "limited", "-W", "error"
    )
    assert run.outcomes == {"passed": 2}, run.out


def test_a_run_that_breaks_names_its_record(tmp_path: Path) -> None:
    run = scripted(tmp_path, {"8x8x8": [0.01, "bug"]})
    assert run.code == pytest.ExitCode.INTERNAL_ERROR and "nobody thought of it" in run.out
    path = Path(run.out.split("record: ")[1].split()[0])
    assert len(runfile.read(path).launches) == 1
    path.unlink()
    path.parent.rmdir()


BROKEN = """
from bench.reports.table import TableReport

def broken(*_):
    raise ValueError("no card")

def pytest_sessionfinish():
    TableReport.render = broken
"""


def test_a_record_whose_card_cannot_be_made_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    run = scripted(tmp_path, {"8x8x8": [0.01, 0.02]}, "-p", "broken")
    assert "ValueError: no card" in run.err + run.out
    path = Path(run.out.split("record: ")[1].split()[0])
    assert len(runfile.read(path).launches) == 2
    path.unlink()
    path.parent.rmdir()


def test_a_run_whose_saving_fails_names_its_record(tmp_path: Path) -> None:
    """pytest prints no summary then."""
    (tmp_path / "tmp").mkdir()
    unwritable = f"--benchmark-json={tmp_path / 'nowhere' / 'run.json'}"
    run = scripted(tmp_path, {"8x8x8": [0.01, 0.02]}, unwritable, TMPDIR=str(tmp_path / "tmp"))
    assert "FileNotFoundError" in run.err
    path = Path(run.out.split("record: ")[1].split()[0])
    assert len(runfile.read(path).launches) == 2


def test_a_run_ends_with_the_budget_of_its_suite(tmp_path: Path) -> None:
    """What it does not reach fails; the record, to go on with, is kept."""
    script = {"8x8x8": [0.01, 0.02], "9x9x9": [0.01, 0.02]}
    (tmp_path / "tmp").mkdir()
    top, folder = "budget_minutes = 0.01", str(tmp_path / "tmp")
    run = scripted(tmp_path, {**script}, top=top, TMPDIR=folder)
    assert run.outcomes == {"failed": 1, "passed": 1}, run.out
    assert "\nnot reached: too long for what the time budget left\n" in run.out
    found = runfile.read(Path(run.out.split("record: ")[1].split()[0]))
    assert found.run.budget_minutes == 0.01
    assert found.end is not None and found.end.reason == "budget"


def test_a_card_says_in_other_characters_what_its_stream_has_none_for(tmp_path: Path) -> None:
    run = scripted(tmp_path, {"8x8x8": [0.01, 0.02]}, PYTHONIOENCODING="ascii")
    assert "within +-2%" in run.out and "\\xb1" not in run.out


def test_a_record_that_nobody_asked_for_is_gone_after_its_card(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    run = scripted(tmp_path, {"8x8x8": [0.01, 0.02]}, TMPDIR=str(folder))
    assert run.code == 0 and "2 launches of 1 case" in run.out and "record: " not in run.out
    assert not list(folder.glob("accelmark-*"))
