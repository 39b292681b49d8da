"""One check of the conformance kit: its own process opens the device and says what it finds.

Reads a `Task` (a JSON line) from stdin, imports torch, or the framework whose device it is, writes
a line that says so, and waits for a second line before it opens the device, as a measuring worker
does. Then it writes every finding as it is made, so that a crash loses none of those before it, and
at last `null`.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

import bench
from bench import catalogue, lifeline
from bench.conformance.check import Check, Finding, Stand, after
from bench.conformance.of_frameworks import of_frameworks
from bench.measuring.surroundings import hide_plug_ins
from bench.measuring.worker import begun
from bench.records.encoding import encoded
from bench.running.elsewhere import TORCH

FIRST = (
    *("declared", "timing", "memory", "arithmetic", "operators", "optimizers", "executions"),
    "failures",
)
"""Files of checks in the order of the table; others come after them."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent asks."""

    check: str
    backend: str
    index: int
    framework: str = TORCH


def checks(framework: str = TORCH) -> dict[str, Check]:
    """Every check of a framework by name, in the order of the table. Imports no torch."""
    files = (Path(bench.__file__).parent / "conformance" / "checks").glob("[!_]*.py")
    names = sorted(file.stem for file in files)
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    modules = [importlib.import_module(f"bench.conformance.checks.{name}") for name in names]
    found = {check.name: check for module in modules for check in module.CHECKS}
    return found if framework == TORCH else of_frameworks(found)


def findings(task: Task) -> Iterator[Finding]:
    """What the check finds; an exception that it lets through is a finding too."""
    backend, check = catalogue.backend(task.backend), checks(task.framework)[task.check]
    title = f"{check.name}: to its end"
    try:
        framework = catalogue.framework(task.framework)
        stand = Stand(backend, task.index, framework, check.precision)
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises
        traceback.print_exc()
        yield after(title, backend, error)
        return
    for part in check.parts:
        try:
            yield from part(stand)
        except Exception as error:  # noqa: BLE001 - any exception is this part's failure
            traceback.print_exc()
            yield after(title, backend, error)
            if backend.failure_kind(error) == "device_lost":
                return


def main() -> None:
    """The process: `python -m bench.conformance.worker`."""
    private = begun()
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    backend = catalogue.backend(task.backend)
    hide_plug_ins(backend)
    work = catalogue.workload("gemm")
    catalogue.framework(task.framework).imported(work, work.modes[work.usual_mode])
    gc.enable()
    _say(private, True)
    lifeline.wait_for_turn()
    for finding in findings(task):
        _say(private, finding)
    _say(private, None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # no exit handler of a plug-in's may turn what was found into a crash


def _say(stream: BinaryIO, message: Finding | bool | None) -> None:
    stream.write(encoded(message) + b"\n")
    stream.flush()


if __name__ == "__main__":
    main()
