"""The card and the rows of two whole systems."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from bench.api import render as render_any
from bench.errors import ComparisonError
from bench.judging.comparing.compare import Prices, compare
from bench.judging.comparing.comparison import Comparison
from bench.judging.comparing.systems import compare_systems
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.flat.comparison import flat
from bench.reports.markdown import REPORT as MARKDOWN
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import steps
from bench.tests.judging.two_systems import batch, on, runs_on, strong, system, weak
from bench.tests.reports.page.pages import Page
from bench.tests.reports.page.pages import render as render_page
from bench.tests.values import make_case

PRICES = Prices(base=2.0, other=0.5)


@pytest.fixture(scope="module")
def eight_and_sixty_four() -> Comparison:
    return compare_systems(strong(), weak(), PRICES)


def words(comparison: Comparison, width: int, **changes: Any) -> str:
    text = render([comparison], Canvas(width=width, **changes))
    assert max(map(len, text.splitlines())) <= width
    return " ".join(text.split())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_card_has_the_product_with_its_intervals(
    eight_and_sixty_four: Comparison, width: int
) -> None:
    text = words(eight_and_sixty_four, width)
    assert "other against base as whole systems, 1 case: 1 FASTER" in text
    for part in (
        "dp8 | fsdp64",
        "1.244 1.234\N{EN DASH}1.255",
        "= count 8 x chip 0.200 (0.198\N{EN DASH}0.202) x scaling 0.778 "
        "(0.769\N{EN DASH}0.787); 0.156 (0.154\N{EN DASH}0.157) a device",
        "efficiency against one device: base 90% (89% to 91%), other 70% (69% to 71%)",
        "count x chip x scaling: the ratio, as that of the numbers of devices",
    ):
        assert part in text
    assert "0.62" in text, "items for the price of all devices, which was asked for"


def test_where_a_setting_may_be_why_no_chip_is_named() -> None:
    found = compare_systems(strong(variables={"OMP_NUM_THREADS": "8"}), weak())
    text = words(found, 120)
    assert "x one device 0.200" in text and "No verdict on the chip" in text
    assert " chip 0.2" not in text


def test_every_form_says_beside_who_is_faster_that_settings_differ() -> None:
    base, other = strong(), weak(run_id="another", variables={"OMP_NUM_THREADS": "1"})
    page = Page(render_page(base, other))
    (system,) = page.data["systems"][0]
    assert system["verdict"] == "FASTER" and system["text"].endswith(" FASTER, settings differ")
    listed = page.text.partition("As whole systems")[2].partition("Throughput Geometric")[0]
    assert listed.count("(settings differ)") == 1
    text = MARKDOWN.render([base, other], Canvas()).partition("**As whole systems**")[2]
    assert text.count("**FASTER**: settings differ") == 1


def test_what_cannot_be_split_says_why() -> None:
    found = compare_systems(strong(), system({"dp64": 900.0}))
    assert (
        "= count 8 x 0.156 (0.155\N{EN DASH}0.158) a device; chip and scaling not told apart: "
        "other has no figure of one device alone at this batch efficiency against one device: "
        "base 90% (89% to 91%)" in words(found, 100)
    )


def test_two_pairs_of_one_work_are_told_apart_by_their_spreads() -> None:
    pairs = ((8, strong()), (64, weak()))
    base, other = (
        runs_on((on(f"dp{n}"), 700.0), (on(f"fsdp{n}"), 690.0), (on(f"hsdp2x{n // 2}"), [*_few()]))
        for n, _ in pairs
    )
    text = words(compare_systems(base, other), 100)
    assert "gpt-train bf16, batch 256, sequence 128 dp8 | dp64" in text
    assert "4 launches: a verdict needs" in text
    assert "--launches 10): gpt-train bf16, hsdp2x4 | hsdp2x32" in text


def _few() -> Any:
    return steps([0.002] * 4)


def test_what_is_not_compared_is_said_once_with_why() -> None:
    base = runs_on((on("dp8"), 700.0), (on("dp8", batch(64)), 500.0))
    other = runs_on((on("dp64"), 900.0), (on("dp64", batch(128)), 500.0), (on("fsdp64"), 800.0))
    text = words(compare_systems(base, other), 120)
    assert "INCOMPARABLE global batch differs (64 on 8 devices, 128 on 64 devices)" in text
    assert "NOT COMPARED other on fsdp64: measured: gpt-train bf16" in text


def test_rows_have_the_product_and_each_side(eight_and_sixty_four: Comparison) -> None:
    (case,) = flat(eight_and_sixty_four)["cases"]
    found = case["system"]
    assert found["devices_ratio"] == 8 and found["not_split"] is None
    assert found["one_device_ratio"] * found["scaling_ratio"] * 8 == pytest.approx(case["ratio"])
    for name in ("per_device_ratio", "one_device_ratio", "scaling_ratio"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert case["per_currency_unit_ratio"] == pytest.approx(case["ratio"] / 2)
    sides = [(found[who]["devices"], found[who]["parallelism"]) for who in ("base", "other")]
    assert sides == [(8, "dp8"), (64, "fsdp64")]
    assert found["other"]["efficiency_low"] < 0.7 < found["other"]["efficiency_high"]
    assert found["base"]["fingerprint"] == on("dp8").fingerprint
    assert case["fingerprint"] == on("none").fingerprint


def test_rows_without_a_factor_have_nulls() -> None:
    lonely = runs_on((on("dp8"), 700.0), (on("dp8", batch(64)), 500.0))
    first, second = flat(compare_systems(lonely, system({"dp64": 900.0})))["cases"]
    assert first["system"]["one_device_ratio"] is None and first["system"]["not_split"]
    assert second["system"]["devices_ratio"] is None and second["system"]["other"] is None
    assert "system" not in flat(_usual(strong()))["cases"][0]


def _usual(other: RunFile) -> Comparison:
    return compare(strong(), other)


def test_cases_on_other_devices_are_pointed_to_the_systems() -> None:
    last = render([_usual(weak())], Canvas(width=200)).splitlines()[-1]
    assert last == (
        "Next: as whole systems, at equal global batch: accelmark compare fake.jsonl fake.jsonl "
        "--systems"
    )
    assert "--systems" not in render([_usual(strong())], Canvas(width=200))


@pytest.mark.parametrize(("mine", "theirs"), [(2, 4), (1, 8)])
def test_what_devices_do_together_is_pointed_to_no_systems(mine: int, theirs: int) -> None:
    """A server on eight devices is not the work of one on four, spread otherwise."""
    base, other = (
        runs_on((make_case(workload="collective", mode="all-reduce", devices=devices), 10.0))
        for devices in (mine, theirs)
    )
    found = compare(base, other)
    assert found.cases[0].codes == ("other-device-count",)
    last = render([found], Canvas(width=200)).splitlines()[-1]
    assert last.startswith("Next: run the same suite on both") and "--systems" not in last
    with pytest.raises(ComparisonError, match=r"other has what devices do together \(a collective"):
        compare_systems(base, other)


def test_the_page_of_two_runs_has_their_systems_where_they_are_others() -> None:
    page = Page(render_page(strong(), weak()))
    ((mark,),) = page.data["systems"]
    assert mark["label"] == "gpt-train bf16 dp8 | fsdp64" and mark["low"] < mark["ratio"]
    for part in (
        "As whole systems",
        "dp8 | fsdp64: 1.244 (1.234 to 1.255) = count 8 x chip 0.200 (0.198\N{EN DASH}0.202)",
        "efficiency against one device: base 90% (89% to 91%), other 70% (69% to 71%)",
    ):
        assert part in page.text
    for same in (strong(), system({"dp64": 900.0}, batch(512))):
        page = Page(render_page(strong(), same))
        assert page.data["systems"] == [[]] and "whole systems" not in page.text


def test_a_pull_request_is_told_of_the_systems_too() -> None:
    text = MARKDOWN.render([strong(), weak()], Canvas())
    assert "**As whole systems**, at equal global batch:" in text
    assert (
        "| gpt-train bf16 (batch 256, sequence 128) | dp8 \\| fsdp64 | 1.244 | 1.234 to 1.255 | "
        "**FASTER**" in text
    )
    assert "x scaling 0.778 (0.769\N{EN DASH}0.787)" in text
    assert "As whole systems" not in MARKDOWN.render([strong(), strong()], Canvas())


def test_comma_separated_rows_have_all_that_json_has(eight_and_sixty_four: Comparison) -> None:
    """Of systems and of cases, side by side: what a row has not is empty."""
    lonely = runs_on((on("dp8"), 700.0), (on("dp8", batch(64)), 500.0))
    found = [eight_and_sixty_four, compare_systems(lonely, system({"dp64": 900.0}))]
    first, second, third = csv.DictReader(io.StringIO(render_any([*found], "csv")))
    (case,) = flat(eight_and_sixty_four)["cases"]
    assert float(first["system_scaling_ratio_low"]) == case["system"]["scaling_ratio_low"]
    assert float(first["other_throughput"]) == case["other"]["throughput"]
    assert (first["system_base_parallelism"], first["system_other_devices"]) == ("dp8", "64")
    assert first["base_run"] == eight_and_sixty_four.base.run.run_id
    assert second["system_one_device_ratio"] == "" != second["system_not_split"]
    assert (third["system_other_devices"], third["verdict"]) == ("", "INCOMPARABLE")
    assert third["reasons"] == "no such case in the other run" and None not in third
