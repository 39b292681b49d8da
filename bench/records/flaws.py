"""What is wrong with the rest of a record, told for what it is, and what to do about it."""

from __future__ import annotations

import re
import shlex
from typing import Any, Literal, NamedTuple

import bench
from bench.records.run import RESTORE, Run

Kind = Literal["damaged", "cut short", "newer", "two runs"]
HEADER = re.compile(rb'\{"line":\s*"run"')
"""How the first line of a run begins; within a text of a record its quotes would be escaped."""
UNKNOWN = re.compile(r"unknown field|at `\$\.line`")
"""What the decoder says of a record that holds more than this version knows."""


class Flaw(NamedTuple):
    """Why nothing after a line was read."""

    kind: Kind
    what: str
    """A clause, to be put after the place."""
    remedy: str = RESTORE
    """What to do: whole sentences."""


def second_run(path: str, text: bytes, start: int) -> Flaw | None:
    """Two files put together: where the second begins in a line of the first, if it does.

    path: empty of what is no plain file; start: the line's place in it, in bytes.
    """
    found = HEADER.search(text)
    if found is None:
        return None
    at, name = start + found.start(), shlex.quote(path or "both.jsonl")
    first = "" if path else f"Decompress or save it as {name}. "
    return Flaw(
        "two runs",
        "another run begins here: two records were put together",
        f"{first}Take them apart: head -c {at} {name} > first.jsonl; tail -c +{at + 1} {name} > "
        "second.jsonl",
    )


def cut_short(path: str, run: Run) -> Flaw:
    """A last line without its end: a copy that is not whole, or a run that was killed."""
    rest = go_on(path or "RECORD", run.command)
    return Flaw(
        "cut short",
        "cut short in the middle of the line",
        f"If it is a copy, copy it again. Where it was made, {rest}",
    )


def go_on(path: str, command: tuple[str, ...]) -> str:
    """How what a command began comes to its end: only `accelmark run` adds to its record."""
    if command[:2] == ("accelmark", "run"):
        return f"go on with it: accelmark run --resume {shlex.quote(path)}"
    return "run the same command again"


def of_line(error: Exception, run: Run) -> Flaw:
    """A line that cannot be decoded."""
    remedy = newer(str(error), run.host)
    if remedy is not None:
        return Flaw("newer", f"holds more than this version can read ({error})", remedy)
    return Flaw("damaged", f"not a line of a record ({error})")


def newer(complaint: str, host: Any) -> str | None:
    """What to do with a record of a newer version; None if it is none.

    complaint: the decoder's; host: the header's, which names the version.
    """
    theirs = host.get("accelmark") if isinstance(host, dict) else None
    if not UNKNOWN.search(complaint) and _numbers(theirs) <= _numbers(bench.__version__):
        return None
    return (
        f"accelmark {theirs or 'of an unknown version'} wrote it; this is {bench.__version__}. The "
        "record itself may be good. Read it with the version that wrote it, or update this one: "
        "git pull in its clone, or pip install of the newer wheel"
    )


def _numbers(version: Any) -> tuple[int, ...]:
    """Of a version, for an order; () for what is none."""
    found = (
        re.match(r"\d{1,9}(\.\d{1,9}){0,3}(?!\d)", version) if isinstance(version, str) else None
    )
    return tuple(map(int, found[0].split("."))) if found else ()
