"""A step of an accelerator explained: each operator by itself, on operands that rotate.

Kernels of a few microseconds blur where each has its own event, so each operator runs many times
between two: in a recorded graph where the device has graphs, else in a loop. Its operands change
with every call, and what is touched of them is together larger than a cache; what cannot be rotated
so far is flagged. What the host queues no faster than the device does it has no time of its own in
a loop, and none is given: what was read would be the host's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.explaining import in_order
from bench.measuring.explaining.calls import Call, Ref
from bench.measuring.explaining.ceilings import Meter
from bench.measuring.explaining.in_order import Disturbed, products
from bench.measuring.explaining.profiled import Profiler
from bench.measuring.explaining.replay import operands
from bench.measuring.explaining.rows import Rows
from bench.measuring.explaining.tape import Tape
from bench.measuring.explaining.timing import Stopwatch, launch_ns
from bench.measuring.timing.blocks import collected
from bench.planning import memory_fit
from bench.records.explained import Explained, Unexplained
from bench.records.reason import of_error

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

ROTATE_BYTES = 512 << 20
"""What all calls in a row touch together: twice the largest cache that is known of a device."""
MOST_SETS = 64
FEWEST_CALLS = 16
"""In a row, however large the operands: fewer are blurred by their two events."""
SMALL_BYTES = 1 << 20
"""Touched by a call; below it is latency that counts, and no cache."""
REPEATS = 5
STEPS = 5
"""In a row, of which one is a turn."""
SPARE = 0.5
"""Of the memory that is left, how much operands may take."""
PROFILED_STEPS = 5
QUEUED = 0.8
"""Of the time of a loop; where queueing it takes more of it, the loop is as long as that."""
SLOW_HOST = "without graphs here, the host queues it more slowly than the device does it"

NO_GRAPH_AFTER = "an operator could not be recorded, so those after it ran in a loop"


class Row(NamedTuple):
    """What was measured of an operator."""

    ns: float = 0.0
    """Of one call."""
    queue_ns: float | None = None
    """Host time to queue one that is in no graph."""
    hot: bool = False
    absent: str = ""
    """Why its time is none; empty where it is one."""


def explained(
    job: Job,
    device: Device,
    clock: Callable[[], int] = time.perf_counter_ns,
    disturbed: Disturbed = dict,
    batch: int | None = None,
) -> Explained | Unexplained:
    """The account of a job's step on an asynchronous device; see `in_order.explained`."""
    profiler = Profiler(job, device)
    tape = in_order.taped(job, device, profiler)
    device.release_memory()  # what its allocator keeps for itself is there to be had
    free = _free_bytes(device)
    largest = max((_size(call) for call in tape.calls), default=0)
    if lacking := in_order.too_little_memory(2 * largest, free, batch):
        return Unexplained(reason=lacking)
    stopwatch = Stopwatch(device, clock)
    variants = [None if call.structure else call.variant for call in tape.calls]
    first: dict[Hashable, Call] = {}
    for variant, call in zip(variants, tape.calls, strict=True):
        if variant is not None:
            first.setdefault(variant, call)
    with collected():
        meter = Meter(device, stopwatch, products(tape))
        launch = launch_ns(stopwatch)  # before what cannot be recorded
        _step_ns(job, stopwatch)  # which gets its memory again
        steps = [_step_ns(job, stopwatch) for _ in range(REPEATS)]
        found: dict[Hashable, Row] = {None: Row()}
        for place, (variant, call) in enumerate(first.items()):
            try:
                row = row_of(tape, call, stopwatch, free)
            except Exception as error:  # noqa: BLE001 - its row says why it has no time
                row = Row(absent=of_error(error).splitlines()[0])
            found[variant] = row
            if call.flop and not row.absent:
                meter.note(in_order.ceiling_of(call), call.flop / row.ns * 1e9)
            if place % 10 == 0:  # in turns: a device's clock drifts too
                meter.look()
                steps.append(_step_ns(job, stopwatch))
        meter.look()
        causes = disturbed()
        for _ in range(PROFILED_STEPS - 1):
            profiler.look()
        profile, profiled = profiler.seen(tape)
    pairs = [(call, found[v]) for call, v in zip(tape.calls, variants, strict=True)]
    missing = {call.row: row.absent for call, row in pairs if row.absent}
    each = [0.0 if row.absent else row.ns for _, row in pairs]
    rows, order = Rows(tape, each).operators({}, missing)
    if hot := {call.row for call, row in pairs if row.hot}:
        causes["HOT"] = f"{len(hot)} operators"
    queue = [row.queue_ns for _, row in pairs if row.queue_ns is not None]
    short = len(order) <= in_order.LONGEST_ORDER
    return Explained(
        how="operands rotated",
        step_ns=tuple(steps),
        call_floor_ns=statistics.median(queue) if queue else 0.0,
        operators=rows,
        ceilings=meter.ceilings(launch),
        profile=profile,
        profile_absent=profiler.absent,
        profiled_operators=profiled,
        causes=causes,
        notes=(*tape.notes, *(f"{NO_GRAPH_AFTER}: {said}" for said in stopwatch.failed)),
        order=order if short else (),
        call_ns=tuple(map(round, each)) if short else (),
    )


