"""The command line that a program's run records: typed, it does the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from bench import api
from bench.backend import DeviceInfo
from bench.commands.explain import explain
from bench.commands.run import run
from bench.records.run import RunFile
from bench.running import probe
from bench.running.elsewhere import HERE

NOT_TYPED = {"suite", "record", "looking", "watch", "command", "leader"}
"""What is an argument, and what only a program has."""
CALLED = {"devices": "spread", "explain": "explaining"}
"""Parameters by the names that the command line has for them."""
VALUES: dict[str, Any] = {
    "device": "cpu",
    "only": "*-*",
    "devices": 2,
    "launches": 7,
    "budget_minutes": 5,
    "out": "elsewhere",
    "explain": True,
    "trying": True,
    "framework": "other",
    "python": "interpreter",
    "precision": "fp32",
}
RECORD = Path(__file__).parent / "golden" / "run.jsonl"


class Begun(Exception):
    """Raised where the run would begin, with its command line."""


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends where its record would begin, and no device is looked for."""

    def begins(path: Path, *header: Any, **more: Any) -> None:
        raise Begun(header[5])

    def goes_on(file: object, device: object, command: Sequence[str], *more: object) -> None:
        raise Begun(command)

    device = DeviceInfo(backend="cpu", index=0, name="Fake CPU", memory_bytes=None)
    monkeypatch.setattr(api, "choose", lambda *which: probe.Chosen(device, [], 2))
    monkeypatch.setattr(api, "elsewhere", lambda framework, python: HERE)
    monkeypatch.setattr(api, "begin", begins)
    monkeypatch.setattr(api, "resume", goes_on)


def typed(call: Callable[..., object], *arguments: str, **options: Any) -> list[str]:
    """The words that the record would hold, after the program's name."""
    with pytest.raises(Begun) as found:
        call(*arguments, **options)
    words: list[str]
    program, *words = found.value.args[0]
    assert program == "accelmark"
    return words


def parsed(command: click.Command, words: Sequence[str]) -> dict[str, Any]:
    """What the command line makes of them; a path is its words."""
    with command.make_context(words[0], list(words[1:])) as context:
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in context.params.items()
        }


def options_of(call: Callable[..., object]) -> list[str]:
    return [name for name in inspect.signature(call).parameters if name not in NOT_TYPED]


CASES = [
    (call, command, arguments, name)
    for call, command, arguments in (
        (api.run_suite, run, ("scaling",)),
        (api.explain_suite, explain, ("smoke",)),
        (api.resume_run, run, (str(RECORD),)),
    )
    for name in options_of(call)
]


@pytest.mark.parametrize(
    ("call", "command", "arguments", "name"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[3]}") for case in CASES],
)
def test_what_differs_from_the_default_is_in_it(
    call: Callable[..., object],
    command: click.Command,
    arguments: tuple[str, ...],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RunFile, "complete", False)
    before, after = (
        parsed(command, typed(call, *arguments, **given)) for given in ({}, {name: VALUES[name]})
    )
    called = CALLED.get(name, name)
    changed = {key for key in after if after[key] != before[key]}
    assert changed == {called}
    assert after[called] in (VALUES[name], str(VALUES[name]))


def test_what_is_as_it_would_be_anyway_is_not() -> None:
    assert typed(api.run_suite, "smoke", out=Path("runs"), explain=False) == ["run", "smoke"]
