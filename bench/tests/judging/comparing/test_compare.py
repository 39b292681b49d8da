"""Two runs side by side: their common work, and figures beside the ratio."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bench.errors import ComparisonError
from bench.judging.comparing.compare import Prices, compare
from bench.records.case import Case
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import CASE, FAST, SLOW, changed, only, run, runs, steps
from bench.tests.values import another, failed, make_case, make_file, make_measured


def test_nothing_in_common_is_an_error_and_names_both() -> None:
    other = run(SLOW, make_case(workload="memory", mode="copy"))
    with pytest.raises(ComparisonError, match=r"in common: bert-train against memory-copy\. Comp"):
        compare(run(FAST), other)
    with pytest.raises(ComparisonError, match=r"bert-train against no case"):
        compare(run(FAST), make_file([], []))


def test_the_geometric_mean_says_of_how_many() -> None:
    """Ratios 2 and 1/8 of three cases: their geometric mean is 1/2."""
    second, third = changed(execution="compile"), make_case()
    base = runs((CASE, steps([0.01] * 5)), (second, steps([0.01] * 5)), (third, steps([0.01] * 5)))
    other = runs((CASE, steps([0.005] * 5)), (second, steps([0.08] * 3)), (third, [failed()]))
    found = compare(base, other)
    assert found.ratios == pytest.approx([2, 1 / 8])
    assert found.geometric_mean == pytest.approx(0.5)
    card = render([found], Canvas(width=100))
    assert "Geometric mean of the ratios of 2 of 3 cases (a summary, no verdict): 0.500" in card


def test_per_joule_and_per_currency_unit() -> None:
    """Base: 100 items/s at 2 J an item. Other: 200 items/s at 0.5 J, at three times the price."""
    joules: dict[str, Any] = {"energy_absent": None}
    base = runs((CASE, steps([0.01] * 5, energy_joules=2.0, **joules)))
    other = runs((CASE, steps([0.005] * 5, energy_joules=0.5, **joules)))
    found = only(compare(base, other, Prices(base=1.0, other=3.0)))
    assert found.joule_ratio == pytest.approx(4)
    assert found.price_ratio == pytest.approx(2 / 3)
    bare = only(compare(base, run([0.005] * 5)))
    assert bare.joule_ratio is None and bare.price_ratio is None


@pytest.mark.parametrize("price", [0, -1, math.inf, math.nan])
def test_a_price_is_above_zero(price: float) -> None:
    with pytest.raises(ComparisonError, match="a number above 0"):
        Prices(base=1.0, other=price)


def test_the_outputs_of_equal_seeds_are_compared() -> None:
    """Seeds 0 to 4; by 20 % of their scale, root mean square."""
    base = runs((CASE, [make_measured([0.01], witness=(4.0, 1.0)) for _ in range(5)]))
    other = runs((CASE, [make_measured([0.01], witness=(w, 9.0)) for w in (4, 5, 5, 5, 5)]))
    found = compare(base, other)
    assert only(found).witness_gap == pytest.approx((4 / 116) ** 0.5)
    card = render([found], Canvas(width=200))
    assert "first loss or mean output differs at equal seeds: bert-train bf16 19%" in card
    later = [msgspec.structs.replace(x, seed=x.seed + 10) for x in other.launches]
    assert only(compare(base, make_file([CASE], later))).witness_gap is None
    zero = runs((CASE, [make_measured([0.01], witness=(0.0, 0.0)) for _ in range(5)]))
    assert only(compare(zero, another(zero))).witness_gap == 0.0
    assert only(compare(zero, base)).witness_gap == 1.0
    two = [msgspec.structs.replace(x, seed=x.seed + 3) for x in other.launches]
    assert only(compare(base, make_file([CASE], two))).witness_gap is None, "two seeds in both"


def test_a_mean_output_that_cancels_is_no_scale() -> None:
    """Published records of honest runs: of one seed 34 %, of their scale less than 1 %."""
    means = (0.518922, -0.61982, 0.094955, 0.325363, 0.438919)
    theirs = (0.517603, -0.621765, 0.089081, 0.324423, 0.439072)

    def of(case: Case, witnesses: tuple[float, ...]) -> RunFile:
        return runs((case, [make_measured([0.01], witness=(w, 1.0)) for w in witnesses]))

    gap = only(compare(of(CASE, means), of(CASE, theirs))).witness_gap
    assert gap is not None and gap < 0.01
    apart = tuple(2 * w for w in means)
    assert only(compare(of(CASE, means), of(CASE, apart))).witness_gap == 0.5
    generated = changed(mode="decode", parameters={"new_tokens": 8})
    assert only(compare(of(generated, means), of(generated, apart))).witness_gap is None
