"""The file that holds a run: its writer, its reader, and its JSON Schema.

One JSON Lines file: a `Run` line first, a `Launch` line for every worker process in the order they
ran, an `End` line last. Each line is appended and fsynced at once, so a crash costs the line being
written and nothing before it. msgspec validates every line against `bench.records.run` on reading.

Of a file above `LARGE_BYTES` only the places of its launches are kept, and each is read again when
it is asked for: memory then holds the launches of one case, not those of the run.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.errors import AccelmarkError, OutputError, RecordError
from bench.records import digests, flaws
from bench.records.encoding import encoded
from bench.records.explained import Explanation
from bench.records.flaws import HEADER, Flaw, newer
from bench.records.opened import (
    ADVICE,
    LONGEST_LINE_BYTES,
    Opened,
    Place,
    Stamp,
    StoredLaunches,
    opened,
    unreadable,
)
from bench.records.run import SCHEMA_VERSION, End, Launch, Line, Resumed, Run, RunFile

if TYPE_CHECKING:
    from _typeshed import StrPath

LARGE_BYTES = 64 << 20
"""A record of which the launches stay on disk. As values they take two to four times its size."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""What decoding raises for bytes that are no value of ours, however odd."""


def _lock(file: FileIO, free: bool = False) -> None:
    """Keeps a second writer out until this process ends; where files can be locked (not Windows).

    free: lets one in again. Raises BlockingIOError if there is one already.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN if free else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _write(file: FileIO, text: bytes) -> None:
    while text:  # a disk that fills up takes a part, and says why only when asked again
        text = text[file.write(text) :]


def _claimed(path: Path, content: bytes) -> FileIO | None:
    """A file that holds `content`, open for what follows; None where something else has the name.

    What holds the first part of it, as an older copy does, is completed.
    """
    try:
        file = path.open("a+b", buffering=0)
    except (PermissionError, IsADirectoryError):
        if not path.exists():
            raise
        return None
    with contextlib.ExitStack() as undo:
        undo.callback(file.close)
        with contextlib.suppress(BlockingIOError):
            _lock(file)
            file.seek(0)
            size = os.fstat(file.fileno()).st_size
            if size <= len(content) and content.startswith(held := file.read()):
                _write(file, content[len(held) :])
                undo.pop_all()
                return file
    return None


class Writer:
    """Appends lines to a new record, each on disk before the call returns."""

    def __init__(self, path: StrPath, option: str = "--out") -> None:
        """Creates the file, folders included; `OutputError` if that cannot be done.

        option: by which another folder is given.
        """
        self.path = self._first = path = Path(path)
        self.run: Run | None = None
        """The header that it has written, or goes on from."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("x+b", buffering=0)
            _lock(self._file)
        except OSError as error:
            raise OutputError(
                f"{path}: the record cannot be written there ({error.strerror}). "
                f"Give a folder that you may write to: {option} FOLDER."
            ) from error

    @classmethod
    def again(cls, run: RunFile) -> Writer:
        """Opens the file of a run that goes on, and cuts off a line that was never finished.

        `OutputError` if it cannot be written, if another process is writing it, or has written more
        since it was read, which would be cut off too.
        """
        writer = cls.__new__(cls)
        writer.path = writer._first = Path(run.path)
        writer.run = run.run
        try:
            writer._file = writer.path.open("r+b", buffering=0)
            try:
                _lock(writer._file)
                if read(writer.path).whole_bytes != run.whole_bytes:
                    raise OutputError(
                        f"{run.path}: the run that writes it went on while it was looked at. "
                        "Nothing of it is lost. Run the command again."
                    )
                writer._file.truncate(run.whole_bytes)
                writer._file.seek(0, os.SEEK_END)
            except (OSError, AccelmarkError):
                writer.close()
                raise
        except OSError as error:
            then = "Make it writable, or copy it to where you may write and resume the copy."
            if isinstance(error, BlockingIOError):
                then = "End the run that writes it now, or start a new run."
            raise OutputError(
                f"{run.path}: the record cannot be written any more ({error.strerror}). {then}"
            ) from error
        return writer

    def append(self, line: Line) -> None:
        """Writes one line and waits until it is on disk; what was written in part is taken back.

        `OutputError` if that cannot be done, or if another process writes the record, too.
        """
        if self._gone():
            self._restore()
        start = self._file.tell()
        try:
            size = os.fstat(self._file.fileno()).st_size
            if size != start:  # a second writer, where files have no locks
                raise OutputError(
                    f"{self.path}: another process {'writes' if size > start else 'has shortened'} "
                    "this record; nothing was written over. Once none does, "
                    f"{flaws.go_on(str(self.path), self.command)}"
                )
            _write(self._file, encoded(line) + b"\n")
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise self._lost("what it held cannot be read back", error) from error
            with contextlib.suppress(OSError):
                self._file.truncate(self._file.seek(start))
            then = "Make it writable" if error.errno == errno.EROFS else "Free some space"
            raise OutputError(
                f"{self.path}: the next line cannot be written ({error.strerror}). "
                f"The lines before it are safe. {then}, then "
                f"{flaws.go_on(str(self.path), self.command)}"
            ) from error
        if isinstance(line, Run):
            self.run = line

    @property
    def command(self) -> tuple[str, ...]:
        """By which the run was begun; empty before its header is there."""
        return () if self.run is None else self.run.command

    def _gone(self) -> bool:
        """Whether its name leads to another file, or to none: deleted, moved or replaced."""
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError as error:
            return error.errno == errno.ESTALE

    def _restore(self) -> None:
        """Goes on in what has taken its name, if that is an older copy; else in a new file."""
        then = "what it held cannot be read back"
        try:
            self._file.seek(0)
            content = self._file.read()
            then = "cannot be written again"
            _lock(self._file, free=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            others = (self._first.with_suffix(f".{n}restored.jsonl") for n in ("", *range(2, 99)))
            for name in (self._first, *others):
                if (file := _claimed(name, content)) is not None:
                    self._file.close()
                    self.path, self._file = name, file
                    return
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        except OSError as error:
            raise self._lost(then, error) from error

    def _lost(self, then: str, error: OSError) -> OutputError:
        act = "See what lies there now, or run" if os.access(self.path, os.F_OK) else "Run"
        return OutputError(
            f"{self.path}: the record was deleted or replaced, and {then} ({error.strerror}). "
            f"{act} the same command again."
        )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read(path: StrPath, reader: Callable[[Opened], RunFile] | None = None) -> RunFile:
    """Reads a record, or the one record in a folder.

    reader: of what is open, by default `read_opened`. Raises `RecordError` if it is no record at
    all, or if it was published and is not what was published. A file whose later lines are damaged
    (cut short by a crash, say) is returned with what is whole, and `damage` says what is not.
    """
    path = Path(path)
    path = _only_run_in(path) if path.is_dir() else path
    try:
        digests.check(path)
        with opened(path) as source:
            return (reader or read_opened)(source)
    except OSError as error:
        raise unreadable(path, error) from error


def read_opened(source: Opened) -> RunFile:
    """`read`, of what is open already."""
    file, path = source.file, Path(source.name)
    first = file.readline(LONGEST_LINE_BYTES)
    run = _first_line(path, first)
    reader = _Reader(path, run, len(first), Stamp.of(file), passing=not source.stays)
    while text := file.readline(LONGEST_LINE_BYTES):
        if not reader.take(text):
            break
    return reader.result()


def _only_run_in(folder: Path) -> Path:
    found = sorted(folder.glob("*.jsonl")) or sorted(folder.glob("*.jsonl.*"))
    if len(found) != 1:
        if not found:
            raise RecordError(f"{folder}: this folder has no record (*.jsonl). {ADVICE}")
        names = ", ".join(f.name for f in found)
        raise RecordError(f"{folder}: holds {len(found)} records. Give one of them: {names}.")
    return found[0]


def by_case(launches: Sequence[Launch]) -> dict[str, Sequence[Launch]]:
    """Launches by fingerprint, in the order they ran; those on disk stay there."""
    if isinstance(launches, StoredLaunches):
        return launches.by_case()
    found: dict[str, list[Launch]] = {}
    for launch in launches:
        found.setdefault(launch.fingerprint, []).append(launch)
    return dict(found)


class _Reader:
    """What the lines after the header have said so far."""

    def __init__(self, path: Path, run: Run, whole_bytes: int, stamp: Stamp, passing: bool) -> None:
        """passing: whether there is no file in which its launches could stay."""
        self.path = path
        self.run = run
        self.stamp = stamp
        self.passing = passing
        self.large = stamp.size > LARGE_BYTES and not passing
        self.launches: list[Launch] = []
        self.places: list[Place] = []
        self.resumed: list[Resumed] = []
        self.explanations: list[Explanation] = []
        self.end: End | None = None
        self.flaw: Flaw | None = None
        self.number = 1
        self.whole_bytes = whole_bytes
        self._seen: set[tuple[str, int]] = set()
        self._decoder = msgspec.json.Decoder(Launch | Explanation | End | Resumed)

    def take(self, text: bytes) -> bool:
        """Takes the next line; False if it is damaged: nothing after it is read."""
        self.number += 1
        path = "" if self.passing else str(self.path)
        if not text.endswith(b"\n"):  # every whole line ends so
            self.flaw = flaws.second_run(path, text, self.whole_bytes)
            self.flaw = self.flaw or flaws.cut_short(path, self.run)
            if len(text) >= LONGEST_LINE_BYTES:
                self.flaw = Flaw("damaged", "a line without an end")
        elif text.strip():
            try:
                self._add(self._decoder.decode(text), len(text))
            except UNREADABLE as error:
                self.flaw = flaws.second_run(path, text, self.whole_bytes)
                self.flaw = self.flaw or flaws.of_line(error, self.run)
        if self.flaw is not None:
            return False
        self.whole_bytes += len(text)
        return True

    def _add(self, line: Launch | Explanation | End | Resumed, length: int) -> None:
        if isinstance(line, End):
            self.end = line
            return
        if isinstance(line, Resumed):
            self.resumed.append(line)
        elif isinstance(line, Explanation):
            self.explanations.append(line)
        elif (line.fingerprint, line.launch) in self._seen:
            self.flaw = Flaw("damaged", f"launch {line.launch + 1} of {line.case.label} again")
            return
        else:
            self._seen.add((line.fingerprint, line.launch))
            if self.large:
                self.places.append(Place(line.fingerprint, self.whole_bytes, length))
            else:
                self.launches.append(line)
        self.end = None

    def result(self) -> RunFile:
        """All of it."""
        flaw = self.flaw or Flaw("damaged", "")
        damaged = f"{self.path}, line {self.number}: {flaw.what}"
        return RunFile(
            path=str(self.path),
            run=self.run,
            launches=(
                StoredLaunches(self.path, self.places, self.stamp)
                if self.large
                else tuple(self.launches)
            ),
            end=self.end,
            resumed=tuple(self.resumed),
            explanations=tuple(self.explanations),
            damage=None if self.flaw is None else damaged,
            flaw=flaw.kind,
            remedy=flaw.remedy,
            passing=self.passing,
            whole_bytes=self.whole_bytes,
        )


def _first_line(path: Path, text: bytes) -> Run:
    advice = ADVICE
    if not text.endswith(b"\n"):
        why = "it is empty" if not text else "cut short"
        if HEADER.match(text):
            why, advice = "a header that is cut short", f"Copy all of it again. {advice}"
        raise RecordError(f"{path}, line 1: not an accelmark record ({why}). {advice}")
    try:
        head = msgspec.json.decode(text)
    except UNREADABLE as error:
        raise RecordError(f"{path}, line 1: not an accelmark record ({error}). {advice}") from error
    return header(f"{path}, line 1", head, advice)


def header(place: str, head: Any, advice: str) -> Run:
    """The header of a run from decoded JSON, checked.

    Raises `RecordError`, whose message starts with `place` and ends with `advice`.
    """
    if not isinstance(head, dict) or head.get("line") != "run":
        raise RecordError(f"{place}: JSON, but not the start of a record. {advice}")
    if head.get("schema") != SCHEMA_VERSION:
        remedy = newer("unknown field", head.get("host"))
        raise RecordError(
            f"{place}: schema {head.get('schema')!r}; this version reads schema "
            f"{SCHEMA_VERSION}. {remedy}"
        )
    try:
        run = msgspec.convert(head, Run)
    except UNREADABLE as error:
        remedy = newer(str(error), head.get("host")) or advice
        raise RecordError(f"{place}: not a valid run header ({error}). {remedy}") from error
    planned: dict[str, int] = {}
    for number, case in enumerate(run.plan, start=1):
        first = planned.setdefault(case.fingerprint, number)
        if first != number:
            which = f"as cases {first} and {number}"
            raise RecordError(f"{place}: {case.label} is planned twice, {which}. {advice}")
    return run
