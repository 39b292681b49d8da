"""The format of a record as a JSON Schema, the same by any version of what writes it."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from bench.records.run import Line

NOT_BY_ALL = "propertyNames"
"""Which keys a mapping may have: msgspec says it from 0.23 on."""


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one line of a record."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "accelmark record",
        **_alike(msgspec.json.schema(Line)),
    }


def _alike(part: Any) -> Any:
    """A part of a schema without what some versions of msgspec and of Python alone give it, and its
    descriptions, which are docstrings, not indented as in the code."""
    if isinstance(part, list):
        return [_alike(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        key: inspect.cleandoc(value)
        if key == "description" and isinstance(value, str)
        else _alike(value)
        for key, value in part.items()
        if key != NOT_BY_ALL
    }
