"""Who of the ranks that stand still is to be named: by how far each has come, and by its stack.

A launcher that blames whoever times out first blames those who wait. Whoever is late while all
others have gone on is named; where all stand still, who stands elsewhere than all others. Two that
wait for each other are both shown, and nobody is blamed.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, get_args

from bench.records.outcome import DOES_NOT_FIT, Phase

if TYPE_CHECKING:
    from bench.running.hosts.remote import RemoteWorker
    from bench.running.worker_process import WorkerProcess

QUIET_SECONDS = 40.0
"""All ranks silent for so long, and idle: they wait for each other."""
LATE_SECONDS = 20.0
"""A rank that is a phase behind all others for longer than this, and than `LATE_FACTOR` times what
the slowest of them took for that phase, stands still."""
LATE_FACTOR = 3.0
BUSY = 0.2
"""Share of a core, or of its part of one, above which a silent rank may still be at work: it
compiles, or builds."""
PHASES: tuple[Phase, ...] = get_args(Phase)
TIMED: tuple[Phase, ...] = ("measure", "report", "explain")
"""Phases whose steps are known: one that is silent for so long in them is not at work."""
FIRST_STEPS = 2
"""Lines of a warm-up before which its first step, which may compile, is not over."""
STACK_SECONDS = 0.5
NOWHERE: Mapping[int, str] = {}
FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


Place = tuple[int, int]
"""A phase, and how often in it a rank has come to where all meet."""


class Watched:
    """When one rank was heard last, and what it has used of its cores since."""

    def __init__(self, cpu_seconds: Callable[[], float], now: float, share: float = 1.0) -> None:
        """cpu_seconds: what it has used of its host's cores; now: monotonic seconds; share: of one
        core, which is its part where more ranks than cores are at work."""
        self._cpu_seconds = cpu_seconds
        self._busy = BUSY * share
        self.phase: Phase = "start"
        self.arrivals = 0
        """How often in it it has come to where all ranks meet."""
        self.entered = now
        """When it entered its phase."""
        self._came = now
        """When it came to its place."""
        self.left: dict[Place, float] = {}
        """When it left each place before."""
        self.took: dict[Place, float] = {}
        """Seconds that it was there."""
        self._heard = now
        self._said = 0
        """Lines in its phase."""
        self._longest = 0.0
        """Silence between two lines while it stepped."""
        self._cpu: tuple[float, float] | None = None
        """Seconds of CPU at a moment since it was heard."""

    def begins(self, now: float) -> None:
        """Nothing was asked of it until now."""
        self.entered = self._came = self._heard = now
        self._cpu = None

    @property
    def place(self) -> Place:
        """How far it has come."""
        return PHASES.index(self.phase), self.arrivals

    def heard(self, phase: Phase, now: float, arrivals: int = 0) -> None:
        """It said where it is."""
        before = self.place
        if self._steps():
            self._longest = max(self._longest, now - self._heard)
        self._heard, self._cpu = now, None
        if phase != self.phase:
            self.phase, self.entered = phase, now
            self._said = 0
        self._said += 1
        self.arrivals = arrivals
        if self.place != before:
            self.left[before], self.took[before] = now, now - self._came
            self._came = now

    def quiet(self, now: float) -> bool:
        """Whether it has been silent for long, and idle where it may be at work."""
        idle = self.idle(now, QUIET_SECONDS / 2)
        if now - self._heard < max(QUIET_SECONDS, LATE_FACTOR * self._longest):
            return False
        return idle

    def idle(self, now: float, seconds: float) -> bool:
        """Whether it is not at work, seen for so long; one that steps is not looked at."""
        if self._cpu is None:
            self._cpu = (now, self._cpu_seconds())
        since, before = self._cpu
        used = self._cpu_seconds() - before
        return self._steps() or (now - since > seconds and used < self._busy * (now - since))

    def _steps(self) -> bool:
        """Whether it repeats steps whose time is known."""
        return self.phase in TIMED or (self.phase == "warm-up" and self._said > FIRST_STEPS)


class Suspect(NamedTuple):
    """Who stands still, and how one knows."""

    rank: int
    rule: str


Stack = tuple[str, ...]
"""Places of a thread, the innermost first: `file.py:12 in step`."""


def late(
    watches: Sequence[Watched], phases: Mapping[int, Phase], now: float, *, over: bool
) -> Suspect | None:
    """The one rank that has not come as far as all others, for long; None if there is none.

    One that is at work is so only when its time is over: others may have found on their host what
    it compiles.
    """
    if len(watches) < 2:
        return None
    places = [watch.place for watch in watches]
    last = min(places)
    behind = [rank for rank, place in enumerate(places) if place == last]
    if len(behind) != 1 or behind[0] not in phases:
        return None
    (rank,) = behind
    others = [watch for number, watch in enumerate(watches) if number != rank]
    # Of one that was not heard at that place: it came from before it in one line.
    waited = now - max(watch.left.get(last, watch.entered) for watch in others)
    allowed = max(LATE_SECONDS, LATE_FACTOR * max(w.took.get(last, 0.0) for w in others))
    idle = watches[rank].idle(now, LATE_SECONDS / 2)  # which notes what it sees
    if waited <= allowed or not (idle or over):
        return None
    phase = watches[rank].phase
    return Suspect(rank, f"still in its {phase} phase {waited:.0f} s after all others")


def all_quiet(watches: Sequence[Watched], phases: Mapping[int, Phase], now: float) -> bool:
    """Whether every rank that has not reported is silent, and none of them is at work."""
    quiet = [watches[rank].quiet(now) for rank in phases]  # each notes what it sees
    return bool(quiet) and all(quiet)


def stacks(workers: Sequence[tuple[int, WorkerProcess | RemoteWorker]]) -> dict[int, Stack]:
    """The main thread's stack of each rank; empty of one that gives none."""
    for _, worker in workers:
        worker.ask_for_stacks()
    time.sleep(STACK_SECONDS)
    return {rank: frames(worker.stacks()) for rank, worker in workers}


