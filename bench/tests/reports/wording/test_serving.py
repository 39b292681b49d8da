"""Served loads as a reader sees them: the card at 80 columns, plots, flat rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import msgspec
import pytest

from bench import api
from bench.judging.comparing.at_tpot import compare_at_tpot
from bench.judging.served import ServingCurve, serving_curves
from bench.judging.summary import summarize
from bench.records.run import RunFile
from bench.records.served import Served, ServedRequest
from bench.report import Canvas
from bench.reports import csv as csv_report
from bench.reports import markdown, table
from bench.reports.flat.row import SERVING
from bench.reports.json import REPORT as JSON
from bench.reports.page import serving as served_page
from bench.reports.page.side import Side
from bench.reports.terminal import comparison
from bench.reports.wording import serving as words
from bench.tests.judging.test_sent_at_once import at_once
from bench.tests.reports.page.pages import Page
from bench.tests.served_runs import MS, serve_case, served, served_run, usual_run
from bench.tests.values import make_case, make_file, make_launch

RATES = served_run(
    [
        (serve_case(rate=rate), [served(lanes, requests=400) for _ in range(3)])
        for rate, lanes in ((2.0, 1), (4.0, 2))
    ]
)


def test_the_card_has_a_row_a_concurrency_at_80_columns() -> None:
    """With throughput, each user's, both latencies and goodput; and no line is wider."""
    text = table.REPORT.render([usual_run()], Canvas(width=80))
    found = text.splitlines()
    start = next(i for i, line in enumerate(found) if line.startswith("Serving: serve-load fp32"))
    rows = [line for line in found[start:] if " at once" in line]
    assert [line.split(" at once")[0].strip() for line in rows] == ["1", "2", "4"]
    head = next(line for line in found[start:] if "arrival" in line)
    for word in ("output", "each user", "TTFT", "TPOT", "goodput"):
        assert word in head
    assert "71.5 tok/s" in rows[1] and "14.0 ms" in rows[1] and "28.0 ms" in rows[1]
    assert max(map(len, found)) <= 80
    assert "no p99: it needs 368 requests a launch" in " ".join(text.split())


def test_rates_are_shown_as_asked_and_as_they_came() -> None:
    """With p99, where there are enough requests."""
    wide = table.REPORT.render([RATES], Canvas(width=160))
    assert "2.0 req/s (16.7)" in wide and "p99" in wide.split("Serving:")[1]
    assert "no p99" not in wide
    document = markdown.REPORT.render([RATES], Canvas())
    assert "| 2.0 req/s \\(16.7\\)" in document or "2.0 req/s (16.7)" in document


def test_only_loads_of_few_requests_are_said_to_have_no_p99() -> None:
    """Beside another load's p99 it would be false of the table."""
    few = [(serve_case(rate=rate), [served(1, requests=36 + 4 * rate)]) for rate in (6, 8)]
    many = (serve_case(rate=2), [served(1, requests=400)])
    said = " ".join(words.legend(list(_curves(served_run([many, *few])))))
    assert "no p99 in 2 of 3: it needs 368 requests a launch, there are 58 to 66" in said
    said = " ".join(words.legend(list(_curves(served_run(few[:1])))))
    assert "no p99: it needs 368 requests a launch, there are 58" in said


def test_a_mean_length_is_that_of_the_lengths_drawn() -> None:
    """What is beyond four times the mean is cut: at a sigma of 1.5 a quarter of it is missing."""

    def said(sigma: float) -> list[str]:
        lengths = {"input_tokens": 1000, "output_tokens": 100, "length_sigma": sigma}
        case = serve_case(2, **lengths, requests=4000)
        legend = words.legend(list(_curves(served_run([(case, [served(1)])]))))
        return [words for words in legend if "as drawn" in words]

    prompts, answers = said(1.5)
    assert prompts == "prompts as drawn have a mean of 747 tokens, of 1000 asked"
    assert answers.startswith("answers as drawn have a mean of 7")
    assert said(0.0) == said(0.2) == []


