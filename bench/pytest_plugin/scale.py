"""Units of pytest-benchmark's table: one FLOP takes a picosecond, and less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench.pytest_plugin.keys import KEY

SECONDS = (("", 1.0), ("m", 1e3), ("u", 1e6), ("n", 1e9), ("p", 1e12), ("f", 1e15))
PER_SECOND = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3), ("", 1.0))


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_benchmark_scale_unit(
    config: pytest.Config,
    unit: str,
    benchmarks: Sequence[dict[str, Any]],
    best: dict[str, float],
    worst: dict[str, float],
) -> tuple[str, float] | None:
    """Prefixes down to femto and up to peta for tables of ours; other tables as ever."""
    chosen = config.getoption("benchmark_time_unit") not in (None, "auto")
    if (
        not all(KEY in benchmark["extra_info"] for benchmark in benchmarks)
        or config.getoption("benchmark_histogram")  # its titles know pytest-benchmark's units only
        or (chosen and unit == "seconds")
    ):
        return None
    if unit == "seconds":
        fits = (pair for pair in SECONDS if best["min"] * pair[1] >= 1)
        return next(fits, SECONDS[-1])
    prefix, factor = next((p for p in PER_SECOND if worst["ops"] >= p[1]), PER_SECOND[-1])
    return prefix, 1 / factor
