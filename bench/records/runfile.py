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
from typing import IO, TYPE_CHECKING, Any, NamedTuple, overload

import msgspec

from bench.errors import AccelmarkError, OutputError, RecordError
from bench.records import digests, flaws
from bench.records.encoding import encoded
from bench.records.explained import Explanation
from bench.records.flaws import HEADER, Flaw, newer
from bench.records.opened import LONGEST_LINE_BYTES, Opened, opened
from bench.records.run import SCHEMA_VERSION, End, Launch, Line, Resumed, Run, RunFile

if TYPE_CHECKING:
    from _typeshed import StrPath

ADVICE = "Give a record (*.jsonl) that `accelmark run` wrote, or its folder."
"""What to do where something else was given."""
LARGE_BYTES = 64 << 20
"""A record of which the launches stay on disk. As values they take two to four times its size."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)
"""What decoding raises for bytes that are no value of ours, however odd."""


def _lock(file: FileIO) -> None:
    """Keeps a second writer out until this process ends; where files can be locked (not Windows).

    Raises BlockingIOError if there is one already.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _write(file: FileIO, text: bytes) -> None:
    while text:  # a disk that fills up takes a part, and says why only when asked again
        text = text[file.write(text) :]


class Writer:
    """Appends lines to a new record, each on disk before the call returns."""

    def __init__(self, path: StrPath, option: str = "--out") -> None:
        """Creates the file, folders included; `OutputError` if that cannot be done.

        option: by which another folder is given.
        """
        self.path = path = Path(path)
        self.command: tuple[str, ...] = ()
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
        writer.path, writer.command = Path(run.path), run.run.command
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
        """Writes one line and waits until it is on disk; what was written in part is taken back."""
        start = self._file.tell()
        try:
            if os.fstat(self._file.fileno()).st_nlink == 0:
                self._restore()
            _write(self._file, encoded(line) + b"\n")
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._file.seek(start))
            then = "Make it writable" if error.errno == errno.EROFS else "Free some space"
            raise OutputError(
                f"{self.path}: the next line cannot be written ({error.strerror}). "
                f"The lines before it are safe. {then}, then "
                f"{flaws.go_on(str(self.path), self.command)}"
            ) from error
        if isinstance(line, Run):
            self.command = line.command

    def _restore(self) -> None:
        """The file was deleted under way: lays it down again, beside what has taken its name."""
        try:
            self._file.seek(0)
            content = self._file.read()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            others = (self.path.with_suffix(f".{n}restored.jsonl") for n in ("", *range(2, 99)))
            self.path = next(name for name in (self.path, *others) if not name.exists())
            deleted, self._file = self._file, self.path.open("x+b", buffering=0)
            deleted.close()
            _lock(self._file)
            _write(self._file, content)
        except OSError as error:
            raise OutputError(
                f"{self.path}: the record was deleted, and cannot be written again "
                f"({error.strerror}). Run the same command again."
            ) from error

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
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RecordError:
    """What to raise where a record cannot be opened."""
    gone = isinstance(error, FileNotFoundError)
    why = "there is no such file" if gone else f"cannot be read ({error.strerror or error})"
    return RecordError(f"{path}: {why}. {ADVICE}")


def read_opened(source: Opened) -> RunFile:
    """`read`, of what is open already."""
    file, path = source.file, Path(source.name)
    first = file.readline(LONGEST_LINE_BYTES)
    run = _first_line(path, first)
    reader = _Reader(path, run, len(first), _Stamp.of(file), passing=not source.stays)
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


class _Place(NamedTuple):
    """Where a launch lies in its file."""

    fingerprint: str
    start: int
    length: int


class _Stamp(NamedTuple):
    """By which a file is known to be the one that was read."""

    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, file: IO[bytes]) -> _Stamp:
        found = os.fstat(file.fileno())
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class StoredLaunches(Sequence[Launch]):
    """Launches that stay in their file: each is read, and checked, when it is asked for."""

    def __init__(self, path: Path, places: Sequence[_Place], stamp: _Stamp) -> None:
        self.path = path
        self.places = places
        self.stamp = stamp

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Launch: ...
    @overload
    def __getitem__(self, index: slice) -> StoredLaunches: ...
    def __getitem__(self, index: int | slice) -> Launch | StoredLaunches:
        """Raises `RecordError` if the file has changed since it was read."""
        if isinstance(index, slice):
            return StoredLaunches(self.path, self.places[index], self.stamp)
        place = self.places[index]
        try:
            with self.path.open("rb") as file:
                stamp = _Stamp.of(file)
                file.seek(place.start)
                text = file.read(place.length)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if stamp != self.stamp:
            raise RecordError(
                f"{self.path}: it was changed while it was read. Run the command again."
            )
        return msgspec.json.decode(text, type=Launch)

    def by_case(self) -> dict[str, Sequence[Launch]]:
        """The launches of each fingerprint."""
        found: dict[str, list[_Place]] = {}
        for place in self.places:
            found.setdefault(place.fingerprint, []).append(place)
        return {k: StoredLaunches(self.path, of_case, self.stamp) for k, of_case in found.items()}


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

    def __init__(
        self, path: Path, run: Run, whole_bytes: int, stamp: _Stamp, passing: bool
    ) -> None:
        """passing: whether there is no file in which its launches could stay."""
        self.path = path
        self.run = run
        self.stamp = stamp
        self.passing = passing
        self.large = stamp.size > LARGE_BYTES and not passing
        self.launches: list[Launch] = []
        self.places: list[_Place] = []
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
                self.places.append(_Place(line.fingerprint, self.whole_bytes, length))
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
