"""Whether other work on this host slowed a job that computes on its CPUs.

Counters of the kernel are read between blocks, never inside one, and their rise over the steady
blocks is recorded: how long the job's own threads could have run and waited for a core (schedstat),
how long any task here waited (pressure-stall information), how long others ran on the same cores
(what was neither idle nor the job's), what a virtual machine's host took (steal) and what the
container's limit held back (cpu.stat). What a host cannot say stays None.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench import units
from bench.records import cpu_limits
from bench.records.cpu_limits import said_in
from bench.records.observed import Contention
from bench.records.outcome import Block, Flag

IDLE_SHARE = 0.02
"""Of a job with one thread: waiting for a core for more than this is contention; and 1 - CPU time /
wall time, where the waiting is not to be had (it caught 38 of 39 launches slowed by more than 10 %,
and 8 of 45 others; 2 cores)."""
WAITING_SHARE = 0.05
"""Of a job with several: waiting of all together over the time. What they wait at different times
adds up, and no launch is slowed by more than that."""
PRESSURE_SHARE = 0.05
"""The same by pressure-stall information, where the threads' own waiting is not to be had."""
HELPER_SHARE = 0.05
"""Where processes of the job's own compute for more than this of the time, they are what its
threads may wait for: their waiting then says nothing of others."""
STEAL_SHARE = 0.02
"""Of the cores' time, taken by the virtual machine's host."""
THROTTLED_SHARE = 0.01
"""Of the time, in which the container had used up its share."""
TICK_SECONDS = 0.01
"""Steal is counted in these: less than two a core says nothing."""


class Counters(NamedTuple):
    """Where the kernel's counters stand."""

    at_ns: int
    waiting_ns: int | None
    pressure_us: float | None
    steal_ticks: int | None
    throttled_us: int | None
    helper_ticks: int = 0
    quota_cores: float | None = None
    """Not a counter: the least quota of this process's control groups."""
    others_ns: int | None = None
    """How long its cores were neither idle nor this process's, from some time on."""


