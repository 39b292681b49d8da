"""What the commands share: what they say, which device they take, how they show and end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from bench.commands.streams import is_plain, put_card
from bench.errors import OutputError

if TYPE_CHECKING:
    from bench.backend import DeviceInfo
    from bench.records.run import RunFile, Settings
    from bench.report import Canvas
    from bench.running.session import Face


def say(text: str) -> None:
    """Progress and remarks go to stderr, if anybody reads it; stdout is for data."""
    with contextlib.suppress(OSError):
        click.echo(text, file=sys.stderr)


def show(card: str, path: str) -> None:
    """The card on stdout, for as long as that is there: the record is what counts."""
    try:
        put_card(card)
    except OSError as error:
        say(
            f"stdout: the card cannot be written ({error.strerror}). The record is whole: "
            f"`accelmark report {path}` prints it."
        )


class Side(NamedTuple):
    """One side of `ab`, or all of `run`."""

    device: str | None = None
    python: str = sys.executable
    forced: Mapping[str, str] = {}


def choose(side: Side, who: str = "") -> DeviceInfo:
    """The device, and on stderr which one it is and what was passed over."""
    from bench.judging import chips
    from bench.running import probe

    chips.chips()  # a bad file of the user's is said now, not after the hours of a run
    chosen, remarks = probe.choose(*side)
    _say_chosen(chosen, remarks, who)
    return chosen


def _say_chosen(chosen: DeviceInfo, remarks: Sequence[str], who: str = "") -> None:
    from bench.running import probe

    say(f"{who}device: {chosen.address}, {chosen.name}")
    for remark in remarks:
        say(f"  passed over {remark}")
    if held_back := probe.held_back(chosen):
        say(f"  {held_back}")


def watching(
    device: DeviceInfo, remarks: Sequence[str], settings: Settings
) -> contextlib.AbstractContextManager[Face]:
    """Who watches a run of `bench.api`: says which device it is, then shows how it goes."""
    _say_chosen(device, remarks)
    return face_of(settings)


def typed() -> list[str]:
    """The command line, as the record keeps it."""
    from bench.running.header import command_line

    return command_line("accelmark", sys.argv[1:])


WIDE = click.option(
    "--wide", is_flag=True, help="Everything of every case, below its line on the card."
)
"""Of every command that prints a card."""


def render(
    format_name: str,
    runs: list[RunFile],
    width: int | None = None,
    *,
    wide: bool = False,
    handed_on: bool = False,
) -> str:
    """Runs as a report of that name; handed_on: whether it is written to a file."""
    from bench import api

    shown = canvas(width)
    return api.render(
        *(runs, format_name),
        width=shown.width,
        colour=shown.colour,
        wide=wide,
        beside_record=not handed_on,
    )


def canvas(width: int | None) -> Canvas:
    """What stdout can show; width: columns, None for the terminal's."""
    from bench.report import Canvas

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    columns = width or shutil.get_terminal_size((100, 24)).columns
    return Canvas(width=columns - is_plain(), colour=colour)  # a stand-in may take one more


@contextlib.contextmanager
def face_of(settings: Settings) -> Iterator[Face]:
    """The live display where stdout and stderr are a terminal, else plain lines on stderr."""
    from bench.commands.live import LiveFace, PlainFace

    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield PlainFace(sys.stderr, settings)
        return
    from rich.console import Console

    with LiveFace(Console(stderr=True), settings) as face:
        yield face


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal end a command as Ctrl-C does: workers too, nothing lost."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

    def interrupt(*_: object) -> None:
        for name in names:  # what ends the terminal ends it more than once
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def write(path: Path, text: str) -> None:
    """Writes a report; `OutputError` if that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}). Give a file in a folder that is there."
        ) from error
    say(f"written: {path}")
