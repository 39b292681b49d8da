"""What must be the same on all hosts before anything is measured on any of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bench
from bench import catalogue
from bench.errors import AccelmarkError
from bench.planning import suite_file
from bench.records import environment
from bench.records.cpu_limits import usable_cores
from bench.running import child

NOTHING = "nothing"
"""Stands for a value that a host has not."""


class Host(NamedTuple):
    """One host, as messages call it."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"host {self.number} ({self.name})"


def software(suite: str | None, options: Mapping[str, object]) -> dict[str, Any]:
    """What this host would measure with: versions, the suite's file, the command's other words.

    suite: as typed, None where none is.
    """
    git = environment.git_state(Path(bench.__file__).parent)
    commit = "" if git is None else f" {git['commit'][:12]}{' (changed)' * bool(git['changed'])}"
    facts: dict[str, Any] = {"accelmark": f"{bench.__version__}{commit}"}
    facts["Python"] = environment.python_version()
    facts |= {k: v for k, v in environment.package_versions().items() if k != "accelmark"}
    if suite is not None:
        facts["suite"] = _digest(suite)
    return facts | {name: str(value) for name, value in options.items() if value is not None}


def _digest(suite: str) -> str:
    try:
        path = suite_file.find_suite(suite)
        return f"{suite} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"
    except (AccelmarkError, OSError):
        return f"{suite} (not here)"


def conditions(backend: str) -> dict[str, str]:
    """What may change a worker's speed: variables, but not those that choose devices, which are
    compared themselves; where the host computes, its cores."""
    plug_in = catalogue.backend(backend)
    given = plug_in.heeded(child.variables(plug_in))
    words = environment.looked_for(plug_in.recorded_variables())
    variables = environment.variables(words, given)
    found = {name: said for name, said in variables.items() if environment.is_common(name, said)}
    return found | ({"usable cores": str(usable_cores())} if plug_in.is_host else {})


def differences(told: Sequence[tuple[Host, Mapping[str, Any]]]) -> list[str]:
    """In what the hosts differ: what one has and the others have not, with both values."""
    names = dict.fromkeys(name for _, facts in told for name in facts)
    return [line for name in names for line in _of(name, told)]


def _of(name: str, told: Sequence[tuple[Host, Mapping[str, Any]]]) -> Iterator[str]:
    values = [str(facts.get(name, NOTHING)) for _, facts in told]
    usual, count = Counter(values).most_common(1)[0]
    whose = str(told[values.index(usual)][0]) if count == 1 or len(told) == 2 else "the others"
    for (host, _), value in zip(told, values, strict=True):
        if value != usual:
            yield f"{name}: {host} has {value}, {whose} {usual}"
