"""What every value of a record is."""

from __future__ import annotations

import math

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, keyword-only, and strict about unknown fields."""


def finite(**values: float | None) -> None:
    """Raises ValueError, with the name, for the first that is there and is not 0 or more."""
    for name, value in values.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and 0 or more, not {value}")


def positive_and_finite(**values: float) -> None:
    """Raises ValueError, with the name, for the first that is not."""
    for name, value in values.items():
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} must be finite and above zero, not {value}")


def whole(**values: int) -> None:
    """`positive_and_finite`, and raises ValueError too for one with a fraction, were it .0."""
    positive_and_finite(**values)
    for name, value in values.items():
        if not isinstance(value, int):  # whoever counts it may be another's code
            raise ValueError(f"{name} must be an int, not {type(value).__name__} {value}")
