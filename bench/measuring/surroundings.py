"""What a worker has around it: variables that void its figures, plug-ins, the work's libraries."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys

from bench.backend import Backend
from bench.framework import Framework
from bench.records.paths import without_paths
from bench.workload import Mode, Workload

PRELOADS = ("LD_PRELOAD", "DYLD_INSERT_LIBRARIES")
"""What puts functions in the place of a library's."""
FAKER = "faketime"
"""In the name of a library that does so with the clock's; told not to, it leaves the one that
counts from a start."""
REAL_CLOCK = ("FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC")
OTHER_CLOCK = "it has the clock say another time"


def harmful(*sources: Backend | Framework) -> str:
    """Why this process's environment voids what it would measure; empty if it does not."""
    found = [
        (name, reason)
        for source in sources
        for name, reason in source.harmful_variables().items()
        if os.environ.get(name, "").lower() not in ("", "0", "none", "false", "off")
    ]
    if not any(os.environ.get(name) == "1" for name in REAL_CLOCK):
        found += [(name, OTHER_CLOCK) for name in PRELOADS if FAKER in os.environ.get(name, "")]
    return "; ".join(
        f"{name}={without_paths(os.environ[name])}: {reason}. Unset it and run again"
        for name, reason in found
    )


def hide_plug_ins(backend: Backend) -> None:
    """Hides other vendors' plug-ins for torch from libraries that import whichever they find.

    One that is installed without its runtime would make them fail on a device that works. Only
    where torch itself loads none.
    """
    if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") != "0":
        return
    own = {name.partition(".")[0] for name in backend.plug_ins}
    for module in _plug_ins():
        if module not in own and module not in sys.modules:
            sys.modules[module] = None  # type: ignore[assignment]  # "not there", for an import


@functools.cache
def _plug_ins() -> tuple[str, ...]:
    """Those that are installed, looked up once a process, for all that are forked from it."""
    points = importlib.metadata.entry_points(group="torch.backends")
    return tuple(point.module.partition(".")[0] for point in points)


def import_libraries(workload: Workload, mode: Mode) -> str:
    """Imports what the work needs; why it cannot be done where an extra is not installed.

    Raises ModuleNotFoundError for what no extra brings.
    """
    try:
        for library in (*workload.libraries, *mode.libraries):
            importlib.import_module(library)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        needs: Workload | Mode
        for needs in (workload, mode):
            if missing in needs.optional:
                return f"{missing} is not installed: pip install 'accelmark[{needs.extra}]'"
        raise
    return ""
