"""Two runs side by side: their common work, and figures beside the ratio."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bench.errors import ComparisonError
from bench.judging.compare import Prices, compare
from bench.report import Canvas
from bench.reports._comparison import render
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
    with pytest.raises(ComparisonError, match="above zero"):
        Prices(base=1.0, other=price)


def test_the_outputs_of_equal_seeds_are_compared() -> None:
    """Seeds 0 to 4; the third differs most: 4 of 5."""
    base = runs((CASE, [make_measured([0.01], witness=(4.0, 1.0)) for _ in range(5)]))
    other = runs((CASE, [make_measured([0.01], witness=(w, 9.0)) for w in (4.0, 4.1, 5.0, 4, 4)]))
    found = compare(base, other)
    assert only(found).witness_gap == pytest.approx(0.2)
    card = render([found], Canvas(width=200))
    assert "outputs after the first step differ at equal seeds: bert-train bf16 20%" in card
    later = [msgspec.structs.replace(x, seed=x.seed + 10) for x in other.launches]
    assert only(compare(base, make_file([CASE], later))).witness_gap is None
    zero = runs((CASE, [make_measured([0.01], witness=(0.0, 0.0)) for _ in range(5)]))
    assert only(compare(zero, another(zero))).witness_gap == 0.0
    assert only(compare(zero, base)).witness_gap == 1.0
