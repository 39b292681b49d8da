"""The header of a run's record: what the run is called, how it was begun, and when."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import msgspec

from bench.backend import DeviceInfo
from bench.records import environment
from bench.records.case import Case
from bench.records.encoding import readable
from bench.records.private import cleaned_argument
from bench.records.run import SCHEMA_VERSION, Run, Settings
from bench.records.runfile import Writer
from bench.telemetry import contention

NOTHING: Mapping[str, str] = MappingProxyType({})


def begin(
    path: Path,
    identity: str,
    suite: str,
    cases: Sequence[Case],
    settings: Settings,
    device: DeviceInfo,
    command: Sequence[str],
    left_out: Mapping[str, str] = NOTHING,
    instead: Mapping[str, str] = NOTHING,
    explanations: int = 0,
    budget_minutes: float | None = None,
    *,
    only_explained: bool = False,
    framework: str = "torch",
) -> Writer:
    """A new record with its header on disk; left_out, instead: as in `Run`, of any cases."""
    writer = Writer(path)
    writer.append(
        Run(
            schema=SCHEMA_VERSION,
            run_id=identity,
            suite=suite,
            plan=tuple(cases),
            left_out=_of(left_out, cases),
            instead=_of(instead, cases),
            settings=settings,
            budget_minutes=budget_minutes,
            explanations=explanations,
            only_explained=only_explained,
            framework=framework,
            command=tuple(command),
            started_at=utc_now(),
            host={**environment.host(), "load": contention.load()},
            device=msgspec.to_builtins(device),
        )
    )
    return writer


def _of(whys: Mapping[str, str], cases: Sequence[Case]) -> dict[str, str]:
    return {c.fingerprint: whys[c.fingerprint] for c in cases if c.fingerprint in whys}


def command_line(program: str, arguments: Sequence[str]) -> list[str]:
    """A command line as typed, without what tells who typed it (`records.private`) and secrets."""
    words = (cleaned_argument(environment.redacted(word)) for word in arguments)
    return [program, *map(readable, words)]


def utc_now() -> str:
    """The time of day for the record; nothing is measured by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def run_id() -> str:
    """A name for a run that no other bears: UTC time and four random hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
