"""`accelmark report`: the card, the flat rows, and records that are not whole."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.tests.conftest import Accelmark
from bench.tests.scripts.regenerate import GOLDEN, RUN


@pytest.mark.parametrize("width", [80, 120])
def test_the_card_fits_its_width_and_has_no_trailing_blanks(width: int) -> None:
    for line in (GOLDEN / f"report-table-{width}.txt").read_text(encoding="utf-8").splitlines():
        assert len(line) <= width and line == line.rstrip()


def test_the_card_shows_every_case_and_why_it_has_no_number() -> None:
    card = " ".join((GOLDEN / "report-table-120.txt").read_text(encoding="utf-8").split())
    for text in (
        *("gemm-matmul", "llama-decode", "resnet50-train", "bert-infer", "bert-train"),
        *("memory-copy", "memory-triad", "215 GFLOP/s", "TPOT", "3 launches", "NOISY"),
        *("output off by 0.5 (tolerance 0.01)", "no fp16 arithmetic", "it broke"),
        *("too long for what the time budget left", "1 of 4 launches failed", "Next: "),
    ):
        assert text in card


def test_flat_rows_have_every_key_of_the_issue() -> None:
    rows = json.loads((GOLDEN / "report-json.txt").read_text(encoding="utf-8"))
    assert len(rows) == 7
    needed = (
        "workload, mode, precision, execution, parameters, fingerprint, device, backend, status, "
        "reason, verdict, throughput, unit, ci_low, ci_high, launches, steps, flop_per_second, "
        "ceiling_fraction, peak_memory_bytes"
    )
    for row in rows:
        assert set(needed.split(", ")) <= set(row)
        nested = {key for key, value in row.items() if isinstance(value, dict)}
        assert nested == {"parameters"}, "rows are flat"
    assert [row["status"] for row in rows] == [
        *("measured", "measured", "measured", "void", "skipped", "failed", "skipped"),
    ]
    for row in rows:
        if row["status"] != "measured":
            assert row["throughput"] is None and row["reason"], "null, and never zero"


def test_wide_shows_the_full_case_where_the_card_leaves_out_what_is_usual(
    accelmark: Accelmark,
) -> None:
    base, other = str(GOLDEN / "base.jsonl"), str(GOLDEN / "other.jsonl")
    for command in (["report", base], ["compare", base, other]):
        _, card, _ = accelmark(*command, "--width", "100")
        code, wide, err = accelmark(*command, "--width", "100", "--wide")
        assert code == accelmark(*command)[0] and err == ""
        full, print_ = "batch 64, image 224, sgd", "81a7ab7b109f763c"
        assert full not in card and print_ not in card and "(--wide)" in card
        assert full in wide and print_ in wide and "(--wide)" not in wide
    assert "--wide" in accelmark("run", "--help")[1] and "--wide" in accelmark("ab", "--help")[1]


def test_several_runs_in_one_report(accelmark: Accelmark) -> None:
    code, out, _ = accelmark("report", str(RUN), str(RUN), "--format", "json")
    assert code == 0 and len(json.loads(out)) == 14


def test_a_card_on_a_terminal_without_its_characters() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "report", RUN.name],
        cwd=GOLDEN,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0 and done.stderr == b""
    assert "±2.5%" in done.stdout.decode("latin-1")


def test_a_truncated_record_shows_what_is_whole_and_says_the_rest(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    (tmp_path / "cut.jsonl").write_bytes(RUN.read_bytes()[:20_000])
    code, out, err = accelmark("report", "cut.jsonl")
    assert code == 2
    assert "gemm-matmul" in out and "UNFINISHED" in out and "CUT SHORT" in out
    assert "copy it again" in out and "run again" not in out.lower()
    assert err.startswith("error: cut.jsonl, line ") and "cut short" in err
    assert "Traceback" not in err


def test_each_damaged_record_is_named_and_none_stops_the_others(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    for name, content in (("a", RUN.read_bytes()[:20_000]), ("b", b""), ("c", RUN.read_bytes())):
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    (tmp_path / "d.jsonl").write_bytes(RUN.read_bytes()[:19_000])
    names = [f"{letter}.jsonl" for letter in "abcd"]
    code, out, err = accelmark("report", *names, "--format", "csv")
    assert code == 2
    for name in ("a", "b", "d"):
        assert f"error: {name}.jsonl, line " in err
    assert "c.jsonl" not in err
    damage = [row["record_damage"] for row in csv.DictReader(io.StringIO(out))]
    assert {"cut short" in text for text in damage} == {True, False}
    assert damage[0] and damage[-1], "of the first and the last"
    code, out, err = accelmark("report", "b.jsonl")
    assert (code, out) == (2, "") and "it is empty" in err
    (tmp_path / "e.jsonl").write_bytes(b"")
    code, out, err = accelmark("report", "b.jsonl", "e.jsonl")
    assert (code, out) == (2, "") and "b.jsonl" in err and "e.jsonl" in err, "where none is good"


def test_a_report_that_cannot_be_written_leaves_the_one_before(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page.txt"
    page.write_text("an earlier report")
    page.chmod(0o640)

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        code, _, err = accelmark("report", str(RUN), "--output", "page.txt")
    assert code == 2 and "No space left on device" in err
    assert [path.name for path in tmp_path.iterdir()] == ["page.txt"]
    assert page.read_text() == "an earlier report"
    link = tmp_path / "link"
    link.symlink_to(page)
    assert accelmark("report", str(RUN), "--output", "link")[0] == 0
    assert link.is_symlink() and "gemm-matmul" in page.read_text(encoding="utf-8")
    assert page.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no name for stdout")
def test_a_report_goes_into_a_pipe_by_its_name() -> None:
    words = ["report", RUN.name, "--format", "csv", "--output", "/dev/stdout"]
    done = subprocess.run([sys.executable, "-m", "bench", *words], cwd=GOLDEN, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith(b"workload,"), done.stderr


def test_where_an_output_of_ours_goes_it_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ["report", RUN.name, "--format", "csv", "--output", str(log)]
    with log.open("ab") as file:
        done = subprocess.run(
            [sys.executable, "-m", "bench", *words], cwd=GOLDEN, stdout=file, stderr=file
        )
        file.write(b"after\n")
    assert done.returncode == 0
    assert log.read_bytes().startswith(b"workload,") and log.read_bytes().endswith(b"after\n")


def test_a_file_that_cannot_be_renamed_to_is_written(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that is mounted by itself."""

    def busy(path: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    (tmp_path / "page.txt").write_text("an earlier report")
    assert accelmark("report", str(RUN), "--output", "page.txt")[0] == 0
    assert "gemm-matmul" in (tmp_path / "page.txt").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.txt"]


def test_no_place_for_a_report_is_an_error_in_words(accelmark: Accelmark) -> None:
    for where in ("x" * 300, "x" * 300 + "/y", ".", "none/y"):
        code, _, err = accelmark("report", str(RUN), "--output", where)
        assert code == 2 and "cannot be written (" in err and "Traceback" not in err


def test_no_report_is_written_over_a_record(accelmark: Accelmark, tmp_path: Path) -> None:
    """As `--output runs/*.jsonl` asks, once the shell has put the names there."""
    a, b, packed = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz"))
    whole = RUN.read_bytes()
    a.write_bytes(whole)
    b.write_bytes(whole[:20_000])
    packed.write_bytes(gzip.compress(whole))
    for record in (a, b, packed):
        before = record.read_bytes()
        code, out, err = accelmark("report", "--format", "csv", "--output", record.name, "a.jsonl")
        assert (code, out) == (2, "") and f"{record.name}: a record lies there" in err
        assert record.read_bytes() == before
    for other in (b"", b"an earlier report\n", whole[1:], b"\x1f\x8bno gzip"):
        b.write_bytes(other)
        assert accelmark("report", "a.jsonl", "--output", "b.jsonl")[0] == 0
        assert "gemm-matmul" in b.read_text(encoding="utf-8")


def test_a_document_that_holds_a_run_is_replaced_by_another_such_alone(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    document = tmp_path / "mine.json"
    again = ("report", str(RUN), "--format", "pytest-benchmark", "--output", "mine.json")
    assert accelmark(*again)[0] == accelmark(*again)[0] == 0
    before = document.read_bytes()
    code, _, err = accelmark("report", "mine.json", "--format", "json", "--output", "mine.json")
    assert code == 2 and "mine.json: a record lies there" in err
    assert document.read_bytes() == before
    for other in (b"[]", b"{}", b'{"accelmark": ', b"{\xff}", b'{"x": ' + b"[" * 10**5):
        document.write_bytes(other)
        assert accelmark("report", str(RUN), "--output", "mine.json")[0] == 0


def test_a_file_holds_no_colours_though_it_was_typed_on_a_terminal(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[" in accelmark("report", str(RUN))[1]
    code, _, _ = accelmark("report", str(RUN), "--output", "card.txt")
    card = (tmp_path / "card.txt").read_text(encoding="utf-8")
    assert code == 0 and "gemm-matmul" in card and "\x1b" not in card
