"""Folders of runs: there while their process is, and taken away after it by the next run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from bench.running import scratch


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def killed(folder: Path) -> None:
    """As if the process that made it had been killed: the system lets go of its lock."""
    os.close(scratch._held.pop(folder))


def test_what_a_killed_run_left_goes_when_the_next_begins() -> None:
    left, alive = scratch.new(), scratch.new()
    (left / "inductor").mkdir()
    killed(left)
    made = scratch.made()
    assert not left.exists()
    assert alive.is_dir() and made is not None and made.is_dir()
    for folder in (alive, made):
        scratch.gone(folder)
        assert not folder.exists()


def test_what_is_nobodys_run_or_cannot_be_told_stays(temporary: Path) -> None:
    records = temporary / "accelmark-pytest"  # of the pytest plug-in, with a record
    records.mkdir()
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / scratch.LOCK).touch()
    (temporary / "accelmark-link").symlink_to(elsewhere, target_is_directory=True)
    scratch.sweep(temporary)
    assert records.is_dir() and elsewhere.is_dir()


def test_a_lock_is_not_handed_down() -> None:
    folder = scratch.new()
    assert not os.get_inheritable(scratch._held[folder])
    scratch.gone(folder)
