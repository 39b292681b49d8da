"""Text that a record can hold, whatever bytes the system gave, and values as lines of JSON."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, BinaryIO

import msgspec


def readable(text: str) -> str:
    """A text as any file can hold it.

    Where the locale cannot say a byte of an argument, a variable or a file's name, Python puts a
    lone surrogate for it, which no file takes. Here such bytes are what they are in UTF-8, and a
    backslash with the number where they are nothing in that either.
    """
    if text.isascii():
        return text
    try:
        given = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte: half of a pair
        given = text.encode("utf-8", "backslashreplace")
    return given.decode("utf-8", "backslashreplace")


def encoded(value: Any) -> bytes:
    """A value as JSON without a line break; its texts `readable` where they are not encodable."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_readable(msgspec.to_builtins(value)))


def own_stdout() -> BinaryIO:
    """The stdout that this process was started with, for its answers alone.

    Whatever else prints goes to stderr; a word that the locale cannot say must not fail a library.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return answers


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, dict):
        return {_readable(key): _readable(inner) for key, inner in value.items()}
    return [_readable(inner) for inner in value] if isinstance(value, list | tuple) else value