def overlapping(requests: int, at_once: int = 10) -> Served:
    """One is let in and one ends every 10 ms: of those of the window the last ten end after it."""
    step = 10 * MS
    made = [
        ServedRequest(
            prompt_tokens=7,
            due_ns=k * step,
            admitted_ns=k * step,
            first_ns=(k + 1) * step,
            last_ns=(k + at_once) * step,
            tokens=2,
        )
        for k in range(requests)
    ]
    moments = sorted(ns for r in made for ns in (r.first_ns, r.last_ns) if ns is not None)
    return Served(
        requests=tuple(made),
        arrived_ns=tuple(moments),
        arrived_tokens=(1,) * len(moments),
        ramp=at_once,
        load="abc",
    )


def test_each_p99_that_is_missing_is_said_with_its_own_count() -> None:
    """TTFT is of all that were let in, TPOT of those that ended too: 370 and 361, 40 and 31."""
    many, few = ((serve_case(rate=rate), [overlapping(n)]) for rate, n in ((8, 390), (2, 60)))
    (curve,) = _curves(served_run([many]))
    (cells,) = words.lines(curve)
    assert cells.ttft_p99 and not cells.tpot_p99
    needed = "it needs 368 requests a launch, there are"
    p99s = [said for said in words.legend([curve]) if "p99" in said]
    assert p99s == [f"no TPOT p99: {needed} 361"]
    p99s = [said for said in words.legend(list(_curves(served_run([few])))) if "p99" in said]
    assert p99s == [f"no TTFT p99: {needed} 40", f"no TPOT p99: {needed} 31"]
    curves = list(_curves(served_run([many, few])))
    p99s = [said for said in words.legend(curves) if "p99" in said]
    assert p99s == [f"no TTFT p99 in 1 of 2: {needed} 40", f"no TPOT p99: {needed} 31 to 361"]


def test_no_number_of_requests_is_asked_for_where_more_would_give_no_time() -> None:
    """All sent before the steady part, or in one piece each; and of others a p99 is wanted."""
    whole = in_one_piece(overlapping(390))
    offline = serve_case(0, arrival="offline"), [at_once(8, 80, 2)]
    for points, said in (
        ([offline], ["no TTFT or TPOT: all requests were sent before the steady part"]),
        (
            [(serve_case(rate=8), [whole]), offline, (serve_case(rate=2), [overlapping(60)])],
            [
                "no TTFT or TPOT in 1 of 3: all requests were sent before the steady part",
                "no TPOT in 1 of 3: each answer came in one piece",
                "no TTFT p99 in 1 of 3: it needs 368 requests a launch, there are 40",
                "no TPOT p99 in 1 of 3: it needs 368 requests a launch, there are 31",
            ],
        ),
    ):
        legend = words.legend(list(_curves(served_run(points))))
        assert sorted(one for one in legend if one.startswith("no T")) == sorted(said)


def in_one_piece(load: Served) -> Served:
    """All tokens of an answer come with its last."""
    requests = [
        msgspec.structs.replace(one, first_ns=one.last_ns, first_tokens=one.tokens)
        for one in load.requests
    ]
    ends = sorted(one.last_ns or 0 for one in requests)
    return msgspec.structs.replace(
        load, requests=tuple(requests), arrived_ns=tuple(ends), arrived_tokens=(2,) * len(ends)
    )


def test_of_several_devices_it_is_said_that_the_figures_are_of_all() -> None:
    """Once, below the lines; of one device nothing is said."""
    two = msgspec.structs.replace(serve_case(1), devices=2)
    (curve,) = serving_curves(summarize(served_run([(two, [served(1)] * 3)])))
    assert "output and goodput are of all 2 devices together" in words.legend([curve])
    (curve,) = serving_curves(summarize(usual_run()))
    assert not any("devices together" in said for said in words.legend([curve]))


