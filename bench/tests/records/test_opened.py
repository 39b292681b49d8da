"""A record from a pipe, stdin or a compressed file is the record; what is no UTF-8 is told."""

from __future__ import annotations

import bz2
import errno
import gzip
import importlib.util
import io
import lzma
import os
import random
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench import api
from bench.errors import RecordError
from bench.records import opened as opened_module
from bench.records.opened import ZSTD_PACKAGES
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.tests.scripts.regenerate import BASE, OTHER, RUN

pytestmark = pytest.mark.usefixtures("forked")

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
READS_ZSTD = any(importlib.util.find_spec(p.partition(".")[0]) for p in ZSTD_PACKAGES[1:])


def plain(run: RunFile) -> RunFile:
    """Without what is of its file, not of the run."""
    return msgspec.structs.replace(run, path="", passing=False)


def command(
    *arguments: str, given: bytes = b"", shell: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """The command on the golden files; given: by stdin; shell: a line of bash instead."""
    words = [sys.executable, "-W", "error", "-m", "bench"]
    return subprocess.run(
        ["bash", "-c", shell.replace("accelmark", " ".join(words))]
        if shell
        else [*words, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "80"},
        cwd=RUN.parent,
        input=given,
        capture_output=True,
    )


# --- Pipes and stdin -----------------------------------------------------------------------------

DOCUMENT = msgspec.json.format(
    api.render([api.read_run(RUN)], "pytest-benchmark").encode(), indent=4
)


@pytest.mark.parametrize("place", ["-", "/dev/stdin"])
@pytest.mark.parametrize("content", [RUN.read_bytes(), DOCUMENT, gzip.compress(RUN.read_bytes())])
@pytest.mark.skipif(os.name != "posix", reason="/dev/stdin")
def test_stdin_is_read_whole(place: str, content: bytes) -> None:
    """Once: whoever asks what it is takes nothing from whoever reads it."""
    done = command("report", place, "--format", "json", given=content)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == command("report", str(RUN), "--format", "json").stdout


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no process substitution")
def test_process_substitution_and_redirection() -> None:
    expected = (RUN.parent / "compare-80.txt").read_bytes().split(b"Next:")[0]
    for line in (
        "accelmark compare <(cat base.jsonl) <(cat other.jsonl)",
        "cat base.jsonl | accelmark compare - other.jsonl",
        "accelmark compare base.jsonl - < other.jsonl",
        "accelmark compare <(gzip -c base.jsonl) other.jsonl",
    ):
        done = command(shell=line)
        assert (done.returncode, done.stderr) == (0, b""), line
        assert done.stdout.split(b"Next:")[0] == expected


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_named_pipe_is_opened_once(tmp_path: Path) -> None:
    """Its writer writes once, in pieces shorter than what is looked at first."""
    pipe = tmp_path / "run.jsonl"
    os.mkfifo(pipe)
    content = RUN.read_bytes()

    def write() -> None:
        with pipe.open("wb", buffering=0) as file:
            for piece in (content[:1], content[1:2], content[2:7], content[7:]):
                file.write(piece)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    found = api.read_run(pipe)
    writer.join(10)
    assert plain(found) == plain(read(RUN)) and found.passing


def test_nothing_is_appended_to_a_pipe_or_a_compressed_file(tmp_path: Path) -> None:
    unfinished = b"".join(RUN.read_bytes().splitlines(keepends=True)[:3])
    done = command("run", "--resume", "-", given=unfinished)
    assert (done.returncode, done.stdout) == (2, b"")
    assert (
        b"stdin: nothing can be added to a record that came through a pipe" in done.stderr
        and b"plain .jsonl file" in done.stderr
    )
    path = tmp_path / "run.jsonl.gz"
    path.write_bytes(gzip.compress(unfinished))
    with pytest.raises(RecordError, match=r"run\.jsonl\.gz: nothing can be added .* out of a"):
        api.resume_run(path)
    assert gzip.decompress(path.read_bytes()) == unfinished


def test_an_endless_line_of_a_pipe_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened_module, "LONGEST_LINE_BYTES", 4 << 20)
    with pytest.raises(RecordError, match="line 1: not an accelmark record"):
        read("/dev/zero")


