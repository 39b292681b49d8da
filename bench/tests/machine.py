"""Faults that need more of the machine than every user has: a mount, a control group."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.tests.stage import Stage

MOUNTED = (
    "mkdir out && mount -t tmpfs -o size=64k none out || exit 99; "
    '"$@"; code=$?; rm -f out/filler; cp out/*.jsonl . ; umount out; mv *.jsonl out; exit $code'
)


def small_disk(stage: Stage) -> int:
    """The folder is a file system of 64 KiB, which a worker fills."""
    stage.before = ("unshare", "--mount", "sh", "-c", MOUNTED, "sh")
    code = stage.run("fill_disk@import")
    stage.before = ()
    return code


def no_mounts() -> str:
    """Why a small file system cannot be made here."""
    if shutil.which("unshare") is None:
        return "no unshare"
    command = ("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt")
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or "mounting is refused"


GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max"),
)
"""Where memory is limited for a group of processes, by Linux's control groups 1 and 2; what is
limited in each: memory, and where there is any, swap."""


@contextlib.contextmanager
def memory_group() -> Iterator[Path | None]:
    """A group of processes that may have 64 MiB together; None where none can be made."""
    limited: Path | None = None
    made: list[Path] = []
    for root, limit, swap in GROUPS:
        with contextlib.suppress(OSError):
            group = root / f"accelmark-{uuid.uuid4().hex}"
            group.mkdir()
            made.append(group)
            (group / limit).write_text(str(2**26))
            limited = group
            with contextlib.suppress(OSError):
                (group / swap).write_text("0" if limit == "memory.max" else str(2**26))
            break
    try:
        yield limited
    finally:
        for group in made:
            group.rmdir()


def no_groups() -> str:
    with memory_group() as group:
        return "" if group is not None else "control groups cannot be made"


def killed_for_memory(stage: Stage) -> int:
    with memory_group() as group:
        return stage.run("be_killed_for_memory@import", MEMORY_GROUP=str(group))


@contextlib.contextmanager
def cpu_group(cores: float) -> Iterator[Path | None]:
    """A group of processes that may have so much of the CPUs; None where none can be made."""
    limits = (
        (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us", f"{cores * 1e5:.0f}"),
        (Path("/sys/fs/cgroup"), "cpu.max", f"{cores * 1e5:.0f} 100000"),
    )
    limited: Path | None = None
    made: list[Path] = []
    for root, name, text in limits:
        with contextlib.suppress(OSError):
            group = root / f"accelmark-{uuid.uuid4().hex}"
            group.mkdir()
            made.append(group)
            (group / name).write_text(text)
            limited = group
            break
    try:
        yield limited
    finally:
        for group in made:
            group.rmdir()


def no_cpu_groups() -> str:
    with cpu_group(1.0) as group:
        return "" if group is not None else "control groups of CPUs cannot be made"
