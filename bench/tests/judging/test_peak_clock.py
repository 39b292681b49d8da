"""A peak is of a clock: a chip that ran above it can do more, in proportion."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.judging.ceilings import with_peak
from bench.judging.row import Row
from bench.tests.judging.rows import row
from bench.tests.values import make_measured

H100: dict[str, Any] = {"name": "NVIDIA H100 80GB HBM3", "facts": {"multiprocessors": "132"}}


def judged(
    share: float,
    *clocks: float | None,
    device: dict[str, Any] = H100,
    precision: str = "bf16",
) -> Row:
    """A product at that share of an H100's bf16 peak, in launches at these clocks."""
    found = row([make_measured(0.01, flop=1)])
    case = msgspec.structs.replace(found.case, precision=precision)
    found = msgspec.structs.replace(found, case=case)
    rate = share * 989.4e12
    rates = {"flop_per_second": rate, "least_flop_per_second": rate}
    return with_peak(msgspec.structs.replace(found, clocks_mhz=clocks, **rates), device)


@pytest.mark.parametrize("clocks", [(1980.0,), (None, 1980.0, 1830.0)])
def test_above_the_clock_of_the_peak_more_is_possible(clocks: tuple[float | None, ...]) -> None:
    """1980 of 1830 MHz: 8.2 % more."""
    found = judged(1.07, *clocks)
    assert found.status == "measured" and found.mfu == pytest.approx(1.07)
    assert judged(1.09, *clocks).reason.endswith(
        ": impossible at 1980 MHz; the peak is at 1830 MHz"
    )


def test_at_it_or_below_it_all_of_the_peak_is_and_no_more() -> None:
    for clock in (1830.0, 1200.0):
        assert judged(0.99, clock).status == "measured"
        assert judged(1.01, clock).status == "void"


def test_where_nobody_saw_the_clock_the_highest_counts() -> None:
    """As of a burst, whose clock is not observable, and which is the likeliest to reach it."""
    assert judged(1.07).status == "measured"
    found = judged(1.09)
    assert found.status == "void"
    assert found.reason.endswith(": impossible at up to 1980 MHz; the peak is at 1830 MHz")


def test_a_b200_runs_above_the_clock_of_its_peak() -> None:
    """1965 of 1856 MHz: 5.9 % more."""
    b200 = {"name": "NVIDIA B200"}
    peak = 989.4 / 2250
    for clocks in ((), (1965.0,)):
        assert judged(1.05 / peak, *clocks, device=b200).status == "measured"
        assert judged(1.07 / peak, *clocks, device=b200).status == "void"
    assert judged(1.01 / peak, 1800.0, device=b200).status == "void"


@pytest.mark.parametrize("clocks", [(), (1980.0,)])
def test_a_peak_that_is_stated_at_the_highest_clock_is_all(clocks: tuple[float, ...]) -> None:
    found = judged(1.07 * 66.9 / 989.4, *clocks, precision="fp32")
    assert found.status == "void" and found.reason.endswith(": impossible")
    assert judged(0.99 * 66.9 / 989.4, *clocks, precision="fp32").status == "measured"


def test_a_peak_at_the_highest_clock_has_no_more_above_it() -> None:
    a100 = {"name": "NVIDIA A100-SXM4-80GB"}
    assert judged(0.33, 1980.0, device=a100).status == "void"
