"""What a worker and its parent say to each other: JSON lines over the worker's stdin and stdout."""

from __future__ import annotations

import time
from typing import Any, BinaryIO

import msgspec

from bench.records.case import Case
from bench.records.encoding import encoded
from bench.records.explained import Account
from bench.records.outcome import Block, Cold, Outcome, Phase, Work
from bench.records.run import Settings

PROGRESS_SECONDS = 0.5
"""Least time between two progress lines, so that the parent stays asleep."""
MEASURING_SECONDS = 3.0
"""The same while steady blocks are timed: what the parent draws costs the host milliseconds."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's place in a launch of several."""

    rank: int
    """0-based, host by host."""
    size: int
    local_rank: int
    """0-based on its host; of an accelerator host the device's index."""
    local_size: int
    """Ranks on its host."""
    host: int = 0
    hosts: int = 1
    """Over which the launch goes."""
    launcher: str = ""
    """What started a process on each of them."""
    machines: int = 0
    """That the hosts run on, as containers share one; 0 where that is not known."""
    cores: int | None = None
    """That the ranks of each host share: of the host with fewest, where hosts differ."""
    parallelism: str
    """Of the case; see `bench.records.parallelism`."""
    address: str
    port: int
    """Where rank 0 serves the store that they meet at."""
    listener: int | None = None
    """Rank 0's open socket, as a descriptor, so that no other program can take the port."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent asks of a worker."""

    case: Case
    backend: str
    index: int
    framework: str = "torch"
    """What computes; see `bench.framework`."""
    settings: Settings
    most_seconds: float | None = None
    """Of the whole launch, where less than its limit is left for it; its phases keep theirs."""
    samples: int
    seed: int
    recorded: tuple[str, ...] = ()
    """Environment variables to record beside the usual ones."""
    memory_format: str | None = None
    """The one that a tuned case tries; None for the workload's own."""
    searches: bool = False
    """Whether its compiler searches for the fastest kernels, as a tuned case may try."""
    thorough: bool = False
    """Whether it is looked at as one launch of a case must be (`bench.measuring.proving.watch`)."""
    scratch: str | None = None
    """A folder of the run's own, where its launches leave to the next ones what they need too;
    None where there is none."""
    here: int = 1
    """How many devices of this kind the host has."""
    handed: str | None = None
    """The file of what torch hands over (`bench.measuring.gates.handed`), to another framework."""
    place: Place | None = None
    """None where one device does the work."""
    explain: bool = False
    """Whether its step is explained when all else is done; see `bench.records.explained`."""
    try_remedies: bool = False
    """Whether known remedies are tried before it is explained."""
    rehearse: bool = False
    """Whether the case's memory is counted before it is built, and what cannot fit is skipped."""
    rehearsal_only: bool = False
    """Whether that is all that is asked."""
    estimated_peak_bytes: int | None = None
    """What was counted of it beforehand; None where nothing was."""

    @property
    def limit_seconds(self) -> float:
        """Of the whole launch."""
        limit = self.settings.launch_limit_seconds
        return limit if self.most_seconds is None else min(limit, self.most_seconds)

    @property
    def local_size(self) -> int:
        """Workers of this host that do the step together."""
        return 1 if self.place is None else self.place.local_size


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress", tag_field="line"):
    """Where the worker is."""

    phase: Phase
    samples: int = 0
    throughput: float | None = None
    """Items per second so far; None before the steady state."""
    unit: str = ""
    """What an item is; empty from a worker of an older version."""
    arrived: bool = False
    """Of a rank: it has come to where all ranks of the launch meet."""
    clock_ns: int | None = None
    """Where a phase begins: `time.perf_counter_ns`, before the line is sent."""


class Report(msgspec.Struct, frozen=True, kw_only=True, tag="report", tag_field="line"):
    """What came of it."""

    outcome: Outcome
    cold: Cold
    environment: dict[str, Any]
    first_step_ns: int | None = None
    """`time.perf_counter_ns`, which all processes of a host share, when the first step began."""
    estimated_peak_bytes: int | None = None
    busy_ns: tuple[int, ...] = ()
    """Of a rank: its own time in each steady block, which the slowest rank's ends."""
    peer_ns: tuple[int, ...] = ()
    """Of a rank: ns of an exchange with each other one (`bench.measuring.ranks.pairs`)."""
    silent_ns: tuple[int, ...] = ()
    """Of a rank: its own time in each silent block; see `bench.measuring.timing.silent_blocks`."""
    account: Account | None = None
    """Of a worker that was asked to explain the step, and came so far."""
    blames_peer: bool = False
    """Whether it failed of another rank's end, as a library says it."""
    clock_ns: int | None = None
    """The same at the parent's answer to its `report` phase, by which the two clocks are compared
    (`bench.running.clocks`); None where none came."""


class Channel:
    """The line to the parent."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._last = 0.0
        self.phase: Phase = "start"

    def send(self, message: Progress | Report) -> None:
        """Writes a line, at once."""
        self._stream.write(encoded(message) + b"\n")
        self._stream.flush()

    def enter(self, phase: Phase) -> None:
        """Says that a phase begins, or that it goes on."""
        self.phase = phase
        self._last = time.monotonic()
        self.send(Progress(phase=phase, clock_ns=time.perf_counter_ns()))

    def arrive(self) -> None:
        """Says that it is about to wait for the other ranks."""
        self.send(Progress(phase=self.phase, arrived=True))

    def blocks(self, phase: Phase, blocks: list[Block], work: Work) -> None:
        """Between blocks: sends at most two lines a second, and fewer while steps count."""
        now = time.monotonic()
        least = MEASURING_SECONDS if phase == "measure" else PROGRESS_SECONDS
        if phase == self.phase and now - self._last < least:
            return
        self.phase, self._last = phase, now
        rate = None
        if phase == "measure" and blocks:
            seconds = sum(b.wall_ns for b in blocks) / 1e9
            rate = work.items * sum(len(b.step_ns) for b in blocks) / seconds
        self.send(Progress(phase=phase, samples=len(blocks), throughput=rate, unit=work.unit))


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What torch hands over to another framework's launches: `bench.measuring.gates.handed`."""

    request: Request
    """Of one of them; its seed does not matter."""
    seeds: tuple[int, ...]
    folder: str

    def file(self, seed: int) -> str:
        """The name of a launch's file in the folder."""
        return f"{self.request.case.fingerprint}-{self.request.memory_format or ''}-{seed}.npz"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    skipped: str = ""
    """Why the work cannot be done, which is no fault; else empty."""
    failed: str = ""
    """Why torch could not hand it over; else empty."""
