"""pytest-benchmark's own command on our documents: its tables read well, and mix no two units."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.exchange import benchmark_json
from bench.exchange.benchmark_json import read_any
from bench.records.run import RunFile
from bench.tests.exchange.test_benchmark_json import Document, anonymous, saved, through_json
from bench.tests.values import make_case, make_file, make_launches, make_measured


def of_701_teraflops() -> RunFile:
    """A product of 8192^3 that takes 1.568 ms a step: 701 TFLOP/s."""
    flop = 2 * 8192**3
    measured = make_measured(1.568e-3, items=flop, unit="FLOP", flop=flop)
    return make_file([make_case()], make_launches(make_case(), [measured] * 3))


def their_compare(folder: Path, *arguments: str) -> str:
    """What pytest-benchmark's own command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_fastest_matmul_reads_well_in_pytest_benchmark_s_own_table(tmp_path: Path) -> None:
    """Per FLOP its mean would be 0.0000 ns, and its rate 701,000,000.0 Mops/s."""
    saved(tmp_path, through_json(of_701_teraflops()))
    table = their_compare(tmp_path, "0001_saved.json", "--columns=mean,ops", "--group-by=group")
    assert "benchmark 'gemm-matmul, per GFLOP': 1 tests" in table
    assert "Name (time in us)" in table and "OPS (Kops/s)" in table
    row = next(line for line in table.splitlines() if line.startswith("gemm-matmul-bf16"))
    assert row.split()[-2:] == ["1.4261", "701.2192"]


def per_single_item(document: Document) -> Document:
    """As earlier versions saved it: seconds per FLOP, OP or byte."""
    for benchmark in document["benchmarks"]:
        for giga, single in (("GFLOP", "FLOP"), ("GOP", "OP"), ("GB", "B")):
            if benchmark["group"].endswith(f", per {giga}"):
                benchmark["group"] = benchmark["group"].removesuffix(giga) + single
                data = [seconds / 1e9 for seconds in benchmark["stats"]["data"]]
                benchmark["stats"] |= {**benchmark_json.statistics_of(data), "data": data}
    return document


def test_documents_of_seconds_per_flop_are_read_and_told_apart(tmp_path: Path) -> None:
    """Their launches are all that is read; pytest-benchmark's table sets them apart by group."""
    run = of_701_teraflops()
    old = per_single_item(through_json(run))
    path = saved(tmp_path, old)
    assert anonymous(read_any(path)) == anonymous(run)
    (tmp_path / "new.json").write_text(json.dumps(through_json(run)))
    table = their_compare(tmp_path, path.name, "new.json", "--columns=mean", "--group-by=group")
    assert "'gemm-matmul, per FLOP': 1 tests" in table
    assert "'gemm-matmul, per GFLOP': 1 tests" in table


def test_pytest_benchmark_s_own_command_reads_the_document(document: Path) -> None:
    """Unmodified: its table, its sorting, and its comparison of two files."""
    slower = json.loads(document.read_text())
    for benchmark in slower["benchmarks"]:
        stats = benchmark["stats"]
        stats |= {"ops": stats["ops"] / 2, "mean": stats["mean"] * 2}
    other = document.with_name("slower.json")
    other.write_text(json.dumps(slower))

    folder = document.parent
    table = their_compare(
        folder, "golden.json", "--columns=mean,ops,rounds", "--sort=mean", "--group-by=group"
    )
    assert "benchmark 'llama-decode, per token': 1 tests" in table
    row = next(line for line in table.splitlines() if line.startswith("resnet50-train-bf16"))
    assert row.split()[-2:] == ["16.0000", "3"], "8 images in 0.5 s; one of 4 launches failed"
    between = their_compare(folder, "golden.json", "slower.json", "--between=ops")
    assert between.count("-50.0%") == 3
