"""What a check did not run, or cannot tell, is no pass of it."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import catalogue
from bench.backend import DeviceInfo, Queued, Unsupported
from bench.conformance.check import Stand
from bench.conformance.checks import arithmetic, executions, operators, telemetry
from bench.conformance.checks._operators import OPERATORS
from bench.precision import Precision
from bench.records.observed import Reading
from bench.records.outcome import Memory
from bench.telemetry.source import Process, Source


class Denying(Stand):
    """The CPU, as one that has some precisions only, and notes those for which it is opened."""

    def __init__(self, has: Collection[str]) -> None:
        self.opened: list[str] = []
        super().__init__(catalogue.backend("cpu"), 0)
        kind: Any = type(self.backend)

        def unsupported(_: object, __: DeviceInfo, precision: Precision) -> str | None:
            return None if precision.name in has else "no unit for it"

        self.backend = type("Denying", (kind,), {"unsupported": unsupported})()
        self.opened.clear()

    def open(self, precision: Precision) -> Any:
        self.opened.append(precision.name)
        return super().open(precision)


@pytest.mark.parametrize(
    ("has", "ran", "verdict"),
    [
        ((), [], "not observable"),
        (("fp16",), ["fp16"], "pass"),
        (("bf16", "fp16"), ["bf16"], "pass"),
    ],
)
def test_an_operator_passes_only_in_what_it_ran_in(
    has: Collection[str], ran: list[str], verdict: str
) -> None:
    stand = Denying(has)
    for finding in operators.numerics(stand):
        assert finding.verdict == verdict, finding
        said = finding.observed or finding.reason
        assert "fp32 not supported" in said and all(f"{name} " in said for name in ran)
    assert stand.opened == ran * len(OPERATORS)


def test_operators_that_do_not_run_are_not_said_to_fall_back_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operators, "_error", lambda *_: 1 / 0)
    monkeypatch.setattr(Stand, "ran_on_host", lambda _: ())
    assert operators._announced(Denying(())).verdict == "not observable"


@pytest.mark.parametrize("has", [("fp32", "fp16"), ("fp32", "bf16", "fp16")])
def test_a_dtype_that_a_device_does_not_have_is_not_copied_to_it(
    has: Collection[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses bfloat16, as it says; one that claims bf16 may not."""
    copy = torch.Tensor.to

    def refusing(tensor: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if tensor.dtype is torch.bfloat16:
            raise TypeError("no such dtype here")
        given: torch.Tensor = copy(tensor, *arguments, **options)
        return given

    monkeypatch.setattr(torch.Tensor, "to", refusing)
    if "bf16" in has:
        with pytest.raises(TypeError, match="no such dtype"):
            list(arithmetic.transfers(Denying(has)))
        return
    (finding,) = arithmetic.transfers(Denying(has))
    assert finding.verdict == "pass"
    assert finding.observed == (
        "2 MiB of float32, float16, int64, uint8, waiting and not; no bfloat16: no unit for it"
    )


GIB = 2**30
PIECE = telemetry.PIECE_BYTES
HOLD = telemetry._hold


class Card(Source):
    """What a card says, one saying after the other, the last one for good."""

    name = "smi"

    def __init__(self, used: Sequence[int | None], users: tuple[Process, ...] | None = ()) -> None:
        super().__init__()
        self.used, self.users = list(used), users

    def read(self) -> Reading:
        used = self.used.pop(0) if len(self.used) > 1 else self.used[0]
        return Reading(power_watts=100.0, memory_used_bytes=used)

    def processes(self) -> tuple[Process, ...] | None:
        return self.users


def told(
    monkeypatch: pytest.MonkeyPatch,
    source: Source,
    device: Iterable[int | None],
    hold: Callable[[Any], tuple[object, int]] = lambda _: (None, PIECE),
) -> Any:
    """Findings by title, of a device that says itself what of it is in use: before, and later."""
    monkeypatch.setattr(telemetry, "APART_SECONDS", 0.0)
    monkeypatch.setattr(telemetry, "_hold", hold)
    says = iter(device)
    stand: Any = SimpleNamespace(
        backend=SimpleNamespace(telemetry=lambda index: source),
        index=1,
        on_host=False,
        framework=SimpleNamespace(hands_over=False),
        place="meta",
        device=SimpleNamespace(
            synchronize=lambda: None,
            info=DeviceInfo(backend="x", index=1, name="X", memory_bytes=64 * GIB),
            memory=lambda: Memory(
                peak_bytes=1, scope="x", host_rss_bytes=1, device_used_bytes=next(says)
            ),
        ),
    )
    return {finding.title: finding for finding in telemetry.readings(stand)}


@pytest.mark.parametrize(
    ("source", "device", "verdict"),
    [
        ((GIB, GIB + PIECE), (GIB, GIB + PIECE), "pass"),
        ((GIB, GIB, GIB + PIECE), (GIB, GIB + PIECE), "pass"),
        ((5 * GIB, 5 * GIB), (GIB, GIB + PIECE), "fail"),
        ((5 * GIB, 5 * GIB), (GIB, GIB), "not observable"),
        ((5 * GIB, 5 * GIB), (None, None), "not observable"),
        ((GIB, GIB + PIECE), (None, None), "pass"),
        ((None, None), (GIB, GIB + PIECE), None),
    ],
    ids=["own", "late", "another's", "a pool", "silent", "own, silent", "no memory"],
)
def test_a_source_of_another_device_is_seen_by_memory_that_is_held_here(
    monkeypatch: pytest.MonkeyPatch,
    source: Sequence[int | None],
    device: Sequence[int | None],
    verdict: str | None,
) -> None:
    found = told(monkeypatch, Card(source), device).get(telemetry.OWN)
    assert (found and found.verdict) == verdict
    if verdict == "fail":
        assert "another device's figures" in found.reason


class Piece:
    """Of a device's memory: free as soon as nobody has it."""


def test_what_is_held_is_held_until_it_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a source that is late: in the third reading it is there, if it is still held."""
    pieces: weakref.WeakSet[Piece] = weakref.WeakSet()

    def hold(_: object) -> tuple[object, int]:
        pieces.add(piece := Piece())
        return piece, PIECE

    def used(reading: int = 2) -> int:
        return GIB + (PIECE if pieces and reading >= 2 else 0)

    class Late(Card):
        def read(self) -> Reading:
            return Reading(power_watts=100.0, memory_used_bytes=used(next(readings)))

    readings = itertools.count()
    device = (used() for _ in itertools.count())
    found = told(monkeypatch, Late([]), device, hold)[telemetry.OWN]
    assert found.verdict == "pass", found
    assert not pieces, "and is given back"


@pytest.mark.parametrize(
    ("joules_per_second", "verdict"),
    [(100.0, "pass"), (60.0, "pass"), (0.1, "fail"), (1e5, "fail"), (0.0, "not observable")],
    ids=["right", "late", "kJ", "mJ", "still"],
)
def test_energy_in_another_unit_is_told_by_the_power(
    monkeypatch: pytest.MonkeyPatch, joules_per_second: float, verdict: str
) -> None:
    """Items per joule were a thousand times too good, or too bad."""

    class Counter(Card):
        def read(self) -> Reading:
            joules = 1e6 + joules_per_second * clock.monotonic()
            return Reading(power_watts=100.0, energy_joules=joules)

    now = itertools.count(step=0.25)
    clock = SimpleNamespace(monotonic=lambda: next(now), sleep=lambda seconds: None)
    monkeypatch.setattr(telemetry, "time", clock)
    found = told(monkeypatch, Counter([]), (GIB, GIB))[telemetry.AGREE]
    assert found.verdict == verdict, found
    if verdict == "fail":
        assert found.reason == "energy and power disagree" and "unit" in found.next


@pytest.mark.parametrize(
    ("energy", "power", "verdict"),
    [
        ({4}, set(), "pass"),
        ({0}, set(), "pass"),
        (set(), {1, 2, 3}, "pass"),
        ({0, 1, 2}, {3}, "not observable"),
    ],
    ids=["the last energy", "the first", "powers", "all but one look"],
)
def test_a_figure_that_was_not_said_this_once_is_no_zero(
    monkeypatch: pytest.MonkeyPatch, energy: Collection[int], power: Collection[int], verdict: str
) -> None:
    class Fails(Card):
        def read(self) -> Reading:
            look = next(looks)
            joules = 1e6 + 100.0 * clock.monotonic()
            return Reading(
                power_watts=None if look in power else 100.0,
                energy_joules=None if look in energy else joules,
            )

    now, looks = itertools.count(step=0.25), itertools.count(-2)
    clock = SimpleNamespace(monotonic=lambda: next(now), sleep=lambda seconds: None)
    monkeypatch.setattr(telemetry, "time", clock)
    assert told(monkeypatch, Fails([]), (GIB, GIB))[telemetry.AGREE].verdict == verdict


def test_a_source_that_says_but_one_of_both_is_not_held_to_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert telemetry.AGREE not in told(monkeypatch, Card([None]), (GIB, GIB))


@pytest.mark.parametrize("percent", [5.0, 5.2, 5.99])
def test_a_source_of_whole_percents_is_this_device_s(
    monkeypatch: pytest.MonkeyPatch, percent: float
) -> None:
    """As npu-smi's, of whose 64 GiB torch has a little less."""
    held: list[int] = []

    def hold(stand: Any) -> tuple[object, int]:
        piece, size = HOLD(stand)
        held.append(size)
        return piece, size

    class Rate(Card):
        def read(self) -> Reading:
            whole = 67 * GIB
            return Reading(memory_used_bytes=int(percent + 100 * sum(held) / whole) * whole // 100)

    device = (sum(held) for _ in itertools.count())
    found = told(monkeypatch, Rate([]), device, hold)[telemetry.OWN]
    assert found.verdict == "pass", found


@pytest.mark.parametrize(
    ("users", "verdict"),
    [((), "not observable"), (None, "not observable"), ((Process(7, 1),), "pass")],
)
def test_a_list_without_its_own_process_shows_no_other_users(
    monkeypatch: pytest.MonkeyPatch, users: tuple[Process, ...] | None, verdict: str
) -> None:
    found = told(monkeypatch, Card([None], users), (GIB, GIB))
    assert found["other users of the device can be seen"].verdict == verdict


def test_what_is_not_recorded_is_no_failure_of_a_replay() -> None:
    def refuses(work: Queued, prepare: Queued) -> Queued:
        raise Unsupported("a recording failed")

    device = SimpleNamespace(recorder=lambda: refuses)
    stand: Any = SimpleNamespace(device=device, place=torch.device("cpu"))
    (found,) = executions.graphs(stand)
    assert found.verdict == "not observable" and "skipped: a recording failed" in found.reason


def test_where_nobody_is_listed_it_is_said_of_what() -> None:
    """A device that shares the host's memory may list all processes, and none with its own."""
    found = telemetry._processes(Card([None]))
    assert (found.verdict, found.reason) == (
        "not observable",
        "smi lists nobody with memory there, not even this process",
    )
    assert telemetry._processes(Card([None], (Process(7, 2**30),))).verdict == "pass"
