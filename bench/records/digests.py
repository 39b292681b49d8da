"""What the files of a published folder were when they were published: their SHA-256.

`SHA256SUMS` is in the form of `sha256sum`, which checks it too (`sha256sum -c SHA256SUMS`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import RecordError

if TYPE_CHECKING:
    from _typeshed import StrPath

SUMS = "SHA256SUMS"


def sha256(path: StrPath) -> str:
    """Of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(folder: StrPath, names: Iterable[str]) -> None:
    """Notes the files of a folder as they are now."""
    folder = Path(folder)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def noted(folder: StrPath) -> dict[str, str]:
    """The SHA-256 of each file as it was published; empty where nothing was noted."""
    try:
        text = (Path(folder) / SUMS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [line.split("  ", 1) for line in text.splitlines()]
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}


def check(path: StrPath) -> None:
    """Raises `RecordError` if a file is not what its folder says was published."""
    path = Path(path)
    expected = noted(path.parent).get(path.name)
    if expected is not None and sha256(path) != expected:
        raise RecordError(
            f"{path}: it was changed after it was published: its SHA-256 is not the one in {SUMS}. "
            "Copy it again from where it was published."
        )
