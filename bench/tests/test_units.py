"""Numbers as people read them."""

from __future__ import annotations

import pytest

from bench import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1,234"),
        (999.6, "1,000"),
        (100, "100"),
        (99.94, "99.9"),
        (27.345, "27.3"),
        (1, "1.00"),
        (0.5, "0.500"),
        (0.01234, "0.0123"),
        (0.0001234, "0.000123"),
        (0.00001234, "1.23e-05"),
        (-27.345, "-27.3"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert units.significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (985.4e9, "985 GFLOP/s"),
        (9.85e11, "985 GFLOP/s"),
        (1.5e15, "1.50 PFLOP/s"),
        (2e12, "2.00 TFLOP/s"),
        (12.0, "12.0 FLOP/s"),
        (1.2e3, "1.20 kFLOP/s"),
    ],
)
def test_prefixed(value: float, text: str) -> None:
    assert units.prefixed(value, "FLOP/s") == text


def test_rate_prefixes_physical_units_and_leaves_counted_items_alone() -> None:
    assert units.rate(2.5e9, "B") == "2.50 GB/s"
    assert units.rate(2.5e9, "FLOP") == "2.50 GFLOP/s"
    assert units.rate(2.5e9, "OP") == "2.50 GOP/s"
    assert units.rate(12345.6, "token") == "12,346 token/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (75, "1 min 15 s"),
        (3600, "60 min 0 s"),
        (60, "1 min 0 s"),
        (1, "1.00 s"),
        (12.34, "12.3 s"),
        (0.0123, "12.3 ms"),
        (0.000123, "123 us"),
        (0, "0 us"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (1610612736, "1.5 GiB"),
        (3 * 2**20, "3 MiB"),
        (2048, "2 KiB"),
        (8, "8 B"),
        (2**30, "1.0 GiB"),
    ],
)
def test_memory(size_bytes: int, text: str) -> None:
    assert units.memory(size_bytes) == text


@pytest.mark.parametrize("half_width", [1e-7, 4e-5, 4.9e-4, 5e-4, 0.02])
def test_an_interval_has_a_width(half_width: float) -> None:
    said = units.spread(half_width)
    assert float(said.strip("±%")) / 100 == pytest.approx(half_width, rel=0.3)
