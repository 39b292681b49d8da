"""A record as bytes that can be read from any place: out of a file, a pipe, a compressed one.

What comes through a pipe or out of a compressed file is laid into a temporary file first: whoever
looks at its beginning takes nothing from whoever reads it. The launches of a large one stay in it.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import importlib
import lzma
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, overload

import msgspec

from bench.errors import RecordError
from bench.records.run import Launch

if TYPE_CHECKING:
    from _typeshed import StrPath

ADVICE = "Give a record (*.jsonl) that `accelmark run` wrote, or its folder."
"""What to do where something else was given."""
STDIN = "-"
CHUNK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 256 << 20
"""No launch is longer; a file that is one endless line is not read to its end."""
ZSTD_PACKAGES = ("compression.zstd", "backports.zstd", "zstandard", "pyzstd")
"""Any of these reads zstd: the first is Python's own from 3.14."""
MARKS = {
    b"\xef\xbb\xbf": "UTF-8 with a byte order mark",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"{\x00": "UTF-16",
    b"\x00{": "UTF-16",
}
"""First bytes of a text that is not plain UTF-8, the longer ones before those they begin with."""


class Opened(NamedTuple):
    """An open record."""

    file: IO[bytes]
    """Binary and seekable, at its start."""
    name: str
    """As messages call it."""
    stays: bool
    """Whether it is a plain file, which can be read again, by place, and appended to."""


@contextlib.contextmanager
def opened(path: StrPath) -> Iterator[Opened]:
    """Opens a record, or stdin at `-`, and decompresses it (gzip, bzip2, xz, zstd).

    Raises `RecordError` for another encoding than UTF-8, for a compressed file that is not whole,
    and where zstd needs a package; OSError where the file cannot be read.
    """
    name = "stdin" if os.fspath(path) == STDIN else str(path)
    with contextlib.ExitStack() as stack:
        file: IO[bytes]
        if name == "stdin":
            file, plain = sys.stdin.buffer, False
        else:
            file = stack.enter_context(Path(path).open("rb"))
            plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if not plain:
            file = stack.enter_context(_spooled(file))
        start = _start(file)
        for magic, (kind, opener) in COMPRESSED.items():
            if start.startswith(magic):
                file, plain = stack.enter_context(_decompressed(name, kind, opener, file)), False
                start = _start(file)
        for mark, encoding in MARKS.items():
            if start.startswith(mark):
                raise RecordError(
                    f"{name}: this record was changed: it is {encoding}, as an editor or "
                    "PowerShell's `>` saves it. Give the file that accelmark wrote, or save it as "
                    "UTF-8 without a byte order mark."
                )
        yield Opened(file, name, plain)


def _start(file: IO[bytes]) -> bytes:
    start = file.read(max(map(len, (*COMPRESSED, *MARKS))))
    file.seek(0)
    return start


def _spooled(file: IO[bytes]) -> IO[bytes]:
    """All of it, in a temporary file; but for the end of a line without one."""
    with contextlib.ExitStack() as undo:
        spool = undo.enter_context(tempfile.TemporaryFile())
        line = 0
        while line < LONGEST_LINE_BYTES and (chunk := file.read(CHUNK_BYTES)):
            spool.write(chunk)
            end = chunk.rfind(b"\n")
            line = line + len(chunk) if end < 0 else len(chunk) - end - 1
        spool.seek(0)
        undo.pop_all()  # whoever asked for it closes it
        return spool


def _decompressed(
    name: str, kind: str, opener: Callable[[IO[bytes]], Any], file: IO[bytes]
) -> IO[bytes]:
    try:
        with opener(file) as content:
            return _spooled(content)
    except RecordError as error:
        raise RecordError(f"{name}: {error}") from error
    except Exception as error:  # each kind of compression has errors of its own
        if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT):
            raise RecordError(
                f"{name}: it fits into no temporary file ({error.strerror}). Free some space, or "
                "give another folder: TMPDIR=FOLDER."
            ) from error
        raise RecordError(
            f"{name}: this {kind} file is cut short or damaged ({error}). Copy it again from where "
            "it was made."
        ) from error


