"""Which figures of a vendor's tool are figures: sentinels, units, and what is possible at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.observed import Reading
from bench.telemetry.figures import QUANTITIES, Sheet, figure, impossible, possible


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("width", [15, 16, 31, 32, 63, 64])
@pytest.mark.parametrize("form", [int, float, str, lambda n: {"value": n}, lambda n: f"({n})"])
def test_all_ones_of_any_register_are_no_figure(quantity: str, width: int, form: Any) -> None:
    found = figure(quantity, form(2**width - 1))
    assert isinstance(found, str) and "all ones" in found


@pytest.mark.parametrize(
    "quantity, value, unit",
    [
        ("power", 65535, "mW"),
        ("power", 2**32 - 1, "uW"),
        ("energy", 2**32 - 1, "mJ"),
        ("memory", 65535, "MB"),
        ("clock", 2**16 - 1, "Hz"),
    ],
)
def test_all_ones_are_asked_for_before_the_unit_and_after_it(
    quantity: str, value: int, unit: str
) -> None:
    assert isinstance(figure(quantity, value, unit), str)
    about = QUANTITIES[quantity]
    scaled: Any = value * about.units[unit]
    scaled = int(scaled) if quantity == "memory" else scaled
    assert quantity in impossible(Reading(**{about.field: scaled})), "a source scaled it itself"


@pytest.mark.parametrize(
    "quantity, value, unit, found",
    [
        ("power", {"value": 141.5, "unit": "W"}, None, 141.5),
        ("power", {"value": 141500, "unit": "mW"}, None, 141.5),
        ("power", "141.5 W", None, 141.5),
        ("power", 698_123, "mW", 698.123),
        ("power", 255, "W", 255),
        ("energy", {"value": 2, "unit": "kWh"}, None, 7.2e6),
        ("clock", "(1700Mhz)", None, 1700),
        ("clock", {"value": 1.7, "unit": "GHz"}, None, 1700),
        ("temperature", {"value": 41000, "unit": "mC"}, None, 41),
        ("utilisation", {"value": 87, "unit": "%"}, None, 87),
        ("memory", {"value": 1.5, "unit": "GB"}, "MB", 1.5 * 2**30),
        ("memory", 3416, "MB", 3416 * 2**20),
        ("memory", "11579392", "B", 11579392),
        ("memory", {"value": 3416, "unit": ""}, "MB", 3416 * 2**20),
    ],
)
def test_units_are_read(quantity: str, value: Any, unit: str | None, found: float) -> None:
    assert figure(quantity, value, unit) == pytest.approx(found)


@pytest.mark.parametrize(
    "quantity, value",
    [
        ("power", {"value": 5, "unit": "BTU/h"}),
        ("power", "3 MW"),
        ("energy", {"value": 5, "unit": "ticks"}),
        ("temperature", {"value": 140, "unit": "F"}),
        ("memory", {"value": 5, "unit": "%"}),
        ("clock", {"value": 5, "unit": 7}),
    ],
)
def test_a_unit_that_is_not_known_is_no_figure_and_is_named(quantity: str, value: Any) -> None:
    found = figure(quantity, value)
    assert isinstance(found, str) and "its unit is none of" in found


@given(
    quantity=st.sampled_from(sorted(QUANTITIES)),
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=12)
        | st.just(10**400),
        lambda inner: st.dictionaries(st.sampled_from(["value", "unit"]), inner),
        max_leaves=4,
    ),
    unit=st.none() | st.text(max_size=4),
)
def test_whatever_is_given_it_is_a_figure_or_a_reason(
    quantity: str, value: Any, unit: str | None
) -> None:
    found = figure(quantity, value, unit)
    assert found if isinstance(found, str) else 0 <= found < float("inf")
    sheet = Sheet("tool")
    sheet.take(quantity, [value], unit)
    held = getattr(sheet.reading(), QUANTITIES[quantity].field) is not None
    assert held != (quantity in sheet.absent)


def test_the_first_figure_counts_and_none_has_the_reason_of_the_last() -> None:
    sheet = Sheet("tool")
    sheet.take("power", [65535, None, "N/A", 0, {"value": 89, "unit": "W"}])
    sheet.take("clock", [None])
    sheet.take("temperature", ["N/A"])
    sheet.take("energy", [{"value": 1, "unit": "erg"}])
    assert sheet.reading() == Reading(power_watts=89)
    assert sheet.absent == {
        "clock": "tool: it does not say",
        "temperature": "tool: it says N/A",
        "energy": "tool: 1 erg: its unit is none of J, kJ, mJ, uJ, µJ, Wh, kWh, mWh",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"power_watts": 65535.0},
        {"power_watts": 6553.5},
        {"power_watts": 0.0},
        {"clock_mhz": 65535.0},
        {"memory_clock_mhz": 65535.0},
        {"temperature_celsius": 255.0},
        {"temperature_celsius": float("nan")},
        {"temperature_celsius": -40.0},
        {"utilisation_percent": 255.0},
        {"energy_joules": float(2**64 - 1)},
        {"memory_used_bytes": 65535 * 2**20},
        {"memory_used_bytes": -1},
    ],
)
def test_what_cannot_be_is_taken_out_and_the_rest_stays(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"power_watts": 255.0, "clock_mhz": 1410.0, "temperature_celsius": 61.0}
    reading, why = possible(Reading(**{**good, **wrong}))
    (field,) = wrong
    assert getattr(reading, field) is None and len(why) == 1
    assert possible(Reading(**good)) == (Reading(**good), {})


def test_a_devices_own_limits_are_narrower() -> None:
    reading = Reading(power_watts=700, memory_used_bytes=9)
    assert impossible(reading) == {}
    assert set(impossible(reading, most_watts=600, most_bytes=8)) == {"power", "memory"}
