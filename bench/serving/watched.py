"""The devices of a server on this host, looked at from beside it while a load is made.

Nothing here is the server's own word: the user says which devices it has (`--device`, `--devices`),
and they are read as those of any launch are (`bench.running.monitor`). What is seen is of the whole
card or package, whoever has it: the energy is the load's where nobody else does. Who that is nobody
can say, for the server's processes are not known as a worker's are.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench import catalogue
from bench.backend import DeviceInfo
from bench.records import environment
from bench.records.observed import Telemetry
from bench.records.outcome import Measured, Outcome, Share
from bench.running.monitor import Monitor
from bench.running.sampler import Order
from bench.telemetry import joined
from bench.telemetry.joined import Sight

NOBODY_LOOKED = "the server was measured from outside"
WHO = "the server's own processes are not told from others'"


def watch(device: DeviceInfo | None, count: int) -> Monitor | None:
    """Of so many devices, the first of which is given; None where none is."""
    if device is None:
        return None
    backend = catalogue.backend(device.backend)
    indices = tuple(range(device.index, device.index + (1 if backend.is_host else count)))
    variables = environment.worker_variables(backend.worker_environment())
    return Monitor(Order(backend=device.backend, indices=indices), variables)


def told(sight: Sight) -> Telemetry | str:
    """What was seen of one device, without what is true of a worker's alone."""
    seen = sight.telemetry
    if isinstance(seen, str):
        return seen
    absent = {**seen.absent, "processes": WHO}
    return msgspec.structs.replace(
        seen, idle_watts=None, others=None, others_bytes=None, absent=absent
    )


def with_seen(outcome: Outcome, sights: Sequence[Sight]) -> tuple[Outcome, Telemetry | str]:
    """What was measured with the energy of all the server's devices over the steady window, or why
    there is none, and with their flags; and what was seen of the first, which the record keeps, or
    why nothing was."""
    if not sights:
        return outcome, NOBODY_LOOKED
    if not isinstance(outcome, Measured):
        return outcome, told(sights[0])
    looks = {(0, x.index): msgspec.structs.replace(x, telemetry=told(x)) for x in sights}
    found, first = joined.observed(outcome, looks)
    if len(looks) > 1:
        busy = tuple(block.wall_ns for block in outcome.steady)
        parts = [Share(rank=i, device=i, busy_ns=busy, memory=outcome.memory) for _, i in looks]
        found, _ = joined.together(outcome, parts, looks, "device")
    return found, first