class HostCounters:
    """The counters of this process, its cores and its container; a fraction of a millisecond."""

    def __init__(self, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc = proc
        self._tasks = proc / "self/task"
        self._stat = proc / "stat"
        self._covered = _file_system(self._stat) != _file_system(proc)
        self._cores = {f"cpu{n}" for n in _usable()}
        folders = [folder for _, folder in cpu_limits.groups("cpu", proc, cgroups)]
        own = [folder / "cpu.pressure" for folder in reversed(folders)]
        self._pressure = _first(*own, proc / "pressure/cpu")
        # Each group counts what its own quota held back, and any of them may have one.
        self._throttled = [folder / "cpu.stat" for folder in folders]
        self._quota = cpu_limits.quota_cores(proc, cgroups)

    def read(self) -> Counters:
        """Now."""
        at_ns = time.perf_counter_ns()
        steal, others = self._beside(at_ns)
        return Counters(
            at_ns,
            self._waiting(),
            _after(self._pressure, "some", "total="),
            steal,
            self._throttling(),
            self._helpers(),
            self._quota,
            others,
        )

    def _helpers(self) -> int:
        """CPU ticks of the processes that multiprocessing has started here and that are there."""
        total = 0
        for pid in _started():
            figures = said_in(self._proc / str(pid) / "stat").rpartition(")")[2].split()
            total += sum(int(ticks) for ticks in figures[11:13])
        return total

    def _waiting(self) -> int | None:
        """Second figure of schedstat: nanoseconds on a run queue, of all threads together."""
        total = None
        try:
            with os.scandir(self._tasks) as tasks:
                for task in tasks:
                    with open(f"{task.path}/schedstat", "rb") as file:  # noqa: PTH123 - speed
                        total = (total or 0) + int(file.read().split()[1])
        except (OSError, ValueError, IndexError):  # no schedstat, or a thread has just ended
            return total
        return total

    def _beside(self, at_ns: int) -> tuple[int | None, int | None]:
        """Ticks of steal, and `Counters.others_ns`, by its cores' lines in /proc/stat.

        Eighth figure; fourth and fifth: time without work, and without other work than a disk's.
        What some containers lay over that file (lxcfs) counts what others do as no work.
        """
        cores, free, steal = 0, 0, 0
        for line in said_in(self._stat).splitlines():
            name, *ticks = line.split()
            if not name.startswith("cpu"):
                break
            if name in self._cores and len(ticks) >= 8:
                cores, steal = cores + 1, steal + int(ticks[7])
                free += int(ticks[3]) + int(ticks[4])
        if not cores:
            return None, None
        worked_ns = cores * at_ns - round((free + steal) * TICK_SECONDS * 1e9)
        return steal, None if self._covered else worked_ns - time.process_time_ns()

    def _throttling(self) -> int | None:
        """`throttled_usec` (cgroup v2), or `throttled_time` in nanoseconds (v1), of all levels."""
        found = None
        for path in self._throttled:
            for line in said_in(path).splitlines():
                name, _, value = line.partition(" ")
                if name in ("throttled_usec", "throttled_time"):
                    unit = 1 if name == "throttled_usec" else 1000
                    found = (found or 0) + int(value) // unit
        return found


def over(
    before: Counters,
    after: Counters,
    steady: Sequence[Block],
    threads: int,
    cores: int,
    alone: bool = True,
) -> Contention:
    """What the counters rose by from before the first of these blocks to after the last.

    alone: whether the job is one process. Of several ranks on one host each waits for the others,
    and for a core that another has: what waited is no sign of other work, and is left out. What the
    machine's host took and what a quota held back is nobody's of theirs.
    """

    def rise(name: str, scale: float) -> float | None:
        a, b = getattr(before, name), getattr(after, name)
        return None if a is None or b is None else max(b - a, 0) * scale

    switches = [b.step_switches for b in steady]
    helpers = rise("helper_ticks", TICK_SECONDS)
    others = rise("others_ns", 1e-9) if alone else None
    return Contention(
        elapsed_seconds=(after.at_ns - before.at_ns) / 1e9,
        threads=threads,
        cores=cores,
        idle_share=_idle_share(steady) if threads == 1 and alone else None,
        switches=None if None in switches else sum(sum(s or ()) for s in switches),
        waiting_seconds=rise("waiting_ns", 1e-9) if alone else None,
        pressure_seconds=rise("pressure_us", 1e-6) if alone else None,
        steal_seconds=rise("steal_ticks", TICK_SECONDS),
        throttled_seconds=rise("throttled_us", 1e-6),
        helper_seconds=helpers,
        quota_cores=after.quota_cores,
        others_seconds=None if others is None else max(others - (helpers or 0.0), 0.0),
    )


def without_rests(blocks: Sequence[tuple[Counters, Counters]]) -> tuple[Counters, Counters]:
    """Counters before and after each of some blocks, as if they stood still between those.

    Of a device that rests between blocks: over the rests the job neither waits nor is held back,
    and what is shared out over them too is a twentieth of what the blocks had. How long others ran
    is not told: it is counted in ticks, which are as long as a block.
    """
    first, last = blocks[0][0], blocks[-1][1]
    risen = {
        name: _risen([(getattr(a, name), getattr(b, name)) for a, b in blocks])
        for name in Counters._fields
        if name not in ("quota_cores", "others_ns")
    }
    stood = {name: getattr(first, name) for name in risen}
    after: dict[str, Any] = {n: None if r is None else stood[n] + r for n, r in risen.items()}
    return first, last._replace(**after, others_ns=None)


def _risen(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """What one of them rose by in all; None where it could not be read."""
    rises = [b - a for a, b in pairs if a is not None and b is not None]
    return sum(rises) if len(rises) == len(pairs) else None


def _idle_share(steady: Sequence[Block]) -> float | None:
    series = [b.step_cpu_ns for b in steady]
    if None in series:
        return None
    cpu = sum(sum(s or ()) for s in series)
    return 1 - cpu / sum(sum(b.step_ns) for b in steady)


def causes(seen: Contention) -> dict[Flag, str]:
    """What slowed the job, with its figure; empty if nothing did, as far as this host can say.

    A thread that a quota holds back waits for its core as one does that others keep from it: where
    there was a quota, the waiting says nothing of others.
    """
    held = (_share(seen, seen.throttled_seconds) or 0.0) / at_once(seen)
    found = [
        (_steal_share(seen), STEAL_SHARE, "the host of this virtual machine took {} of its time")
    ]
    helpers = _share(seen, seen.helper_seconds) or 0.0
    if helpers <= HELPER_SHARE and held <= THROTTLED_SHARE:
        found.insert(0, _waiting(seen))
    others = "; ".join(
        words.format(f"{share:.0%}")
        for share, limit, words in found
        if share is not None and share > limit
    )
    flags: dict[Flag, str] = {"CONTENDED": others} if others else {}
    if held > THROTTLED_SHARE:
        flags["QUOTA"] = _held_back(seen, held)
    return flags


def at_once(seen: Contention) -> int:
    """How many of a job's threads a quota holds back at once: the kernel adds up the time of each
    core that has one of them (`unthrottle_cfs_rq`)."""
    return min(seen.threads, seen.cores)


def _held_back(seen: Contention, share: float) -> str:
    """How long a quota held the job back, and what helps."""
    quota = seen.quota_cores
    if quota is None:
        return f"the container's CPU quota held it back {share:.0%} of the time: raise the quota"
    helps = (
        cpu_limits.advice(seen.threads, quota)
        or "something else in the group uses it: raise the quota"
    )
    return (
        f"the CPU quota of {quota:g} cores held its {units.counted(seen.threads, 'thread')} back "
        f"{share:.0%} of the time: {helps}"
    )


def _waiting(seen: Contention) -> tuple[float | None, float, str]:
    """How long the job waited for a core, by the most direct figure there is; and the limit.

    Threads that are more than the cores wait for one another: for others, no longer than they ran.
    """
    waited, limit, words = _waited(seen)
    most = _share(seen, seen.others_at_most_seconds)
    if waited is None or most is None or waited <= most:
        return waited, limit, words
    return most, limit, f"{words.format(f'{waited:.0%}')}, and others ran for {{}} of it at most"


def _waited(seen: Contention) -> tuple[float | None, float, str]:
    if seen.waiting_seconds is not None:
        limit = IDLE_SHARE if seen.threads == 1 else WAITING_SHARE
        return (
            _share(seen, seen.waiting_seconds),
            limit,
            "its threads together waited for a core {} of the time",
        )
    if seen.idle_share is not None:
        return seen.idle_share, IDLE_SHARE, "its one thread did not run for {} of the time"
    words = "tasks waited for a core for {} of the time"
    return _share(seen, seen.pressure_seconds), PRESSURE_SHARE, words


def _share(seen: Contention, seconds: float | None) -> float | None:
    return None if seconds is None else seconds / seen.elapsed_seconds


def _steal_share(seen: Contention) -> float | None:
    if seen.steal_seconds is None or seen.steal_seconds < 2 * TICK_SECONDS * seen.cores:
        return None
    return seen.steal_seconds / seen.elapsed_seconds / seen.cores


def load() -> dict[str, float]:
    """How busy this host is now, before anything of ours runs: for the record of a run."""
    found: dict[str, float] = {}
    if hasattr(os, "getloadavg"):
        found["average_1_minute"] = round(os.getloadavg()[0], 2)
    waited = _after(Path("/proc/pressure/cpu"), "some", "avg10=")
    if waited is not None:
        found["pressure_percent_10_seconds"] = waited
    return found


def _started() -> Sequence[int]:
    return [p.pid for p in multiprocessing.active_children() if p.pid is not None]


def _usable() -> Sequence[int]:
    try:
        return list(psutil.Process().cpu_affinity())
    except (AttributeError, OSError, psutil.Error):  # macOS has none
        return ()


def _file_system(path: Path) -> int | None:
    """On which it lies; None where there is no such file."""
    try:
        return path.stat().st_dev
    except OSError:
        return None


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.exists()), paths[-1])


def _after(path: Path, line: str, word: str) -> float | None:
    """The number behind a word in the line that starts so."""
    for text in said_in(path).splitlines():
        if text.startswith(line + " ") and word in text:
            number = text.partition(word)[2].split()[0]
            return float(number) if "." in number else int(number)
    return None
