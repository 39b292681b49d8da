"""Launches of a large record, which stay in their file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, overload

import msgspec

from bench.errors import RecordError
from bench.records.run import Launch

ADVICE = "Give a record (*.jsonl) that `accelmark run` wrote, or its folder."
"""What to do where something else was given."""


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
        """Raises `RecordError` if the file has changed since it was read."""
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
        if stamp != self.stamp:
            raise RecordError(
                f"{self.path}: it was changed while it was read. Run the command again."
            )
        return msgspec.json.decode(text, type=Launch)

    def by_case(self) -> dict[str, Sequence[Launch]]:
        """The launches of each fingerprint."""
        found: dict[str, list[Place]] = {}
        for place in self.places:
            found.setdefault(place.fingerprint, []).append(place)
        return {k: StoredLaunches(self.path, of_case, self.stamp) for k, of_case in found.items()}
