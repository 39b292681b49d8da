"""What the plots of many devices are given."""

from __future__ import annotations

import math

import msgspec
import pytest

from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.markdown import REPORT as MARKDOWN
from bench.reports.page import devices as device_plots
from bench.reports.page.side import Side
from bench.reports.wording.card_notes import COLLECTIVES
from bench.tests.reports.page.pages import Page, a_map, a_sweep, over_sizes, render, some_ranks
from bench.tests.scaled import EFFICIENCIES, NOISE, over_devices, run_of


def sides(*runs: RunFile) -> list[Side]:
    return [Side(number, run) for number, run in enumerate(runs, start=1)]


def test_markdown_says_of_collectives_what_the_card_says() -> None:
    text = " ".join(MARKDOWN.render([over_sizes()], Canvas()).split())
    line = "| 991 MB/s, bus 991 MB/s | ±0.0% | 3 | 1.06 ms | — | 3 MiB | OK |"
    assert line in text and f"{COLLECTIVES}." in text
    assert "LINK: collective-all-reduce bf16 2 devices: latency 10.0 us" in text
    assert "slowest: ranks 1 and 2, 262 MB/s" in MARKDOWN.render([a_map(4, (1, 2))], Canvas())
    assert "LINK" not in MARKDOWN.render([a_sweep()], Canvas())


def test_bus_bandwidth_is_drawn_over_sizes_a_curve_for_each_run() -> None:
    (panel,) = device_plots.over_sizes(sides(over_sizes(), over_sizes(2.0)))
    assert panel["title"] == "collective-all-reduce bf16 2 devices"
    assert [curve["run"] for curve in panel["curves"]] == [0, 1]
    one, two = panel["curves"]
    assert [p["size"] for p in one["points"]] == [8, 2**10, 2**20]
    assert math.isclose(two["points"][2]["bus"], 2 * one["points"][2]["bus"], rel_tol=1e-6)
    assert one["words"].startswith("latency 10.0 us")
    assert "1 KiB" in one["points"][1]["hover"]


def test_efficiency_is_drawn_a_curve_for_each_scheme_and_kind() -> None:
    weaker = {n: value if n == 1 else 0.9 * value for n, value in EFFICIENCIES.items()}
    weak = over_devices(weaker, weak=True)[len(NOISE) :]
    first = run_of([*over_devices(), *weak])
    second = run_of(over_devices({1: 1.0, 64: 0.7}, scheme="fsdp"))
    (panel,) = device_plots.efficiencies(sides(first, second))
    told = [(curve["run"], curve["label"], curve["weak"]) for curve in panel["curves"]]
    assert told == [(0, "dp, strong", False), (0, "dp, weak", True), (1, "fsdp, strong", False)]
    strong, weak_curve, other = (curve["points"] for curve in panel["curves"])
    assert [p["devices"] for p in strong] == [1, 2, 4, 8]
    assert [p["value"] for p in strong] == pytest.approx([1.0, 0.9, 0.75, 0.5], rel=1e-3)
    assert [p["value"] for p in weak_curve] == pytest.approx([1.0, 0.81, 0.675, 0.45], rel=1e-3)
    assert other[-1]["devices"] == 64 and other[-1]["low"] < 0.7 < other[-1]["high"]
    assert strong[0]["low"] is None, "of the fewest there is nothing to be unsure of"
    hover = strong[3]["hover"]
    assert hover[0] == "llama-train bf16 dp, strong" and "8 devices" in hover
    assert "100 token/s" in " ".join(hover) and "exposed 10.0 ms" in " ".join(hover)
    assert panel["curves"][0]["words"].endswith("dp, strong (batch 16 together), against 1 device")


def test_ranks_of_one_host_and_one_number_of_devices_have_no_curve() -> None:
    for run in (run_of(over_devices(shared=True)), run_of(over_devices({1: 1.0}))):
        assert list(device_plots.efficiencies(sides(run))) == []
        assert "Efficiency over devices" not in Page(render(run)).text


