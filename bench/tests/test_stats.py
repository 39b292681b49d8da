"""Samples within a launch, and how much to measure: against examples worked by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import stats

POSITIVE = st.floats(min_value=1e-3, max_value=1e6)


# --- Steady state, drift, outliers ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "first", "index"),
    [
        # Steady from the first sample: the first three are warm-up all the same.
        ([1.0] * 13, 3, 3),
        ([1.0] * 12, 3, None),  # twelve samples cannot show two windows after three
        ([1.0] * 13 + [9.0] * 20, 3, 3),  # what comes later is drift, and not looked at here
        # One cold step.
        ([9.0] + [1.0] * 12, 3, 3),
        # Eight slow ones (0..7). At 5 the windows are [2 2 2 1 1] and [1 1 1 1 1]: medians 2 and 1;
        # at 6 they are [2 2 1 1 1] and [1 ...]: medians 1 and 1, and the two 2 are left out.
        ([2.0] * 8 + [1.0] * 12, 3, 8),
        # Five at three times: [3 3 1 1 1] agrees with [1 ...] already.
        ([3.0] * 5 + [1.0] * 12, 3, 5),
        # A step of 3 % between the windows is steady, one of 3.1 % is not.
        ([1.0] * 8 + [1.0299] * 5, 3, 3),
        ([1.0] * 8 + [1.031] * 5, 3, None),
        ([1.0] * 8 + [0.9701] * 5, 3, 3),
        ([1.0] * 8 + [0.969] * 5, 3, None),
        # Two outliers in a window do not move its median.
        ([1.0] * 3 + [1.0, 5.0, 1.0, 5.0, 1.0] + [1.0] * 5, 3, 3),
        # Ever slower: 10 % a sample is never steady.
        ([1.1**k for k in range(60)], 3, None),
        # Asked to begin later.
        ([1.0] * 30, 12, 12),
        ([1.0] * 21, 12, None),
        # Asked to begin earlier than the minimum.
        ([1.0] * 13, 0, 3),
    ],
)
def test_steady_start(samples: list[float], first: int, index: int | None) -> None:
    assert stats.steady_start(samples, first) == index


def test_a_launch_drifts_when_the_medians_of_its_thirds_are_5_percent_apart() -> None:
    assert not stats.drifts([1.0] * 10 + [1.0499] * 10 + [1.0] * 10)
    assert stats.drifts([1.0] * 10 + [1.051] * 10 + [1.0] * 10)
    assert stats.drifts([1.0] * 20 + [0.9] * 10)
    assert not stats.drifts([1.0, 9.0, 1.0] * 3), "single outliers are no drift"


def test_too_few_samples_do_not_drift() -> None:
    assert not stats.drifts([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert stats.drifts([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])


def test_outliers_are_counted_at_14_8_median_deviations() -> None:
    """Median 10; deviations 1 1 0 1 1 and the last one's: their median is 1."""
    base = [9.0, 9.0, 10.0, 11.0, 11.0]
    assert stats.outliers([*base, 10.0]) == 0
    assert stats.outliers([*base, 10.0 + 14.8]) == 0
    assert stats.outliers([*base, 10.0 + 15.9]) == 1
    assert stats.outliers([*base, 9.0, 11.0, 30.0, -30.0]) == 2


def test_samples_without_spread_have_no_outliers() -> None:
    assert stats.outliers([1.0] * 10) == 0


def test_launches_far_out_are_so_by_a_fifth_and_by_five_sigma() -> None:
    """Median 1, median deviation 0.05 on the log scale: 7.4 of it are a factor of 1.448."""
    base = [math.exp(x) for x in (-0.06, -0.05, 0.0, 0.0, 0.05, 0.06)]
    assert stats.far_out([*base, 1.44]) == stats.far_out([*base, 1 / 1.44]) == []
    assert stats.far_out([*base, 1.46]) == stats.far_out([*base, 1 / 1.46]) == [6]
    assert stats.far_out([1.0, 1.0, 1.19]) == stats.far_out([1.0, 1.5]) == []
    assert stats.far_out([1.0, 1.0, 1.21]) == [2]


