"""The devices of a server on this host, looked at from beside it while a load is made.

Nothing here is the server's own word: the user says which devices it has (`--device`, `--devices`),
and they are read as those of any launch are (`bench.running.monitor`). What is seen is of the whole
card or package, whoever has it: the energy is the load's where nobody else does. Who that is nobody
can say, for the server's processes are not known as a worker's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from bench import catalogue
from bench.backend import DeviceInfo
from bench.records import environment
from bench.records.observed import Telemetry
from bench.records.outcome import Measured
from bench.running.monitor import Monitor
from bench.running.sampler import Order
from bench.telemetry.energy import with_energy
from bench.telemetry.joined import Sight

NOBODY_LOOKED = "the server was measured from outside"
WHO = "the server's own processes are not told from others'"
ONE_CARD = "not observable: two of the server's devices are on one card, whose energy is the card's"


class Watch(Protocol):
    """Looks at the devices of a server."""

    def begin(self) -> None:
        """A load is about to begin."""
        return

    def end(self, zero_ns: int) -> tuple[Sight, ...]:
        """What was seen since; zero_ns: when the load began (`time.perf_counter_ns`)."""

    def close(self) -> None:
        """Looks no more."""
        return


class NobodyLooks(Watch):
    """Where nobody said which devices the server has."""

    def end(self, zero_ns: int) -> tuple[Sight, ...]:
        """Nothing."""
        return ()


class Looks:
    """A monitor, as a launch has one."""

    def __init__(self, monitor: Monitor, indices: Sequence[int]) -> None:
        """indices: of the devices."""
        self._monitor = monitor
        self._indices = tuple(indices)

    def begin(self) -> None:
        """Of `Watch`."""
        self._monitor.lets_go()

    def end(self, zero_ns: int) -> tuple[Sight, ...]:
        """Of `Watch`."""
        return self._monitor.saw((), dict.fromkeys(self._indices, zero_ns))

    def close(self) -> None:
        """Of `Watch`."""
        self._monitor.close()


def watch(device: DeviceInfo | None, count: int) -> Watch:
    """Of so many devices, the first of which is given; nobody's where none is."""
    if device is None:
        return NobodyLooks()
    backend = catalogue.backend(device.backend)
    indices = tuple(range(device.index, device.index + (1 if backend.is_host else count)))
    variables = environment.worker_variables(backend.worker_environment())
    return Looks(Monitor(Order(backend=device.backend, indices=indices), variables), indices)


def first_of(sights: Sequence[Sight]) -> Telemetry | str:
    """What was seen of the first device, which the record keeps; or why nothing was."""
    return told(sights[0]) if sights else NOBODY_LOOKED


def told(sight: Sight) -> Telemetry | str:
    """What was seen of one device, without what is true of a worker's alone."""
    seen = sight.telemetry
    if isinstance(seen, str):
        return seen
    absent = {**seen.absent, "processes": WHO}
    return msgspec.structs.replace(
        seen, idle_watts=None, others=None, others_bytes=None, absent=absent
    )


def with_seen(outcome: Measured, sights: Sequence[Sight]) -> Measured:
    """The outcome with the energy of all the server's devices, each over the steady window; or why
    there is none. As it is where nobody looked."""
    if not sights:
        return outcome
    found = [with_energy(outcome, told(sight)) for sight in sights]
    for sight, one in zip(sights, found, strict=True):
        if one.energy_joules is None:
            which = f"device {sight.index}: " if len(sights) > 1 else ""
            absent = f"{which}{one.energy_absent}"
            return msgspec.structs.replace(one, energy_absent=absent)
    cards = [sight.card for sight in sights if sight.card]
    if len(set(cards)) < len(cards):
        return msgspec.structs.replace(outcome, energy_absent=ONE_CARD)
    joules = [one.energy_joules for one in found if one.energy_joules is not None]
    methods = {one.energy_method for one in found}
    return msgspec.structs.replace(
        outcome,
        energy_joules=sum(joules),
        energy_absent=None,
        energy_method="counter" if methods == {"counter"} else "power",
    )
