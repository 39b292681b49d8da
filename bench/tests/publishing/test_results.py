"""The published runs: may stand there, say nothing private, and are what index and cards say."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench import units
from bench.judging.summary import summarize
from bench.publishing import publish
from bench.records.runfile import read

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
    run = read(folder)
    lines = [run.run, *run.resumed, *run.launches, *([run.end] if run.end else [])]
    assert list(publish.without_private(run)) == lines


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


def test_the_index_is_made_of_the_records() -> None:
    """Its digests too: a record that was edited by hand is another one."""
    index = (RESULTS / publish.INDEX).read_text(encoding="utf-8")
    assert index == publish.index(RESULTS), "accelmark publish writes it"


@every_run
def test_a_published_run_is_as_it_was_published(folder: Path) -> None:
    assert publish.verify(folder, None)[0] == []
