"""Time: synchronize waits, events agree with the clock, no stream runs on after the timer."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator

import msgspec

from bench import units
from bench.conformance.check import Check, Finding, Stand, failed, judged, note, passed, unseen
from bench.conformance.checks import _chain
from bench.conformance.checks._chain import Chain, Timing
from bench.judging import chips

REST = 0.2
"""Share of a chain that may be left after a synchronization: what a busy host adds."""
AHEAD = 0.5
"""Share of a chain in which an asynchronous host must have queued it."""
SYNCHRONOUS = 0.9
"""Share of a chain that calls must take where a call returns when its work is done."""
DOUBLE = (1.6, 2.5)
"""Time of a chain twice as long over the chain's: a busy host only adds to either."""
EVENTS = (0.9, 1.02)
"""Event time over the host's time around it: never above, but for the clocks' own grain."""
ADDITIVE = 0.01
"""How far parts may be from their sum: events count in fractions of a microsecond."""
ROUNDS = 6
"""A busy host spoils single rounds; a device that is wrong is wrong in all."""
MANY = 200
"""Launches for a median."""
BLOCKING = "Unset what makes the host wait for every kernel, and look at how kernels are launched"


def synchronize(stand: Stand) -> Iterator[Finding]:
    """Whether `synchronize` returns when the work is done, not before."""
    chain = _chain.chain(stand)
    timings = [chain.time(chain.kernels) for _ in range(3)]
    yield _waits(stand, timings)
    yield _ahead(stand, timings)
    yield _double(chain)


def _waits(stand: Stand, timings: list[Timing]) -> Finding:
    title = "synchronize waits for the work"
    best = min(timings, key=lambda t: t.rest / t.read)  # a busy host spoils single rounds
    whole, rest, waited = best.read, best.rest, best.waited
    observed = (
        f"returned after {units.duration(waited)} of {units.duration(whole)}; "
        f"reading took {units.duration(rest)} more"
    )
    if not all(t.right for t in timings):
        next = "Check matrix products first: the line `matmul` of the operators"
        return failed(title, observed, "the chain's result is wrong", next)
    reason = f"{rest / whole:.0%} of the work was still to be done (allowed {REST:.0%})"
    next = "Let Device.synchronize wait for every stream of the device"
    return judged(title, rest <= REST * whole, observed, reason, next)


def _ahead(stand: Stand, timings: list[Timing]) -> Finding:
    shares = [t.queued / t.read for t in timings]
    share = min(shares)
    observed = f"queueing took {share:.0%} of the chain's time"
    if stand.device.synchronous:
        title = "a call returns when its work is done"
        reason = f"the device is declared synchronous, and calls returned at {share:.0%} of it"
        next = "Set Device.synchronous to False, and let it make events"
        return judged(title, max(shares) >= SYNCHRONOUS, observed, reason, next)
    title = "the host runs ahead"
    reason = f"the host waited for kernels that it queued (allowed {AHEAD:.0%})"
    return judged(title, share <= AHEAD, observed, reason, BLOCKING)


