"""A record whose name leads elsewhere under way, or that another writes, loses no line."""

from __future__ import annotations

import errno
import os
import shutil
from io import FileIO
from pathlib import Path

import pytest

from bench.errors import OutputError
from bench.records.run import Line
from bench.records.runfile import Writer, read
from bench.tests.values import COMPLETE, make_case, make_launch, make_run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="renames and deletes an open file")
LINES: list[Line] = [
    make_run([make_case()], command=("accelmark", "run", "quick")),
    *(make_launch(launch=k, order=k) for k in range(3)),
]


def holds(path: Path, lines: list[Line]) -> bool:
    """Whether a record is whole and has just these lines, and an end."""
    found = read(path)
    assert found.damage is None
    return [found.run, *found.launches, found.end] == [*lines, COMPLETE]


def stale(*_: object) -> None:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def test_a_record_that_is_deleted_under_way_is_laid_down_again(tmp_path: Path) -> None:
    path = tmp_path / "out" / "run.jsonl"
    writer = Writer(path)
    lines: list[Line] = [make_run([make_case()]), make_launch(), make_launch(launch=1, order=1)]
    for line in lines:
        writer.append(line)
        shutil.rmtree(path.parent)
    writer.append(COMPLETE)
    found = read(path)
    assert (found.run, *found.launches) == tuple(lines) and found.end == COMPLETE
    with pytest.raises(OutputError, match="End the run that writes it now"):
        Writer.again(found)
    writer.close()


@pytest.mark.parametrize("name", ["old/run.jsonl", ".nfs0001"])
def test_a_record_that_is_moved_under_way_is_found_where_it_was(tmp_path: Path, name: str) -> None:
    """By its user; or by an NFS client, which deletes it as it is closed."""
    writer = Writer(path := tmp_path / "run.jsonl")
    for line in LINES[:2]:
        writer.append(line)
    (elsewhere := tmp_path / name).parent.mkdir(exist_ok=True)
    path.rename(elsewhere)
    for line in (*LINES[2:], COMPLETE):
        writer.append(line)
    writer.close()
    assert read(elsewhere).launches == (LINES[1],)
    elsewhere.unlink()
    assert writer.path == path and holds(path, LINES)


def test_an_older_copy_in_its_place_is_completed(tmp_path: Path) -> None:
    """As `sed -i` and clients that synchronize leave it, time and again."""
    writer = Writer(path := tmp_path / "run.jsonl")
    for line in LINES:
        shutil.copy(path, tmp_path / "copy")
        writer.append(line)
        (tmp_path / "copy").replace(path)
    writer.append(COMPLETE)
    with pytest.raises(OutputError, match="End the run that writes it now"):
        Writer.again(read(path))
    writer.close()
    assert holds(path, LINES) and [one.name for one in tmp_path.iterdir()] == ["run.jsonl"]


def test_beside_what_else_has_its_name_it_goes_on(tmp_path: Path) -> None:
    (earlier := tmp_path / "run.restored.jsonl").write_text("of another session")
    (tmp_path / "run.3restored.jsonl").mkdir()
    writer = Writer(tmp_path / "run.jsonl")
    for line in LINES:
        writer.append(line)
        (tmp_path / "edited").write_text("# by hand")
        (tmp_path / "edited").replace(writer.path)
    writer.append(COMPLETE)
    writer.close()
    assert writer.path.name == "run.6restored.jsonl" and holds(writer.path, LINES)
    others = [tmp_path / f"run{n}.jsonl" for n in ("", ".2restored", ".4restored", ".5restored")]
    assert {one.read_text() for one in others} == {"# by hand"}
    assert earlier.read_text() == "of another session"


def test_a_record_that_another_writer_holds_is_not_completed(tmp_path: Path) -> None:
    writer = Writer(path := tmp_path / "run.jsonl")
    writer.append(LINES[0])
    path.unlink()
    other = Writer(path)  # empty so far
    writer.append(COMPLETE)
    writer.close()
    other.close()
    assert path.read_bytes() == b"" and holds(tmp_path / "run.restored.jsonl", LINES[:1])


def test_where_every_name_is_taken_it_is_told(tmp_path: Path) -> None:
    for n in ("", *range(2, 99)):
        (tmp_path / f"run.{n}restored.jsonl").mkdir()
    writer = Writer(path := tmp_path / "run.jsonl")
    writer.append(LINES[0])
    path.unlink()
    path.mkdir()
    with pytest.raises(OutputError, match=r"/run\.jsonl: .* cannot be written again \(File exists"):
        writer.append(LINES[1])
    path.rmdir()
    for line in (*LINES[1:], COMPLETE):
        writer.append(line)
    writer.close()
    assert holds(path, LINES)


@pytest.mark.parametrize("noticed", ["when it is looked for", "when it is on disk"])
def test_a_record_that_another_machine_deleted_is_not_said_to_be_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: str
) -> None:
    """Of NFS the server forgets it at once: nothing can be read back."""
    writer = Writer(path := tmp_path / "run.jsonl")
    writer.append(LINES[0])

    class Forgotten(FileIO):
        def read(self, size: int | None = -1) -> bytes:
            stale()
            return b""

    writer.close()
    writer._file = Forgotten(path, "a+b")
    if noticed == "when it is on disk":
        monkeypatch.setattr(os, "fsync", stale)
    else:
        path.unlink()
    act = "See what lies there now, or run" if path.exists() else "Run"
    said = rf"deleted .* cannot be read back \(Stale file handle\)\. {act} the same"
    with pytest.raises(OutputError, match=said) as caught:
        writer.append(LINES[1])
    assert "safe" not in str(caught.value) and "--resume" not in str(caught.value)
    writer.close()


# --- A second writer -----------------------------------------------------------------------------


def test_two_writers_without_locks_do_not_write_over_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system has none: the second goes on, the first is told so and ends."""
    fcntl = pytest.importorskip("fcntl")

    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", none)
    first = Writer(path := tmp_path / "run.jsonl")
    for line in LINES[:2]:
        first.append(line)
    second = Writer.again(read(path))
    second.append(LINES[2])
    with pytest.raises(OutputError, match=r"another process writes this record.* --resume"):
        first.append(make_launch(launch=9, order=9))
    first.close()
    for line in (LINES[3], COMPLETE):
        second.append(line)
    second.close()
    assert holds(path, LINES)


def test_a_record_that_is_shortened_under_way_gets_no_gap(tmp_path: Path) -> None:
    writer = Writer(path := tmp_path / "run.jsonl")
    writer.append(LINES[0])
    size = path.stat().st_size
    writer.append(LINES[1])
    os.truncate(path, size)
    with pytest.raises(OutputError, match="another process has shortened this record"):
        writer.append(LINES[2])
    writer.close()
    assert path.stat().st_size == size and read(path).damage is None
