"""Telemetry: what the device says of its power, clocks and heat, where it says anything."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench import units
from bench.conformance.check import Check, Finding, Stand, failed, judged, passed, unseen
from bench.judging import chips
from bench.records.observed import QUANTITIES, Reading
from bench.telemetry import figures
from bench.telemetry.source import NotObservable, Source

LIMIT_FACTOR = 2.0
"""Times the board's limit: short peaks go above it."""
APART_SECONDS = 0.5
"""Between two readings, so that counters move."""


def readings(stand: Stand) -> Iterator[Finding]:
    """Two readings, what is in them, and what is not."""
    title = "its telemetry is plausible"
    try:
        source = stand.backend.telemetry(stand.index)
        first = source.read()
        time.sleep(APART_SECONDS)
        second = source.read()
    except NotObservable as reason:
        yield unseen(title, str(reason))
        return
    held = [name for name in QUANTITIES if second.has(name)]
    if held:
        info = stand.device.info
        chip = chips.find(info.name, chips.units_of(info.facts))
        wrong = implausible(second, chip.watts if chip else None, info.memory_bytes)
        wrong += backwards(first, second)
        next = "Look at the unit and the column that Source.read takes it from"
        yield judged(title, not wrong, _told(source, second), "; ".join(wrong), next)
    mute = {name: why for name, why in source.absent.items() if name not in held}
    if mute:
        why = "; ".join(f"{name}: {reason}" for name, reason in mute.items())
        yield unseen("what it does not say", why)
    missing = [name for name in QUANTITIES if name not in held and name not in mute]
    if missing:
        next = "Let Source.read put a reason into `absent` for what the device does not say"
        yield failed("what it does not say has a reason", ", ".join(missing), "no reason", next)
    yield _processes(source)


def implausible(reading: Reading, limit_watts: float | None, memory_bytes: int | None) -> list[str]:
    """What in a reading cannot be; limit_watts: of the board, None where it is not known."""
    most_watts = None if limit_watts is None else LIMIT_FACTOR * limit_watts
    found = figures.impossible(reading, most_watts, memory_bytes)
    return [f"{quantity} {why}" for quantity, why in found.items()]


def backwards(first: Reading, second: Reading) -> list[str]:
    """An energy counter that fell."""
    before, after = first.energy_joules, second.energy_joules
    if before is None or after is None or after >= before:
        return []
    return [f"the energy counter fell from {before:g} to {after:g} J"]


def _told(source: Source, reading: Reading) -> str:
    figures = (
        ("power", reading.power_watts, "{:g} W"),
        ("energy", reading.energy_joules, "{:g} J"),
        ("clock", reading.clock_mhz, "{:g} MHz"),
        ("temperature", reading.temperature_celsius, "{:g} C"),
        ("utilisation", reading.utilisation_percent, "{:g} %"),
    )
    told = [f"{name} {form.format(v)}" for name, v, form in figures if v is not None]
    if reading.memory_used_bytes is not None:
        told.append(f"memory in use {units.memory(reading.memory_used_bytes)}")
    if reading.reasons is not None:
        told.append(f"clock held by {', '.join(reading.reasons) or 'nothing'}")
    return f"{source.name}: {', '.join(told)}"


def _processes(source: Source) -> Finding:
    title = "other users of the device can be seen"
    there = source.processes()
    if there is None:
        return unseen(title, source.absent.get("processes", f"{source.name} does not say"))
    return passed(title, f"{source.name} counts {len(there)} processes")


CHECKS = (Check(name="telemetry", summary="its readings can be", parts=(readings,)),)
