"""What a process of ours runs: this package and Python's own, whatever lies in its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench.lifeline import command

SHADOWS = ("random.py", "bench/__init__.py", "bench/running/probe.py")
"""What another program, or a clone of another version, has in its folder."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    for name in SHADOWS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the folder goes first')")
    return tmp_path


def ran(words: tuple[str, ...], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


def test_nothing_of_the_current_folder_is_run(elsewhere: Path) -> None:
    done = ran((*command("bench.running.probe"), "no-such"), cwd=elsewhere)
    assert "unknown backend `no-such`" in done.stdout, done.stderr


def test_it_runs_this_package_where_python_finds_none_or_another(elsewhere: Path) -> None:
    """As of a clone that is not installed, and of a Python that has another version; so do the
    processes that are spawned there (as a DataLoader's are, where they are not forked)."""
    shown = """
    import bench, multiprocessing, random, sys
    from bench.lifeline import command
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        spawned = pool.submit(command, "x").result()
    print(bench.__file__, sys.argv[1:], spawned == command("x"), sys.modules["random"])
"""
    module = elsewhere / "apart" / "asked.py"
    module.parent.mkdir()
    module.write_text(f"def main():{shown}")
    given = {**os.environ, "PYTHONPATH": str(module.parent)}
    words = command("asked")
    for found in ("none", "another"):
        if found == "another":
            (module.parent / "bench.py").write_text("raise SystemExit('another version')")
        done = ran((words[0], "-S", *words[1:], "7"), cwd=elsewhere, env=given)
        assert done.stdout.startswith(f"{bench.__file__} ['7'] True <module 'random'"), done.stderr
        assert str(elsewhere) not in done.stdout.partition("random")[2]


def test_the_command_is_of_one_interpreter() -> None:
    assert command("bench.running.probe")[0] == sys.executable
    assert command("bench.running.probe", "/other/python")[0] == "/other/python"
