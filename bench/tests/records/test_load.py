"""Long runs and large records: what is kept in memory, and that it changes no figure."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from bench.errors import RecordError
from bench.judging.comparing.compare import compare
from bench.judging.summary import summarize
from bench.records import runfile
from bench.records.opened import StoredLaunches
from bench.records.run import RunFile
from bench.records.runfile import by_case, read
from bench.tests.scripts.load import SAMPLES, Harness, large_record
from bench.tests.scripts.regenerate import BASE, OTHER, RUN
from bench.tests.values import make_launch, make_measured


@pytest.fixture
def from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file counts as large."""
    monkeypatch.setattr(runfile, "LARGE_BYTES", -1)


def small_and_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFile, RunFile]:
    small = read(path)
    with monkeypatch.context() as patch:
        patch.setattr(runfile, "LARGE_BYTES", -1)
        return small, read(path)


@pytest.mark.parametrize("path", [RUN, BASE, OTHER], ids=lambda path: path.stem)
def test_launches_on_disk_are_the_launches(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = small_and_large(path, monkeypatch)
    assert isinstance(large.launches, StoredLaunches) and isinstance(small.launches, tuple)
    assert tuple(large.launches) == small.launches and len(large.launches) == len(small.launches)
    assert tuple(large.launches[1:3]) == small.launches[1:3]
    assert large.launches[-1] == small.launches[-1]
    assert {k: tuple(v) for k, v in by_case(large.launches).items()} == {
        k: tuple(v) for k, v in by_case(small.launches).items()
    }
    assert summarize(large) == summarize(small)
    assert (large.end, large.damage, large.whole_bytes) == (
        *(small.end, small.damage, small.whole_bytes),
    )


def test_a_comparison_of_large_records_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [small_and_large(path, monkeypatch) for path in (BASE, OTHER)]
    small, large = (compare(pairs[0][k], pairs[1][k]) for k in (0, 1))
    assert large.cases == small.cases and large.differences == small.differences


@pytest.mark.usefixtures("from_disk")
def test_a_record_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(RUN.read_bytes())
    run = read(path)
    path.write_bytes(b"\n" + RUN.read_bytes())
    with pytest.raises(RecordError, match="was changed while it was read"):
        summarize(run)


@pytest.mark.usefixtures("from_disk")
def test_a_record_that_grows_while_it_is_read_is_read_as_it_was(tmp_path: Path) -> None:
    """Another process measures on; what it adds takes nothing from the lines before it."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(RUN.read_bytes())
    run = read(path)
    before = summarize(run)
    with path.open("ab") as file:
        file.write(b'{"line":"lau')
    assert summarize(run) == before


@pytest.mark.usefixtures("from_disk")
def test_damage_is_found_in_a_large_record_too(tmp_path: Path) -> None:
    lines = RUN.read_bytes().splitlines(keepends=True)
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join([*lines[:3], lines[2]]))
    damage = read(path).damage or ""
    assert "launch 2 of " in damage and damage.endswith(" again"), "counted from 1"
    assert len(read(path).launches) == 2
    path.write_bytes(b"".join([*lines[:3], lines[3][:-5]]))
    assert read(path).cut_short and len(read(path).launches) == 2


def test_an_endless_line_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runfile, "LONGEST_LINE_BYTES", len(RUN.read_bytes().split(b"\n")[0]) + 1)
    path = tmp_path / "run.jsonl"
    path.write_bytes(RUN.read_bytes().split(b"\n")[0] + b"\n" + b'{"line":"launch"' * 9999)
    run = read(path)
    assert run.damage and not run.cut_short, "it is not a line that was being written"


def test_a_large_record_is_judged_case_by_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak is that of one case's launches, far below the file's own size as values."""
    monkeypatch.setattr(runfile, "LARGE_BYTES", 1 << 18)
    path = tmp_path / "large.jsonl"
    launches = large_record(path, 1 << 20, count=8, steps=1000)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        rows = summarize(read(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(row.launches for row in rows) == launches
    assert peak < size, "all of it takes twice the size"


def test_a_long_run_keeps_almost_nothing_of_a_case(tmp_path: Path) -> None:
    harness = Harness(120, tmp_path, every=60)
    tracemalloc.start()
    try:
        harness.run()
        kept, _ = tracemalloc.get_traced_memory()
        held = [make_launch(make_measured([0.01] * SAMPLES)) for _ in range(10)]
        with_launches, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(held) == 10 and len(harness.memory) == 2
    assert kept / 120 < (with_launches - kept) / 10 / 5
    assert len(read(tmp_path / "many.jsonl").launches) == 120
