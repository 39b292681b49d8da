"""The published runs: may stand there, say nothing private, and are what index and cards say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import bench
from bench import units
from bench.judging.summary import summarize
from bench.publishing import publish
from bench.records.runfile import read
from bench.tests.publishing.test_publish import CARD, run

RESULTS = Path(bench.__file__).parents[1] / "results"
FOLDERS = publish.published(RESULTS)

pytestmark = pytest.mark.skipif(
    not RESULTS.is_dir(), reason="an installed package has no results beside it"
)
every_run = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_there_is_a_published_run_and_nothing_else_beside_the_index() -> None:
    assert FOLDERS
    expected = {publish.INDEX, *(folder.name for folder in FOLDERS)}
    assert {path.name for path in RESULTS.iterdir()} == expected


@every_run
def test_a_published_run_may_be_published(folder: Path) -> None:
    assert list(publish.refusals(read(folder))) == []


@every_run
def test_a_published_run_says_nothing_private(folder: Path) -> None:
    found = read(folder)
    lines = [found.run, *found.resumed, *found.launches, *([found.end] if found.end else [])]
    assert list(publish.without_private(found)) == lines


@every_run
def test_a_published_card_is_what_the_record_says(folder: Path) -> None:
    """Of its day in its looks; its figures are those that the record gives today."""
    card = " ".join((folder / publish.CARD).read_text(encoding="utf-8").split())
    for row in summarize(read(folder)):
        assert row.throughput is not None
        assert row.interval is not None
        name = f"{row.case.name} {row.case.precision}{row.case.variant}"
        rate = units.rate(row.throughput, row.unit.removesuffix("/s"))
        assert f"{name} {rate} {units.spread(row.interval.half_width)} " in card
        assert str(row.verdict) in card


@pytest.mark.skipif(shutil.which("git") is None, reason="it is about git")
def test_a_clone_that_changes_the_ends_of_lines_has_them_as_they_were(tmp_path: Path) -> None:
    """As git for Windows does unless it is told otherwise."""
    home, clone = tmp_path / "home", tmp_path / "clone"
    publish.publish(run(), home / "results", "mine", CARD)
    shutil.copy(RESULTS.parent / ".gitattributes", home)
    config = ["-c", "core.autocrlf=true", "-c", "user.name=a", "-c", "user.email=a"]
    made = (["init", "-q"], ["add", "."], ["commit", "-qm", "x"], ["clone", "-q", ".", str(clone)])
    for words in made:
        subprocess.run(["git", *config, *words], cwd=home, check=True, capture_output=True)
    assert publish.verify(clone / "results" / "mine", None) == ([], "not signed")


def test_the_index_is_made_of_the_records() -> None:
    """Its digests too: a record that was edited by hand is another one."""
    index = (RESULTS / publish.INDEX).read_text(encoding="utf-8")
    assert index == publish.index(RESULTS), "accelmark publish writes it"


@every_run
def test_a_published_run_is_as_it_was_published(folder: Path) -> None:
    assert publish.verify(folder, None)[0] == []
