"""A value of the wrong kind is told in the words of a suite, not of a schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from bench.planning.wrong_value import wrong_value


class Wanted(msgspec.Struct):
    """Every kind of value that a suite may hold."""

    launches: int | Literal["auto"] = "auto"
    timing: Literal["block", "step"] = "block"
    seconds: float = 1.0
    name: str = ""
    pinned: bool = False
    size: Annotated[int, "from 1 up"] = 1
    limit: int | None = None
    shape: list[int] = []

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError("size must be from 1 up, not 0.")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"launches": "ten"}, '`launches` must be a whole number or `auto`, not "ten"'),
        ({"launches": 1.5}, "`launches` must be a whole number or `auto`, not 1.5"),
        ({"timing": "steps"}, '`timing` must be `block` or `step`, not "steps"'),
        ({"timing": 3}, "`timing` must be `block` or `step`, not 3"),
        ({"seconds": "fast"}, '`seconds` must be a number, not "fast"'),
        ({"name": 3}, "`name` must be a text, not 3"),
        ({"pinned": "yes"}, '`pinned` must be true or false, not "yes"'),
        ({"size": True}, "`size` must be a whole number, not true"),
        ({"limit": "x"}, '`limit` must be a whole number or nothing, not "x"'),
        ({"name": ["x" * 90]}, '`name` must be a text, not ["' + "x" * 58 + "..."),
        ({"size": 0}, "size must be from 1 up, not 0"),
        ({"shape": [1, "x"]}, "Expected `int`, got `str` - at `$.shape[1]`"),
    ],
)
def test_it_says_what_must_stand_there_and_what_does(given: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, Wanted)
    assert wrong_value(caught.value, Wanted, given) == said
