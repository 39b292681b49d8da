"""Flat rows as comma-separated text that spreadsheets and pandas read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A text that starts so would be run by a spreadsheet."""


def written(rows: Sequence[Mapping[str, Any]], headers: Mapping[str, str] | None = None) -> str:
    """A header line, then the rows; what is None, or a row does not have, is an empty field.

    headers: of keys that are called otherwise.
    """
    called = headers or {}
    keys = dict.fromkeys(key for row in rows for key in row)
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(called.get(key, key) for key in keys)
    for row in rows:
        writer.writerow(_cell(row.get(key)) for key in keys)
    return output.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        value = " ".join(map(str, value))
    if isinstance(value, dict | list):
        return json.dumps(value)
    # A quotation mark before it is what spreadsheets show as plain text.
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