def test_an_engine_in_its_own_way_is_said() -> None:
    """Over 3 % of its busy time: the host is in the figures."""
    slow = served(1)
    assert slow.steps is not None
    steps = msgspec.structs.replace(
        slow.steps, forward_ns=tuple(ns * 9 // 10 for ns in slow.steps.wall_ns)
    )
    run = served_run([(serve_case(1), [msgspec.structs.replace(slow, steps=steps)])])
    said = " ".join(words.legend(list(_curves(run))))
    assert "over 3% in 1 of 1" in said
    assert "over 3%" not in " ".join(words.legend(list(_curves(usual_run()))))


def _curves(run: RunFile) -> Iterator[ServingCurve]:
    return serving_curves(summarize(run))


def test_the_front_is_what_no_other_point_beats() -> None:
    """Throughput of a device over each user's; a point that is worse in both is off the line."""
    points = [{"x": x, "y": y} for x, y in ((1, 9), (2, 7), (1.5, 6), (3, 3), (3, 2))]
    assert [(p["x"], p["y"]) for p in served_page.front(points)] == [(1, 9), (2, 7), (3, 3)]


def test_plots_overlay_runs_and_bear_their_limit() -> None:
    """One panel for an engine, a curve a run; TTFT over rates with the case's limit."""
    sides = [Side(1, usual_run()), Side(2, usual_run(1.5)), Side(3, RATES)]
    panels = list(served_page.panels(sides))
    front, queue = panels[0], panels[-1]
    assert [curve["run"] for curve in front["curves"]] == [0, 1, 2]
    assert [p["label"] for p in front["curves"][0]["points"]] == ["1", "2", "4"]
    assert front["limit"] is None and len(front["curves"][0]["line"]) == 3
    x, y = front["curves"][0]["line"][0]
    assert x == pytest.approx(1 / 0.018, rel=0.01) and y == pytest.approx(20 / 0.108, rel=0.01)
    assert queue["limit"] == 0.1 and queue["y"] == "TTFT p99, s"
    few = served_run([(serve_case(rate=2.0), [served(1)])])
    assert list(served_page.panels([Side(1, few)]))[-1]["y"] == "TTFT p50, s"


@pytest.mark.parametrize("name", ["html", "markdown"])
def test_every_figure_of_a_load_stands_in_a_document_with_its_words(name: str) -> None:
    """Of loads of a given number at once too, of which the page draws no TTFT."""
    run = usual_run()
    text = api.render(run, name)
    text = Page(text).text if name == "html" else text
    (curve,) = _curves(run)
    for line in words.lines(curve):
        assert all(cell in text for cell in line)
    assert "12.0 ms" in text, "a TTFT"
    for said in words.legend([curve]):
        assert said in text
    assert "Every figure is in the tables" in text or name == "markdown"


def test_flat_rows_have_every_figure_and_its_interval() -> None:
    """JSON and CSV; a run of other work beside it has empty fields, and no other columns."""
    run = usual_run()
    other = make_case()
    gemm = make_file([other], [make_launch(case=other)])
    objects = json.loads(JSON.render([run], Canvas()))
    for name, unit in SERVING.items():
        assert f"serving_{name}{unit}" in objects[0]
    assert objects[1]["serving_tpot_p50_seconds"] == pytest.approx(0.014, rel=0.01)
    assert objects[1]["serving_tpot_p50_seconds_low"] < 0.014
    text = csv_report.REPORT.render([gemm, run], Canvas())
    first, second, *_ = csv.DictReader(io.StringIO(text))
    assert first["serving_goodput_requests_per_second"] == ""
    assert float(second["serving_goodput_requests_per_second"]) > 0


def test_a_comparison_at_a_limit_says_which_loads() -> None:
    """Under the case: what is compared is not one load."""
    found = compare_at_tpot(usual_run(), usual_run(1.5), 0.013)
    said = " ".join(comparison.render([found], Canvas(width=80)).split())
    assert "at a median TPOT of 13.0 ms or less; base 1 at once; other 4 at once" in said
    assert "FASTER" in said
    (case,) = json.loads(api.render([found], "json"))[0]["cases"]
    assert case["tpot_limit_seconds"] == 0.013
    assert [case[side]["load"] for side in ("base", "other")] == ["1 at once", "4 at once"]
