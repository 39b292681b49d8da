"""What `accelmark explain` takes for a record: all that `report` does."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import lzma
import os
import sys
import threading
from pathlib import Path

import pytest

from bench import api
from bench.commands.explain import compared
from bench.records.runfile import Writer
from bench.tests.conftest import Accelmark
from bench.tests.judging.explaining.accounts import account, explained_file


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


def test_of_several_runs_each_row_and_card_says_which_it_is_of() -> None:
    base, *others = (explained_file(account(scale)) for scale in (1.0, 0.9, 0.8))
    rows = json.loads(compared(base, others, True, False, 100))
    table = list(csv.DictReader(io.StringIO(compared(base, others, False, True, 100))))
    for found in (rows, table):
        assert {row["base_run"] for row in found} == {base.run.run_id}
        assert {row["other_run"] for row in found} == {other.run.run_id for other in others}
        (step,) = (
            row
            for row in found
            if (row["level"], row["other_run"]) == ("step", others[1].run.run_id)
        )
        assert float(step["other_ms"]) == 80.0
    device = base.run.device
    assert (rows[0]["other_device"], rows[0]["base_backend"]) == (device["name"], device["backend"])
    cards = " ".join(compared(base, others, False, False, 100).split())
    said = [
        f"{base.run.run_id}, other {device['name']} ({device['backend']}) {one.run.run_id}"
        for one in others
    ]
    assert all(one in cards for one in said)
    assert others[0].run.run_id not in compared(base, others[:1], False, False, 100)


def test_where_the_page_goes_is_looked_at_before_anything_is_measured(
    accelmark: Accelmark, record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(api, "explain_suite", measure)
    where = str(tmp_path / "none" / "page.txt")
    code, _, err = accelmark("explain", "smoke", "--output", where)
    assert code == 2 and "page.txt: cannot be written" in err
    code, _, err = accelmark("explain", str(record), "--output", where)
    assert code == 2 and f"record: {record}" in err, "of what may have taken hours"