def test_the_fitted_line_is_drawn_through_what_it_says() -> None:
    """10 us and 1 GB/s: half of the bandwidth at 10 kB, next to all of it at 1 MiB."""
    ((curve,),) = [panel["curves"] for panel in device_plots.over_sizes(sides(over_sizes()))]
    sizes, rates = zip(*curve["fit"], strict=True)
    assert (sizes[0], sizes[-1]) == (8, pytest.approx(2**20)) and list(rates) == sorted(rates)
    for size, rate in curve["fit"]:
        assert rate == pytest.approx(size / (1e-5 + size / 1e9), rel=0.01)


def test_ranks_stand_beside_the_launchs_median_and_a_slow_one_is_framed() -> None:
    (found,) = device_plots.rank_maps(sides(some_ranks(8, (5,))))
    assert len(found["z"]) == 8 and {len(line) for line in found["z"]} == {5}
    assert found["z"][5] == pytest.approx([1.1] * 5, rel=0.01) and found["middle"] == 1
    assert found["rows"][4:6] == ["4", "5 slow"] and found["columns"] == ["1", "2", "3", "4", "5"]
    assert found["frames"] == [[5, 0, 4]] and found["marked_rows"] == [5]
    assert found["text"][5][2] == "8.82 ms, +9.7%"
    run = some_ranks(8)
    hindered = msgspec.structs.replace(run.launches[1].outcome, flags=("THROTTLED",))
    struck = msgspec.structs.replace(run.launches[1], outcome=hindered)
    without = msgspec.structs.replace(run, launches=(run.launches[0], struck, *run.launches[2:]))
    (one_less,) = device_plots.rank_maps(sides(without))
    assert one_less["columns"] == ["1", "3", "4", "5"], "the launch that counts, not the place"
    (alike,) = device_plots.rank_maps(sides(some_ranks(8)))
    assert alike["frames"] == [] and alike["words"] == "no rank is slow"


def test_a_map_has_each_pair_and_frames_the_slowest() -> None:
    (found,) = device_plots.link_maps(sides(a_map(4, (1, 3))))
    assert found["title"] == "collective-pairs bf16 4 devices" and "ranks 1 and 3" in found["words"]
    assert found["z"][0] == [None, *[pytest.approx(2**20 / 1e-3, rel=1e-3)] * 3]
    assert found["z"][1][3] == found["z"][3][1] == pytest.approx(2**20 / 4e-3, rel=1e-3)
    assert found["text"][1][3] == "262 MB/s, 25%" and found["text"][2][2] is None
    assert found["frames"] == [[1, 3, 3], [3, 1, 1]]


def test_a_map_of_many_ranks_keeps_the_slowest_of_each_block() -> None:
    (found,) = device_plots.link_maps(sides(a_map(260, (5, 200))))
    assert len(found["z"]) == 87 and found["rows"][-1] == "258-259"
    assert min(rate for line in found["z"] for rate in line) == found["z"][1][66]
    assert found["frames"] == [[1, 66, 66], [66, 1, 1]]
    assert (found["rows"][1], found["columns"][66]) == ("3-5", "198-200")
    assert found["words"].endswith("each cell the slowest of 3 x 3 ranks")


def test_what_has_no_data_is_not_on_the_page() -> None:
    page = Page(render(a_sweep()))
    assert page.data["efficiencies"] == page.data["ranks"] == []
    assert page.data["links"] == page.data["maps"] == []
    assert "What joins the devices" not in page.text and "each rank" not in page.text
    page = Page(render(a_map(3, (0, 1)), a_map(3, (0, 2))))
    assert "collective-pairs bf16 3 devices, run 2" in page.text
    assert page.text.count("slowest: ranks 0 and") == 2
    assert [a["id"] for a in page.all("div") if a.get("id", "").startswith("map-")] == [
        "map-0",
        "map-1",
    ]
