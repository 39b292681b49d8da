"""A value of a suite that is of the wrong kind, in the words of somebody who writes suites."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "nothing",
}
PLACE = re.compile(r" - at `\$\.(\w+)`$")
"""How msgspec names the key whose value is wrong."""
LONGEST_VALUE = 60
"""Characters of it that are shown."""


def wrong_value(
    error: msgspec.ValidationError, kind: type[msgspec.Struct], given: Mapping[str, Any]
) -> str:
    """``launches` must be a whole number or `auto`, not "ten"`: a clause without a full stop.

    kind: what `given` was to become. What a check of our own says stays as it is.
    """
    said = str(error)
    found = PLACE.search(said)
    if found is None or found[1] not in given:
        return said.rstrip(".")
    key = found[1]
    value = json.dumps(given[key], default=str)
    if len(value) > LONGEST_VALUE:
        value = f"{value[:LONGEST_VALUE]}..."
    return f"`{key}` must be {_in_words(get_type_hints(kind)[key])}, not {value}"


def _in_words(hint: Any) -> str:
    """A type as it is written in a suite."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_in_words, get_args(hint)))
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    return KINDS.get(hint, str(hint))
