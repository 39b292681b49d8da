"""A folder of one run on one host, where its launches leave to the next what they need too."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path


def made() -> Path | None:
    """A new one; None where the system has no place for it: then each launch does it all."""
    with contextlib.suppress(OSError):
        return Path(tempfile.mkdtemp(prefix="accelmark-"))
    return None


def gone(folder: Path | None) -> None:
    """Takes it away, as far as the system lets it."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
