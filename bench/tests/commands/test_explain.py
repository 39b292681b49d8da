"""What `accelmark explain` takes for a record: all that `report` does."""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import sys
import threading
from pathlib import Path

import pytest

from bench.records.runfile import Writer
from bench.tests.conftest import Accelmark
from bench.tests.judging.accounts import account, explained_file


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """An explained run's."""
    path = tmp_path / "kept" / "x.jsonl"
    path.parent.mkdir()
    run = explained_file(account())
    assert run.end is not None
    with contextlib.closing(Writer(path)) as writer:
        writer.append(run.run)
        for explanation in run.explanations:
            writer.append(explanation)
        writer.append(run.end)
    return path


def test_every_form_of_a_record_is_read(
    accelmark: Accelmark, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, card, _ = accelmark("explain", str(record))
    assert code == 0 and card.startswith("accelmark explains")
    (tmp_path / "x.jsonl.xz").write_bytes(lzma.compress(record.read_bytes()))
    (tmp_path / "bare").write_bytes(record.read_bytes())
    document = ("--format", "pytest-benchmark", "--output", "run.json")
    assert accelmark("report", str(record), *document)[0] == 0
    for form in ("x.jsonl.xz", "run.json", "bare", "kept", "./kept", str(record.parent)):
        assert accelmark("explain", form)[:2] == (0, card), form
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(record.read_bytes())))
    assert accelmark("explain", "-")[:2] == (0, card)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_is_read(accelmark: Accelmark, record: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(record.read_bytes(),), daemon=True)
    writer.start()
    code, card, _ = accelmark("explain", str(pipe))
    assert code == 0 and card.startswith("accelmark explains")
    writer.join()


def test_what_is_no_record_is_a_suite_or_a_case(accelmark: Accelmark, tmp_path: Path) -> None:
    """A folder that is called as a shipped suite or a case does not take their place."""
    for name in ("quick", "resnet50-train"):
        (tmp_path / name).mkdir()
        code, _, err = accelmark("explain", name, "--device", "cpu:77")
        assert code == 2 and "cpu:77" in err and "measured already" not in err
    code, _, err = accelmark("explain", "nowhere.jsonl.zst")
    assert code == 2 and "no shipped suite" not in err
    code, _, err = accelmark("explain", "nowhere")
    assert code == 2 and "no shipped suite and no case of one" in err
    code, _, err = accelmark("explain", "-", "--device", "cpu")
    assert code == 2 and "- is measured already: leave out --device" in err
