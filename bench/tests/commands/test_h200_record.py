"""What every command says of the first run of an accelerator: one launch a case, ended early.

A real NVIDIA H200, as `golden/h200.jsonl.gz` keeps it, without what `publish` leaves out. Held here
are the facts, not the cards.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import api
from bench.judging.comparing.suites import suite_of
from bench.planning import selected
from bench.planning.versions import unknown
from bench.publishing import publish
from bench.records.runfile import read
from bench.tests.conftest import Accelmark
from bench.tests.scripts.regenerate import GOLDEN

H200 = GOLDEN / "h200.jsonl.gz"
UNREACHED = "not reached: too long for what the time budget left"
FIGURES: dict[str, tuple[float, str, float, str]] = {
    "gemm-matmul bf16": (657e12, "power", 1.00, "mfu 0.66"),
    "memory-copy fp32": (4.24e12, "memory", 0.97, "mbu 0.88"),
    "memory-triad fp32": (4.36e12, "memory", 1.00, "mbu 0.91"),
    "llama-decode bf16": (33.1, "host", 1.00, "mbu 0.10"),
    "llama-decode bf16 graph": (126.0, "kernels", 0.44, "mbu 0.40"),
    "llama-train bf16": (47_845.0, "power", 0.60, "mfu 0.44"),
    "llama-train bf16 compile": (60_770.0, "power", 0.76, "mfu 0.55"),
    "resnet50-train bf16-amp": (2_421.0, "kernels", 0.09, "mfu 0.06"),
}
"""Items/s; what limits the case, and its share of that; the share of the published peak."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(api.render([read(H200)], "json"))
    return found


def name(row: dict[str, Any]) -> str:
    execution = "" if row["execution"] == "eager" else f" {row['execution']}"
    return f"{row['workload']}-{row['mode']} {row['precision']}{execution}"


def test_the_record_names_nobody() -> None:
    """As what is published: read again, there is nothing more to leave out."""
    run = read(H200)
    (header, *launches) = publish.without_private(run)
    assert (header, *launches) == (run.run, *run.launches, run.end)
    assert not re.search(rb"/(home|root|opt|usr|tmp)/", gzip.decompress(H200.read_bytes()))


def test_its_figures(rows: list[dict[str, Any]]) -> None:
    measured = {name(row): row for row in rows if row["status"] == "measured"}
    assert list(measured) == list(FIGURES)
    for case, (rate, limit, share, peak) in FIGURES.items():
        row = measured[case]
        assert row["throughput"] == pytest.approx(rate, rel=5e-3), case
        assert row["limit"] == limit
        assert row["limit_fraction"] == pytest.approx(share, abs=6e-3)
        word, figure = peak.split()
        assert row[word] == pytest.approx(float(figure), abs=6e-3), case


def test_one_launch_has_no_interval_and_no_verdict(rows: list[dict[str, Any]]) -> None:
    measured = [row for row in rows if row["status"] == "measured"]
    assert {row["launches"] for row in measured} == {1}
    assert {(row["verdict"], row["ci_low"], row["ci_high"]) for row in measured} == {
        ("FEW_LAUNCHES", None, None)
    }
    assert {row["reason"] for row in measured} == {"no interval: 1 of at least 3 launches"}


def test_what_was_not_reached_is_told(rows: list[dict[str, Any]]) -> None:
    absent = {name(row): row["reason"] for row in rows if not row["reached"]}
    names = ("bert-train bf16-amp", "attention-forward bf16", "llama-decode bf16 graph")
    assert absent == dict.fromkeys((*names, "launch-queue fp32"), UNREACHED)
    assert len(rows) == 12


def test_what_else_was_seen(rows: list[dict[str, Any]]) -> None:
    by_name = {name(row): row for row in rows if row["status"] == "measured"}
    capped = {case for case, row in by_name.items() if "POWER_CAPPED" in row["flags"]}
    assert capped == {"gemm-matmul bf16", "llama-train bf16", "llama-train bf16 compile"}
    assert by_name["llama-decode bf16"]["flags"] == ["DRIFT"]
    assert by_name["llama-train bf16"]["peak_memory_bytes"] == pytest.approx(61.2 * 2**30, rel=1e-2)
    assert by_name["llama-decode bf16"]["latency_p50_seconds"] == pytest.approx(0.0272, rel=1e-2)
    graph = by_name["llama-decode bf16 graph"]
    assert graph["latency_p99_seconds"] == pytest.approx(0.00797, rel=1e-2)
    compiled = by_name["llama-train bf16 compile"]
    assert (compiled["compiled_graphs"], compiled["graph_breaks"]) == (2, 0)
    assert compiled["first_step_seconds"] == pytest.approx(57.6, rel=1e-2)


def test_every_format_has_all_that_was_measured(accelmark: Accelmark, tmp_path: Path) -> None:
    for format_name in ("table", "markdown", "html", "csv", "json", "pytest-benchmark"):
        code, out, err = accelmark("report", str(H200), "--format", format_name)
        assert (code, err) == (0, ""), format_name
        if format_name == "csv":
            assert len(list(csv.DictReader(io.StringIO(out)))) == 12
        for word in ("NVIDIA H200", "llama", "resnet50", "gemm"):
            assert word in out, (format_name, word)


def test_this_release_knows_its_work() -> None:
    run = read(H200).run
    assert all(unknown(case) == "" for case in run.plan)
    assert suite_of(run) is None, "a suite of somebody's own"
    assert len(selected.select(run.plan, "llama-decode,gemm")) == 4


def test_a_copy_of_it_is_itself_and_another_like_it_has_no_verdict(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    text = gzip.decompress(H200.read_bytes())
    copy, again = tmp_path / "copy.jsonl", tmp_path / "again.jsonl"
    copy.write_bytes(text)
    code, out, err = accelmark("compare", str(H200), str(copy))
    assert (code, out) == (2, "") and "are the same run" in err

    again.write_bytes(text.replace(b"20261127T221854Z-cb67", b"20261128T221854Z-cb67", 1))
    code, out, err = accelmark("compare", str(H200), str(again), "--json")
    assert code == 0, err
    (found,) = json.loads(out)
    verdicts = [case["verdict"] for case in found["cases"]]
    assert (verdicts.count("NO_INTERVAL"), verdicts.count("INCOMPARABLE")) == (8, 4)
    ratios = [case["ratio"] for case in found["cases"] if case["ratio"] is not None]
    assert ratios == [1.0] * 8
    assert all(case["p_value_adjusted"] is None for case in found["cases"])
    code, out, err = accelmark("compare", str(H200), str(again), "--fail-if-slower", "0")
    assert code == 1 and "not judged (NO_INTERVAL, few-launches): gemm-matmul bf16" in err


def test_it_is_not_published_and_each_reason_is_told(accelmark: Accelmark, tmp_path: Path) -> None:
    code, out, err = accelmark("publish", str(H200), "--results", str(tmp_path / "results"))
    assert (code, out) == (2, "")
    assert "it did not run to its end" in err
    assert "a published run needs --launches 10" in err
    assert err.count(UNREACHED) == 4
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_go_on(accelmark: Accelmark) -> None:
    code, out, err = accelmark("run", "--resume", str(H200))
    assert (code, out) == (2, "") and "compressed" in err
