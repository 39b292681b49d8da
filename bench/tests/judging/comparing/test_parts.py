"""A part of a chip, by its multiprocessors, has no peak of the whole."""

from __future__ import annotations

from typing import Any

import pytest

from bench.judging import chips
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.tests.values import make_case, make_file, make_launches, make_measured

BOTH = "AMD Instinct MI250X / MI250"
"""The driver's name of either."""


def row(name: str, units: str | None, rate: float) -> Row:
    """A product at so many FLOP/s, on a device of that name and so many multiprocessors."""
    facts = {} if units is None else {"multiprocessors": units}
    case = make_case()
    flop = round(rate * 0.01)
    outcome = make_measured(0.01, items=flop, unit="FLOP", flop=flop, moved_bytes=10**9)
    device: dict[str, Any] = {"name": name, "facts": facts}
    (found,) = summarize(make_file([case], make_launches(case, [outcome] * 3), device=device))
    return found


def test_a_partition_has_no_share_of_the_whole_and_says_why() -> None:
    part = row("AMD Instinct MI300X", "38", 120e12)
    assert part.status == "measured" and part.mfu is None and part.mbu is None
    why = "no published peak of a part of MI300X: 38 of 304 units"
    assert part.mfu_absent == part.mbu_absent == why


@pytest.mark.parametrize("units", ["304", None, "unknown"])
def test_the_whole_has_and_so_has_what_does_not_say_its_units(units: str | None) -> None:
    whole = row("AMD Instinct MI300X", units, 653.7e12)
    assert whole.mfu == pytest.approx(0.5) and whole.mbu is not None


@pytest.mark.parametrize(
    ("units", "peak", "status"), [("104", 181.05e12, "void"), ("110", 191.5e12, "measured")]
)
def test_two_chips_of_one_name_are_told_apart_by_their_units(
    units: str, peak: float, status: str
) -> None:
    """185 TFLOP/s are too many of an MI250's die, and 97 % of an MI250X's."""
    assert row(BOTH, units, peak / 2).mfu == pytest.approx(0.5)
    assert row(BOTH, units, 185e12).status == status


@pytest.mark.parametrize(("units", "name"), [(104, "MI250,"), (110, "MI250X,"), (None, "MI250X,")])
def test_a_die_is_found_by_both(units: int | None, name: str) -> None:
    chip = chips.find(BOTH, units)
    assert chip is not None and chip.name.startswith(name)
    alone = chips.find("AMD Instinct MI250", 104)
    assert alone is not None and alone.units == 104
    assert chips.find(BOTH, 52) is None


@pytest.mark.parametrize(
    ("name", "cubes", "absent"),
    [
        ("Ascend910_9391", 12, "no published peak of a part of Ascend 910C"),
        ("Ascend910_9362", 20, "no published bf16 peak of Ascend 910C, other dies"),
        ("Ascend910_9362", None, "no published bf16 peak of Ascend 910C, other dies"),
        ("Ascend950DT_9582", 32, "no published bf16 peak of Ascend 950, others"),
    ],
)
def test_an_npu_with_other_cubes_has_no_peak_of_its_namesake(
    name: str, cubes: int | None, absent: str
) -> None:
    found = chips.shares(name, cubes, "bf16", 200e12, None, None, False)
    assert found.mfu is None and found.mfu_absent.startswith(absent)
    whole = chips.shares("Ascend910_9391", 24, "bf16", 353.9e12 / 2, None, None, False)
    assert whole.mfu == pytest.approx(0.5)


def test_where_a_process_may_use_some_units_only() -> None:
    """As CUDA says it under a share of MPS."""
    assert chips.find("NVIDIA H200", 132) is chips.find("NVIDIA H200")
    assert chips.find("NVIDIA H200", 66) is None
