"""What the commands share: what they say, which device they take, how they show and end."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from bench.commands.streams import folded, is_plain, put_card, put_file, put_whole
from bench.errors import OutputError, RecordError

if TYPE_CHECKING:
    from bench.backend import DeviceInfo
    from bench.judging.comparing.comparison import Comparison
    from bench.records.run import RunFile, Settings
    from bench.report import Canvas
    from bench.running.face import Face
    from bench.running.probe import Chosen


def say(text: str) -> None:
    """Progress and remarks go to stderr, if anybody reads it; stdout is for data. Nothing of what
    another's record says moves the screen."""
    if not text.isprintable():
        from bench.reports.wording.labels import visible

        text = "\n".join(map(visible, text.split("\n")))
    with contextlib.suppress(OSError):
        click.echo(text, file=sys.stderr)


def show(card: str, path: str) -> None:
    """The card on stdout, for as long as that is there: the record is what counts."""
    try:
        put_whole(card)
    except OSError as error:
        say(
            f"stdout: the card cannot be written ({error.strerror}). The record is complete. Print "
            f"the card again: accelmark report {path}"
        )


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Says on a terminal that devices are looked for, for as long as that takes: two minutes, where
    a vendor's runtime hangs."""
    words = "looking for devices ..." if sys.stderr.isatty() else ""
    with contextlib.suppress(OSError):
        click.echo(words, file=sys.stderr, nl=False)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            click.echo(f"\r{' ' * len(words)}\r" if words else "", file=sys.stderr, nl=False)


class Side(NamedTuple):
    """One side of `ab`, or all of `run`."""

    device: str | None = None
    python: str = sys.executable
    forced: Mapping[str, str] = {}


def choose(side: Side, who: str = "") -> Chosen:
    """The device, and on stderr which one it is and what was passed over."""
    from bench.judging import chips
    from bench.running import probe

    chips.chips()  # a bad file of the user's is said now, not after the hours of a run
    with looking():
        chosen = probe.choose_of(*side)
    _say_chosen(chosen.device, chosen.remarks, who)
    return chosen


def _say_chosen(chosen: DeviceInfo, remarks: Sequence[str], who: str = "") -> None:
    from bench.running import probe

    say(f"{who}device: {chosen.address}, {chosen.name}")
    about = [f"passed over {remark}" for remark in remarks]
    for line in (*about, probe.held_back(chosen)):
        if line:
            say(folded(f"  {line}", 4, sys.stderr.isatty()).removesuffix("\n"))


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
    what: RunFile | Comparison | list[RunFile] | list[Comparison],
    width: int | None = None,
    *,
    wide: bool = False,
    handed_on: bool = False,
) -> str:
    """Runs, or comparisons of them, in a format; handed_on: whether it is written to a file."""
    from bench import api

    shown = canvas(width)
    return api.render(
        *(what, format_name),
        width=shown.width,
        colour=shown.colour and not handed_on,
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
    """The live display where stderr is a terminal that can show it, else lines on stderr."""
    from rich.console import Console

    console = Console(stderr=True)
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        from bench.commands.live import LiveFace

        with LiveFace(console, settings) as face:
            yield face
        return
    from bench.commands.plain import PlainFace

    yield PlainFace(say, settings)


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and a closed terminal end a command as Ctrl-C does: workers too, nothing lost.

    What is ignored stays so: `nohup` starts a command that shall outlive its terminal. Another
    thread than the main one leaves all as it is.
    """
    ours = threading.current_thread() is threading.main_thread()
    known = [one for one in signal.Signals if one.name in ("SIGTERM", "SIGHUP") and ours]
    ending = [one for one in known if signal.getsignal(one) != signal.SIG_IGN]

    def interrupt(*_: object) -> None:
        for one in ending:  # what ends the terminal ends it more than once
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in ending}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def put_report(text: str, format_name: str, path: Path | None = None) -> None:
    """A report: on stdout, where a table is a card, or into a file; `OutputError` if that cannot be
    written, or is a record."""
    if path is None:
        (put_card if format_name == "table" else put_file)(text)
        return
    require_output(path, format_name)
    try:
        _replace(path, text)
    except OSError as error:
        raise _unwritable(path, error.strerror) from error
    say(f"written: {path}")


def require_output(path: Path, format_name: str) -> None:
    """Raises `OutputError` where a report cannot go there: before hours are measured for it."""
    if _is_record(path, format_name == "pytest-benchmark"):
        raise OutputError(
            f"{path}: a record lies there, which this report would replace. Give another file "
            "with --output."
        )
    folder = os.path.isdir(path)  # noqa: PTH112 - Path raises of a name that is too long
    if folder or not os.path.isdir(path.parent):  # noqa: PTH112
        raise _unwritable(path, os.strerror(errno.EISDIR if folder else errno.ENOENT))


def _unwritable(path: Path, why: str | None) -> OutputError:
    return OutputError(f"{path}: cannot be written ({why}). Give another file with --output.")


def _replace(path: Path, text: str) -> None:
    """Writes beside it and renames, where it is a file or will be: what lies there stays whole. In
    place what is somebody else's, where an output of ours goes, or what cannot be renamed to."""
    target, content = Path(os.path.realpath(path)), text.encode("utf-8", "backslashreplace")
    beside = target.with_name(f".accelmark-{os.getpid()}")
    there = path.stat() if path.exists() else None  # a pipe has no name but /dev/stdout
    if there and not (path.is_file() and _ours(there) and os.access(target.parent, os.W_OK)):
        path.write_bytes(content)
        return
    if there:
        target.open("ab").close()  # a file that is read only stays
    try:
        beside.write_bytes(content)
        if there:
            shutil.copymode(target, beside)
        try:
            beside.replace(target)
        except OSError:  # mounted by itself, or in a folder of shared files
            path.write_bytes(content)
    finally:
        beside.unlink(missing_ok=True)


def _ours(there: os.stat_result) -> bool:
    """Whether a file is this user's, and none of this process's outputs."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(there, os.fstat(number)):
                return False
    return there.st_uid == getattr(os, "geteuid", lambda: there.st_uid)()


def _is_record(path: Path, plain: bool) -> bool:
    """Whether a file begins as a run does, compressed or not; unless `plain`, or is a document."""
    import msgspec

    from bench.exchange.benchmark_json import KEY
    from bench.records.flaws import HEADER
    from bench.records.opened import opened
    from bench.records.runfile import UNREADABLE

    try:
        if not path.is_file():
            return False
        with opened(path.absolute()) as found:
            start = found.file.readline(1000)
            if plain or HEADER.match(start):
                return HEADER.match(start) is not None
            text = start + found.file.read()
            return KEY in msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (OSError, RecordError, *UNREADABLE):
        return False
