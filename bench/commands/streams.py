"""Words on stdout and stderr as these can say them: no locale and no code page loses one."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

STAND_INS = {
    "±": "+-",
    "°": "deg ",
    "\N{MULTIPLICATION SIGN}": "x",
    "—": "-",
    "\N{EN DASH}": "-",
    "─": "-",
    "━": "-",
    "│": "|",
    "…": "~",
    "µ": "u",
    "μ": "u",
    "≥": ">=",
    "≤": "<=",
}
"""What is written for a character where the stream's encoding has none."""
HANDLER = "accelmark"
"""The name by which the codecs know `_stand_in`."""
STDOUT = "stdout"
"""The file's name in an `OSError` of what was to go there."""
ELSEWHERE = "Make room there, or send it elsewhere: > FILE."
"""What to do where it cannot be written."""


def _stand_in(error: UnicodeError) -> tuple[bytes, int]:
    """For what a stream cannot say: another character, the bytes that were typed, or a number.

    What was typed in UTF-8 where the locale says otherwise goes out as it came in, so that a path
    can be copied; bytes that are no UTF-8 are named by their numbers.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    refused = "".join(STAND_INS.get(c, c) for c in error.object[error.start : error.end])
    try:
        typed = refused.encode("ascii", "surrogateescape")
        typed.decode("utf-8")
    except UnicodeError:
        typed = refused.encode("ascii", "backslashreplace")
    return typed, error.end


codecs.register_error(HANDLER, _stand_in)


def prepare() -> None:
    """Has stdout and stderr refuse nothing, whatever their encoding. What the caller has closed is
    empty, and no file that is opened later takes its place."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:
                setattr(sys, name, os.fdopen(fd, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Whatever goes wrong with stdout says that it is stdout; that its reader left is no failure,
    and what follows goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    except OSError as error:
        error.filename = STDOUT
        raise


def put(text: str) -> None:
    """Text on stdout, as it can say it."""
    with named():
        click.echo(text, file=sys.stdout, nl=False)


def folded(line: str, indent: int, terminal: bool | None = None) -> str:
    """A line; on a terminal as many as show it without breaking a word.

    indent: of what follows the first; more than a third of the terminal's columns is too much;
    terminal: whether it goes to one; None asks stdout.
    """
    if not (stdout_is_terminal() if terminal is None else terminal):
        return f"{line}\n"  # for programs: one line stays one line
    width = shutil.get_terminal_size((100, 24)).columns
    lines = textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * (indent if indent <= width // 3 else 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) + "\n"


def stdout_is_terminal() -> bool:
    """Whether a person looks at it."""
    return sys.stdout.isatty()


def put_file(text: str) -> None:
    """A document on stdout: byte for byte as it lies in a file, for what reads it expects UTF-8.

    On a terminal it is text like any other.
    """
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
        with named():
            stream.flush()
            stream.buffer.write(text.encode("utf-8", "backslashreplace"))
            stream.buffer.flush()
    else:
        put(text)


def put_card(card: str) -> None:
    """A card on stdout; its columns stay in line where a character has a longer stand-in."""
    with named():
        put_whole(card)


def put_whole(card: str) -> None:
    """`put_card`; `OSError` where its reader left, too."""
    text = in_line(card, getattr(sys.stdout, "encoding", None) or "utf-8")
    click.echo(text, file=sys.stdout, nl=False)


def in_line(card: str, encoding: str) -> str:
    """The card with what the encoding cannot say replaced; a blank before makes room for it."""
    for character, word in STAND_INS.items():
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            room = " " * (len(word) - 1)
            card = re.sub(f"(?<= ){room}{character}", word, card)
            card = card.replace(character, word)
    return card


def is_plain() -> bool:
    """Whether stdout lacks a character for which a longer word is written."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return in_line("±", encoding) != "±"