# --- Percentiles ---------------------------------------------------------------------------------


def test_percentiles_interpolate() -> None:
    samples = [float(k) for k in range(1, 102)]  # 1..101: percentile p is p + 1
    random.Random(1).shuffle(samples)
    assert stats.percentile(samples, 50) == 51
    assert stats.percentile(samples, 90) == pytest.approx(91)
    assert stats.percentile([1.0, 2.0], 50) == 1.5
    assert stats.percentile([3.0], 50) == 3.0
    squares = [float(k * k) for k in range(38)]  # place 33.3: between its neighbours, not the ends
    assert stats.percentile(squares, 90) == pytest.approx(1089 + 0.3 * (1156 - 1089))


@pytest.mark.parametrize(("percent", "needed"), [(90, 36), (99, 368)])
def test_a_percentile_is_not_stated_from_too_few_samples(percent: int, needed: int) -> None:
    assert stats.percentile([1.0] * (needed - 1), percent) is None
    assert stats.percentile([1.0] * needed, percent) == 1.0


def test_the_samples_needed_bound_the_chance_of_missing_the_tail() -> None:
    """With n samples the largest lies below the p-th percentile with chance p^n: at most 2.5 %.

    That is the two-sided 95 % distribution-free bound: 0.9^36 = 2.25 %, 0.9^35 = 2.50 %; 0.99^368 =
    2.48 %, 0.99^367 = 2.50 % (just above 2.5 %).
    """
    for percent in (90, 99):
        share, needed = percent / 100, stats.PERCENTILE_SAMPLES[percent]
        assert share**needed <= 0.025 < share ** (needed - 1)


# --- How much to measure -------------------------------------------------------------------------


