"""Intervals and ratios: against scipy, against examples worked by hand, by their properties."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import scipy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench import stats

POSITIVE = st.floats(min_value=1e-3, max_value=1e6)
SEVERAL = st.lists(POSITIVE, min_size=3, max_size=20)


# --- Student's t ---------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7.3, 9, 19, 30.5, 120, 1.5, 0.7])
@pytest.mark.parametrize("probability", [0.51, 0.6, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9995])
def test_t_quantile_is_that_of_scipy(freedom: float, probability: float) -> None:
    expected = float(scipy.stats.t.ppf(probability, freedom))
    assert stats.t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-7)
    assert stats.t_quantile(1 - probability, freedom) == pytest.approx(-expected, rel=1e-7)


def test_t_quantile_of_one_half_is_zero() -> None:
    assert stats.t_quantile(0.5, 4) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("probability", "freedom"), [(0, 3), (1, 3), (-0.1, 3), (0.9, 0)])
def test_t_quantile_refuses_what_has_none(probability: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        stats.t_quantile(probability, freedom)


@pytest.mark.parametrize("freedom", [0.7, 1, 2, 4.5, 9, 17.9, 60, 1000])
@pytest.mark.parametrize("t", [0, 1e-9, 0.01, 0.5, 1, 2, 4.3, 12, 60, 1e4])
def test_t_tail_is_that_of_scipy(t: float, freedom: float) -> None:
    assert stats.t_tail(t, freedom) == pytest.approx(float(scipy.stats.t.sf(t, freedom)), rel=1e-9)


@pytest.mark.parametrize(("t", "freedom"), [(-0.1, 3), (1, 0), (1, -2)])
def test_t_tail_refuses_what_has_none(t: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="no tail"):
        stats.t_tail(t, freedom)


@settings(max_examples=200)
@given(st.floats(0.6, 0.99999), st.floats(0.5, 1e3))
def test_the_quantile_undoes_the_tail(probability: float, freedom: float) -> None:
    t = stats.t_quantile(probability, freedom)
    assert 1 - stats.t_tail(t, freedom) == pytest.approx(probability, rel=1e-9)


# --- The interval over launches ------------------------------------------------------------------


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_the_variance_is_that_of_the_library(values: list[float]) -> None:
    expected = statistics.variance(values)
    assert stats.variance(values) == pytest.approx(expected, rel=1e-9, abs=1e-18)


def test_log_estimate_of_a_worked_example() -> None:
    """Throughputs e^4.0, e^4.1 and e^4.2.

    Logs 4.0, 4.1, 4.2: mean 4.1; deviations -0.1, 0, 0.1, so the variance is 0.02 / 2 = 0.01, the
    standard deviation 0.1, and the standard error 0.1 / sqrt(3) = 0.0577350. The 97.5 % point of t
    with 2 degrees of freedom is 4.302653 (any printed table: 4.303). Half-width 0.248414.
    """
    estimate = stats.log_estimate([math.exp(4.0), math.exp(4.1), math.exp(4.2)], 0.95)
    assert estimate is not None
    assert estimate.half_width == pytest.approx(0.248414, abs=1e-6)
    assert estimate.value == pytest.approx(math.exp(4.1))
    assert estimate.low == pytest.approx(math.exp(4.1 - 0.248414), rel=1e-6)
    assert estimate.high == pytest.approx(math.exp(4.1 + 0.248414), rel=1e-6)
    assert estimate.level == 0.95


def test_log_estimate_at_the_level_of_a_look() -> None:
    """The same figures at 98 %: the 99 % point of t with 2 degrees of freedom is 6.964557."""
    estimate = stats.log_estimate([math.exp(4.0), math.exp(4.1), math.exp(4.2)], 0.98)
    assert estimate is not None
    assert estimate.half_width == pytest.approx(6.964557 * 0.1 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_fewer_than_three_launches_have_no_interval(values: list[float]) -> None:
    assert stats.log_estimate(values, 0.95) is None


@given(SEVERAL)
def test_the_interval_contains_the_geometric_mean(values: list[float]) -> None:
    estimate = stats.log_estimate(values, 0.95)
    assert estimate is not None
    assert estimate.value == pytest.approx(stats.geometric_mean(values))
    assert estimate.low <= estimate.value <= estimate.high
    assert min(values) * (1 - 1e-9) <= estimate.value <= max(values) * (1 + 1e-9)


@given(SEVERAL, st.floats(min_value=1e-3, max_value=1e3))
def test_the_interval_scales_with_the_unit(values: list[float], factor: float) -> None:
    plain = stats.log_estimate(values, 0.95)
    scaled = stats.log_estimate([v * factor for v in values], 0.95)
    assert plain is not None and scaled is not None
    assert scaled.value == pytest.approx(plain.value * factor)
    assert scaled.half_width == pytest.approx(plain.half_width, abs=1e-9)


@given(SEVERAL)
def test_the_ratio_of_two_is_turned_over_by_inverse_units(values: list[float]) -> None:
    """On the log scale seconds per item and items per second have the same interval."""
    rate = stats.log_estimate(values, 0.95)
    time = stats.log_estimate([1 / v for v in values], 0.95)
    assert rate is not None and time is not None
    assert time.value == pytest.approx(1 / rate.value)
    assert time.half_width == pytest.approx(rate.half_width, abs=1e-9)


@given(SEVERAL)
def test_a_lower_level_is_narrower(values: list[float]) -> None:
    widths = [stats.log_estimate(values, level) for level in (0.5, 0.8, 0.95, 0.98)]
    found = [w.half_width for w in widths if w is not None]
    assert len(found) == 4
    assert found == sorted(found)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """2,000 sets of five normal log throughputs: 95 % of the intervals hold the true mean.

    The count is binomial with a standard deviation of 0.49 %: 93.5 to 96.5 % is 3 of them.
    """
    source = random.Random(7)
    held = 0
    for _ in range(2000):
        logs = [source.gauss(2.0, 0.05) for _ in range(5)]
        estimate = stats.log_estimate([math.exp(x) for x in logs], 0.95)
        assert estimate is not None
        held += estimate.low <= math.exp(2.0) <= estimate.high
    assert 0.935 <= held / 2000 <= 0.965


# --- The ratio of two ----------------------------------------------------------------------------


def test_welch_of_a_worked_example() -> None:
    """Logs 0, 0.1, 0.2 against 0.3, 0.5, 0.7: means 0.1 and 0.5, variances 0.01 and 0.04.

    Error sqrt(0.01/3 + 0.04/3) = 0.1290994; t = 0.4 / 0.1290994 = 3.098387; freedom
    (0.05/3)^2 / ((0.01/3)^2/2 + (0.04/3)^2/2) = 2.5e-3 / (0.85e-3) = 2.941176.
    """
    first, second = ([math.exp(x) for x in logs] for logs in ((0, 0.1, 0.2), (0.3, 0.5, 0.7)))
    found = stats.welch(first, second, 0.95)
    assert found is not None
    assert found.ratio.value == pytest.approx(math.exp(0.4))
    assert found.freedom == pytest.approx(2.941176, rel=1e-6)
    half = float(scipy.stats.t.ppf(0.975, 2.9411764706)) * 0.1290994449
    assert found.ratio.half_width == pytest.approx(half, rel=1e-8)
    assert found.ratio.low == pytest.approx(math.exp(0.4 - half))
    assert found.ratio.high == pytest.approx(math.exp(0.4 + half))
    assert found.p_value == pytest.approx(2 * float(scipy.stats.t.sf(3.0983866770, 2.9411764706)))


NEAR_ONE = st.lists(st.floats(min_value=0.5, max_value=2.0), min_size=3, max_size=12)


@settings(max_examples=200, deadline=None)
@given(NEAR_ONE, NEAR_ONE, st.sampled_from([0.9, 0.95, 0.98]))
def test_welch_is_that_of_scipy(first: list[float], second: list[float], level: float) -> None:
    logs = [[math.log(v) for v in side] for side in (second, first)]
    # Where a side does not vary scipy warns of its own rounding.
    assume(min(statistics.pvariance(side) for side in logs) > 1e-12)
    expected = scipy.stats.ttest_ind(*logs, equal_var=False)
    found = stats.welch(first, second, level)
    assert found is not None and found.ratio.level == level
    interval = expected.confidence_interval(level)
    assert found.freedom == pytest.approx(float(expected.df), rel=1e-6)
    assert found.p_value == pytest.approx(float(expected.pvalue), rel=1e-6, abs=1e-12)
    assert math.log(found.ratio.low) == pytest.approx(float(interval.low), rel=1e-6, abs=1e-9)
    assert math.log(found.ratio.high) == pytest.approx(float(interval.high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("sizes", [(0, 5), (2, 5), (5, 2)])
def test_welch_needs_three_launches_a_side(sizes: tuple[int, int]) -> None:
    assert stats.welch([1.0] * sizes[0], [2.0] * sizes[1], 0.95) is None


def test_welch_where_nothing_varies() -> None:
    same = stats.welch([0.1] * 3, [0.1] * 4, 0.95)
    assert same is not None and same.p_value == 1.0 and same.freedom == 5
    assert same.ratio.low == same.ratio.value == same.ratio.high == 1.0
    twice = stats.welch([0.1] * 3, [0.2] * 4, 0.95)
    assert twice is not None and twice.p_value == 0.0
    assert twice.ratio.low == twice.ratio.value == pytest.approx(2.0)


def test_a_contrast_of_a_worked_example() -> None:
    """Logs 0, 0.1, 0.2; 0.3, 0.5, 0.7; 1, 1, 1.3 with weights -1, 2 and 1.

    Means 0.1, 0.5, 1.1: -0.1 + 1.0 + 1.1 = 2.0. Variances 0.01, 0.04, 0.03 over 3, times 1, 4, 1:
    0.0033333, 0.0533333, 0.01, together 0.0666667. Freedom 0.0666667^2 / ((0.0033333^2 +
    0.0533333^2 + 0.01^2) / 2) = 4.444444e-3 / 1.477778e-3 = 3.007519.
    """
    groups = [
        (weight, [math.exp(x) for x in logs])
        for weight, logs in ((-1, (0, 0.1, 0.2)), (2, (0.3, 0.5, 0.7)), (1, (1, 1, 1.3)))
    ]
    found = stats.contrast(groups, 0.95)
    assert found is not None
    assert found.ratio.value == pytest.approx(math.exp(2.0))
    assert found.freedom == pytest.approx(3.007519, rel=1e-6)
    half = float(scipy.stats.t.ppf(0.975, 3.0075188)) * math.sqrt(1 / 15)
    assert found.ratio.half_width == pytest.approx(half, rel=1e-6)
    assert stats.contrast([*groups, (1, [1.0, 1.0])], 0.95) is None, "of each group three"


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        # Least times 4, next times 3, then 2, then 1; never below one that was smaller.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        # 0.012 * 3 = 0.036; 0.015 * 2 = 0.03, raised to 0.036; 0.4.
        ([0.4, 0.015, 0.012], [0.4, 0.036, 0.036]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.0, 0.5, 0.0], [0.0, 0.5, 0.0]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ],
)
def test_holm(p_values: list[float], adjusted: list[float]) -> None:
    assert stats.holm(p_values) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_between_the_plain_figures_and_those_of_bonferroni(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    for p_value, after in zip(p_values, adjusted, strict=True):
        assert p_value <= after <= min(1.0, p_value * len(p_values))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)
