"""The last-level caches of this host, as Linux says it; anybody may read them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
SIZE = re.compile(r"(\d+)([KMG]?)")
FACTORS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def last_level_bytes(folder: Path = CPUS, cores: Iterable[int] | None = None) -> int | None:
    """Bytes of the last-level caches of all these cores together, each once; None where one does
    not say.

    cores: None for those that this process may run on.
    """
    if cores is None:
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    found: dict[tuple[str, int], int] = {}
    for core in cores:
        last = max(_caches(folder / f"cpu{core}" / "cache"), default=None)
        if last is None:
            return None
        level, shared, size = last
        found[shared, level] = size
    return sum(found.values()) or None


def _caches(folder: Path) -> Iterable[tuple[int, str, int]]:
    """Level, who shares it, and bytes, of each that holds data."""
    for path in folder.glob("index[0-9]*"):
        try:
            kind, level, shared, size = (
                (path / name).read_text(encoding="ascii").strip()
                for name in ("type", "level", "shared_cpu_list", "size")
            )
        except (OSError, ValueError):
            continue
        match = SIZE.fullmatch(size)
        if kind != "Instruction" and level.isdecimal() and match:
            yield int(level), shared, int(match[1]) * FACTORS[match[2]]
