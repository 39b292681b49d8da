"""Units of tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bench.pytest_plugin.scale import pytest_benchmark_scale_unit


def scale(
    unit: str, best: float, worst: float, extra: dict[str, Any] | None = None, **options: Any
) -> tuple[str, float] | None:
    config = SimpleNamespace(getoption=options.get)
    return pytest_benchmark_scale_unit(
        config,  # type: ignore[arg-type]
        unit,
        [{"extra_info": {"accelmark": {}} if extra is None else extra}],
        {"min": best},
        {"ops": worst},
    )


def test_prefixes_reach_from_femtoseconds_to_petaflops() -> None:
    assert scale("seconds", 1.5, 1.0) == ("", 1.0)
    assert scale("seconds", 0.25, 4.0) == ("m", 1e3)
    assert scale("seconds", 1.4e-12, 7e11) == ("p", 1e12)
    assert scale("seconds", 1e-16, 1e16) == ("f", 1e15)
    assert scale("operations", 1.4e-12, 715e9) == ("G", 1e-9)
    assert scale("operations", 1.0, 96.7) == ("", 1.0)
    assert scale("operations", 1.0, 0.5) == ("", 1.0)
    assert scale("operations", 1.0, 2e15) == ("P", 1e-15)


def test_units_of_other_tables_are_left_alone() -> None:
    assert scale("seconds", 1e-12, 1.0, extra={}) is None
    assert scale("seconds", 1e-12, 1.0, benchmark_time_unit="ns") is None
    assert scale("operations", 1e-12, 1e12, benchmark_time_unit="ns") == ("T", 1e-12)
    assert scale("seconds", 1e-12, 1.0, benchmark_histogram=["x"]) is None
