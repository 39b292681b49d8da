"""The command that measures again what a run measured."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from bench.judging.comparing.configured import in_turns
from bench.records.private import PRIVATE
from bench.records.run import Run

ONLY = "only"
REPEATED = ("device", "devices", "framework", "precision", ONLY)
"""Options that decide what is measured, and on what."""
SWITCHES = ("--explain", "--wide", "--")
"""Words of `run` and `ab` after which no value comes."""
SAME_AB = "the same accelmark ab"
FROM_OUTSIDE = "endpoint"
"""Workload of a server that `accelmark serve-bench` measured."""


class Typed(NamedTuple):
    """What was measured, and on what, in the words of a command line."""

    suite: str
    """As it was typed, but for its folder: one of the user's own is a file. A shipped one has the
    number that it had then."""
    options: tuple[str, ...]
    """Each of `REPEATED` that was given, with its value, quoted."""


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
    suite = given.get("suite", [run.suite])[0]
    return Typed(
        run.suite if run.suite.startswith(f"{suite}@") else suite,
        tuple(f"--{name} {shlex.quote(given[name][-1])}" for name in REPEATED if name in given),
    )


def again(run: Run, only: str = "") -> str:
    """The command; only: the case that it shall measure, rather than all that the run did.

    No `run` has what tells sides of `ab` apart, of which the record keeps no folder and no secret.
    """
    if run.command[1:2] == ("ab",) and any(x.startswith(("--env", "--py")) for x in run.command):
        return SAME_AB + (f" --{ONLY} '{only}'" if only else "")
    suite, options = typed(run)
    if only:
        others = (option for option in options if not option.startswith(f"--{ONLY} "))
        options = (*others, f"--{ONLY} '{only}'")
    return " ".join(("accelmark run", shlex.quote(suite), *options))


def again_on_both(base: Run, other: Run, suite: str) -> str:
    """What measures both sides of a comparison again, as far as both were asked for the same.

    suite: what the base's is called; a shipped one with its number.
    """
    if in_turns(base, other):
        return SAME_AB
    if of_server(base) or of_server(other):
        return "accelmark serve-bench with --server-command"
    mine, theirs = typed(base), typed(other)
    both = (option for option in mine.options if option in theirs.options)
    own = "@" not in suite and mine.suite.endswith(".toml")
    return " ".join(("accelmark run", shlex.quote(mine.suite if own else suite), *both))


def of_server(run: Run) -> bool:
    """Whether a server was measured from outside: nothing of `accelmark run` does that."""
    return any(case.workload == FROM_OUTSIDE for case in run.plan)