# --- Compressed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_compressed_record_is_the_record(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"run.jsonl.{kind}"
    path.write_bytes(COMPRESS[kind](RUN.read_bytes()))
    assert plain(read(path)) == plain(read(RUN))
    assert plain(read(tmp_path)) == plain(read(RUN)), "a folder with one"
    assert plain(api.read_run(path)) == plain(read(RUN))
    document = tmp_path / f"saved.json.{kind}"
    document.write_bytes(COMPRESS[kind](DOCUMENT))
    assert api.read_run(document).launches == read(RUN).launches
    compared = api.compare_runs(api.read_run(BASE), api.read_run(OTHER))
    path.write_bytes(COMPRESS[kind](OTHER.read_bytes()))
    assert api.compare_runs(BASE, path).cases == compared.cases


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_compressed_record_that_is_not_whole_is_told(tmp_path: Path, kind: str) -> None:
    whole = COMPRESS[kind](RUN.read_bytes())
    path = tmp_path / f"run.jsonl.{kind}"
    spoiled = bytearray(whole)
    spoiled[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(spoiled)):
        path.write_bytes(content)
        with pytest.raises(RecordError, match=r"this .* file is cut short or damaged.*Copy it"):
            api.read_run(path)


@pytest.mark.parametrize("full", ["none usable", "when it is written"])
def test_a_full_temporary_folder_is_no_damage_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    (tmp_path / "run.jsonl.gz").write_bytes(gzip.compress(RUN.read_bytes()))

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def temporary() -> io.BytesIO:
        if full == "none usable":
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")
        return Full()

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    with pytest.raises(
        RecordError, match=r"temporary file \(No .*\)\. Free some .*TMPDIR"
    ) as caught:
        api.read_run(tmp_path / "run.jsonl.gz")
    assert "damaged" not in str(caught.value) and "run.jsonl.gz" in str(caught.value)


def test_a_zip_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(RecordError, match=r"a zip archive, not a record\. Unpack it"):
        api.read_run(tmp_path / "run.jsonl")


# `zstd -1` of one line: '{"line":"run"}'.
ZSTD = bytes.fromhex("28b52ffd0458790000") + b'{"line":"run"}\n' + bytes.fromhex("dcd8a5c8")


@pytest.mark.skipif(READS_ZSTD, reason="a package that reads zstd is installed")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python reads zstd")
def test_zstd_without_a_package_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl.zst").write_bytes(ZSTD)
    with pytest.raises(RecordError, match=r"run\.jsonl\.zst: compressed by zstd.*zstd -dc FILE"):
        api.read_run(tmp_path / "run.jsonl.zst")


class Zlib:
    """The package zstandard, with another compression in it: its objects are like zlib's."""

    ZstdDecompressor = staticmethod(lambda: Zlib)
    decompressobj = staticmethod(zlib.decompressobj)


@pytest.mark.parametrize("lengths", [(10,), (10, 0, 300_000), (0,)])
def test_frames_of_zstd_are_read_to_the_last_and_one_cut_short_is_told(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...]
) -> None:
    for package in ZSTD_PACKAGES:
        monkeypatch.setitem(sys.modules, package, Zlib if package == "zstandard" else None)
    draw = random.Random(0)
    parts = [draw.randbytes(length) for length in lengths]
    whole = b"".join(zlib.compress(part) for part in parts)

    def read_all(content: bytes) -> bytes:
        with opened_module._zstd(io.BytesIO(content)) as found:
            return b"".join(iter(lambda: found.read(1 << 20), b""))

    assert read_all(whole) == b"".join(parts)
    with pytest.raises(EOFError, match="before its end"):
        read_all(whole[:-1])


@pytest.mark.skipif(not READS_ZSTD, reason="no package that reads zstd is installed")
def test_zstd_is_read_where_a_package_does(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl.zst"
    with path.open("wb") as file:
        subprocess.run(["zstd", "-c", str(RUN)], stdout=file, check=True)
    assert plain(api.read_run(path)) == plain(read(RUN))


# --- Encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("utf-8-sig", "UTF-8 with a byte order mark"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
    ],
)
@pytest.mark.parametrize("name", ["run.jsonl", "saved.json", "run.jsonl.gz"])
def test_what_another_program_made_of_it_is_told(
    tmp_path: Path, encoding: str, word: str, name: str
) -> None:
    content = RUN.read_text(encoding="utf-8").encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(RecordError) as caught:
        api.read_run(path)
    assert str(caught.value).startswith(f"{path}: this record was changed: ")
    assert f"it is {word}, as" in str(caught.value) and "as UTF-8" in str(caught.value)
