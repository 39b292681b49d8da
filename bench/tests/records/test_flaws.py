"""A record that is not whole is told for what it is, with what to do; it is not called damaged."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bench
from bench.errors import RecordError
from bench.exchange.benchmark_json import read_any
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.running.resume import require_run
from bench.tests.conftest import Accelmark
from bench.tests.scripts.regenerate import BASE, RUN

LINES = RUN.read_bytes().splitlines(keepends=True)
FORMAT = "pytest-benchmark"
WRONG_WORDS = ("run the rest again", "damaged", "run again")


def changed(line: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(line) | changes).encode() + b"\n"


def header(version: str = bench.__version__, **changes: Any) -> bytes:
    """The golden run's, as that version of accelmark would write it."""
    host = json.loads(LINES[0])["host"] | {"accelmark": version}
    return changed(LINES[0], host=host, **changes)


def written(folder: Path, *lines: bytes) -> Path:
    (folder / "r.jsonl").write_bytes(b"".join(lines))
    return folder / "r.jsonl"


NEWER = {
    "a field": header("99.0") + LINES[1] + changed(LINES[2], new_field=1),
    "a field of the same version": header() + LINES[1] + changed(LINES[2], new_field=1),
    "a line": header("99.0") + LINES[1] + b'{"line":"weather"}\n',
    "an outcome": header("99.0") + LINES[1] + changed(LINES[2], outcome={"status": "guessed"}),
    "a text where a number was": header("0.10.0") + LINES[1] + changed(LINES[2], seed="x"),
}


@pytest.mark.parametrize("content", NEWER.values(), ids=NEWER)
def test_lines_of_a_newer_version(accelmark: Accelmark, tmp_path: Path, content: bytes) -> None:
    written(tmp_path, content)
    found = read(tmp_path / "r.jsonl")
    assert (found.flaw, len(found.launches), found.cut_short) == ("newer", 1, False)
    code, out, err = accelmark("report", "r.jsonl")
    assert code == 2 and "NEWER  r.jsonl, line 3: holds more than this version can read" in out
    for text in (out, err):
        assert "version that wrote it" in " ".join(text.split())
        assert not any(word in text.lower() for word in WRONG_WORDS)
    code, out, err = accelmark("compare", str(BASE), "r.jsonl")
    assert (code, out) == (2, "") and "version that wrote it" in err
    with pytest.raises(RecordError, match=r"cannot go on.*version that wrote it"):
        require_run(found)


@pytest.mark.parametrize(
    "first",
    [
        header("99.0", schema=2),
        header("99.0", new_field=1),
        header("99.0", settings="other"),
        header(new_field=1),
    ],
)
def test_a_header_of_a_newer_version(tmp_path: Path, first: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        read(written(tmp_path, first))
    assert "Read it with the version that wrote it, or update this one" in str(caught.value)
    assert "git pull" in str(caught.value) and "--upgrade" not in str(caught.value), "on no index"
    assert not any(word in str(caught.value).lower() for word in WRONG_WORDS)


def test_a_broken_line_of_this_or_an_older_version_is_no_newer_one(tmp_path: Path) -> None:
    for version in (bench.__version__, "0.0.9", "?", "9" * 5000):
        found = read(written(tmp_path, header(version), changed(LINES[1], seed="x")))
        assert found.flaw == "damaged" and "not a line of a record" in str(found.damage)
        assert "Copy the record again" in found.remedy


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "the first without its end"])
def test_two_files_put_together_can_be_taken_apart(
    accelmark: Accelmark, tmp_path: Path, whole: bool
) -> None:
    first = RUN.read_bytes()[: None if whole else -40]
    written(tmp_path, first, BASE.read_bytes())
    found = read(tmp_path / "r.jsonl")
    assert found.flaw == "two runs"
    code, out, err = accelmark("report", "r.jsonl")
    assert code == 2 and "TWO RUNS  r.jsonl, line " in out
    assert "another run begins here: two records were put together" in err
    assert not any(word in (out + err).lower() for word in WRONG_WORDS)
    at = len(first)
    assert f"head -c {at} r.jsonl > first.jsonl; tail -c +{at + 1} r.jsonl > second.jsonl" in err
    assert (tmp_path / "r.jsonl").read_bytes()[at:] == BASE.read_bytes()


