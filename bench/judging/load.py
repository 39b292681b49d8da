"""How long a device had been under load before its figure was taken, and how it was meanwhile.

A device that is held to a power limit, or heats, has two true answers to how fast its arithmetic
is: for a moment, and for good. Of what is measured to say it (matrix products, attention) the
second is the one that other work can be held against: *sustained*, after ten seconds of load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from bench.records.case import Case
from bench.records.observed import Reading
from bench.records.outcome import Measured
from bench.records.run import Launch
from bench.telemetry.flags import observed_clock, steady_readings
from bench.telemetry.joined import median

SUSTAINED_SECONDS = 10.0
"""Under load, before the first block that counts."""
TWO_ANSWERS = ("attention", "gemm")
"""Workloads with a mode of bursts (`bench.workload.Burst`): they measure arithmetic alone."""
BURST = "burst"
"""That mode: of a device that has rested."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Of the launches of a figure. None: not observable."""

    seconds: float
    """Under load, the least of any launch; its first step, which may compile, left out."""
    clock_mhz: float | None = None
    watts: float | None = None
    celsius: float | None = None
    """Medians over the launches of what was read while they were measured."""

    @property
    def sustained(self) -> bool:
        """Whether that was long enough."""
        return self.seconds >= SUSTAINED_SECONDS


def load_of(case: Case, launches: Sequence[Launch]) -> Load | None:
    """Of measured launches; None of other work, of bursts, and where the host does the work: what
    a CPU does in its first seconds is not told from what it does later.
    """
    if case.workload not in TWO_ANSWERS or case.mode == BURST:
        return None
    outcomes = [x.outcome for x in launches if isinstance(x.outcome, Measured)]
    if not outcomes or any(outcome.step_clock != "device event" for outcome in outcomes):
        return None
    return Load(
        seconds=min(sum(b.wall_ns for b in outcome.warmup[1:]) / 1e9 for outcome in outcomes),
        clock_mhz=median([observed_clock(launch) for launch in launches]),
        watts=median([_read(launch, lambda r: r.power_watts) for launch in launches]),
        celsius=median([_read(launch, lambda r: r.temperature_celsius) for launch in launches]),
    )


def _read(launch: Launch, quantity: Callable[[Reading], float | None]) -> float | None:
    """The median of what was read while a launch was measured."""
    if launch.telemetry is None or not isinstance(launch.outcome, Measured):
        return None
    return median([quantity(r) for r in steady_readings(launch.outcome, launch.telemetry)])
