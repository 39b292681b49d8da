"""Former homes of public names: they work for one more release, and say where the name is now."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

LAST = "0.1"
"""The last version in which they work."""


def names(former: str, homes: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """A module's `__getattr__` that gives each name from its home, with a DeprecationWarning.

    homes: the names that moved, by the module in which they now are.
    """
    home_of = {name: home for home, moved in homes.items() for name in moved}

    def moved(name: str) -> Any:
        home = home_of.get(name)
        if home is None:
            raise AttributeError(f"module {former!r} has no attribute {name!r}")
        warnings.warn(
            f"{former}.{name} is now {home}.{name}: import it from there. The former name works "
            f"up to accelmark {LAST}.",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(import_module(home), name)

    return moved
