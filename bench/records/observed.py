"""What was seen beside a launch, as values of its record: power, clocks, heat, other users, load.

A quantity that nobody could read is None, and `Telemetry.absent` says why: not observable is never
"ok".
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from bench.records.value import Value, finite

Scope = Literal["chip", "board", "package", "shared"]
"""Whose figures they are: of this chip; of the board that it is on; of a package of several dies or
sockets; of a device that others may be using at the same time (a partition, say)."""
Reason = Literal[
    "thermal",
    "power brake",
    "hardware slowdown",
    "current limit",
    "power cap",
    "user clocks",
    "sync boost",
    "idle",
    "other",
]
"""Why a clock is not higher."""
THROTTLING: tuple[Reason, ...] = (
    "thermal",
    "power brake",
    "hardware slowdown",
    "current limit",
)
"""Reasons by which a device is slower than it is sold to be: heat, the power supply, protection.

A *power cap* is none of them. Holding the clock to the power limit is how a device runs a heavy
load at its rated power, all day and in every machine; were it throttling, no large matrix product
could ever be ranked. It is a word of its own, in the record and on the card.
"""
QUANTITIES = {
    "power": "power_watts",
    "energy": "energy_joules",
    "clock": "clock_mhz",
    "temperature": "temperature_celsius",
    "utilisation": "utilisation_percent",
    "memory": "memory_used_bytes",
    "reasons": "reasons",
}
"""What a reading may hold, and its field; keys of `Telemetry.absent`, with `processes`."""


class Reading(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One look at the device."""

    at_seconds: float = 0.0
    """Since the worker was let go (`Telemetry`)."""
    power_watts: float | None = None
    energy_joules: float | None = None
    """The hardware's counter. Only differences mean anything."""
    clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_celsius: float | None = None
    utilisation_percent: float | None = None
    memory_used_bytes: int | None = None
    """By all processes."""
    reasons: tuple[Reason, ...] | None = None
    """Why the clock is not higher; empty where it is said to be unhindered."""

    def __post_init__(self) -> None:
        finite(
            power_watts=self.power_watts,
            energy_joules=self.energy_joules,
            clock_mhz=self.clock_mhz,
            utilisation_percent=self.utilisation_percent,
        )

    def has(self, quantity: str) -> bool:
        """Whether it holds that one of `QUANTITIES`."""
        return getattr(self, QUANTITIES[quantity]) is not None


class Telemetry(Value, frozen=True, kw_only=True):
    """What a side process saw of the device while a launch had it."""

    source: str
    """Who said so, by the name that its vendor gave it."""
    scope: Scope
    interval_seconds: float
    """Least time between two readings."""
    first_step_seconds: float | None = None
    """When the first step began, on the readings' clock; None if there was none."""
    readings: tuple[Reading, ...] = ()
    absent: dict[str, str] = msgspec.field(default_factory=dict)
    """What could not be read, and why."""
    idle_watts: float | None = None
    """Median power before any worker of the run had opened the device."""
    others: int | None = None
    """Most processes of others that were seen on the device at once; None: not observable."""
    others_bytes: int | None = None
    """Device memory that those held; None where that is not said."""

    def __post_init__(self) -> None:
        finite(
            interval_seconds=self.interval_seconds, idle_watts=self.idle_watts, others=self.others
        )


class Watched(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What was seen of one rank's device over the steady blocks, of several that did the step.

    Figures in place of readings: a launch keeps those of rank 0's device (`Launch.telemetry`);
    five a second of 16 devices would be fifteen times as much again, and energy, flags and causes
    are made of all of them before they are let go.
    """

    absent_because: str = ""
    """Why nothing was seen; empty where something was."""
    source: str = ""
    scope: Scope = "board"
    card: int | None = None
    """Which of the launch's cards or packages the power and energy are of, 0-based in the ranks'
    order: ranks with one number have one figure between them. None: the source does not say."""
    card_devices: int | None = None
    """Devices that lie on it, in this launch or not; None where that is not said."""
    energy_joules: float | None = None
    """Of the steady blocks, of the whole card."""
    energy_method: Literal["counter", "power"] | None = None
    energy_absent: str | None = None
    readings: int = 0
    """From the first steady block to the last; what follows is made of them."""
    power_watts: float | None = None
    """Median."""
    clock_mhz: float | None = None
    """Median, of readings at which the device neither held to its power limit nor idled."""
    clocks: int = 0
    """How many readings that is the median of."""
    temperature_celsius: float | None = None
    """Highest."""
    utilisation_percent: float | None = None
    """Median."""
    memory_used_bytes: int | None = None
    """Most."""
    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    """Why the clock was not higher: in how many readings."""
    absent: dict[str, str] = msgspec.field(default_factory=dict)
    """What could not be read, and why."""
    idle_watts: float | None = None
    """As `Telemetry` has it, and so the others."""
    others: int | None = None
    others_bytes: int | None = None

    def __post_init__(self) -> None:
        finite(
            power_watts=self.power_watts,
            clock_mhz=self.clock_mhz,
            energy_joules=self.energy_joules,
            idle_watts=self.idle_watts,
            others=self.others,
        )
        if self.card is not None and self.card < 0:
            raise ValueError("cards count from 0")


UNSURE_SECONDS = 0.0125
"""Of one core's time without work, by two readings in whole ticks of 10 ms: three standard
deviations of the difference, each of which is a sixth of a tick squared."""


class Contention(Value, frozen=True, kw_only=True):
    """What the host did beside a job over its steady blocks. None: the host cannot say."""

    elapsed_seconds: float
    """From before the first steady block to after the last, gaps included but not a burst's
    rests: what the others refer to."""
    threads: int
    """Threads that the job computes with."""
    cores: int
    """Cores that it may use."""
    idle_share: float | None = None
    """1 - CPU time / wall time of the steady steps; of jobs with one thread only."""
    switches: int | None = None
    """Times that one of its threads was made to leave a core in the steady steps."""
    waiting_seconds: float | None = None
    """Time that its threads could have run and waited for a core, added up over the threads."""
    pressure_seconds: float | None = None
    """Time in which any task of the machine waited for a core (pressure-stall information)."""
    steal_seconds: float | None = None
    """Time that the host of this virtual machine gave its cores to others, over these cores."""
    helper_seconds: float | None = None
    """CPU time of processes of the job's own, that load its data, say: its threads may be waiting
    for those."""
    throttled_seconds: float | None = None
    """Time in which the container had used up its share of the CPU, added up over the cores that
    work of it waited for."""
    quota_cores: float | None = None
    """That share: the least CPU quota of any control group that it lies in. None: no quota, or a
    record from before it was asked for."""
    others_seconds: float | None = None
    """CPU time of all other processes on these cores, added up over them. None: not known, or a
    record from before it was asked for."""

    def __post_init__(self) -> None:
        if not 0 < self.elapsed_seconds < math.inf or self.threads < 1 or self.cores < 1:
            raise ValueError("contention is counted over some time, threads and cores")

    @property
    def others_at_most_seconds(self) -> float | None:
        """`others_seconds`, and what ticks may hide of it."""
        if self.others_seconds is None:
            return None
        return self.others_seconds + UNSURE_SECONDS * math.sqrt(self.cores)

    @property
    def waited_for_others_seconds(self) -> float | None:
        """`waiting_seconds`, but for what its own threads must have waited for one another."""
        waited, most = self.waiting_seconds, self.others_at_most_seconds
        return waited if waited is None or most is None else min(waited, most)
