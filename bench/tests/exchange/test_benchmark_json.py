"""The document of pytest-benchmark: nothing is lost, its figures are its own, and bad ones fail."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from bench import catalogue
from bench.cli import main
from bench.errors import ComparisonError, RecordError
from bench.exchange import benchmark_json
from bench.exchange.benchmark_json import (
    from_document,
    names,
    read_any,
    round_seconds,
    to_document,
)
from bench.records import runfile
from bench.records.outcome import Measured, Outcome, Skipped, Void
from bench.records.run import Resumed, RunFile
from bench.report import Canvas
from bench.tests.judging.explaining.accounts import account, explanation
from bench.tests.scripts.regenerate import RUN
from bench.tests.values import (
    failed,
    make_block,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)

Document = dict[str, Any]


def through_json(run: RunFile) -> Document:
    """The document as pytest-benchmark writes and reads files: by the standard library."""
    document: Document = json.loads(json.dumps(to_document(run), ensure_ascii=True, indent=4))
    return document


def saved(folder: Path, document: Any) -> Path:
    path = folder / "0001_saved.json"
    path.write_text(json.dumps(document, indent=4))
    return path


def anonymous(run: RunFile) -> RunFile:
    """Without what is of its file, not of the run."""
    return msgspec.structs.replace(run, path="", whole_bytes=0, passing=False)


# --- Nothing is lost -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.jsonl.json", "run.json.jsonl", "run.json"])
def test_a_record_is_one_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(RUN.read_bytes())
    assert read_any(tmp_path / name).launches == read_any(RUN).launches
    (tmp_path / name).write_bytes(RUN.read_bytes()[:-9])
    assert read_any(tmp_path / name).cut_short


def test_a_run_comes_back_equal_whatever_became_of_its_cases(tmp_path: Path) -> None:
    """The golden run has a row of every kind: failed, void, skipped and unreached ones too."""
    run = runfile.read(RUN)
    found = read_any(saved(tmp_path, through_json(run)))
    assert anonymous(found) == anonymous(run)
    assert found.path == str(tmp_path / "0001_saved.json")


OUTCOMES: list[Sequence[Outcome]] = [
    (),
    (make_measured(),),
    (make_measured(0.1), failed(), make_measured(0.3)),
    (failed(), failed()),
    (make_measured(), Void(reason="wrong"), make_measured()),
    (Skipped(reason="no such arithmetic"),),
]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4), st.randoms(), st.booleans())
def test_any_run_comes_back_equal(chosen: list[Sequence[Outcome]], source: Any, cut: bool) -> None:
    """In whatever order its launches lie, interrupted and resumed, or not."""
    cases = [make_case(parameters={"shape": f"{k}x1x1"}) for k in range(1, len(chosen) + 1)]
    launches = [
        x
        for case, outcomes in zip(cases, chosen, strict=True)
        for x in make_launches(case, outcomes)
    ]
    source.shuffle(launches)
    run = make_file(cases, launches, **({"end": None} if cut else {}))
    if cut:
        again = Resumed(started_at="later", command=("accelmark",), host={"cpu": "x"}, device={})
        told = {"damage": "fake.jsonl, line 9: no", "flaw": "cut short", "remedy": "Do this."}
        run = msgspec.structs.replace(run, resumed=(again,), **told)
    assert anonymous(from_document("", through_json(run))) == anonymous(run)


def test_explanations_are_kept() -> None:
    run = make_file([make_case()], [make_launch()])
    run = msgspec.structs.replace(run, explanations=(explanation(account()),))
    assert anonymous(from_document("", through_json(run))) == anonymous(run)
    older = through_json(run)
    del older["accelmark"]["explanations"]
    assert from_document("fake.jsonl", older).explanations == ()


def test_a_launch_of_a_case_that_was_not_planned_is_kept() -> None:
    stray = make_case(parameters={"shape": "9x9x9"})
    run = make_file([make_case()], [make_launch(), make_launch(case=stray, order=1)])
    assert anonymous(from_document("", through_json(run))) == anonymous(run)


def test_the_document_has_the_keys_of_pytest_benchmark() -> None:
    document = through_json(runfile.read(RUN))
    assert set(document) == {
        *("machine_info", "commit_info", "benchmarks", "datetime", "version", "accelmark"),
    }
    for benchmark in document["benchmarks"]:
        assert set(benchmark) == {
            *("group", "name", "fullname", "params", "param", "extra_info", "options", "stats"),
        }
        assert set(benchmark["stats"]) == {*Stats.fields, "data", "iterations"}


def test_only_cases_with_a_number_are_benchmarks() -> None:
    document = through_json(runfile.read(RUN))
    assert [(b["name"], b["group"]) for b in document["benchmarks"]] == [
        ("gemm-matmul-bf16[1024x1024x1024]", "gemm-matmul, per GFLOP"),
        ("llama-decode-bf16[toy-batch_1-context_64]", "llama-decode, per token"),
        ("resnet50-train-bf16[batch_8-image_224]", "resnet50-train, per image"),
    ]
    for benchmark in document["benchmarks"]:
        assert benchmark["fullname"] == f"bench/suite/test_workloads.py::{benchmark['name']}"


def test_no_host_name_is_told() -> None:
    assert "node" not in through_json(runfile.read(RUN))["machine_info"]


# --- The figures ---------------------------------------------------------------------------------


def test_a_round_is_a_launch_and_its_time_that_of_an_item() -> None:
    """8 steps of 5 items in 4 s: 0.1 s an item. A failed launch is no round, and is kept."""
    steady = (make_block(0.5, 2), make_block(0.25, 4), make_block(1.0, 2))
    slower = make_measured(1.5, items=5)
    outcomes: list[Outcome] = [make_measured(items=5, steady=steady), failed(), slower]
    document = through_json(make_file([make_case()], make_launches(make_case(), outcomes)))
    (benchmark,) = document["benchmarks"]
    assert benchmark["stats"]["data"] == [0.1, 0.3]
    assert benchmark["stats"]["rounds"] == 2
    assert benchmark["stats"]["ops"] == pytest.approx(2 / 0.4)
    assert len(benchmark["extra_info"]["accelmark"]["launches"]) == 3


def test_ops_is_the_harmonic_mean_of_the_launches_throughputs() -> None:
    outcomes = [make_measured(t, items=7) for t in (0.01, 0.02, 0.04)]
    document = to_document(make_file([make_case()], make_launches(make_case(), outcomes)))
    rates = [outcome.throughput for outcome in outcomes]
    harmonic = len(rates) / sum(1 / rate for rate in rates)
    assert document["benchmarks"][0]["stats"]["ops"] == pytest.approx(harmonic, rel=1e-12)


@given(
    st.lists(st.floats(min_value=1e-15, max_value=1e3), min_size=1, max_size=24),
    st.integers(min_value=0, max_value=3),
)
@example([11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 22.3], 0)  # just within 1.5 IQR of a quartile
@example([6.7, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0], 0)
@example([11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 22.7], 0)  # just beyond
def test_the_statistics_are_those_of_pytest_benchmark(rounds: list[float], again: int) -> None:
    """By its own class. again: some values occur more than once."""
    rounds += rounds[:again]
    theirs: Any = Stats  # a class without types
    theirs = theirs()
    for seconds in rounds:
        theirs.update(seconds)
    assert benchmark_json.statistics_of(rounds) == theirs.as_dict()


@pytest.mark.parametrize(
    ("unit", "shown", "many"),
    [("image", "image", 1), ("FLOP", "GFLOP", 1e9), ("OP", "GOP", 1e9), ("B", "GB", 1e9)],
)
def test_a_round_is_one_over_throughput_in_the_unit_of_its_group(
    unit: str, shown: str, many: float
) -> None:
    measured = make_measured([0.011, 0.013], items=3, unit=unit)
    assert round_seconds(measured) == pytest.approx(many / measured.throughput, rel=1e-15)
    assert benchmark_json.group(make_case(), unit) == f"gemm-matmul, per {shown}"


# --- Names ---------------------------------------------------------------------------------------


def test_names_are_readable_and_apart() -> None:
    gemm = make_case()
    compiled = make_case(execution="compile")
    several = make_case(devices=2, parallelism="data")
    memory = make_case(workload="memory", mode="copy", parameters={"size_bytes": 2**28})
    nearly = make_case(workload="memory", mode="copy", parameters={"size_bytes": 2**28 + 1})
    given_names = names([gemm, compiled, several, memory, nearly])
    assert list(given_names.values()) == [
        "gemm-matmul-bf16[64x64x64]",
        "gemm-matmul-bf16-compile[64x64x64]",
        "gemm-matmul-bf16-data[64x64x64]",
        f"memory-copy-bf16[size_256_MiB]-{memory.fingerprint[:6]}",
        f"memory-copy-bf16[size_256_MiB]-{nearly.fingerprint[:6]}",
    ]
    assert names([memory, memory]) == {memory.fingerprint: "memory-copy-bf16[size_256_MiB]"}


def test_the_names_of_every_shipped_suite_are_apart() -> None:
    from bench.planning import plan, suite_file

    for path in catalogue.suites().values():
        cases = plan.plan(suite_file.read_suite(path))
        found = names(cases).values()
        assert len(set(found)) == len(cases)
        assert not any(" " in name for name in found)


# --- Reading -------------------------------------------------------------------------------------


def test_the_reader_goes_by_what_the_file_is(tmp_path: Path) -> None:
    """Run files and folders as ever; documents by `.json`, or by their first line."""
    assert read_any(RUN) == runfile.read(RUN)
    (tmp_path / "run.jsonl").write_bytes(RUN.read_bytes())
    assert read_any(tmp_path).launches == runfile.read(RUN).launches
    path = saved(tmp_path, through_json(runfile.read(RUN)))
    other = path.rename(tmp_path / "saved")
    assert read_any(other).launches == runfile.read(RUN).launches
    with pytest.raises(RecordError, match=r"nowhere\.jsonl: there is no such file"):
        read_any(tmp_path / "nowhere.jsonl")
    with pytest.raises(RecordError, match=r"nowhere\.json: there is no such file"):
        read_any(tmp_path / "nowhere.json")


def without(document: Document, *place: str | int) -> Document:
    inner: Any = document
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    return document


def changed(document: Document, value: Any, *place: str | int) -> Document:
    inner: Any = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return document


FIRST = ("benchmarks", 0, "extra_info", "accelmark", "launches")

BAD: list[tuple[str, Callable[[Document], Any], str]] = [
    ("list", lambda d: [d], "JSON, but not a pytest-benchmark run of accelmark"),
    ("foreign", lambda d: without(d, "accelmark"), "JSON, but not a pytest-benchmark run of"),
    ("no table", lambda d: without(d, "benchmarks"), "JSON, but not a pytest-benchmark run of"),
    ("text", lambda d: changed(d, "yes", "accelmark"), "JSON, but not a pytest-benchmark run of"),
    ("no header", lambda d: without(d, "accelmark", "run"), "JSON, but not the start of a record"),
    ("schema", lambda d: changed(d, 99, "accelmark", "run", "schema"), "schema 99; this version"),
    ("header", lambda d: changed(d, 1, "accelmark", "run", "plan"), "not a valid run header"),
    ("end", lambda d: changed(d, {}, "accelmark", "end"), "not a valid record ("),
    ("resumed", lambda d: changed(d, [1], "accelmark", "resumed"), "not a valid record ("),
    ("order", lambda d: changed(d, [1], "accelmark", "order"), "not a valid record ("),
    ("launches", lambda d: changed(d, None, "accelmark", "launches"), "not a valid record ("),
    ("no launches", lambda d: without(d, *FIRST), "not a valid record ("),
    ("nonsense", lambda d: changed(d, -1, *FIRST, 0, "seconds"), "not a valid record ("),
    ("another case's", lambda d: changed(d, "0", *FIRST, 0, "fingerprint"), "not a valid record ("),
    ("taken", lambda d: without(d, *FIRST, 0), "its run names 14 launches, and it holds 13"),
    (
        "table cut",
        lambda d: without(d, "benchmarks", 0),
        "its run names 14 launches, and it holds 11",
    ),
    (
        "order cut",
        lambda d: without(d, "accelmark", "order", 0),
        "its run names 13 launches, and it holds 14",
    ),
    (
        "launch twice",
        lambda d: changed(d, d["benchmarks"][0], "benchmarks", 1),
        "holds launch 1 of gemm-matmul bf16 (1024x1024x1024) twice",
    ),
    (
        "case twice",
        lambda d: changed(d, d["accelmark"]["run"]["plan"][0], "accelmark", "run", "plan", 1),
        "gemm-matmul bf16 (1024x1024x1024) is planned twice",
    ),
]


@pytest.mark.parametrize(("spoil", "complaint"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_no_run_of_ours_is_refused(
    tmp_path: Path, spoil: Callable[[Document], Any], complaint: str
) -> None:
    path = saved(tmp_path, spoil(through_json(runfile.read(RUN))))
    with pytest.raises(RecordError) as caught:
        read_any(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {complaint}"), message
    assert "accelmark" in message and "\n" not in message and len(message) < 1000


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'"\xff"'])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "saved.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"saved\.json: not JSON .*--format pytest-benchmark"):
        read_any(path)


def test_another_suite_s_benchmarks_beside_ours_are_passed_over() -> None:
    document = through_json(runfile.read(RUN))
    theirs = copy.deepcopy(document["benchmarks"][0])
    theirs["extra_info"] = {}
    document["benchmarks"] += [theirs, {"name": "bare"}, "nonsense"]
    assert from_document("", document).launches == runfile.read(RUN).launches


# --- The report and the commands -----------------------------------------------------------------


def test_the_report_is_the_document_of_one_run() -> None:
    report = catalogue.load("reports", "pytest-benchmark")
    run = runfile.read(RUN)
    text = report.render([run], Canvas())
    assert json.loads(text) == through_json(run)
    assert text.endswith("}\n")
    with pytest.raises(ComparisonError, match=r"holds one run, not 2\. Print one for each run"):
        report.render([run, run], Canvas())


def test_the_report_is_named_with_a_hyphen() -> None:
    found = catalogue.plug_ins("reports")
    assert found["pytest-benchmark"].module == "bench.reports.pytest_benchmark"
    assert "pytest_benchmark" not in found


def accelmark(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["accelmark", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
        raise SystemExit(0)
    return left.value.code


def test_report_and_compare_read_documents(
    document: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accelmark(monkeypatch, "report", str(RUN), "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert accelmark(monkeypatch, "report", str(document), "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert accelmark(monkeypatch, "compare", str(RUN), str(document), "--json") == 2
    assert "the same run, or a copy" in capsys.readouterr().err
    content = json.loads(document.read_text())
    content["accelmark"]["run"]["run_id"] = "another"
    document.write_text(json.dumps(content))
    assert accelmark(monkeypatch, "compare", str(RUN), str(document), "--json") == 0
    (comparison,) = json.loads(capsys.readouterr().out)
    ratios = [case["ratio"] for case in comparison["cases"]]
    assert [r for r in ratios if r is not None] == [1.0, 1.0, 1.0]


def test_the_measured_rounds_are_the_record_s_own(document: Path) -> None:
    content = json.loads(document.read_text())
    run = runfile.read(RUN)
    for benchmark in content["benchmarks"]:
        own = benchmark["extra_info"]["accelmark"]["launches"][0]["fingerprint"]
        outcomes = [x.outcome for x in run.launches if x.fingerprint == own]
        measured = [o for o in outcomes if isinstance(o, Measured)]
        assert benchmark["stats"]["data"] == [round_seconds(o) for o in measured]