def test_what_lies_in_no_plain_file_is_taken_apart_once_it_does(tmp_path: Path) -> None:
    """Nothing can be added to it either; the bytes are those of the text, not of the file."""
    first = RUN.read_bytes()
    packed = tmp_path / "r.jsonl.gz"
    packed.write_bytes(gzip.compress(first + BASE.read_bytes()))
    found = read(packed)
    assert found.flaw == "two runs" and "r.jsonl.gz" not in found.remedy
    assert found.remedy.startswith("Decompress or save it as both.jsonl. Take them apart: ")
    (tmp_path / "both.jsonl").write_bytes(gzip.decompress(packed.read_bytes()))
    command = found.remedy.partition("apart: ")[2]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "first.jsonl").read_bytes() == first
    assert (tmp_path / "second.jsonl").read_bytes() == BASE.read_bytes()
    start = changed(LINES[0], command=["accelmark", "run", "smoke"])
    packed.write_bytes(gzip.compress(start + LINES[1][:-40]))
    found = read(packed)
    assert found.cut_short and found.remedy.endswith("go on with it: accelmark run --resume RECORD")


def test_a_copy_that_is_not_whole_is_copied_again(accelmark: Accelmark, tmp_path: Path) -> None:
    def said(content: bytes) -> str:
        written(tmp_path, content)
        code, _, err = accelmark("report", "r.jsonl")
        assert code == 2 and not any(word in err.lower() for word in WRONG_WORDS)
        return err

    err = said(RUN.read_bytes()[:-40])
    assert "cut short in the middle of the line" in err
    assert "If it is a copy, copy it again. Where it was made, go on with it: accelmark" in err
    assert "a header that is cut short). Copy all of it again" in said(LINES[0][:300])
    assert "line 1: not an accelmark record (it is empty)" in said(b"")


def test_a_document_that_is_cut_short_is_copied_again(accelmark: Accelmark, tmp_path: Path) -> None:
    _, document, _ = accelmark("report", str(RUN), "--format", "pytest-benchmark")
    (tmp_path / "d.json").write_text(document[: len(document) // 2])
    code, _, err = accelmark("report", "d.json")
    assert code == 2 and "It is cut short: copy all of it again" in err


def test_a_document_is_no_record_that_can_go_on(accelmark: Accelmark, tmp_path: Path) -> None:
    """Nobody is told to resume it; of what is wrong with its record it says the same."""

    def document(*lines: bytes) -> Path:
        _, text, _ = accelmark("report", written(tmp_path, *lines).name, "--format", FORMAT)
        (tmp_path / "d.json").write_text(text)
        return tmp_path / "d.json"

    start = changed(LINES[0], command=["accelmark", "run", "smoke"])
    document(start, LINES[1])
    assert "accelmark run --resume RECORD" in accelmark("report", "d.json")[1]
    code, _, err = accelmark("run", "--resume", "d.json")
    assert code == 2 and "Go on with its plain .jsonl file" in err
    path = document(start, LINES[1], LINES[2][:-40])
    assert "CUT SHORT  r.jsonl, line 3: cut short" in accelmark("report", "d.json")[1]
    found = read_any(path)
    assert found.cut_short and found.remedy == read(tmp_path / "r.jsonl").remedy.replace(
        f"{tmp_path}/", ""
    )
    content = json.loads(path.read_text())
    del content["accelmark"]["flaw"], content["accelmark"]["remedy"]  # as older versions wrote it
    path.write_text(json.dumps(content))
    assert read_any(path).flaw == "damaged"


def test_only_what_a_run_left_behind_goes_on(tmp_path: Path) -> None:
    """The last line that was being written is cut off, as ever; any other flaw is said."""
    command = ["accelmark", "run", "smoke"]
    start = changed(LINES[0], command=command)

    def refused(*lines: bytes) -> RunFile:
        found = read(written(tmp_path, *lines))
        with pytest.raises(RecordError, match="This record cannot go on"):
            require_run(found)
        return found

    require_run(read(written(tmp_path, start, LINES[1][:-50])))
    assert refused(start, LINES[1], start).flaw == "two runs"
    assert refused(start, b"what\n", LINES[1]).flaw == "damaged"