def frames(text: str) -> Stack:
    """Places of the oldest thread in what `faulthandler` wrote, the innermost first."""
    main = re.split(r"(?:Current t|T)hread 0x", text)[-1]
    return tuple(f"{_short(file)}:{line} in {name}" for file, line, name in FRAME.findall(main))


def stands_alone(stacks: Mapping[int, Stack]) -> Suspect | None:
    """Who of those that all stand still stands elsewhere; None where nobody can be told."""
    shared = Counter(stacks.values())
    common = {stack for stack, count in shared.items() if count > 1}
    rules = {
        "gives no stack": [rank for rank in stacks if not stacks[rank]],
        "stands where no other does": [
            rank for rank in stacks if stacks[rank] not in common and len(common) == 1
        ],
        "waits for nobody": [rank for rank in stacks if not waits(stacks[rank])],
    }
    for rule, found in rules.items():
        if len(found) == 1 and len(stacks) > 1:
            return Suspect(found[0], rule)
    return None


def waits(stack: Stack) -> bool:
    """Whether a stack is in a collective, or in autograd's engine, which waits for one."""
    inner = stack[0] if stack else ""
    return "_engine_run_backward" in inner or any("/distributed/" in place for place in stack[:6])


def said(
    suspect: Suspect | None,
    stacks: Mapping[int, Stack],
    size: int,
    *,
    over: bool,
    limit: float,
    seats: Mapping[int, str] = NOWHERE,
) -> str:
    """What the record says of ranks that stood still; seats: where each is, of several hosts."""
    named = {rank: f" ({seat})" for rank, seat in seats.items()}
    if suspect is not None:
        where = (stacks.get(suspect.rank) or ("no Python frame",))[0]
        who = f"rank {suspect.rank} of {size}{named.get(suspect.rank, '')}"
        return f"{who} hangs: {suspect.rule}; it stands at {where}"
    how = f"no report within {limit:.0f} s" if over else "all ranks stand still"
    at = "; ".join(
        f"rank {rank}{named.get(rank, '')} at {(stacks[rank] or ('?',))[0]}"
        for rank in sorted(stacks)
    )
    return f"{how}, and none can be told from the others: {at}"


def signed(who: str, why: str) -> str:
    """A reason with the name of whose it is; what does not fit is still known by its beginning."""
    unfit = f"{DOES_NOT_FIT}: "
    begins = unfit if why.startswith(unfit) else ""
    return f"{begins}{who}: {why.removeprefix(begins)}"


def _short(path: str) -> str:
    """A path from the package that it is of."""
    for mark in ("/site-packages/", "/lib/python3"):
        if mark in path:
            return path.partition(mark)[2] if mark.endswith("s/") else path.rpartition("/")[2]
    return "/".join(path.split("/")[-2:])
