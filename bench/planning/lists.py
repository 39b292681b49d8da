"""The lists of values of a `[[case]]` table, and the doublings that stand for one."""

from __future__ import annotations

import itertools
import math
from typing import Any

from bench.errors import SuiteError, suggestion
from bench.planning.spread import DEVICES
from bench.planning.sweep import BATCH

MOST_CASES = 10_000
"""Of one `[[case]]` table: more is a slip of the pen."""
DOUBLED = (BATCH, DEVICES, "size_bytes")
DOUBLING_KEYS = ("from", "doubling_to")
DOUBLING = f"For example: {BATCH} = {{ from = 1, doubling_to = 4096 }}"


def sweep(place: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The cartesian product of an entry's lists, the last key varying fastest."""
    choices = values_of(place, entry)
    count = math.prod(map(len, choices))
    if count > MOST_CASES:
        raise SuiteError(
            f"{place}: its lists make {count} cases. At most {MOST_CASES} are allowed: shorten "
            "the lists."
        )
    return [dict(zip(entry, values, strict=True)) for values in itertools.product(*choices)]


def values_of(place: str, entry: dict[str, Any]) -> list[list[Any]]:
    """The values of each key: those of a list, of a doubling, or the one that stands there."""
    choices = []
    for key, value in entry.items():
        values = _doubled(place, key, value) if isinstance(value, dict) else value
        if values == []:
            raise SuiteError(f"{place}: `{key}` is an empty list. Give at least one value.")
        choices.append(values if isinstance(values, list) else [values])
    return choices


def _doubled(place: str, key: str, table: dict[str, Any]) -> list[int]:
    """`{ from = 1, doubling_to = 100 }`: 1, 2, 4, ... 64."""
    if key not in DOUBLED:
        allowed = ", ".join(f"`{name}`" for name in DOUBLED)
        raise SuiteError(f"{place}: `{key}` is a table. Only {allowed} can be one. {DOUBLING}")
    for name in table:
        if name not in DOUBLING_KEYS:
            hint = suggestion(name, DOUBLING_KEYS)
            raise SuiteError(f"{place}: unknown key `{name}` of `{key}`.{hint}")
    low, high = (table.get(name) for name in DOUBLING_KEYS)
    if type(low) is not int or type(high) is not int or not 1 <= low <= high:
        raise SuiteError(
            f"{place}: `{key}` needs `from` and `doubling_to`: whole numbers from 1 up, the "
            f"second no smaller. {DOUBLING}"
        )
    return [low << power for power in range((high // low).bit_length())]
