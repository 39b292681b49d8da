"""The statistics of the harness, as pure functions of numbers.

The launch (a fresh process) is the unit of repetition: within one process steps look precise and
are not. Throughput is combined on the log scale, so that a ratio of two is a difference.

Only the standard library is used: a t quantile from scipy would cost every command 0.4 s of
import, and every worker that much more inside transformers (which imports scipy where it finds it).
The tests check the quantile against scipy.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WARMUP_MINIMUM = 3
"""The first samples are never steady."""
WINDOW = 5
"""Samples in each of the two medians that must agree."""
STEADY_AGREEMENT = 0.03
"""Relative difference of the two medians below which the job is steady."""
DRIFT_LIMIT = 0.05
"""Relative spread of the medians of the three thirds above which a launch drifts."""
NORMAL_MAD = 1.4826
"""Standard deviation over median absolute deviation, of normal values."""
OUTLIER_MADS = 14.8
"""Distance from the median, in median absolute deviations (10 sigma of a normal)."""
FAR_MADS = 7.4
"""The same of launches, of which there are few (5 sigma)."""
FAR_SHARE = 1.2
"""Times the median, or below its inverse: how far a launch must be out besides."""
LOOKS = (5, 10, 20)
"""Launches after which an adaptive run may stop."""
LOOK_LEVEL = 0.98
"""Level of the interval at each look; three looks at 98 % keep about 95 % together."""
FIXED_LEVEL = 0.95
"""Level of the interval of a run whose number of launches was fixed beforehand."""
MINIMUM_LAUNCHES = 3
"""Fewer launches than this give no interval, rather than a false one."""
MINIMUM_SAMPLES, MAXIMUM_SAMPLES = 10, 200
"""Bounds of the steady samples of one launch."""
PERCENTILE_SAMPLES = {50: 1, 90: 36, 99: 368}
"""Requests that one launch needs before it may state a percentile."""


@dataclass(frozen=True)
class Estimate:
    """A mean on the log scale with its interval, in the unit of the values."""

    value: float
    low: float
    high: float
    level: float
    half_width: float
    """Half the interval's width on the log scale: 0.02 reads as about +-2 %."""


@dataclass(frozen=True)
class Welch:
    """The ratio of means on the log scale, and the test that it is 1."""

    ratio: Estimate
    """Second over first; of more groups, the product of their powers."""
    p_value: float
    """Two-sided."""
    freedom: float
    """Welch-Satterthwaite degrees of freedom."""


def level(launches: int | str) -> float:
    """Of the intervals of a run of so many launches, or of `auto`, which stops at a look."""
    return LOOK_LEVEL if launches == "auto" else FIXED_LEVEL


def t_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's t distribution, t >= 0, freedom > 0 degrees of freedom."""
    if t < 0 or freedom <= 0:
        raise ValueError(f"no tail of Student's t for {t}, {freedom} degrees")
    return 0.5 * _incomplete_beta(freedom / (freedom + t * t), freedom / 2)


