"""Texts without paths: of a path its last name is kept, and nothing of anybody's home."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

HOMES = re.compile(r"(?:[A-Za-z]:)?[/\\](?:home|Users|export/home)[/\\][^/\\:;,]+")
"""The home of a user, by where systems keep them; a name may have blanks in it."""
BETWEEN = re.compile(
    r"""(["'=;,|]|(?:(?<![A-Za-z])|(?<=[A-Za-z]{2})|(?<=[/\\][A-Za-z])):|:(?![\\/])"""
    r"""|\s+(?=[~/\\.]|[A-Za-z]:[\\/]))"""
)
"""Between the paths of a list, not in `C:\\`; a blank only where a new path begins behind it."""
ELSEWHERE = re.compile(r"[A-Za-z][\w+.-]*://\S+|\S+@\S+")
"""An address on a network, and a person or a host."""


def without_paths(text: str) -> str:
    """A text in which only the last name of each path is left, of a home `~`, of an address none.

    Of `/opt/some where/libx.so:y` that is `libx.so:y`. A text without a slash is left as it is.
    """
    text = ELSEWHERE.sub("(address)", text)
    if "/" not in text and "\\" not in text:
        return text
    with contextlib.suppress(RuntimeError):  # a user without a home
        if len(home := str(Path.home())) > 1:
            text = re.sub(re.escape(home) + r"(?=[/\\:;,\s]|$)", "~", text)
    text = HOMES.sub("~", text)
    return "".join(_last_name(part) for part in BETWEEN.split(text))


def _last_name(part: str) -> str:
    return re.split(r"[/\\]", part.rstrip("/\\"))[-1] or part[:1]
