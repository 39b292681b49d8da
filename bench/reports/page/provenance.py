"""Everything that a record says of how its run came about, by section, as flat rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.judging.comparing.differences import in_words
from bench.reports.page.side import NONE, Side


def provenance(side: Side) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each section of a run with its facts."""
    run, launches = side.file.run, side.file.launches
    seeds = list(dict.fromkeys(str(launch.seed) for launch in launches))
    yield (
        "Run",
        [
            ("run", run.run_id),
            ("file", Path(side.file.path).name),
            ("suite", run.suite),
            ("command", " ".join(run.command)),
            ("started", run.started_at),
            ("finished", side.file.end.finished_at if side.file.end else NONE),
            ("ended", side.ending or "complete"),
            ("damage", side.damage or "none"),
            ("seeds of the launches", ", ".join(seeds) or NONE),
            ("record schema", str(run.schema)),
        ],
    )
    yield "Settings", _facts([msgspec.to_builtins(run.settings)])
    yield "Device", _facts([run.device])
    yield "Host", _facts([run.host])
    environments = [launch.environment for launch in launches]
    stack = [
        {
            k: v
            for k, v in environment.items()
            if k not in ("variables", "variables_looked_for", "device")
        }
        for environment in environments
    ]
    yield "Stack, as the launches saw it", _facts(stack)
    yield "Environment variables", _facts([{"": e.get("variables")} for e in environments])


def _facts(descriptions: Sequence[Any]) -> list[tuple[str, str]]:
    """Free descriptions as flat rows; a fact of several values names them."""
    found: dict[str, list[str]] = {}
    for description in descriptions:
        for name, value in _flat(description, ""):
            values = found.setdefault(name, [])
            if value not in values:
                values.append(value)
    return [(name, in_words(values)) for name, values in found.items()]


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name} {key}".strip())
    elif value is not None:
        yield name or "value", str(value)
