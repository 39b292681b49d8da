"""How much of the CPUs this process may have, by every level of its control groups.

Linux has two versions of them, some systems both. A quota holds a whole group back, wherever it was
set: on the process's own group or on any that this one lies in. A container
sees the upper ones only as far as they are mounted.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bench import units
from bench.records.value import Value

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


class Level(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One control group that limits this process. Its name, which may tell whose it is, is left
    out."""

    depth: int
    """0 for the uppermost that can be seen."""
    quota_cores: float | None = None
    """CPU time over time; None where it sets no quota."""
    cpuset_cores: int | None = None
    """Cores that it may use; None where it does not say."""


def levels(proc: Path = PROC, cgroups: Path = CGROUPS) -> list[Level]:
    """Every level that says something, from the uppermost down."""
    quotas: dict[int, float] = {}
    for depth, folder in groups("cpu", proc, cgroups):
        if (quota := _quota(folder)) is not None:  # of two versions side by side, the lesser
            quotas[depth] = min(quota, quotas.get(depth, quota))
    cpusets = {
        depth: cores
        for depth, folder in groups("cpuset", proc, cgroups)
        if (cores := _cpuset(folder)) is not None
    }
    return [
        Level(depth=depth, quota_cores=quotas.get(depth), cpuset_cores=cpusets.get(depth))
        for depth in sorted({*quotas, *cpusets})
    ]


def quota_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> float | None:
    """The least quota of any level, in cores; None where nothing limits."""
    quotas = [found.quota_cores for found in levels(proc, cgroups) if found.quota_cores is not None]
    return min(quotas, default=None)


def affinity_cores() -> int:
    """Cores that this process may run on, whatever part of their time it gets."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Threads that can run all the time: the least of affinity, cpusets and quotas, 1 or more.

    Of a quota of one and a half, one: two threads would be held back for a quarter of the time.
    """
    found = [affinity_cores()]
    for level in levels(proc, cgroups):
        if level.cpuset_cores is not None:
            found.append(level.cpuset_cores)
        if level.quota_cores is not None:
            found.append(math.floor(level.quota_cores))
    return max(1, min(found))


def groups(
    controller: str, proc: Path = PROC, cgroups: Path = CGROUPS
) -> Iterator[tuple[int, Path]]:
    """Folders of the groups that this process is in, upper ones first, with their depth.

    controller: `cpu`, `cpuset` or `memory`. Of version 1 those of that controller, of version 2
    all. In a container whose own part alone is mounted, the path that the kernel gives leads
    nowhere below the mount, and the mount itself is the group.
    """
    for line in said_in(proc / "self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = (cgroups, cgroups / "unified")
        elif controller in controllers.split(","):
            mounts = (cgroups / controllers, cgroups / controller)
        else:
            continue
        names = [name for name in path.split("/") if name not in ("", "..")]
        seen = set()
        for mount in mounts:
            for depth in range(len(names) + 1):
                folder = mount.joinpath(*names[:depth])
                if folder.is_dir() and folder.resolve() not in seen:  # cpu is a link to cpu,cpuacct
                    seen.add(folder.resolve())
                    yield depth, folder


def memory_limit(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Bytes of memory that the strictest of its groups lets them have; None where none limits."""
    names = ("memory.max", "memory.limit_in_bytes")
    found = [said_in(folder / n) for _, folder in groups("memory", proc, cgroups) for n in names]
    return min((int(text) for text in found if text.isdecimal()), default=None)


def advice(threads: int, quota: float | None) -> str:
    """What helps where threads exceed a quota; empty where they do not."""
    if quota is None or threads <= quota:
        return ""
    fits = max(1, math.floor(quota))
    raised = f"raise the quota to {threads} or more" if threads > 1 else "raise the quota to 1 core"
    return f"set OMP_NUM_THREADS={fits}, or {raised}" if fits < threads else raised


def warning(threads: int) -> str:
    """What is to be said before so many threads are measured; empty where nothing is."""
    quota = quota_cores()
    helps = advice(threads, quota)
    if not helps:
        return ""
    return (
        f"{units.counted(threads, 'thread')} on a CPU quota of {quota:g} cores: every launch will "
        f"be held back. To avoid that, {helps}."
    )


def _quota(folder: Path) -> float | None:
    """Of cpu.max (`QUOTA PERIOD`, version 2), or of cpu.cfs_quota_us and its period (version 1)."""
    words = said_in(folder / "cpu.max").split()
    if not words:
        words = [said_in(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    if len(words) == 1:
        words.append("100000")  # the kernel's own period
    if len(words) != 2 or not all(word.isdecimal() for word in words):  # "max", "-1", absent
        return None
    quota, period = int(words[0]), int(words[1])
    return quota / period if quota and period else None


def _cpuset(folder: Path) -> int | None:
    """Cores in a list such as `0-3,8`: those in force, else those that were asked for."""
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        text = said_in(folder / name)
        if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
            ends = [[int(n) for n in part.split("-")] for part in text.split(",")]
            return sum(max(part[-1] - part[0], 0) + 1 for part in ends)
    return None


def said_in(path: Path) -> str:
    """What the kernel says in a file; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
