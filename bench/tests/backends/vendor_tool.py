"""A vendor's tool that tests put on PATH."""

from __future__ import annotations

import stat
from pathlib import Path


def tool(folder: Path, script: str, name: str = "smi") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