def test_autocorrelation() -> None:
    """1 2 3 4: mean 2.5, deviations -1.5 -0.5 0.5 1.5; 0.75 - 0.25 + 0.75 = 1.25 over 5 = 0.25."""
    assert stats.autocorrelation([1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.25)
    assert stats.autocorrelation([1.0, 1.0, 1.0]) == 0
    assert stats.autocorrelation([1.0, 2.0]) == 0
    assert stats.autocorrelation([1.0, 9.0] * 10) < -0.9


def test_enough_launches_only_at_the_looks() -> None:
    narrow = [100.0, 100.1, 99.9, 100.0]
    stops = [n for n in range(1, 21) if stats.enough_launches((narrow * 5)[:n], 0.02)]
    assert stops == [5, 10, 20]


def test_a_wide_interval_goes_on_to_the_last_look() -> None:
    wide = [100.0, 150.0, 80.0, 120.0]
    stops = [n for n in range(1, 21) if stats.enough_launches((wide * 5)[:n], 0.02)]
    assert stops == [20]
    assert stats.enough_launches(wide * 6, 0.02), "and never past it"


def test_a_look_uses_the_98_percent_interval() -> None:
    """Five logs 0, +-d, +-d: SD d, error d / sqrt(5); t at 99 %, 4 degrees, is 3.746947.

    The half-width is 0.02 at d = 0.02 * sqrt(5) / 3.746947 = 0.0119354. At 95 % (t = 2.776445) it
    would be so at d = 0.0161, which must not stop the run.
    """
    for d, enough in ((0.01193, True), (0.01194, False), (0.0160, False)):
        values = [math.exp(x) for x in (0, d, -d, d, -d)]
        assert stats.enough_launches(values, 0.02) is enough


SPREAD = [[9.0, 11.0], [13.0, 15.0], [17.0, 19.0]]
"""Means 10, 14, 18, whose variance is 16; each launch's own variance is 2 (deviations -1 and 1).

Of the 16, 2 / 2 = 1 comes from within, so the launches themselves vary by 15. Two samples have no
autocorrelation to speak of. n = sqrt(c_launch / c_sample * 2 / 15).
"""
EXACT = 1e-9
"""A target half-width that takes all the samples that there can be."""


def test_samples_per_launch_of_a_worked_example() -> None:
    """A launch costs 21,000 s beside its samples of 7 s: n = sqrt(3000 * 2 / 15) = 20."""
    assert stats.samples_per_launch(SPREAD, [20000, 21000, 22000], [6, 7, 8], EXACT) == 20


def test_a_sample_costs_its_block_and_not_its_step() -> None:
    """The same steps in blocks four times as long: half as many samples, sqrt(750 * 2 / 15) = 10.

    With blocks of a quarter, twice as many.
    """
    assert stats.samples_per_launch(SPREAD, [21000] * 3, [28] * 3, EXACT) == 10
    assert stats.samples_per_launch(SPREAD, [21000] * 3, [1.75] * 3, EXACT) == 40


def test_no_more_samples_are_taken_than_the_target_asks_for() -> None:
    """Mean 14, a tenth of 10 % of it 0.14: 0.0196. 2 / 0.0196 = 102.04, 2 / 0.0784 = 25.5.

    Where all the spread is within, too: 64/3 a launch, means of 5, the error to be 0.5: 85.3.
    """
    for target, samples in ((0.1, 102), (0.2, 26), (1.0, 10)):
        found = stats.samples_per_launch(SPREAD, [10**9] * 3, [7] * 3, target)
        assert found == samples
    noisy = [[1.0, 9.0, 1.0, 9.0], [9.0, 1.0, 9.0, 1.0]]
    assert stats.samples_per_launch(noisy, [5, 5], [1, 1], 1.0) == 85


def test_autocorrelated_samples_count_for_less() -> None:
    """1 2 3 4 in each launch: rho 0.25, so the variance 5/3 counts (1.25 / 0.75) = 5/3 times.

    Launch means 2.5, 12.5, 22.5: variance 100; from within 1/4 * 25/9 = 25/36 of it; between
    3575/36. n = sqrt(36000 * (25/9) / (3575/36)) = sqrt(36000 * 4 / 143) = 31.73.
    """
    series = [[base + k for k in (1.0, 2.0, 3.0, 4.0)] for base in (0, 10, 20)]
    assert stats.samples_per_launch(series, [36000] * 3, [1] * 3, EXACT) == 32


def test_samples_per_launch_where_the_formula_has_nothing_to_go_by() -> None:
    assert stats.samples_per_launch([], [], [], EXACT) == 10
    assert stats.samples_per_launch([[1.0, 2.0]], [5], [1], EXACT) == 10, (
        "one launch shows no spread"
    )
    assert stats.samples_per_launch([[1.0] * 10, [2.0] * 10], [5, 5], [1, 1], EXACT) == 10
    noisy = [[1.0, 9.0, 1.0, 9.0], [9.0, 1.0, 9.0, 1.0]]
    assert stats.samples_per_launch(noisy, [5, 5], [1, 1], EXACT) == 200, "all the spread is within"
    assert stats.samples_per_launch(SPREAD, [1] * 3, [7] * 3, EXACT) == 10
    assert stats.samples_per_launch(SPREAD, [10**9] * 3, [7] * 3, EXACT) == 200


@settings(max_examples=50)
@given(st.lists(st.lists(POSITIVE, min_size=1, max_size=20), max_size=6), POSITIVE)
def test_samples_per_launch_stays_within_its_bounds(
    launches: list[list[float]], overhead: float
) -> None:
    costs, overheads = [0.05] * len(launches), [overhead] * len(launches)
    found = stats.samples_per_launch(launches, overheads, costs, 0.02)
    assert stats.MINIMUM_SAMPLES <= found <= stats.MAXIMUM_SAMPLES
