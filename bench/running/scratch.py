"""A folder of one run on one host, where its launches leave to the next what they need too.

It goes with the run. A run that is killed outright cannot take it away: the next one that starts
here does. Whose run has ended is told by a lock on a file in the folder, which the system lets go
of with the process, however it ends: process ids are given out again, and differ from one container
to the next.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks here: nothing is left of others that could be told
    fcntl = None  # type: ignore[assignment]

PREFIX = "accelmark-"
LOCK = "in-use"
_held: dict[Path, int] = {}
"""Descriptors of the locks on this process's folders."""


def made() -> Path | None:
    """A new one, for a run that begins, when what others left is gone; None where the system has no
    place for it: then each launch does it all."""
    with contextlib.suppress(OSError):
        sweep(Path(tempfile.gettempdir()))
    with contextlib.suppress(OSError):
        return new()
    return None


def new() -> Path:
    """A new one. Raises OSError where the system has no place for it."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    with contextlib.suppress(OSError):  # not every file system has locks: nobody sweeps it then
        _held[folder] = _locked(folder)
    return folder


def gone(folder: Path | None) -> None:
    """Takes it away, as far as the system lets it."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        if (held := _held.pop(folder, None)) is not None:
            os.close(held)


def sweep(parent: Path) -> None:
    """Takes away those of this user whose process has ended. Raises OSError where `parent` cannot
    be read."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_left(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _locked(folder: Path) -> int:
    """Locks it; nobody can see its lock before it is held."""
    part = folder / f"{LOCK}.part"
    held = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.replace(folder / LOCK)
    except BaseException:
        os.close(held)
        raise
    return held


def _is_left(folder: Path) -> bool:
    """Whether it was one's that has ended; of one without a lock that cannot be told. Raises
    OSError."""
    if fcntl is None or folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return False
    held = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which the process that lives refuses
    finally:
        os.close(held)
    return True