class _Frames(contextlib.nullcontext["_Frames"]):
    """Reads zstd by the package zstandard, whose own `open` takes a file cut short for a whole."""

    def __init__(self, zstandard: Any, file: IO[bytes]) -> None:
        super().__init__(self)
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._frame, self._file, self._rest = self._new(), file, b""

    def read(self, size: int) -> bytes:
        """The next bytes, as of `size` at most; EOFError where a frame has no end."""
        content = b""
        while not content and (chunk := self._rest or self._file.read(size // 64)):
            if self._frame.eof:
                self._frame = self._new()
            content = self._frame.decompress(chunk)
            self._rest = self._frame.unused_data
        if not content and not self._frame.eof:
            raise EOFError("it ends before its end was marked")
        return content


def _zstd(file: IO[bytes]) -> Any:
    """Raises `RecordError` where no package is installed that reads it."""
    for package in ZSTD_PACKAGES:
        try:
            found: Any = importlib.import_module(package)
        except ImportError:
            continue
        return _Frames(found, file) if package == "zstandard" else found.open(file, "rb")
    raise RecordError(
        "compressed by zstd, which this Python cannot read. Install a package: pip install "
        "zstandard. Or decompress it first: zstd -dc FILE | accelmark report -"
    )


def _zip(file: IO[bytes]) -> IO[bytes]:
    raise RecordError("a zip archive, not a record. Unpack it and give the .jsonl file in it.")


COMPRESSED: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
    b"\x28\xb5\x2f\xfd": ("zstd", _zstd),
    b"PK\x03\x04": ("zip", _zip),
}
"""How each kind begins, what it is called, and what opens it."""


def unreadable(path: Path, error: OSError) -> RecordError:
    """What to raise where a record cannot be opened."""
    gone = isinstance(error, FileNotFoundError)
    why = "there is no such file" if gone else f"cannot be read ({error.strerror or error})"
    return RecordError(f"{path}: {why}. {ADVICE}")


class Place(NamedTuple):
    """Where a launch lies in its file."""

    fingerprint: str
    start: int
    length: int


class Stamp(NamedTuple):
    """By which a file is known to be the one that was read."""

    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, file: IO[bytes]) -> Stamp:
        """The stamp of an open file, as it is now."""
        found = os.fstat(file.fileno())
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class StoredLaunches(Sequence[Launch]):
    """Launches that stay in their file: each is read, and checked, when it is asked for."""

    def __init__(self, path: Path, places: Sequence[Place], stamp: Stamp) -> None:
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
        """Raises `RecordError` if the file has changed since it was read, but for lines added."""
        if isinstance(index, slice):
            return StoredLaunches(self.path, self.places[index], self.stamp)
        place = self.places[index]
        try:
            with self.path.open("rb") as file:
                stamp = Stamp.of(file)
                file.seek(place.start)
                text = file.read(place.length)
        except OSError as error:
            raise unreadable(self.path, error) from error
        grown = stamp.inode == self.stamp.inode and stamp.size > self.stamp.size
        if grown or stamp == self.stamp:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                launch = msgspec.json.decode(text, type=Launch)
                if text.endswith(b"\n") and launch.fingerprint == place.fingerprint:
                    return launch  # whatever the run that writes it has added since
        raise RecordError(f"{self.path}: it was changed while it was read. Run the command again.")

    def by_case(self) -> dict[str, Sequence[Launch]]:
        """The launches of each fingerprint."""
        found: dict[str, list[Place]] = {}
        for place in self.places:
            found.setdefault(place.fingerprint, []).append(place)
        return {k: StoredLaunches(self.path, of_case, self.stamp) for k, of_case in found.items()}