def _double(chain: Chain) -> Finding:
    title = "twice the work takes twice the time"
    low, high = DOUBLE
    for _ in range(ROUNDS):
        half, whole = (chain.time(n).waited for n in (chain.kernels // 2, chain.kernels))
        observed = f"{units.duration(half)}, {units.duration(whole)}: {whole / half:.2f} times"
        if low <= whole / half <= high:
            return passed(title, f"{observed} ({chain.kernels} products of {chain.size})")
    reason = f"outside {low} to {high} in each of {ROUNDS} rounds"
    next = "End other work on the device and the host; then look at what synchronize waits for"
    return failed(title, observed, reason, next)


class _Marks(msgspec.Struct, frozen=True, kw_only=True):
    """Events around the four quarters of a chain, in seconds."""

    wall: float
    total: float
    quarters: tuple[float, ...]


def events(stand: Stand) -> Iterator[Finding]:
    """Whether device events and the host's clock tell the same time."""
    if stand.device.synchronous:
        yield unseen("events agree with the clock", "a synchronous device: the clock times it")
        return
    if stand.device.event() is None:
        yield unseen("events agree with the clock", "it has none: blocks are timed, no single step")
        return
    chain = _chain.chain(stand)
    rounds = [_marks(chain) for _ in range(ROUNDS)]
    best = min(rounds, key=lambda m: abs(m.total / m.wall - 1))
    yield _agreement(best)
    yield _order(rounds)
    yield _below_peak(stand, chain, best)


def _marks(chain: Chain) -> _Marks:
    device = chain.stand.device
    marks = [device.event() for _ in range(5)]
    chain.right()
    start = time.perf_counter()
    marks[0].record()
    for mark in marks[1:]:
        chain.queue(chain.kernels // 4)
        mark.record()
    device.synchronize()
    chain.right()  # where synchronize does not wait, this does
    wall = time.perf_counter() - start
    parts = tuple(device.elapsed_ns(a, b) / 1e9 for a, b in itertools.pairwise(marks))
    return _Marks(wall=wall, total=device.elapsed_ns(marks[0], marks[-1]) / 1e9, quarters=parts)


def _agreement(marks: _Marks) -> Finding:
    ratio = marks.total / marks.wall
    low, high = EVENTS
    observed = (
        f"events {units.duration(max(marks.total, 0))}, clock {units.duration(marks.wall)}: "
        f"ratio {ratio:.3f}"
    )
    reason = f"outside {low} to {high} in each of {ROUNDS} rounds"
    next = "Check the unit of elapsed_ns, and on which stream events are recorded"
    return judged("events agree with the clock", low <= ratio <= high, observed, reason, next)


def _order(rounds: list[_Marks]) -> Finding:
    title = "events are in order and add up"
    worst = max(abs(sum(m.quarters) - m.total) / max(abs(m.total), 1e-9) for m in rounds)
    least = min(min(m.quarters) for m in rounds)
    observed = f"least of four parts {least * 1e3:.3g} ms; parts and sum differ by {worst:.2%}"
    next = "Check that an event is recorded behind the work queued before it"
    if least <= 0:
        return failed(title, observed, "an event lies before the one recorded before it", next)
    reason = f"parts and their sum differ by more than {ADDITIVE:.0%}"
    return judged(title, worst <= ADDITIVE, observed, reason, next)


def _below_peak(stand: Stand, chain: Chain, marks: _Marks) -> Finding:
    title = "the rate is below the chip's peak"
    seconds = max(min(marks.total, marks.wall), 1e-9)
    rate = chain.flop * chain.kernels / seconds
    observed = f"{units.rate(rate, 'FLOP')} in float32 products of {chain.size}"
    info = stand.device.info
    whole = (info.name, chips.units_of(info.facts))
    chip = chips.find(*whole)
    if chip is None:
        return unseen(
            title, chips.unknown(*whole), observed, "Add an entry, or name a file of your own"
        )
    if not chip.peaks:
        return unseen(title, f"{chip.name} has no peak in configs/chips.toml", observed)
    peak = chip.peak_flop_per_second("fp32") or max(chip.peaks.values()) * 1e12
    observed = f"{observed}; peak {units.rate(peak, 'FLOP')}"
    reason = "no chip does that: the timer is wrong, or the entry of the chip, or float32 is not"
    return judged(title, rate <= peak, observed, reason, "Compare with the line on fp32 products")


def streams(stand: Stand) -> Iterator[Finding]:
    """Whether work on a stream of its own runs on after `synchronize`."""
    import torch

    title = "synchronize waits for side streams"
    if stand.device.synchronous:
        yield unseen(title, "a synchronous device has no streams")
        return
    try:
        module = torch.get_device_module(stand.place.type)
        side, within = module.Stream(), module.stream
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        yield unseen(title, f"torch makes no stream of this device ({error})")
        return
    chain = _chain.chain(stand)
    rests, wholes = [], []
    for _ in range(3):
        chain.right()
        start = time.perf_counter()
        with within(side):
            chain.queue(chain.kernels)
        stand.device.synchronize()
        waited = time.perf_counter()
        side.synchronize()
        with within(side):
            right = chain.right()
        end = time.perf_counter()
        rests.append(end - waited)
        wholes.append(end - start)
    rest, whole = statistics.median(rests), statistics.median(wholes)
    observed = (
        f"the stream had {units.duration(rest)} of {units.duration(whole)} left after synchronize"
    )
    if not right:
        yield failed(title, observed, "its result is wrong", "Look at how streams order their work")
        return
    reason = f"work ran on behind the timer (allowed {REST:.0%} of it)"
    next = "Let Device.synchronize wait for every stream of the device, not for the current one"
    yield judged(title, rest <= REST * whole, observed, reason, next)


def costs(stand: Stand) -> Iterator[Finding]:
    """What a launch and a synchronization cost: figures, no verdict."""
    import torch

    x = torch.ones(16, device=stand.place)
    for _ in range(MANY):
        x.add_(1)
    stand.device.synchronize()
    launches, waits = [], []
    for _ in range(MANY):
        start = time.perf_counter()
        x.add_(1)
        queued = time.perf_counter()
        launches.append(queued - start)
        stand.device.synchronize()
        start = time.perf_counter()
        stand.device.synchronize()
        waits.append(time.perf_counter() - start)
    yield note("launch of a small kernel", f"{units.duration(statistics.median(launches))}, median")
    yield note(
        "synchronize of an idle device", f"{units.duration(statistics.median(waits))}, median"
    )


CHECKS = (
    Check(name="synchronize", summary="it blocks until work is done", parts=(synchronize, costs)),
    Check(name="events", summary="device time agrees with the host's clock", parts=(events,)),
    Check(name="streams", summary="none leaks work past the timer", parts=(streams,)),
)