def row_of(tape: Tape, call: Call, stopwatch: Stopwatch, free: int | None) -> Row:
    """One operator, called in a row on operands that rotate; free: bytes that are left."""
    import torch

    device, size = stopwatch.device, max(1, _size(call))
    used = _touched(call)
    room = ROTATE_BYTES + size if free is None else free * SPARE
    wanted = -(-ROTATE_BYTES // (used if used >= SMALL_BYTES else size))
    sets = max(1, min(MOST_SETS, wanted, int(room / size)))
    given = [operands(tape, call, device.torch_device) for _ in range(sets)]
    given = given * -(-FEWEST_CALLS // sets)
    calls = len(given)

    def work() -> None:
        with torch.no_grad():
            for args, kwargs in given:
                call.func(*args, **kwargs)

    work()
    hot = used >= SMALL_BYTES and sets * used < ROTATE_BYTES
    queued = statistics.median(stopwatch.queued_ns(work) for _ in range(REPEATS)) / calls
    replay = stopwatch.in_graph(work)
    in_a_row = stopwatch.in_a_row(replay or work)
    taken = statistics.median(
        stopwatch.each_ns(replay or work, in_a_row) / calls for _ in range(REPEATS)
    )
    slow = replay is None and queued > QUEUED * taken
    return Row(taken, queued, hot, SLOW_HOST if slow else "")


def _step_ns(job: Job, stopwatch: Stopwatch) -> int:
    """One of several steps in a row; of a job whose steps use operands up, of as many as it has."""
    job.refill()
    return round(stopwatch.each_ns(job.step, min(STEPS, job.most_steps or STEPS)))


def _size(call: Call) -> int:
    """Bytes of its operands, those of one storage once."""
    slots: dict[Any, int] = {}
    for ref in call.flat:
        if isinstance(ref, Ref):
            slots[ref.slot] = max(slots.get(ref.slot, 0), ref.end_bytes)
    return sum(slots.values())


def _touched(call: Call) -> int:
    """Bytes of its operands that it reads or writes; of a table only the rows that it needs."""
    given = {ref for ref in call.flat if isinstance(ref, Ref)}
    slots = {ref.slot for ref in given}
    made = [ref for ref in call.outs if ref is not None and ref.slot not in slots]
    views, fresh = (sum(r.numel * int(r.dtype.itemsize) for r in refs) for refs in (given, made))
    return max(1, min(_size(call), views, sum(call.moved) - fresh))


def _free_bytes(device: Device) -> int | None:
    """What the device has left; None where it does not say."""
    capacity = device.capacity_bytes()
    if device.shares_host_memory and capacity is not None:  # what is left; not all of it
        return int(memory_fit.MARGIN * capacity)
    used = device.memory().device_used_bytes
    return None if capacity is None or used is None else max(0, capacity - used)
