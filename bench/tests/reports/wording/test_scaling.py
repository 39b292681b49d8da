"""Scaling as a reader sees it: a small table for each curve at any width, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from bench.judging.interval import Interval
from bench.judging.row import Row
from bench.records.run import Launch, RunFile
from bench.report import Canvas
from bench.reports import markdown, table
from bench.reports.page.side import Side
from bench.reports.wording import scaling
from bench.tests import scaled
from bench.tests.guide.documents import PACKAGE, blocks
from bench.tests.values import make_case, make_measured

BEYOND = "it takes more devices than this run, which takes 8"
FOUND = [
    *scaled.over_devices(),
    *scaled.over_devices({2: 0.8}, scheme="fsdp"),
    *scaled.over_devices({4: 0.7}, weak=True),
    *(launch for devices in (2, 4, 8) for launch in scaled.all_reduce(devices)),
]


def run(found: Sequence[Launch] = FOUND) -> RunFile:
    """A run that left out two more points."""
    made = scaled.run_of(found)
    far = [scaled.training(devices) for devices in (16, 32)]
    header = msgspec.structs.replace(
        made.run,
        plan=(*made.run.plan, *far),
        left_out={case.fingerprint: BEYOND for case in far},
    )
    return msgspec.structs.replace(made, run=header)


def card(width: int, found: Sequence[Launch] = FOUND, *, wide: bool = False) -> list[str]:
    text = table.REPORT.render([run(found)], Canvas(width=width, wide=wide))
    return text.splitlines()


TITLE = "Scaling: llama-train bf16 dp, strong (batch 16 together), against 1 device"


def test_each_curve_is_a_small_table() -> None:
    lines = card(120)
    start = lines.index(TITLE)
    assert [" ".join(line.split()) for line in lines[start + 1 : start + 6]] == [
        "devices throughput each efficiency exposed fabric",
        "1 200 token/s 200 token/s 1",
        "2 360 token/s 180 token/s 90% (89 to 91%) 4.44 ms, 10% 21.0 ms",
        "4 600 token/s 150 token/s 75.0% (74.1 to 75.9%) 6.67 ms, 25% 31.0 ms",
        "8 800 token/s 100 token/s 50.0% (49.4 to 50.6%) 10.0 ms, 50% 36.0 ms",
    ]
    titles = [line for line in lines if line.startswith("Scaling: llama")]
    assert titles[1:] == [
        "Scaling: llama-train bf16 fsdp, strong (batch 16 together), against 1 device",
        "Scaling: llama-train bf16 dp, weak (batch 16 each), against 1 device",
    ]


def test_the_guide_shows_what_the_card_prints() -> None:
    (shown,) = [
        block.text
        for block in blocks(PACKAGE / "guide" / "many-devices.md", "text")
        if block.text.startswith("Scaling: ")
    ]
    assert shown in "\n".join(card(80))


@pytest.mark.parametrize(
    ("width", "missing"),
    [(40, ("each", "fabric", "exposed", "throughput")), (60, ("each", "fabric")), (80, ())],
)
def test_it_fits_whatever_the_terminal(width: int, missing: tuple[str, ...]) -> None:
    lines = card(width)
    assert max(map(len, lines)) <= width
    (head, *_) = [line.split() for line in lines if line.startswith("  devices")]
    assert {*head} == {*scaling.HEADINGS} - {*missing, "energy", "verdict"}
    assert any("75.0% (74.1 to 75.9%)" in line for line in lines), "never without its interval"


def test_points_beyond_the_run_are_a_note_and_no_rows() -> None:
    lines = card(200)
    assert lines[0].endswith(f"{len(FOUND)} launches of 15 cases")
    assert lines[1] == "15 of 15 cases OK"
    assert not any("dp16" in line and "SKIPPED" not in line for line in lines)
    said = f"SKIPPED llama-train bf16 dp16, llama-train bf16 dp32: {BEYOND}"
    assert said in lines
    assert sum(line.endswith(" SKIPPED") for line in card(200, wide=True)) == 2


def test_the_page_counts_them_and_has_no_rows_of_them() -> None:
    side = Side(1, run())
    assert side.counts.startswith(f"{len(FOUND)} launches of 15 cases")
    assert side.outcome[0] == "15 of 15 cases OK."
    assert side.outcome[-1] == f"2 cases left out: {BEYOND}."


def test_words_are_explained_where_they_stand() -> None:
    text = " ".join(card(200))
    assert (
        "Scaling: efficiency: throughput a device, over that of the fewest; exposed: comm" in text
    )
    assert "fabric: its gradients by this run's all-reduce, alone." in text
    plain = " ".join(card(200, scaled.all_reduce(4)))
    assert "efficiency" not in plain and "Scaling" not in plain


def test_a_shared_host_is_a_note() -> None:
    lines = card(200, scaled.over_devices(shared=True))
    assert not any(line.startswith("Scaling") for line in lines)
    why = "its ranks share the cores of one host"
    assert f"SCALING no efficiency: {why}: llama-train bf16 dp" in lines


def test_a_point_that_is_not_ok_says_so_beside_its_figures() -> None:
    noisy = [
        msgspec.structs.replace(x, outcome=make_measured([0.1 * (1 + 3 * x.launch)] * 10, items=16))
        if x.case.devices == 8
        else x
        for x in scaled.over_devices()
    ]
    (line,) = [text for text in card(120, noisy) if text.startswith("        8 ")]
    assert line.endswith(" NOISY") and "(" in line


def test_energy_and_dimensions_stand_beside_where_they_are_known() -> None:
    sharded = [
        *scaled.over_devices({1: 1.0}),
        *scaled.launches(
            msgspec.structs.replace(scaled.training(4), parallelism="hsdp2x2"),
            [
                msgspec.structs.replace(
                    one, energy_joules=10 * 16 * 0.5, energy_method="counter", energy_absent=None
                )
                for one in scaled.outcomes(0.025, 16, None)
            ],
        ),
    ]
    lines = card(120, sharded)
    at = lines.index("Scaling: llama-train bf16 hsdp, strong (batch 16 together), against 1 device")
    head, _, four = (line.split() for line in lines[at + 1 : at + 4])
    assert head[-1] == "energy"
    assert four[:2] == ["4", "(2x2)"] and four[-2:] == ["500", "mJ/token"]


def test_batches_that_grow_with_the_devices_are_no_sweep_over_batches() -> None:
    """At four devices there are two batches: one of the strong curve, one of the weak."""
    assert not any(line.startswith("SWEEP") for line in card(200))
    grid = [
        launch
        for batch in (16, 32)
        for devices in (1, 2)
        for launch in scaled.launches(
            scaled.training(devices, batch=batch), scaled.outcomes(0.01, batch, None)
        )
    ]
    assert any(line.startswith("SWEEP") for line in card(200, grid))


def test_markdown_has_the_same_tables() -> None:
    lines = markdown.REPORT.render([run()], Canvas()).splitlines()
    at = lines.index(
        "**Scaling** llama-train bf16 dp, strong (batch 16 together), against 1 device"
    )
    assert lines[at + 2] == "| devices | throughput | each | efficiency | exposed | fabric |"
    row = "| 2 | 360 token/s | 180 token/s | 90% (89 to 91%) | 4.44 ms, 10% | 21.0 ms |"
    assert lines[at + 5] == row
    assert f"**SKIPPED** 2 cases: {BEYOND}" in lines
    shared = markdown.REPORT.render([run(scaled.over_devices(shared=True))], Canvas())
    assert "no efficiency: its ranks share the cores of one host\n" in shared


def test_of_two_splits_of_as_many_devices_one_has_a_figure() -> None:
    def split(step: float, devices: int, parallelism: str) -> list[Launch]:
        case = msgspec.structs.replace(scaled.training(devices), parallelism=parallelism)
        return scaled.launches(case, scaled.outcomes(step, 16, None))

    found = split(0.01, 8, "hsdp2x4") + split(0.02, 8, "hsdp4x2") + split(0.01, 16, "hsdp2x8")
    lines = card(120, found)
    at = lines.index(
        "Scaling: llama-train bf16 hsdp, strong (batch 16 together), against 8 devices"
    )
    cells = [line.split() for line in lines[at + 2 : at + 5]]
    assert [cell[:2] for cell in cells] == [["8", "(2x4)"], ["8", "(4x2)"], ["16", "(2x8)"]]
    assert [cell[6] for cell in cells] == ["1", "50.0%", "50.0%"]


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (Interval(value=0.93, low=0.9, high=0.96), "93% (90 to 96%)"),
        (Interval(value=0.934, low=0.932, high=0.936), "93.4% (93.2 to 93.6%)"),
        (Interval(value=0.93), "93%, no interval"),
    ],
)
def test_an_efficiency_in_words(interval: Interval, said: str) -> None:
    assert scaling.percent(interval) == said


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.0009, 0.001, 0.0011, "1.00 ms, 10%"),
        (-0.0001, 0.0001, 0.0003, "under 300 us"),
        (-0.003, -0.002, -0.001, "none seen"),
        (-0.003, -0.002, 0.0, "none seen"),
        (None, -0.0001, None, "0 us, 0.0%"),
    ],
)
def test_what_noise_does_not_tell_from_none_is_under_something(
    low: float | None, value: float, high: float | None, said: str
) -> None:
    seconds = Interval(value=value, low=low, high=high)
    share = Interval(value=value * 100)
    row = Row(
        case=make_case(), status="measured", reason="", exposed=seconds, exposed_fraction=share
    )
    assert scaling.exposed(row) == said
