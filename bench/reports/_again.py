"""The command that measures again what a run measured."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import NamedTuple

from bench.judging.row import Row
from bench.records.private import PRIVATE
from bench.records.run import Run

ONLY = "only"
REPEATED = ("device", "devices", "framework", "precision", ONLY)
"""Options that decide what is measured, and on what."""
SWITCHES = ("--explain", "--wide", "--")
"""Words of `run` and `ab` after which no value comes."""
SERVED = "serve-bench"


class Typed(NamedTuple):
    """What was measured, and on what, in the words of a command line; quoted."""

    suite: str
    """As it was typed, but for its folder: one of the user's own is a file."""
    options: tuple[str, ...]
    """Each of `REPEATED` that was given, with its value."""


def typed(run: Run) -> Typed:
    """What the command line of a run says; what a published record keeps to itself is left out."""
    ours = run.command[:1] != ("pytest",)
    prefix = "--" if ours else "--accelmark-"
    given: dict[str, list[str]] = {}
    words = iter(run.command[2 if ours else 1 :])
    for word in words:
        name, value = "suite", word
        if word.startswith(prefix) and word not in SWITCHES:
            name, equals, value = word.removeprefix(prefix).partition("=")
            value = value if equals else next(words, PRIVATE)
        elif word.startswith("-") or not ours:
            continue
        if value != PRIVATE:
            given.setdefault(name, []).append(value)
    if len(set(given.get("device", ()))) > 1:  # one for each side of `ab`
        given["device"] = [f"{run.device.get('backend')}:{run.device.get('index')}"]
    return Typed(
        shlex.quote(given.get("suite", [run.suite])[0]),
        tuple(f"--{name} {shlex.quote(given[name][-1])}" for name in REPEATED if name in given),
    )


def again(run: Run, only: str = "") -> str:
    """The command; only: the case that it shall measure, rather than all that the run did."""
    suite, options = typed(run)
    if only:
        others = (option for option in options if not option.startswith(f"--{ONLY} "))
        options = (*others, f"--{ONLY} '{only}'")
    return " ".join(("accelmark run", suite, *options))


def of_server(run: Run, rows: Iterable[Row | None]) -> bool:
    """Whether a server was measured from outside: nothing of `accelmark run` does that."""
    found = any(row is not None and row.endpoint is not None for row in rows)
    return found or SERVED in (run.suite, *run.command[1:2])
