"""Markdown for a pull request and CSV for a spreadsheet: whole rows, and nothing that runs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
import pytest

from bench import catalogue
from bench.judging.summary import summarize
from bench.records.environment import UNSEARCHED
from bench.records.execution import RESERVED
from bench.records.outcome import Cold, Memory
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.report import Canvas
from bench.reports.flat.comma_separated import written
from bench.reports.flat.row import flat
from bench.reports.table import TableReport
from bench.tests.conftest import Accelmark
from bench.tests.judging.two_runs import FAST, REFUSED, run
from bench.tests.scripts.regenerate import RUN
from bench.tests.values import (
    failed,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)

HOSTILE = '=cmd|"/c calc"!A1 | <img src=x onerror=alert(1)> @everyone [x](javascript:1)\n# head'


def render(name: str, *runs: RunFile) -> str:
    text: str = catalogue.load("reports", name).render(runs, Canvas())
    return text


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def hostile() -> RunFile:
    case = make_case()
    device = {"backend": "cpu", "index": 0, "name": HOSTILE, "memory_bytes": None, "facts": {}}
    return make_file([case], make_launches(case, [failed(message=HOSTILE)] * 2), device=device)


def test_memory_that_counts_unlike_things_is_marked_apart() -> None:
    """What is recorded keeps its graph's pool; the others' figures are of what tensors had."""
    recorded = f"device allocator, {RESERVED}"
    cases = [make_case(execution=how) for how in ("eager", "compile", "graph")]
    scopes = ("device allocator", "device allocator", recorded)
    launches = []
    for case, scope, size in zip(cases, scopes, (3, 4, 5), strict=True):
        memory = Memory(peak_bytes=size << 30, scope=scope, host_rss_bytes=1)
        launches += make_launches(case, [make_measured(memory=memory)])
    run = make_file(cases, launches)
    card = TableReport().render([run], Canvas(width=160))
    assert "5.0 GiB*" in card and "3.0 GiB*" not in card and "4.0 GiB*" not in card
    assert f"Memory: peak, device allocator; *: {recorded}." in " ".join(card.split())
    text = render("markdown", run)
    assert r"| 5.0 GiB\* |" in text and "| 3.0 GiB |" in text
    assert rf"Peak memory: device allocator; \*: {recorded}." in text
    found = table(render("csv", run))
    assert [line["memory_scope"] for line in found] == [*scopes]
    alike = make_file(cases[:2], launches[:2])
    assert "Peak memory" not in render("markdown", alike)
    assert "Memory: peak, device allocator." in TableReport().render([alike], Canvas(width=160))


def test_csv_has_every_row_and_the_figures_of_the_summary() -> None:
    run = read(RUN)
    rows = table(render("csv", run))
    expected = [flat(run, row) for row in summarize(run)]
    assert len(rows) == len(expected) == 7
    for row, figures in zip(rows, expected, strict=True):
        rate = figures["throughput"]
        assert row["throughput_items_per_second"] == ("" if rate is None else str(rate))
        assert row["status"] == figures["status"]
        assert row["reason"] == figures["reason"]
    assert {row["status"] for row in rows} == {"measured", "void", "skipped", "failed"}


def test_csv_headers_carry_units_and_none_is_named_twice() -> None:
    headers = render("csv", read(RUN)).splitlines()[0].split(",")
    assert len(set(headers)) == len(headers)
    for header in headers:
        if any(word in header for word in ("throughput", "ci_low", "ci_high")):
            assert header.endswith("_items_per_second")
        if header.startswith("latency_p"):
            assert header.endswith("_seconds")
    rows = list(csv.DictReader(io.StringIO(render("csv", read(RUN)))))
    assert {row["item_unit"] for row in rows} == {"FLOP", "token", "image", ""}


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (["=1+1", "b"], "'=1+1 b"),
        (["@x"], "'@x"),
        (["a", "=1"], "a =1"),
        ([1, 2.5], "1 2.5"),
        ([], ""),
        ([{"helped": None}], '[{"helped": null}]'),
        (["a", None], '["a", null]'),
        (-1.5, "-1.5"),
    ],
)
def test_a_list_in_a_cell_runs_nothing_and_is_no_python(value: object, cell: str) -> None:
    _, (found, _) = csv.reader(io.StringIO(written([{"a": value, "b": 0}])))
    assert found == cell


def test_csv_runs_nothing_in_a_spreadsheet() -> None:
    (row,) = table(render("csv", hostile()))
    assert row["device"] == "'" + HOSTILE
    case = make_case()
    slow = make_file([case], make_launches(case, [make_measured()] * 3))
    assert not any(cell.startswith("'") for cell in table(render("csv", slow))[0].values())


def test_markdown_has_every_row_with_its_reason() -> None:
    run = read(RUN)
    text = render("markdown", run)
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 7
    for status in ("VOID", "SKIPPED", "FAILED", "UNREACHED"):
        assert f"**{status}**: " in text
    assert "\n1 of 7 cases OK: 2 NOISY, 1 VOID, 1 SKIPPED, 1 FAILED, 1 UNREACHED. Held" in text
    assert "output off by 0.5" in text and "too long for what the time budget left" in text


@pytest.mark.parametrize(
    ("requests", "absent", "shown"),
    [
        (35, "p90 n/a (needs 36 a launch), p99 n/a (needs 368 a launch)", "p90 n/a (needs 36"),
        (36, "p99 n/a (needs 368 a launch)", "p90 10.0 ms, p99 n/a (needs 368"),
        (368, None, "p90 10.0 ms, p99 10.0 ms"),
    ],
)
def test_every_report_has_the_percentiles_or_what_they_need(
    requests: int, absent: str | None, shown: str
) -> None:
    """A sweep of decode: each row names its batch."""
    cases = [make_case(workload="llama", mode="decode", parameters={"b": b}) for b in (1, 8)]
    outcome = make_measured([0.01] * requests, latency_name="TPOT", unit="token")
    launches = [x for case in cases for x in make_launches(case, [outcome] * 3)]
    run = make_file(cases, launches)
    for row in summarize(run):
        figures = flat(run, row)
        assert figures["latency_p50_seconds"] == pytest.approx(0.01)
        assert figures["latency_absent"] == absent
        for percent, needed in ((90, 36), (99, 368)):
            assert (figures[f"latency_p{percent}_seconds"] is None) == (requests < needed)
    for name in ("markdown", "html"):
        assert " ".join(render(name, run).split()).count(shown) >= 2, name
    card = " ".join(TableReport().render([run], Canvas(wide=True)).split())
    assert f"TPOT p50 10.0 ms, {shown}" in card and f"{requests} requests a launch" in card


def test_what_is_compiled_says_what_its_first_step_cost() -> None:
    """As many breaks as in the worst launch; nothing of a launch that says it otherwise."""
    cases = [make_case(execution=name) for name in ("eager", "compile", "compile-graph")]
    said = [{"graphs": 2, "graph_breaks": 0}, {"graphs": 3, "graph_breaks": 1}, "none"]
    launches = [
        make_launch(
            make_measured(),
            case,
            launch=index,
            cold=Cold(first_step_seconds=30.0),
            environment={"compiler": one} if "compile" in case.execution else {},
        )
        for case in cases
        for index, one in enumerate(said)
    ]
    run = make_file(cases, launches)
    found = [flat(run, row) for row in summarize(run)]
    assert [row["graph_breaks"] for row in found] == [None, 1, 1]
    assert [row["compiled_graphs"] for row in found] == [None, 3, 3]
    card = " ".join(render("table", run).split())
    compiled = ", ".join(
        f"gemm-matmul bf16 {how} 30.0 s, 3 graphs, 1 breaks" for how in ("compile", "compile-graph")
    )
    assert f"first step: {compiled} " in card and "not searched" not in card
    small = {"compiler": {"graphs": 3, "graph_breaks": 1, UNSEARCHED: 1}}
    run = make_file(cases, [msgspec.structs.replace(x, environment=small) for x in launches])
    assert "30.0 s, 3 graphs, 1 breaks, its products not searched" in " ".join(
        render("table", run).split()
    )
    wide = TableReport().render([run], Canvas(wide=True))
    assert wide.count("first step 30.0 s") == 2, "none of the eager one"
    assert "30.0 s, 3 graphs, 1 breaks" in render("html", run)


@pytest.mark.parametrize("name", ["markdown", "html", "table"])
def test_every_report_says_what_limits_a_case(name: str) -> None:
    matmul, case = make_case(), make_case(workload="bert", mode="infer")
    launches = [
        *make_launches(matmul, [make_measured(0.01, flop=100)] * 3),
        *make_launches(case, [make_measured(0.01, flop=37)] * 3),
    ]
    text = " ".join(render(name, make_file([matmul, case], launches)).split())
    words = "37% <small>kernels</small>" if name == "html" else "kernels 37%"
    assert words in text
    if name != "html":  # a table of all shares there
        assert "matmul 37%" not in text and "host" not in text and "MFU" not in text


@pytest.mark.parametrize("name", ["table", "markdown", "html", "csv", "json"])
def test_a_row_of_too_few_launches_is_not_called_noisy(name: str) -> None:
    """Two launches, equal to the nanosecond: nothing is known of their noise."""
    case = make_case()
    run = make_file([case], make_launches(case, [make_measured()] * 2))
    (row,) = summarize(run)
    assert (row.status, row.verdict, row.interval) == ("measured", "FEW_LAUNCHES", None)
    text = render(name, run)
    page = text[: text.index('id="data"')] if name == "html" else text  # not its script
    word = "FEW_LAUNCHES" if name in ("csv", "json") else "FEW LAUNCHES"
    assert word in page and "NOISY" not in page
    if name == "html":
        assert f'class="badge warn">{word}' in page


def test_a_figure_of_few_launches_is_still_a_ceiling() -> None:
    """As it was while it was called NOISY: what is not known is its spread."""
    matmul, case = make_case(), make_case(workload="bert", mode="infer")
    launches = [
        *make_launches(matmul, [make_measured(0.01, flop=100)]),
        *make_launches(case, [make_measured(0.01, flop=60)]),
    ]
    rows = summarize(make_file([matmul, case], launches))
    assert [row.verdict for row in rows] == ["FEW_LAUNCHES"] * 2
    assert rows[1].limit is not None
    assert (rows[1].limit[0], round(rows[1].limit[1], 6)) == ("matmul", 0.6)


def test_every_markdown_row_has_the_columns_of_its_header() -> None:
    text = render("markdown", read(RUN), hostile())
    width = None
    for line in text.splitlines():
        if line.startswith("|"):
            bare = line.replace("\\|", "")
            width = width or bare.count("|")
            assert bare.count("|") == width, line
        else:
            width = None


def test_markdown_is_text_whatever_the_record_says() -> None:
    text = render("markdown", hostile())
    assert "<img" not in text.replace("\\<img", "")
    assert "@everyone" not in text
    assert "\n# head" not in text
    assert "[x](javascript" not in text.replace("\\[x\\](javascript", "")


def test_markdown_of_several_runs_compares_with_the_first() -> None:
    case = make_case()
    base = make_file([case], make_launches(case, [make_measured(0.02 + k / 1e4) for k in range(5)]))
    other = make_file(
        [case], make_launches(case, [make_measured(0.01 + k / 1e4) for k in range(5)])
    )
    text = render("markdown", base, other)
    assert "**FASTER**" in text and "of 1 of 1 cases" in text
    nothing = make_file([make_case(workload="bert", mode="infer")], [])
    assert "**Not compared**" in render("markdown", base, nothing)


@pytest.mark.parametrize("word", ["precision", "out of memory"])
def test_markdown_sets_no_figures_of_other_work_side_by_side(word: str) -> None:
    """Nor one without the other's: the rate of fp32 is none of a case that is called bf16."""
    text = render("markdown", run(FAST), REFUSED[word][0])
    table = text[text.index("| case | base | other |") :].splitlines()
    (line,) = (line for line in table if "INCOMPARABLE" in line)
    assert "image/s" not in line
    assert ("FAILED" in line) == (word == "out of memory")


@pytest.mark.parametrize("name", ["csv", "json", "markdown", "table"])
def test_a_report_is_written_to_a_file(
    accelmark: Accelmark,
    tmp_path: Path,
    name: str,
) -> None:
    code, out, err = accelmark("report", str(RUN), "--format", name, "--output", "it.txt")
    assert (code, out, err) == (0, "", "written: it.txt\n")
    _, direct, _ = accelmark("report", str(RUN), "--format", name)
    text = (tmp_path / "it.txt").read_text(encoding="utf-8")
    if name == "table":  # what is handed on names no folder of the record
        text, direct = (" ".join(x.replace(str(RUN), RUN.name).split()) for x in (text, direct))
    assert text == direct


def test_a_report_that_cannot_be_written_is_one_message(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    code, out, err = accelmark("report", str(RUN), "--output", "no/such/folder/it.txt")
    assert (code, out) == (2, "")
    assert err.startswith("error: no/such/folder/it.txt: cannot be written (No such file")
    (tmp_path / "there").mkdir()
    _, _, err = accelmark("report", str(RUN), "--output", "there")
    assert "(Is a directory). Give another file with --output" in err
    assert "a folder that exists" not in err, "it does"
