"""Why a record cannot be written, and what to do about that cause: none is taken for another."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest

from bench.errors import OutputError
from bench.records.runfile import Writer, read
from bench.tests.records.test_runfile import no_file_above
from bench.tests.values import make_case, make_launch, make_run

posix = pytest.mark.skipif(os.name != "posix", reason="deletes an open file")


def test_a_record_that_may_not_be_written_to_is_not_said_to_be_another_run_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    with contextlib.closing(Writer(path)) as writer:
        writer.append(make_run([make_case()]))
    found = read(path)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(OutputError, match=r"\(Permission denied\)\. Make it writable, or copy it"):
        Writer.again(found)


def test_only_where_space_is_short_some_is_to_be_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "run.jsonl")
    writer.append(make_run([make_case()], command=("accelmark", "run", "quick")))
    for number, act in (
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "Make it writable"),
    ):

        def fsync(_: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)
        said = rf"\({os.strerror(number)}\)\. .* are safe\. {act}, then go on .* --resume"
        with pytest.raises(OutputError, match=said):
            writer.append(make_launch())
    writer.close()


@posix
@pytest.mark.parametrize("cause", ["a file in its folder's place", "no room"])
def test_lines_that_were_deleted_for_good_are_not_said_to_be_safe(
    tmp_path: Path, cause: str
) -> None:
    folder = tmp_path / "out"
    writer = Writer(folder / "run.jsonl")
    writer.append(make_run([make_case()]))
    shutil.rmtree(folder)
    room: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if cause == "no room":
        room = no_file_above(100)
    else:
        folder.write_text("")
    with room, pytest.raises(OutputError, match=r"deleted") as caught:
        writer.append(make_launch())
    assert "safe" not in str(caught.value) and "--resume" not in str(caught.value)
    writer.close()
