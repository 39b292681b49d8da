"""What the plots of many devices are given."""

from __future__ import annotations

import math

import pytest

from bench.records.run import RunFile
from bench.reports import _html_devices
from bench.reports._html_side import Side
from bench.tests.reports.pages import Page, a_map, a_sweep, over_sizes, render


def sides(*runs: RunFile) -> list[Side]:
    return [Side(number, run) for number, run in enumerate(runs, start=1)]


def test_bus_bandwidth_is_drawn_over_sizes_a_curve_for_each_run() -> None:
    (panel,) = _html_devices.over_sizes(sides(over_sizes(), over_sizes(2.0)))
    assert panel["title"] == "collective-all-reduce bf16 2 devices"
    assert [curve["run"] for curve in panel["curves"]] == [0, 1]
    one, two = panel["curves"]
    assert [p["size"] for p in one["points"]] == [8, 2**10, 2**20]
    assert math.isclose(two["points"][2]["bus"], 2 * one["points"][2]["bus"], rel_tol=1e-6)
    assert one["words"].startswith("latency 10.0 us")
    assert "1 KiB" in one["points"][1]["hover"]


def test_the_fitted_line_is_drawn_through_what_it_says() -> None:
    """10 us and 1 GB/s: half of the bandwidth at 10 kB, next to all of it at 1 MiB."""
    ((curve,),) = [panel["curves"] for panel in _html_devices.over_sizes(sides(over_sizes()))]
    sizes, rates = zip(*curve["fit"], strict=True)
    assert (sizes[0], sizes[-1]) == (8, pytest.approx(2**20)) and list(rates) == sorted(rates)
    for size, rate in curve["fit"]:
        assert rate == pytest.approx(size / (1e-5 + size / 1e9), rel=0.01)


def test_a_map_has_each_pair_and_frames_the_slowest() -> None:
    (found,) = _html_devices.link_maps(sides(a_map(4, (1, 3))))
    assert found["title"] == "collective-pairs bf16 4 devices" and "ranks 1 and 3" in found["words"]
    assert found["z"][0] == [None, *[pytest.approx(2**20 / 1e-3, rel=1e-3)] * 3]
    assert found["z"][1][3] == found["z"][3][1] == pytest.approx(2**20 / 4e-3, rel=1e-3)
    assert found["text"][1][3] == ["1 with 3", "262 MB/s each way", "25% of the median"]
    assert found["text"][2][2] == [] and found["frames"] == [[1, 3, 3], [3, 1, 1]]


def test_a_map_of_many_ranks_keeps_the_slowest_of_each_block() -> None:
    (found,) = _html_devices.link_maps(sides(a_map(260, (5, 200))))
    assert len(found["z"]) == 87 and found["rows"][-1] == "258-259"
    assert min(rate for line in found["z"] for rate in line) == found["z"][1][66]
    assert found["frames"] == [[1, 66, 66], [66, 1, 1]]
    assert found["text"][1][66][0] == "3-5 with 198-200"
    assert found["words"].endswith("each cell the slowest of 3 x 3 ranks")


def test_what_has_no_data_is_not_on_the_page() -> None:
    page = Page(render(a_sweep()))
    assert page.data["links"] == page.data["maps"] == []
    assert "What joins the devices" not in page.text
    page = Page(render(a_map(3, (0, 1)), a_map(3, (0, 2))))
    assert "collective-pairs bf16 3 devices, run 2" in page.text
    assert page.text.count("slowest: ranks 0 and") == 2
    assert [a["id"] for a in page.all("div") if a.get("id", "").startswith("map-")] == [
        "map-0",
        "map-1",
    ]
