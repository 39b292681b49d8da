"""What the plots are given."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.judging.comparing.compare import compare
from bench.judging.summary import summarize
from bench.records.observed import Reading
from bench.records.outcome import Outcome, Skipped
from bench.records.run import Launch, RunFile, Settings
from bench.records.runfile import read
from bench.reports.page import plots
from bench.reports.page.side import Side
from bench.tests.reports.page.pages import Page, a_sweep, of_suite, render, sweep_case
from bench.tests.scripts.regenerate import RUN
from bench.tests.telemetry.launches import seen, steady
from bench.tests.values import (
    another,
    failed,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)


def sides(*runs: RunFile) -> list[Side]:
    return [Side(number, run) for number, run in enumerate(runs, start=1)]


def alike(named: list[dict[str, Any]], width: int) -> int:
    """How many labels, cut to so many letters, are also another's."""
    found = Counter(f"{slot['label']}  {slot['detail']}"[: width - 1] for slot in named)
    return sum(count for count in found.values() if count > 1)


@pytest.mark.parametrize("title", sorted(catalogue.suites()))
def test_labels_of_a_suite_tell_its_cases_apart_where_they_are_cut(title: str) -> None:
    """By words at the usual width of a panel, but for few; the browser adds a mark to those."""
    run = of_suite(title)
    panels = list(plots.panels(sides(run), []))
    few = len(run.run.plan) / 5
    assert sum(alike(panel["slots"], 60) for panel in panels) < few
    marks = plots.ratios(compare(run, another(run)))
    assert alike(marks, 100) == 0
    for named in (*(panel["slots"] for panel in panels), marks):
        assert len({slot["mark"] for slot in named}) == len(named)


def test_a_label_has_every_parameter() -> None:
    """What tells cases apart first; what is usual is cut first."""
    run = a_sweep()
    bert = next(p for p in plots.panels(sides(run), []) if p["title"] == "bert-infer")
    assert [slot["detail"] for slot in bert["slots"]] == [
        "batch 4, base",
        "batch 1, base",
        "batch 2, base",
    ]


def bars(*runs: RunFile) -> list[list[str]]:
    """What stands beside the bars of each slot of a page."""
    drawn = Page(render(*runs)).data["panels"]
    return [[bar["word"] for bar in slot["bars"]] for panel in drawn for slot in panel["slots"]]


def test_a_bar_that_is_not_compared_with_the_one_above_it_says_so() -> None:
    """The same work by its name, timed step by step in one run: the page lists it as refused."""
    case, alone = make_case(), make_case(workload="bert")
    outcomes = [make_measured(0.01 * (1 + k / 500)) for k in range(5)]
    launches = make_launches(case, outcomes)
    runs = [
        make_file([case], launches),
        make_file([case], launches),
        make_file(
            [case, alone],
            [*launches, *make_launches(alone, outcomes[:1])],
            settings=Settings(timing="step"),
        ),
    ]
    assert bars(*runs) == [["OK", "OK", "not comparable"], ["FEW LAUNCHES"]]
    noisy = [make_measured(0.01 * (1 + k / 5)) for k in range(5)]
    other = make_file([case], make_launches(case, noisy), settings=Settings(timing="step"))
    assert bars(runs[0], other) == [["OK", "NOISY, not comparable"]]
    assert bars(runs[0], msgspec.structs.replace(runs[1], damage="line 7: damaged")) == [
        ["OK", "not comparable"]
    ]
    broken = make_file([case], make_launches(case, [failed()] * 2))
    assert bars(broken, runs[2]) == [["OK"], ["FEW LAUNCHES"]], "nothing stands above it"
    page = Page(render(runs[0], runs[2])).text
    assert "What is marked not comparable must not be read beside run 1." in page
    assert "not comparable" not in Page(render(runs[0])).text


def test_a_point_of_the_roofline_lies_where_its_counts_say() -> None:
    drawn = plots.roofline(sides(a_sweep()))
    (point,) = drawn["points"]
    assert math.isclose(point["intensity"], 1.0)
    assert math.isclose(point["flop"], 1e10, rel_tol=0.01)
    (roof,) = drawn["roofs"]
    assert math.isclose(roof["matmul"], 1e11, rel_tol=0.01)
    assert math.isclose(roof["bandwidth"], 1e10, rel_tol=0.01)
    assert drawn["missing"] == []
    why = {group["why"]: group["names"] for group in drawn["unplaced"]}
    assert why["its work is not arithmetic, no FLOP are counted"] == [
        "memory-triad bf16",
        "bert-infer bf16",
    ]
    assert why["the bytes that a step must move are not counted"] == ["gemm-matmul bf16"]


def test_a_missing_ceiling_is_said() -> None:
    page = Page(render(read(RUN)))
    assert "Run 1 has no memory bandwidth ceiling" in page.text
    drawn = plots.roofline(sides(make_file([sweep_case(1)], [])))
    assert drawn == {"points": [], "roofs": [], "missing": [], "unplaced": []}
    case = make_case(workload="bert", precision="fp32")
    alone = make_file([case], make_launches(case, [make_measured(flop=9, moved_bytes=3)] * 3))
    drawn = plots.roofline(sides(alone))
    assert len(drawn["points"]) == 1 and drawn["roofs"] == []
    assert "Run 1 has no fp32 matmul ceiling" in drawn["missing"][0]


def test_a_sweep_is_one_curve_in_the_order_of_batches() -> None:
    (panel,) = plots.sweeps(sides(a_sweep(), a_sweep(2.0)))
    assert panel["title"] == "bert-infer bf16 (base)"
    assert [curve["run"] for curve in panel["curves"]] == [0, 1]
    points = panel["curves"][0]["points"]
    assert [p["batch"] for p in points] == [1, 2, 4]
    assert math.isclose(points[2]["ms"], 20, rel_tol=0.01)
    assert math.isclose(points[2]["throughput"], 200, rel_tol=0.01)
    assert points[2]["ms_low"] < points[2]["ms"] < points[2]["ms_high"]