@functools.lru_cache(maxsize=10_000)
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t distribution: P(T <= result) = probability.

    freedom: degrees of freedom, > 0 and not necessarily whole (Welch). Inverts the tail, which is
    the regularised incomplete beta function I_x(df/2, 1/2), x = df/(df+t^2), by Newton's method.
    Source: Abramowitz & Stegun 26.7.1 and 26.5.8. Exact to 1e-8 relative.
    """
    if not 0 < probability < 1 or freedom <= 0:
        raise ValueError(f"no t quantile for probability {probability}, {freedom} degrees")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    tail = 1 - probability
    t = 0.0 if probability == 0.5 else 1.0
    while t > 1e-9 and t_tail(t, freedom) < tail:
        t /= 2
    while t_tail(2 * t, freedom) > tail:
        t *= 2
    # The tail is convex: Newton's steps from below grow towards the quantile and never pass it.
    for _ in range(100):
        step = (t_tail(t, freedom) - tail) / _t_density(t, freedom)
        if step <= 1e-14 * t:
            break
        t += step
    return t


def _t_density(t: float, freedom: float) -> float:
    half = (freedom + 1) / 2
    front = math.exp(math.lgamma(half) - math.lgamma(freedom / 2))
    return front / math.sqrt(math.pi * freedom) * math.exp(-half * math.log1p(t * t / freedom))


def _incomplete_beta(x: float, a: float) -> float:
    """I_x(a, 1/2), by the continued fraction of Abramowitz & Stegun 26.5.8 (Lentz's method)."""
    b = 0.5
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_fraction(1 - x, b, a)
    return _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    front = math.exp(
        a * math.log(x)
        + b * math.log1p(-x)
        + math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        - math.log(a)
    )
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for i in range(500):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / ((1 + term * d) or tiny)
        c = (1 + term / c) or tiny
        fraction *= c * d
        if abs(1 - c * d) < 1e-14:
            break
    return front * (fraction - 1)


def exp(logarithm: float) -> float:
    """e to that power; infinite where no number is so large."""
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf


def variance(values: Sequence[float]) -> float:
    """Sample variance of two values or more: as `statistics.variance`, in a tenth of its time."""
    centre = statistics.fmean(values)
    return math.fsum((v - centre) * (v - centre) for v in values) / (len(values) - 1)


def log_estimate(values: Sequence[float], level: float) -> Estimate | None:
    """Geometric mean of one value per launch with its two-sided t interval at `level`.

    None for fewer than `MINIMUM_LAUNCHES` values: two launches have no usable variance.
    """
    if len(values) < MINIMUM_LAUNCHES:
        return None
    logs = [math.log(v) for v in values]
    centre = statistics.fmean(logs)
    error = math.sqrt(variance(logs) / len(logs))
    half = t_quantile(0.5 + level / 2, len(logs) - 1) * error
    return Estimate(exp(centre), exp(centre - half), exp(centre + half), level, half)


def welch(first: Sequence[float], second: Sequence[float], level: float) -> Welch | None:
    """Geometric mean of `second` over that of `first`, unequal variances allowed.

    None for fewer than `MINIMUM_LAUNCHES` values on either side. Where neither side varies at all,
    the interval is the ratio itself.
    """
    return contrast([(-1.0, first), (1.0, second)], level)


def contrast(groups: Sequence[tuple[float, Sequence[float]]], level: float) -> Welch | None:
    """Product of the groups' geometric means, each to the power of its weight; unequal variances.

    groups: a weight, not 0, and the values of one group of launches, which no other group shares.
    Weights -1, 1 make a ratio, -1, 1, 1, -1 a ratio of two ratios. None for fewer than
    `MINIMUM_LAUNCHES` values in a group.
    Source: Satterthwaite, "An approximate distribution of estimates of variance components",
    Biometrics Bulletin 2 (1946), of the variance of a sum of weighted means.
    """
    if min(len(values) for _, values in groups) < MINIMUM_LAUNCHES:
        return None
    weights = [weight for weight, _ in groups]
    logs = [[math.log(v) for v in values] for _, values in groups]
    squared = [w**2 * variance(side) / len(side) for w, side in zip(weights, logs, strict=True)]
    error = math.sqrt(sum(squared))
    centre = sum(w * statistics.fmean(side) for w, side in zip(weights, logs, strict=True))
    value = exp(centre)
    # Identical launches leave a rounding error in the place of a variance.
    if error <= 1e-12:
        freedom = float(sum(map(len, logs)) - len(logs))
        p_value = 1.0 if abs(centre) <= 1e-12 else 0.0
        return Welch(Estimate(value, value, value, level, 0.0), p_value, freedom)
    shares = zip(squared, logs, strict=True)
    freedom = sum(squared) ** 2 / sum(s**2 / (len(side) - 1) for s, side in shares)
    half = t_quantile(0.5 + level / 2, freedom) * error
    low, high = exp(centre - half), exp(centre + half)
    p_value = 2 * t_tail(abs(centre) / error, freedom)
    return Welch(Estimate(value, low, high, level, half), p_value, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: below a makes the family-wise error a at most.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = least
    return adjusted


geometric_mean = statistics.geometric_mean
"""Mean on the log scale of values above zero; defined for one value too."""


def steady_start(samples: Sequence[float], first: int = WARMUP_MINIMUM) -> int | None:
    """Index from which the job is steady, or None if it is not yet.

    The first index i >= `first` at which the medians of samples[i:i+5] and samples[i+5:i+10] agree
    within 3 %, moved past those of the first five that are not within 3 % of the second median
    themselves: a median of five overlooks two samples of the warm-up, and the mean of ten would
    not. Everything before the index is warm-up; what was looked at after it is steady.
    """
    for i in range(max(first, WARMUP_MINIMUM), len(samples) - 2 * WINDOW + 1):
        before = statistics.median(samples[i : i + WINDOW])
        after = statistics.median(samples[i + WINDOW : i + 2 * WINDOW])
        if abs(after - before) <= STEADY_AGREEMENT * before:
            window = samples[i : i + WINDOW]
            leading = (abs(s - after) > STEADY_AGREEMENT * before for s in window)
            return i + sum(itertools.takewhile(bool, leading))
    return None


def drifts(samples: Sequence[float]) -> bool:
    """Whether the medians of the three thirds lie more than 5 % apart (relative to the least)."""
    third = len(samples) // 3
    if third < 3:
        return False
    medians = [statistics.median(samples[i * third : (i + 1) * third]) for i in range(3)]
    return max(medians) - min(medians) > DRIFT_LIMIT * min(medians)


def outliers(samples: Sequence[float]) -> int:
    """How many samples lie further than 14.8 MAD from the median: counted, never deleted."""
    centre = statistics.median(samples)
    spread = statistics.median(abs(s - centre) for s in samples)
    return sum(abs(s - centre) > OUTLIER_MADS * spread for s in samples)


def far_out(values: Sequence[float]) -> list[int]:
    """Which of one value a launch stand far from the median of all, on the log scale; by index.

    Further than 5 sigma by their median absolute deviation, and than a fifth: where three launches
    agree by chance, a usual fourth is no finding. Nothing of fewer than `MINIMUM_LAUNCHES`.
    """
    if len(values) < MINIMUM_LAUNCHES:
        return []
    logs = [math.log(v) for v in values]
    centre = statistics.median(logs)
    away = [abs(log - centre) for log in logs]
    least = max(math.log(FAR_SHARE), FAR_MADS * statistics.median(away))
    return [i for i, distance in enumerate(away) if distance > least]


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """Linear-interpolated percentile, or None where the samples are too few to state it.

    Needs `PERCENTILE_SAMPLES[percent]` samples.
    """
    if len(samples) < PERCENTILE_SAMPLES[percent]:
        return None
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def autocorrelation(samples: Sequence[float]) -> float:
    """Lag-1 autocorrelation, 0 for constant or fewer than three samples."""
    if len(samples) < 3:
        return 0.0
    mean = statistics.fmean(samples)
    total = sum((s - mean) ** 2 for s in samples)
    if total == 0:
        return 0.0
    return sum((a - mean) * (b - mean) for a, b in itertools.pairwise(samples)) / total


WITHIN_SHARE = 0.1
"""Of the target half-width, the standard error within a launch that more samples need not lower."""


def samples_per_launch(
    launches: Sequence[Sequence[float]],
    overheads: Sequence[float],
    costs: Sequence[float],
    target: float,
) -> int:
    """Steady samples that the next launch of a case should take, from those already made.

    launches: steady samples of each finished launch (s a step); overheads: the rest of each
    launch's duration (s); costs: mean time that one of its samples took, which is a whole block of
    steps (s); target: half-width that the run is to reach, on the log scale (0.02 = 2 %).
    n = sqrt(c_launch/c_sample * s_within^2 * (1+rho)/(1-rho) / s_between^2), in 10..200, and no
    more than bring the standard error within a launch to a tenth of the target: of an interval as
    wide as the target what more would take away is under 4 % (three launches: 2.48 tenths, squared,
    of its square, halved). Before two launches are known, 10: one says nothing of the spread
    between them, and two happen to lie next to each other often enough, as if all spread were
    within.
    Source: Kalibera & Jones, "Rigorous benchmarking in reasonable time", ISMM 2013, with the
    within-launch variance inflated for autocorrelation rho.
    """
    if len(launches) < 2:
        return MINIMUM_SAMPLES
    means = [statistics.fmean(s) for s in launches]
    rho = statistics.fmean(max(0.0, min(0.95, autocorrelation(s))) for s in launches)
    inflation = (1 + rho) / (1 - rho)
    within = statistics.fmean(statistics.variance(s) if len(s) > 1 else 0.0 for s in launches)
    per_mean = statistics.fmean(1 / len(s) for s in launches) * within * inflation
    between = max(statistics.variance(means) - per_mean, 0.0)
    if within == 0:
        return MINIMUM_SAMPLES
    enough = within * inflation / (WITHIN_SHARE * target * statistics.fmean(means)) ** 2
    wanted = enough
    if between > 0:
        cost = statistics.fmean(overheads) / statistics.fmean(costs)
        wanted = min(enough, math.sqrt(cost * within * inflation / between))
    return round(min(max(wanted, MINIMUM_SAMPLES), MAXIMUM_SAMPLES))


def enough_launches(values: Sequence[float], target: float) -> bool:
    """Whether an adaptive run may stop after these launches: only at a look, or after the last.

    values: one throughput per measured launch; target: half-width on the log scale (0.02 = 2 %).
    """
    if len(values) >= LOOKS[-1]:
        return True
    if len(values) not in LOOKS:
        return False
    estimate = log_estimate(values, LOOK_LEVEL)
    return estimate is not None and estimate.half_width <= target


def passed_enough(values: Sequence[float], target: float) -> bool:
    """Whether they were enough at the last look that they have passed; as `enough_launches`."""
    looked = max((look for look in LOOKS if look <= len(values)), default=0)
    return enough_launches(values[:looked], target)


def outweighing(made: int, slowed: int, failed: int) -> int:
    """How many more undisturbed launches it takes for those that failed, or were slowed from
    outside, to be no more than a third: of more judging says INVALID.

    made: launches that were measured, of which so many were slowed.
    """
    return max(0, 3 * slowed + 2 * failed - made)


def adaptive_ends(
    values: Sequence[float], made: int, slowed: int, failed: int, target: float
) -> bool:
    """Whether an adaptive run makes no further launch of a case: those that nothing slowed were
    enough and outweigh the others, or will not.

    values, target: as for `enough_launches`, of launches that nothing slowed, or of all if
    something slowed each; the counts: as for `outweighing`.
    """
    if passed_enough(values, target):
        return not 0 < outweighing(made, slowed, failed) <= LOOKS[-1] - made
    return made >= LOOKS[1] and 3 * slowed > made
