"""The devices of a server, looked at while a load is made."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from bench.backend import DeviceInfo
from bench.records.observed import Reading, Telemetry
from bench.records.outcome import Measured
from bench.running.sampler import Order
from bench.serving import watched
from bench.serving.session import Ask
from bench.serving.watched import NOBODY_LOOKED, with_seen
from bench.telemetry.joined import Sight
from bench.tests.served_runs import measured, served
from bench.tests.values import failed

LOAD = measured(served(step_ms=300))
"""A steady window of 84 steps: 25.2 s, which begins 1.8 s after the load."""


def sight(
    watts: float = 100.0, index: int = 0, card: str = "", seconds: int = 40, **changes: Any
) -> Sight:
    """A device that draws so much, read once a second since two before the load."""
    reasons = changes.pop("reasons", None)
    readings = [
        Reading(at_seconds=float(at), power_watts=watts, reasons=reasons) for at in range(seconds)
    ]
    seen = Telemetry(
        source="meter",
        scope=changes.pop("scope", "board"),
        interval_seconds=1.0,
        first_step_seconds=2.0,
        readings=tuple(readings),
        idle_watts=11.0,
        others=1,
    )
    return Sight(index=index, telemetry=seen, card=card, **changes)


def seen_of(*sights: Sight) -> Measured:
    found, _ = with_seen(LOAD, sights)
    assert isinstance(found, Measured)
    return found


def test_energy_is_that_of_the_steady_window_of_every_device() -> None:
    assert LOAD.steady_seconds == pytest.approx(25.2)
    one = seen_of(sight())
    assert one.energy_joules == pytest.approx(2520) and one.energy_method == "power"
    two = seen_of(sight(card="a"), sight(300.0, 1, card="b"))
    assert two.energy_joules == pytest.approx(4 * 2520) and two.ranks == ()
    assert with_seen(LOAD, []) == (LOAD, NOBODY_LOOKED)


def test_energy_of_a_card_counts_once_and_that_of_a_chip_each_time() -> None:
    """As of a launch with a rank on each of these devices."""
    dies = [sight(index=i, card="a") for i in range(2)]
    assert seen_of(*dies).energy_joules == pytest.approx(2520)
    chips = [sight(index=i, card="a", scope="chip") for i in range(2)]
    assert seen_of(*chips).energy_joules == pytest.approx(2 * 2520)


@pytest.mark.parametrize(
    ("sights", "why"),
    [
        (
            [sight(card="a"), Sight(index=1, telemetry="no such device")],
            "device 1: .*no such device",
        ),
        ([sight(), sight(index=1)], "^not observable: meter does not say which card"),
        (
            [sight(index=4, card="a"), sight(index=5, card="b", scope="package")],
            "device 4: .*several scopes: board, package",
        ),
        (
            [sight(index=4, card="a"), sight(200.0, 5, card="a")],
            "neither is believed: the devices of its card",
        ),
        ([sight(seconds=20)], "do not reach over"),
    ],
)
def test_energy_that_is_not_all_there_is_none(sights: list[Sight], why: str) -> None:
    found = seen_of(*sights)
    assert found.energy_joules is None
    assert re.search(why, found.energy_absent or "")


def test_a_device_that_throttles_while_the_load_is_made_says_so() -> None:
    """Of several, with its number; and whether there is an energy or not."""
    hot = seen_of(sight(reasons=("thermal",)))
    assert hot.flags == ("THROTTLED",) and hot.causes["THROTTLED"].startswith("thermal in")
    second = seen_of(sight(index=4), sight(index=5, reasons=("thermal",)))
    assert second.flags == ("THROTTLED",) and second.energy_joules is None
    assert second.causes["THROTTLED"].startswith("device 5: thermal in")
    both = seen_of(*(sight(index=i, reasons=("thermal",)) for i in (4, 5)))
    assert both.causes["THROTTLED"].endswith("; all other devices too")


def test_a_counter_that_is_not_believed_says_why() -> None:
    one = sight()
    assert isinstance(one.telemetry, Telemetry)
    stuck = tuple(msgspec.structs.replace(r, energy_joules=5.0) for r in one.telemetry.readings)
    seen = msgspec.structs.replace(one.telemetry, readings=stuck)
    _, first = with_seen(LOAD, [msgspec.structs.replace(one, telemetry=seen)])
    assert isinstance(first, Telemetry) and "stood still" in first.absent["energy counter"]


def test_a_short_window_asks_for_more_requests() -> None:
    found, _ = with_seen(measured(served(step_ms=30)), [sight()])
    assert isinstance(found, Measured) and found.energy_absent == (
        "too short: a steady window of 2.5 s, 20 s are needed; more requests give them"
    )


def test_what_is_true_of_a_worker_alone_is_not_said_of_a_server() -> None:
    """Nobody knows which processes are the server's; and the device is never without it."""
    _, seen = with_seen(failed(), [sight()])
    assert isinstance(seen, Telemetry)
    assert (seen.idle_watts, seen.others) == (None, None) and "processes" in seen.absent
    assert with_seen(failed(), []) == (failed(), NOBODY_LOOKED)


def test_all_devices_that_are_said_to_be_the_server_s_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first that was named and those after it; of a host there is one."""
    asked: list[tuple[str, tuple[int, ...]]] = []

    class Monitor:
        def __init__(self, order: Order, environment: object) -> None:
            asked.append((order.backend, order.indices))

    monkeypatch.setattr(watched, "Monitor", Monitor)
    host = DeviceInfo(backend="cpu", index=0, name="a host", memory_bytes=None)
    card = DeviceInfo(backend="cuda", index=2, name="a card", memory_bytes=None)
    watched.watch(host, 2)
    watched.watch(card, 2)
    assert asked == [("cpu", (0,)), ("cuda", (2, 3))]
    assert watched.watch(None, 2) is None
    assert Ask.__struct_defaults__[-1] is None
