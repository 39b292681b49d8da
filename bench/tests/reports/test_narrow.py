"""Cards at every width: no line is longer, nothing is lost, no word is cut where it need not be."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from bench import api
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports._comparison import render as render_comparison
from bench.reports.table import REPORT
from bench.tests.reports.pages import a_sweep
from bench.tests.scripts.regenerate import BASE, OTHER, RUN
from bench.tests.values import make_case, make_file, make_launches, make_measured

WIDTHS = (40, 60, 79, 80, 81, 120, 200, 400)
LONG = make_file(
    [case := make_case(workload="resnet50", mode="train-pipeline", precision="int8-w8a8")],
    make_launches(case, [make_measured(s, flop=10**13) for s in (0.01, 0.02, 0.04)]),
)
RUNS = {"golden": api.read_run(RUN), "base": api.read_run(BASE), "sweep": a_sweep(), "long": LONG}


def words(card: str) -> list[str]:
    """Of a card, whatever its lines; rules and the commas between two lines of a cell left out."""
    return re.sub(r"─+|,(?=\s|$)|:(?=\s)", " ", card).split()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_report_card_at_every_width(run: RunFile, width: int) -> None:
    card = REPORT.render([run], Canvas(width=width))
    assert max(map(cell_len, card.splitlines())) <= width
    widest = set(words(REPORT.render([run], Canvas(width=400))))
    assert widest - set(words(card)) == set(), "lost or cut"
    for row in api.summarize_run(run):
        if row.verdict is not None:
            assert row.verdict.partition("_")[0] in words(card)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_at_every_width(width: int) -> None:
    comparison = api.compare_runs(BASE, OTHER)
    card = render_comparison([comparison], Canvas(width=width))
    assert max(map(cell_len, card.splitlines())) <= width
    widest = set(words(render_comparison([comparison], Canvas(width=400))))
    assert widest - set(words(card)) == set(), "lost or cut"


def test_a_narrow_card_has_a_block_for_each_row() -> None:
    card = REPORT.render([api.read_run(RUN)], Canvas(width=60))
    assert (
        "gemm-matmul bf16\n1024x1024x1024\n  throughput: 215 GFLOP/s\n"
        "  interval: ±2.5%, 3 launches\n  FLOP/s, limit: 215 GFLOP/s, 100% matmul\n"
        "  peak memory: 3 MiB\n  verdict: NOISY\n\nllama-decode bf16\n"
    ) in card
