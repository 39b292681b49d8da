"""Parts of a judged row in words, the same in every report."""

from __future__ import annotations

from bench import stats, units
from bench.summary import LatencySummary, Row


def limits(row: Row) -> list[str]:
    """The measured ceiling that a case is nearest to, then the published one, with its shares."""
    lines = ["no ceiling" if row.limit is None else f"{row.limit[1]:.0%} {row.limit[0]}"]
    published = [(row.mfu, "MFU"), (row.mbu, "MBU")]
    known = [(share, name) for share, name in published if share is not None]
    if known:
        share, name = max(known)
        lines.append(f"{name} {share:.0%}")
    return lines


def tail(latency: LatencySummary) -> str:
    """The slow requests, or how many requests it would take to say."""
    return ", ".join(
        _absent(percent) if value is None else f"p{percent} {units.duration(value)}"
        for percent, value in _percentiles(latency)
    )


def absent(latency: LatencySummary) -> str | None:
    """The percentiles that have no figure, and what they need; None where all have theirs."""
    return ", ".join(_absent(p) for p, value in _percentiles(latency) if value is None) or None


def _absent(percent: int) -> str:
    return f"p{percent} n/a (needs {stats.PERCENTILE_SAMPLES[percent]} a launch)"


def _percentiles(latency: LatencySummary) -> tuple[tuple[int, float | None], ...]:
    return ((90, latency.p90), (99, latency.p99))
