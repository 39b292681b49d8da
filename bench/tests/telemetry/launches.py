"""A launch of long steady blocks, and what was seen of the device meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.records.observed import Reading, Telemetry
from bench.records.outcome import Block, Measured
from bench.tests.values import make_measured

FIRST_STEP = 5.0
"""Seconds after the worker was let go."""


def steady(blocks: int = 11, seconds: float = 2.0, gap: float = 0.0) -> Measured:
    """Blocks of one step each, with a gap after each; the first steady one is the launch's fourth,
    10 s after the first step."""
    made = []
    for k in range(blocks):
        start = 10.0 + k * (seconds + gap)
        wall = round(seconds * 1e9)
        made.append(Block(start_ns=round(start * 1e9), wall_ns=wall, step_ns=(wall,)))
    return make_measured(steady=tuple(made), work=make_measured().work)


def seen(
    power: Callable[[float], float | None] = lambda at: None,
    counter: Callable[[float], float | None] = lambda at: None,
    until: float = 60.0,
    **changes: Any,
) -> Telemetry:
    """Five readings a second from the first moment on."""
    times = [k / 5 for k in range(round(until * 5) + 1)]
    readings = tuple(
        Reading(at_seconds=at, power_watts=power(at), energy_joules=counter(at)) for at in times
    )
    fields: dict[str, Any] = {
        "source": "NVML",
        "scope": "board",
        "interval_seconds": 0.2,
        "first_step_seconds": FIRST_STEP,
        "readings": readings,
    }
    return Telemetry(**{**fields, **changes})
