"""A step of an accelerator explained: each operator by itself, on operands that rotate.

Kernels of a few microseconds blur where each has its own event, so each operator runs many times
between two: in a recorded graph where the device has graphs, else in a loop. Its operands change
with every call and are together larger than a cache; what cannot be rotated so far is flagged.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measuring.explaining import in_order
from bench.measuring.explaining.ceilings import Meter
from bench.measuring.explaining.in_order import Watcher, collected, products
from bench.measuring.explaining.profiled import Profiler
from bench.measuring.explaining.replay import operands
from bench.measuring.explaining.rows import Key, Rows
from bench.measuring.explaining.tape import Call, Ref, Tape
from bench.measuring.explaining.timing import Stopwatch
from bench.records.explained import Explained, Unexplained
from bench.records.reason import of_error

if TYPE_CHECKING:
    from bench.backend import Device
    from bench.workload import Job

ROTATE_BYTES = 512 << 20
"""Operands of all calls in a row together: twice the largest cache that is known of a device."""
MOST_SETS = 64
FEWEST_CALLS = 16
"""In a row, however large the operands: fewer are blurred by their two events."""
SMALL_BYTES = 1 << 20
"""Operands of a call below which it is latency that counts, and no cache."""
REPEATS = 5
STEPS = 5
"""In a row, of which one is a turn."""
SPARE = 0.5
"""Of the memory that is left, how much operands may take."""
PROFILED_STEPS = 5


class Row(NamedTuple):
    """What was measured of an operator."""

    ns: float
    """Of one call."""
    queue_ns: float
    """Host time to queue one; 0 in a graph, which needs no host."""
    hot: bool


def explained(
    job: Job,
    device: Device,
    clock: Callable[[], int] = time.perf_counter_ns,
    watcher: Watcher | None = None,
    batch: int | None = None,
) -> Explained | Unexplained:
    """The account of a job's step on an asynchronous device; see `in_order.explained`."""
    watcher = watcher or Watcher()
    profiler = Profiler(job, device)
    tape = in_order.taped(job, device, profiler)
    free = _free_bytes(device)
    largest = max((_size(call) for call in tape.calls), default=0)
    if lacking := in_order.too_little_memory(2 * largest, free, batch):
        return Unexplained(reason=lacking)
    stopwatch = Stopwatch(device, clock)
    with collected():
        meter = Meter(device, stopwatch, products(tape))
        steps = [_step_ns(job, stopwatch) for _ in range(REPEATS)]
        blank = Rows(tape, [0.0] * len(tape.calls))
        found: dict[Key, Row] = {}
        absent: dict[Key, str] = {}
        for place, key in enumerate(blank.keys):
            call = blank.first(key)
            if call.structure:
                continue
            try:
                found[key] = row_of(tape, call, stopwatch, free)
            except Exception as error:  # noqa: BLE001 - its row says why it has no time
                absent[key] = of_error(error).splitlines()[0]
            if place % 10 == 0:  # in turns: a device's clock drifts too
                meter.look()
                steps.append(_step_ns(job, stopwatch))
            watcher.turn()
        meter.look()
        launch = _launch_ns(stopwatch)
        causes = watcher.causes()
        for _ in range(PROFILED_STEPS - 1):
            profiler.look()
        profile, profiled = profiler.seen(tape)
    each = [found[blank.key(call)].ns if blank.key(call) in found else 0.0 for call in tape.calls]
    rows, order = Rows(tape, each).operators({}, absent)
    hot = sum(row.hot for row in found.values())
    if hot:
        causes["HOT"] = f"{hot} operators"
    queue = [row.queue_ns for row in found.values()]
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
        notes=tape.notes,
        order=order if short else (),
        call_ns=tuple(map(round, each)) if short else (),
    )


def row_of(tape: Tape, call: Call, stopwatch: Stopwatch, free: int | None) -> Row:
    """One operator, called in a row on operands that rotate; free: bytes that are left."""
    import torch

    device, size = stopwatch.device, max(1, _size(call))
    wanted = max(1, min(MOST_SETS, -(-ROTATE_BYTES // size)))
    sets = wanted if free is None else max(1, min(wanted, int(free * SPARE / size)))
    given = [operands(tape, call, device.torch_device) for _ in range(sets)]
    given = given * -(-FEWEST_CALLS // sets)
    calls = len(given)

    def work() -> None:
        with torch.no_grad():
            for args, kwargs in given:
                call.func(*args, **kwargs)

    work()
    hot = size >= SMALL_BYTES and sets * size < ROTATE_BYTES
    replay = _in_graph(device, work)
    if replay is not None:
        taken = statistics.median(stopwatch.each_ns(replay) for _ in range(REPEATS))
        return Row(taken / calls, 0.0, hot)
    taken = statistics.median(stopwatch.each_ns(work) for _ in range(REPEATS))
    device.synchronize()
    start = stopwatch.clock()
    work()
    queued = stopwatch.clock() - start
    device.synchronize()
    return Row(taken / calls, queued / calls, hot)


def _in_graph(device: Device, work: Callable[[], None]) -> Callable[[], None] | None:
    """The work recorded, where the device has graphs and takes it into one."""
    recorder = device.recorder()
    if recorder is None:
        return None
    try:
        return recorder(work, lambda: None)
    except RuntimeError:  # it asks the device, or its library cannot be recorded
        device.synchronize()
        return None


def _step_ns(job: Job, stopwatch: Stopwatch) -> int:
    """One of several steps in a row; of a job whose steps use operands up, of as many as it has."""
    job.refill()
    return round(stopwatch.each_ns(job.step, min(STEPS, job.most_steps or STEPS)))


def _launch_ns(stopwatch: Stopwatch) -> float:
    """The least that a call takes that works on one element, in a graph or in a loop."""
    import torch

    one = torch.ones(1, device=stopwatch.device.torch_device)

    def work() -> None:
        for _ in range(100):
            one.add_(1.0)

    work()
    replay = _in_graph(stopwatch.device, work) or work
    return min(stopwatch.each_ns(replay) for _ in range(REPEATS)) / 100


def _size(call: Call) -> int:
    """Bytes of its operands, those of one storage once."""
    slots: dict[Any, int] = {}
    for ref in call.flat:
        if isinstance(ref, Ref):
            slots[ref.slot] = max(slots.get(ref.slot, 0), ref.end_bytes)
    return sum(slots.values())


def _free_bytes(device: Device) -> int | None:
    """What the device has left; None where it does not say."""
    capacity, used = device.capacity_bytes(), device.memory().device_used_bytes
    return None if capacity is None or used is None else max(0, capacity - used)
