"""The published runs: whole records of real machines, and cards that say what the records say."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench import catalogue
from bench.record import Measured, read
from bench.report import Canvas

RESULTS = Path(bench.__file__).parents[1] / "results"
FOLDERS = sorted(path for path in RESULTS.glob("*") if path.is_dir())
CARD_WIDTH = 100


def test_there_is_a_published_run() -> None:
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_published_run_is_whole(folder: Path) -> None:
    run = read(folder / "run.jsonl")
    assert run.damage is None
    assert run.end is not None and run.end.reason == "complete"
    assert all(isinstance(launch.outcome, Measured) for launch in run.launches)
    assert not any(launch.stderr_tail for launch in run.launches)
    git = run.run.host["git"]
    assert git is not None and git["changed"] is False, "made by a committed state of the code"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_published_card_is_what_the_record_says(folder: Path) -> None:
    run = read(folder / "run.jsonl")
    card = catalogue.load("reports", "table").render([run], Canvas(width=CARD_WIDTH))
    assert (folder / "card.txt").read_text(encoding="utf-8") == card


def test_the_index_names_every_published_run() -> None:
    index = (RESULTS / "README.md").read_text(encoding="utf-8")
    for folder in FOLDERS:
        assert f"`{folder.name}`" in index
