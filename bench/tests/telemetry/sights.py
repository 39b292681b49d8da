"""What was seen of the devices of a launch of many, and launches joined of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bench.records.observed import Reading, Telemetry
from bench.records.outcome import Measured, Share
from bench.records.run import Launch
from bench.telemetry.joined import Sight, Where, observed
from bench.tests.telemetry.launches import seen, steady
from bench.tests.values import make_case, make_launch


def of(*devices: Where) -> Measured:
    """Steady blocks that ranks on these devices (host, index) have taken."""
    outcome = steady()
    busy = tuple(block.wall_ns for block in outcome.steady)
    shares = tuple(
        Share(rank=rank, host=host, device=index, busy_ns=busy, memory=outcome.memory)
        for rank, (host, index) in enumerate(devices)
    )
    return msgspec.structs.replace(outcome, ranks=shares)


def sight(
    index: int = 0,
    watts: float | None = 100.0,
    card: str | None = None,
    card_devices: int | None = 1,
    **changes: Any,
) -> Sight:
    """Of a device that draws so much all the time, on a card of its own."""
    telemetry = seen(power=lambda at: watts, **changes)
    if watts is None:
        telemetry = msgspec.structs.replace(telemetry, absent={"power": "it does not say"})
    name = f"card {index}" if card is None else card
    return Sight(index=index, telemetry=telemetry, card=name, card_devices=card_devices)


def joined(*sights: Sight, hosts: Sequence[int] = ()) -> tuple[Measured, Telemetry | str]:
    """A launch of a rank on each of these devices."""
    hosts = hosts or [0] * len(sights)
    places = [(host, one.index) for host, one in zip(hosts, sights, strict=True)]
    return observed(of(*places), dict(zip(places, sights, strict=True)))


def dies(*watts: float, package: int = 2) -> list[Sight]:
    """Two dies of each package, which read its one power."""
    return [
        sight(2 * k + die, power, str(k), package, scope="package")
        for k, power in enumerate(watts)
        for die in (0, 1)
    ]


def hot(index: int, *reasons: str, **changes: Any) -> Sight:
    readings = tuple(
        Reading(at_seconds=k / 5, temperature_celsius=93, clock_mhz=1000, reasons=reasons)  # type: ignore[arg-type]
        for k in range(300)
    )
    return sight(index, readings=readings, **changes)


CASE = make_case(devices=4, parallelism="dp4")


def launches(make: Callable[[int], Sequence[Sight]], count: int = 3) -> list[Launch]:
    found = []
    for k in range(count):
        outcome, first = joined(*make(k))
        seen = isinstance(first, Telemetry)
        said: dict[str, Any] = {
            "telemetry": first if seen else None,
            "telemetry_absent": None if seen else first,
        }
        found.append(make_launch(outcome, CASE, launch=k, order=k, **said))
    return found
