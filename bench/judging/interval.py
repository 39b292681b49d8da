"""A figure over launches, with the interval in which it lies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import msgspec

from bench import stats


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over launches, with its t interval; without one where there are too few."""

    value: float
    low: float | None = None
    high: float | None = None

    def said(self, text: Callable[[float], str], to: str = " to ", unit: str = "") -> str:
        """`93% (91% to 95%)`, or that there is no interval; unit: of the value, with its blank."""
        value = f"{text(self.value)}{unit}"
        if self.low is None or self.high is None:
            return f"{value} (no interval)"
        return f"{value} ({text(self.low)}{to}{text(self.high)})"

    @classmethod
    def over(cls, values: Sequence[float], level: float) -> Interval:
        """Of one value a launch, on their own scale: they may be negative."""
        mean = statistics.fmean(values)
        if len(values) < stats.MINIMUM_LAUNCHES:
            return cls(value=mean)
        error = math.sqrt(stats.variance(values) / len(values))
        half = stats.t_quantile(0.5 + level / 2, len(values) - 1) * error
        return cls(value=mean, low=mean - half, high=mean + half)

    @classmethod
    def on_logs(cls, values: Sequence[float], level: float) -> Interval:
        """Of one value a launch, on the log scale: all are above zero."""
        found = stats.log_estimate(values, level)
        if found is None:
            return cls(value=stats.geometric_mean(values))
        return cls(value=found.value, low=found.low, high=found.high)
