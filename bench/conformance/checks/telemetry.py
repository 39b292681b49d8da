"""Telemetry: what the device says of its power, clocks and heat, where it says anything."""

from __future__ import annotations

import contextlib
import statistics
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
PIECE_BYTES = 256 * 2**20
"""What is held from the first reading on, at the least; of a small device less."""
PIECE_SHARE = 16
"""A piece is at most this part of the device's memory."""
SEEN_SHARE = 50
"""And at least this: some sources say whole hundredths."""
LOOKS = 4
"""At a figure that has not risen yet: some are counted once a second."""
TOLD = ("power", "energy", "clock", "temperature", "utilisation")
OWN = "its memory is this device's"
AGREE = "its energy rises by its power"
AGREE_FACTOR = 3.0
"""Less than a slip of a unit; more than a counter that is late errs."""


def readings(stand: Stand) -> Iterator[Finding]:
    """Two readings, what is in them, and what is not."""
    title = "its telemetry is plausible"
    try:
        source = stand.backend.telemetry(stand.index)
        used = stand.device.memory().device_used_bytes  # asked first: it may open the device
        first = source.read()
        held, size = _hold(stand)
        time.sleep(APART_SECONDS)
        second = source.read()
    except NotObservable as reason:
        yield unseen(title, str(reason))
        return
    said = [name for name in QUANTITIES if second.has(name)]
    if said:
        info = stand.device.info
        chip = chips.find(info.name, chips.units_of(info.facts))
        wrong = implausible(second, chip.watts if chip else None, info.memory_bytes)
        wrong += backwards(first, second)
        next = "Look at the unit and the column that Source.read takes it from"
        yield judged(title, not wrong, _told(source, second), "; ".join(wrong), next)
    if None not in (second.power_watts, second.energy_joules):
        with contextlib.suppress(NotObservable):
            yield _agree(source)
    mute = {name: why for name, why in source.absent.items() if name not in said}
    if mute:
        why = "; ".join(f"{name}: {reason}" for name, reason in mute.items())
        yield unseen("what it does not say", why)
    missing = [name for name in QUANTITIES if name not in said and name not in mute]
    if missing:
        next = "Let Source.read put a reason into `absent` for what the device does not say"
        yield failed("what it does not say has a reason", ", ".join(missing), "no reason", next)
    if size and first.memory_used_bytes is not None and not source.part:
        now = stand.device.memory().device_used_bytes
        device = None if used is None or now is None else now - used
        yield _own(source, (first.memory_used_bytes, second.memory_used_bytes), device, size)
    yield _processes(source)
    del held


def _agree(source: Source) -> Finding:
    """Whether its counter of energy rises as its power says."""
    looks = []
    for _ in range(LOOKS + 1):
        at, seen = time.monotonic(), source.read()
        if seen.power_watts is not None and seen.energy_joules is not None:
            looks.append((at, seen.energy_joules, seen.power_watts))
        time.sleep(APART_SECONDS)
    if len(looks) < 2:
        return unseen(AGREE, "it did not say both twice while it was looked at")
    (start, first, _), *_, (end, last, _) = looks
    rate = (last - first) / (end - start)
    if rate == 0:
        return unseen(AGREE, "its counter did not rise while it was looked at")
    power = statistics.fmean(watts for *_, watts in looks)
    agree = power / AGREE_FACTOR <= rate <= power * AGREE_FACTOR
    observed = f"{rate:.3g} J/s beside {power:.3g} W"
    return judged(AGREE, agree, observed, "energy and power disagree", "Check the unit of both")


def _hold(stand: Stand) -> tuple[object, int]:
    """Memory of the device, and its bytes; none of a host, where all that runs takes some, of a
    simulated device, and where a framework has memory of its own."""
    if stand.on_host or stand.device.info.simulated or stand.framework.hands_over:
        return None, 0
    import torch

    whole = stand.device.info.memory_bytes or PIECE_BYTES * PIECE_SHARE
    size = min(max(PIECE_BYTES, whole // SEEN_SHARE), whole // PIECE_SHARE)
    held = torch.ones(size, dtype=torch.uint8, device=stand.place)
    stand.device.synchronize()
    return held, size


def _own(source: Source, used: tuple[int, int | None], device: int | None, size: int) -> Finding:
    """Whether the memory in use rose by half of the bytes that are held here, at the least.

    used: by the source, before and since; device: by how much it rose as the device itself says,
    None where it does not. Only where that rose can it be told that the source is wrong: an
    allocator may have had the piece before.
    """
    before, now = used
    for _ in range(LOOKS):
        if now is not None and now - before >= size / 2:
            break
        time.sleep(APART_SECONDS)
        with contextlib.suppress(NotObservable):
            now = source.read().memory_used_bytes
    rose = (now or 0) - before
    observed = f"{units.memory(max(rose, 0))} more for {units.memory(size)} that are held"
    if rose < size / 2 and (device is None or device < size / 2):
        return unseen(OWN, "nobody says that the device gave any memory for it", observed)
    next = "Let Backend.telemetry look at the device of its index, and give memory in bytes"
    return judged(OWN, rose >= size / 2, observed, "these are another device's figures", next)


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
    known = [(name, getattr(reading, figures.QUANTITIES[name].field)) for name in TOLD]
    told = [f"{name} {v:g} {figures.QUANTITIES[name].unit}" for name, v in known if v is not None]
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
    if not there:
        nobody = f"{source.name} lists nobody with memory there, not even this process"
        return unseen(title, nobody)
    return passed(title, f"{source.name} counts {len(there)} processes")


CHECKS = (Check(name="telemetry", summary="its readings can be", parts=(readings,)),)
