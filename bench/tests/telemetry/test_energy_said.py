"""What reports say of energy, and of what nobody could see."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from bench import api, units
from bench.judging.comparing.compare import compare
from bench.judging.summary import summarize
from bench.records.run import Launch, RunFile
from bench.report import Canvas
from bench.reports.flat.row import flat as as_flat
from bench.reports.table import TableReport
from bench.reports.terminal.comparison import render
from bench.tests.reports.page.pages import Page
from bench.tests.telemetry.launches import seen, steady
from bench.tests.values import make_case, make_file, make_launch

CASE = make_case()


def launches_with_energy(*joules: float | None, scope: str = "board") -> list[Launch]:
    launches = []
    for number, amount in enumerate(joules):
        outcome = steady()
        if amount is not None:
            outcome = msgspec.structs.replace(
                outcome, energy_joules=amount, energy_absent=None, energy_method="counter"
            )
        seen_then = seen(scope=scope, idle_watts=71.5, absent={"reasons": "it does not say"})
        launches.append(make_launch(outcome, CASE, number, number, telemetry=seen_then))
    return launches


def said(file: RunFile, *, wide: bool = False) -> str:
    """The card, its lines as one text."""
    return " ".join(TableReport().render([file], Canvas(width=200, wide=wide)).split())


def test_a_record_that_kept_the_counters_figure_beside_another_has_no_figure_either() -> None:
    launches = launches_with_energy(110, 111)
    flagged = msgspec.structs.replace(
        launches[1].outcome, flags=("ENERGY_DISAGREES",), causes={"ENERGY_DISAGREES": "50 % apart"}
    )
    launches[1] = msgspec.structs.replace(launches[1], outcome=flagged)
    (row,) = summarize(make_file([CASE], launches))
    assert (row.items_per_joule, row.joule_interval) == (None, None)
    assert row.energy_absent == "50 % apart"


def test_joules_an_item_have_an_interval_over_launches_a_source_and_a_scope() -> None:
    file = make_file([CASE], launches_with_energy(110, 111, 109.02))
    (row,) = summarize(file)
    assert row.items_per_joule == pytest.approx((11**3 / (110 * 111 * 109.02)) ** (1 / 3))
    assert row.joule_interval is not None and row.joule_interval.value == row.items_per_joule
    assert row.joule_interval.low < 0.1 < row.joule_interval.high
    assert (row.energy_source, row.energy_scope) == ("NVML, counter", "board")
    card = said(file)
    assert " 10.0 J/image " in card and "energy: board; NVML, counter; idle 71.5 W" in card
    assert "energy 10.0 J/image ±2.2% (board; NVML, counter; idle 71.5 W)" in said(file, wide=True)
    assert "not observable: reasons (it does not say)" in card
    flat = as_flat(file, row)
    assert flat["items_per_joule_low"] == row.joule_interval.low
    assert flat["idle_watts"] == 71.5 and flat["energy_absent"] is None


def test_both_ways_are_named_where_launches_had_their_energy_by_one_each() -> None:
    launches = launches_with_energy(110, 111, 109)
    for number in (1, 2):
        by_power = msgspec.structs.replace(launches[number].outcome, energy_method="power")
        launches[number] = msgspec.structs.replace(launches[number], outcome=by_power)
    (row,) = summarize(make_file([CASE], launches))
    assert (row.energy_source, row.energy_scope) == ("NVML, counter and power", "board")


def test_whose_energy_it_is_is_said_in_words() -> None:
    for scope, words in (
        ("package", "energy: the whole package; NVML, counter"),
        ("shared", "energy: the whole device, which others may use; NVML, counter"),
    ):
        file = make_file([CASE], launches_with_energy(110, 111, 109, scope=scope))
        assert words in said(file)


def test_what_one_launch_missed_is_on_the_card_though_the_last_missed_nothing() -> None:
    launches = launches_with_energy(110, 111)
    missed = seen(absent={"looks": "3 of 40 failed: busy"})
    launches[0] = msgspec.structs.replace(launches[0], telemetry=missed)
    file = make_file([CASE], launches)
    assert "looks (in 1 of 2 launches: 3 of 40 failed: busy)" in said(file, wide=True)
    assert "not observable: some looks, reasons (in 1 of 2 launches)" in said(file)


def test_a_launch_without_energy_leaves_no_figure_but_a_reason() -> None:
    (row,) = summarize(make_file([CASE], launches_with_energy(110, None, 109)))
    assert (row.items_per_joule, row.joule_interval) == (None, None)
    assert row.energy_absent == "not measured"


def test_a_board_is_not_compared_with_a_package_by_the_joule() -> None:
    board = make_file([CASE], launches_with_energy(*[110] * 5))
    other = make_file([CASE], launches_with_energy(*[55] * 5))
    package = make_file([CASE], launches_with_energy(*[55] * 5, scope="package"))
    assert compare(board, other).cases[0].joule_ratio == pytest.approx(2)
    apart, alike = compare(board, package), compare(board, other)
    assert apart.cases[0].joule_ratio is None
    words = "energy: no ratio per joule: of board in the base, of the whole package in the other"
    assert f"{words}: gemm-matmul bf16" in render([apart], Canvas(width=200))
    assert "energy:" not in render([alike], Canvas(width=200, wide=True))


def test_a_launch_that_nobody_looked_at_says_so_on_the_card() -> None:
    launch = make_launch(steady(), CASE, telemetry_absent="npu-smi is not on PATH")
    card = said(make_file([CASE], [launch]))
    assert "not observable: telemetry (npu-smi is not on PATH)" in card


def watched(*absent: dict[str, str] | str, **changes: Any) -> list[Launch]:
    """A launch for each: what could not be read of it, or why nothing could."""
    case = make_case(**changes)
    return [
        make_launch(steady(), case, launch=k, order=k, telemetry_absent=why)
        if isinstance(why, str)
        else make_launch(steady(), case, launch=k, order=k, telemetry=seen(absent=why))
        for k, why in enumerate(absent)
    ]


def test_launches_in_which_nobody_looked_are_counted() -> None:
    (row,) = summarize(make_file([CASE], watched({"clock": "none"}, "lost", {}, "gone")))
    assert row.not_observable == {
        "clock": "in 1 of 2 launches: none",
        "telemetry": "in 2 of 4 launches: gone",
    }


UNSEEN = {"reasons": "NVML: no right", "power": "NVML: busy (in 1 of 240 looks)"}


@pytest.mark.parametrize("name", ["table", "markdown", "html", "json", "csv"])
def test_every_report_says_what_nobody_could_see_and_of_which_cases(name: str) -> None:
    """The first case is seen throughout, but for one look at its power; the second not at all."""
    first, second = watched(UNSEEN, UNSEEN), watched("lost", "lost", workload="bert")
    file = make_file([first[0].case, second[0].case], [*first, *second])
    told = api.render([file], name, wide=True)
    if name == "html":
        told = Page(told).text
    if name in ("json", "csv"):
        assert "reasons: NVML: no right; power: NVML: busy (in 1 of 240 looks)" in told
        assert "telemetry: lost" in told
        return
    told = " ".join(told.split()).replace("\\", "")
    assert re.search(
        r"[Nn]ot observable ?: reasons \(NVML: no right\): gemm-matmul bf16; "
        r"power \(NVML: busy \(in 1 of 240 looks\)\): gemm-matmul bf16; "
        r"telemetry \(lost\): bert-matmul bf16",
        told,
    )
    brief = "reasons, power (in some looks): gemm-matmul bf16; telemetry: bert-matmul bf16"
    assert f"not observable: {brief}" in said(file)


def test_unlike_energies_are_told_apart_by_their_cases() -> None:
    file = make_file([CASE], launches_with_energy(110, 111, 109))
    other = make_case(workload="bert")
    launches = [
        msgspec.structs.replace(one, case=other, fingerprint=other.fingerprint)
        for one in launches_with_energy(110, 111, 109, scope="package")
    ]
    both = make_file([CASE, other], [*file.launches, *launches])
    assert "energy: board; NVML, counter; idle 71.5 W: gemm-matmul bf16" in said(both)
    assert "energy: the whole package; NVML, counter; idle 71.5 W: bert-matmul bf16" in said(both)
    page = Page(api.render([both], "html")).text
    assert "J/image board; NVML, counter; idle 71.5 W" in page
    assert "J/image the whole package; NVML, counter; idle 71.5 W" in page


@pytest.mark.parametrize(
    "each, item, words",
    [
        (12.3, "image", "12.3 J/image"),
        (0.0123, "token", "12.3 mJ/token"),
        (1.5e-6, "token", "1.50 uJ/token"),
        (1e-12, "FLOP", "1.00 TFLOP/J"),
    ],
)
def test_energy_in_words(each: float, item: str, words: str) -> None:
    assert units.joules(each, item) == words
