"""Cards at every width: no line is longer, each case has its lines, no two cases read alike."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from rich.cells import cell_len

from bench import api, units
from bench.records.case import Case
from bench.records.outcome import Outcome
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.table import REPORT
from bench.reports.terminal.comparison import render as render_comparison
from bench.reports.terminal.details import details
from bench.reports.wording.labels import name_of, plain
from bench.reports.wording.rows import word_of
from bench.tests.reports.page.pages import a_sweep
from bench.tests.scripts.regenerate import BASE, OTHER, RUN
from bench.tests.values import failed, make_case, make_file, make_launches, make_measured

WIDTHS = (40, 41, 59, 60, 79, 80, 81, 99, 100, 101, 120, 160, 250, 400)
LONG = make_file(
    [case := make_case(workload="resnet50", mode="train-pipeline", precision="int8-w8a8")],
    make_launches(case, [make_measured(s, flop=10**13) for s in (0.01, 0.02, 0.04)]),
)
ODD = "漢字/\x1b[31mred\x1b[0m\nand\u202e another line " * 6


def hostile() -> RunFile:
    """Names without end, of wide letters, of control characters, and that differ at their end."""
    cases = [
        *(make_case(workload="w" * 150, parameters={"name": "n" * 90 + str(k)}) for k in range(3)),
        *(make_case(workload=ODD, mode=f"train{k}", parameters={"b": ODD}) for k in range(2)),
        make_case(workload="same", parameters={"a": "8"}),
        make_case(workload="same", parameters={"b": "8"}),
        make_case(workload="broken", parameters={}),
    ]
    outcomes: list[Outcome] = [
        *[make_measured([1e-9], items=2**62, unit="sequence" * 9, flop=10**12)] * 3,
        *[make_measured(s, unit=ODD, latency_name=ODD) for s in (0.01, 3.0)],
        *[make_measured([0.01])] * 2,
        failed(message=ODD),
    ]
    launches = [
        launch
        for case, outcome in zip(cases, outcomes, strict=True)
        for launch in make_launches(case, [outcome] * (3 if case.workload == "same" else 2))
    ]
    device = {"backend": "cpu", "index": 0, "name": ODD, "facts": {"driver": ODD}}
    return make_file(cases, launches, device=device, suite=ODD)


RUNS = {
    "golden": api.read_run(RUN),
    "base": api.read_run(BASE),
    "sweep": a_sweep(),
    "long": LONG,
    "hostile": hostile(),
}


def body(card: str) -> list[str]:
    """The lines of the cases: from the rule to the empty line after it."""
    lines = card.splitlines()
    (rule,) = (k for k, line in enumerate(lines) if set(line) == {"─"})
    return lines[rule + 1 : lines.index("", rule)]


def words(text: str) -> set[str]:
    return set(re.sub(r"[,;:]", " ", text).split())


def check(card: str, width: int, count: int) -> None:
    assert max(map(cell_len, card.splitlines())) <= width
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", card), "nothing moves the rest of the card"
    most = 1 if width >= 100 else 2 if width >= 80 else count * 99
    assert count <= len(body(card)) <= most * count


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_report_card_at_every_width(run: RunFile, width: int) -> None:
    card = REPORT.render([run], Canvas(width=width))
    rows = api.summarize_run(run)
    check(card, width, len(rows))
    for row in rows:
        assert word_of(row) in card
    if run is not RUNS["hostile"]:  # there a unit alone may be longer than a line
        for row in rows:
            assert words(name_of(row.case)) <= words(card)
            if row.throughput is not None:
                assert units.rate(row.throughput, row.unit.removesuffix("/s")).split()[0] in card


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("run", list(RUNS.values())[:-1], ids=list(RUNS)[:-1])
def test_a_wide_card_says_all_at_every_width(run: RunFile, width: int) -> None:
    card = REPORT.render([run], Canvas(width=width, wide=True))
    assert max(map(cell_len, card.splitlines())) <= width
    for row in api.summarize_run(run):
        said = " ".join(details(row))
        assert row.case.fingerprint in said and words(row.case.detail) <= words(said)
        assert words(said) <= words(card), "lost or cut"


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_not_shown_is_named(width: int) -> None:
    run = RUNS["golden"]
    card = " ".join(REPORT.render([run], Canvas(width=width)).split())
    head, _, rest = card.partition("─")
    left_out = re.search(r"Not shown: (.*?) \(--wide\)", rest)
    assert left_out is not None
    for heading in ("throughput", "interval", "latency", "FLOP/s", "memory", "limit", "verdict"):
        shown = heading in head.rpartition("avx512f case")[2]
        assert shown != (heading in left_out[1].split(", ")), heading


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_at_every_width(width: int) -> None:
    for base, other in ((BASE, OTHER), (hostile(), hostile())):
        comparison = api.compare_runs(base, other)
        card = render_comparison([comparison], Canvas(width=width))
        check(card, width, len(comparison.cases))
        wide = render_comparison([comparison], Canvas(width=width, wide=True))
        assert max(map(cell_len, wide.splitlines())) <= width


def test_a_comparison_without_a_figure_has_names_and_verdicts() -> None:
    """Of cases none of which is the same work, on a terminal too narrow for the name."""
    other = make_case(workload="resnet50", mode="train-pipeline", precision="bf16")
    launches = make_launches(other, [make_measured(0.01)] * 3)
    compared = api.compare_runs(LONG, make_file([other], launches))
    card = render_comparison([compared], Canvas(width=40, colour=False))
    check(card, 40, 1)
    assert "resnet50-train-pipeline" in card and "INCOMPARABLE" in card


def first_cells(lines: list[str], cases: list[Case]) -> Iterator[str]:
    """Of lines of one case each, what stands before the verdict's column."""
    for line, _ in zip(lines, cases, strict=True):
        yield re.split(r"\s(?:—|[\d.,]+ )", line)[0].rstrip()


@pytest.mark.parametrize("width", [100, 130, 400])
def test_no_two_cases_read_alike(width: int) -> None:
    run = RUNS["hostile"]
    lines = body(REPORT.render([run], Canvas(width=width)))
    called = list(first_cells(lines, list(run.run.plan)))
    assert len(set(called)) == len(called), called


def test_another_s_text_is_one_plain_line() -> None:
    assert plain(ODD[:27]) == "漢字/ [31mred [0m and anothe"