def test_curves_that_lie_over_one_another_and_are_not_compared_say_so() -> None:
    """By the name of their run, above every plot: here of two sweeps over the batch."""
    base, other = a_sweep(), a_sweep(2.0)
    stepped = msgspec.structs.replace(other.run, settings=Settings(timing="step"))
    refused = msgspec.structs.replace(other, run=stepped)
    assert "not comparable with run 1 in" not in Page(render(base, other)).text
    for runs in ((base, refused), (base, other, refused)):
        page = Page(render(*runs))
        assert [len(panel["curves"]) for panel in page.data["sweeps"]] == [len(runs)]
        assert page.text.count("not comparable with run 1 in 6 cases") > 2
    damaged = msgspec.structs.replace(other, damage="line 7: damaged")
    text = Page(render(base, damaged)).text
    assert "not comparable with run 1" in text and "run 1 in " not in text


def test_one_batch_size_is_no_sweep() -> None:
    assert list(plots.sweeps(sides(read(RUN)))) == []
    assert "No sweep" in Page(render(read(RUN))).text


@pytest.mark.parametrize(
    ("warmup", "steady", "points"),
    [
        (3, 10, (3, 10)),
        (20, 40, (20, 40)),
        (20, 100, (10, 50)),
        (0, 100, (0, 60)),
        (2, 999, (1, 59)),
    ],
)
def test_a_long_launch_is_thinned_to_medians(
    warmup: int, steady: int, points: tuple[int, int]
) -> None:
    block = make_measured(0.001).steady[0]
    outcome = make_measured(
        [0.001 * (k + 1) for k in range(steady)], warmup=(block,) * warmup, latency_name=None
    )
    case = make_case()
    (trace,) = plots.traces(sides(make_file([case], make_launches(case, [outcome]))))
    (launch,) = trace["launches"]
    assert (len(launch["warmup"]["ms"]), len(launch["steady"]["ms"])) == points
    assert (launch["warmup"]["samples"], launch["steady"]["samples"]) == (warmup, steady)
    assert ("medians of bins" in launch["words"]) == (warmup + steady > 60)
    # Sample k takes k + 1 ms: the median of a bin says where its middle lies.
    width = steady / points[1]
    for i, ms in enumerate(launch["steady"]["ms"]):
        assert abs(ms - (i + 0.5) * width - 0.5) <= 1


def test_a_trace_says_outliers_flags_and_failures() -> None:
    steps = [0.01, 0.0101, 0.0099, 0.0102, 0.01, 0.0098, 0.5]
    outcomes: list[Outcome] = [
        make_measured(steps, flags=("DRIFT",)),
        failed(message="it broke"),
        Skipped(reason="no bf16"),
    ]
    case = make_case()
    (trace,) = plots.traces(sides(make_file([case], make_launches(case, outcomes))))
    words = [launch["words"] for launch in trace["launches"]]
    assert "3 warm-up and 7 steady samples" in words[0] and "1 outlier;" in words[0]
    assert "DRIFT: step times moved" in words[0]
    assert words[1:] == ["FAILED: it broke", "SKIPPED: no bf16"]


def listed(*launches: Launch) -> list[str]:
    """What the page says of each launch of one case."""
    (trace,) = plots.traces(sides(make_file([make_case()], launches)))
    return [launch["words"] for launch in trace["launches"]]


def test_a_trace_says_which_launch_is_left_out_of_the_figure_and_why() -> None:
    """A low clock shows beside the whole case only; a stop, in an older record, in the samples."""

    def clocked(number: int, mhz: float) -> Launch:
        readings = tuple(Reading(at_seconds=16.0 + k, clock_mhz=mhz) for k in range(4))
        return make_launch(steady(), launch=number, telemetry=seen(readings=readings))

    words = listed(*(clocked(k, 1200 if k == 3 else 1410) for k in range(10)))
    assert "THROTTLED: heat, the power supply" in words[3]
    assert "(clock 1200 MHz, 85% of the case's 1410 MHz)" in words[3]
    assert words[3].endswith("; left out of the figure")
    assert not [said for said in (*words[:3], *words[4:]) if "left out" in said or "THR" in said]

    stopped = make_measured([*[0.01] * 9, 3.0])
    held = make_measured(flags=("CONTENDED",), causes={"CONTENDED": "8 s of other work"})
    usual = make_measured()
    words = listed(*make_launches(make_case(), [usual, stopped, held, usual, usual, usual]))
    assert "STOPPED: " in words[1] and words[1].endswith("left out of the figure")
    assert words[2].endswith(
        "CONTENDED: other work on the host slowed it (8 s of other work); left out of the figure"
    )
    assert not [said for said in (words[0], *words[3:]) if "left out" in said]
    every = listed(*make_launches(make_case(), [held] * 3))
    assert not [said for said in every if "left out" in said], "all are in the figures"


def test_a_trace_says_which_launch_stands_far_from_the_others() -> None:
    outcomes = [make_measured(0.01 * (1 + k / 1000)) for k in range(9)]
    run = make_file([make_case()], make_launches(make_case(), [*outcomes, make_measured(0.02)]))
    (row,) = summarize(run)
    assert list(row.far_out) == [9]
    words = listed(*run.launches)
    assert "FAR_OUT: " in words[9] and "0.502 of the median" in words[9]
    assert "left out" not in words[9] and not [said for said in words[:9] if "FAR_OUT" in said]
    assert ": of a launch, it stands far from the others" in Page(render(run)).text
