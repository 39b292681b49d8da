"""A path leads somewhere where the record lies; what is handed on names the file and no folder."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import catalogue
from bench.records.run import RunFile
from bench.report import Canvas
from bench.tests.conftest import Accelmark
from bench.tests.scripts.regenerate import BASE, RUN
from bench.tests.values import make_case, make_file, make_launches, make_measured

FOLDER = "/home/somebody/private"
FORMATS = ("table", "html", "markdown", "json", "csv", "pytest-benchmark")


def kept(run: RunFile, **changes: object) -> RunFile:
    return msgspec.structs.replace(run, path=f"{FOLDER}/run.jsonl", **changes)


def unfinished() -> RunFile:
    case = make_case()
    file = make_file([case], make_launches(case, [make_measured()] * 3), end=None)
    return kept(
        file,
        damage=f"{FOLDER}/run.jsonl, line 3: cut short",
        flaw="cut short",
        remedy=f"Go on with it: accelmark run --resume {FOLDER}/run.jsonl",
    )


@pytest.mark.parametrize("name", FORMATS)
def test_no_document_has_the_folder_of_its_record(name: str) -> None:
    report = catalogue.load("reports", name)
    half = unfinished()
    late = msgspec.structs.replace(half, damage=None, launches=half.launches[:0])
    several = [] if name == "pytest-benchmark" else [[half, half]]  # it holds one run
    for runs in ([half], [late], *several):
        assert "somebody" not in report.render(runs, Canvas())
    if name in ("table", "html", "markdown"):
        assert "run.jsonl, line 3: cut short" in report.render([half], Canvas())
    if name in ("html", "markdown"):
        assert "run.jsonl are the same run" in report.render([late, late], Canvas())
        assert "An incomplete run is not compared" in report.render([late, half], Canvas())


def test_where_the_record_lies_a_command_to_type_next_has_its_path(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "it.jsonl").write_bytes(BASE.read_bytes())
    _, card, _ = accelmark("report", "runs/it.jsonl", "--width", "200")
    assert "Next: for intervals" in card and "runs/it.jsonl" not in card
    lines = RUN.read_bytes().splitlines(keepends=True)
    (tmp_path / "runs" / "it.jsonl").write_bytes(b"".join([*lines[:11], lines[-1]]))
    _, card, _ = accelmark("report", "runs/it.jsonl", "--width", "200")
    assert card.endswith("accelmark run --resume runs/it.jsonl\n")
    accelmark("report", "runs/it.jsonl", "--output", "card.txt")
    assert (tmp_path / "card.txt").read_text(encoding="utf-8").endswith("--resume it.jsonl\n")
