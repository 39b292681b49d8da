"""What a script's pattern means: a script that looked at nothing has found nothing out."""

from __future__ import annotations

import fnmatch
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def matching(
    parser: ArgumentParser,
    option: str,
    pattern: str,
    items: Iterable[T],
    name: Callable[[T], str],
) -> list[T]:
    """Items whose name matches a shell glob; the parser's error, which exits, where none does.

    option: by which the pattern was given (`--only`).
    """
    every = list(items)
    found = [item for item in every if fnmatch.fnmatchcase(name(item), pattern)]
    if not found:
        there = ", ".join(dict.fromkeys(map(name, every)))
        parser.error(f"{option} {pattern!r} matches nothing; there are: {there}")
    return found
