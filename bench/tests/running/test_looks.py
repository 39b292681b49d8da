"""A look that fails, or sees what cannot be, in the side process: what it costs is counted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import pytest

from bench import catalogue
from bench.backend import DeviceInfo
from bench.records.observed import Reading
from bench.running import sampler
from bench.running.monitor import watched as to_watch
from bench.running.sampler import Answer
from bench.telemetry.source import NotObservable, Process, Source
from bench.tests.values import make_case


class Flaky(Source):
    """Fails as told: what each look does, in order; the last for ever."""

    name = "flaky"

    def __init__(self, *looks: Reading | Exception) -> None:
        super().__init__()
        self._looks = list(looks)
        self.users: Exception | tuple[Process, ...] = ()

    def read(self) -> Reading:
        found = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if isinstance(found, Exception):
            raise found
        self.absent = {} if found.power_watts else {"power": "flaky: it says nothing"}
        return found

    def processes(self) -> tuple[Process, ...] | None:
        if isinstance(self.users, Exception):
            raise self.users
        return self.users


def watched(
    monkeypatch: pytest.MonkeyPatch, source: Callable[[], Source], looks: int
) -> tuple[sampler._State, Answer]:
    """What the looking thread has to say after so many pauses."""

    class Enough(BaseException):
        pass

    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) >= looks:
            raise Enough

    class Backend:
        def telemetry(self, index: int) -> Source:
            return source()

    monkeypatch.setattr(catalogue, "backend", lambda name: Backend())
    monkeypatch.setattr(time, "sleep", pause)
    state = sampler._State()
    with contextlib.suppress(Enough):
        sampler._look_on(state, "cpu", 0, sampler._Costs())
    assert max(pauses) <= sampler.MOST_INTERVAL_SECONDS
    return state, state.answer()


@pytest.mark.parametrize("error", [NotObservable("it hiccuped"), RuntimeError("boom")])
def test_a_look_that_fails_is_counted_and_there_is_another(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Reading(power_watts=5.0)
    source = Flaky(good, error, error, good)
    state, answer = watched(monkeypatch, lambda: source, 5)
    assert [look.reading for look in answer.seen] == [good] * 3
    assert (answer.problem, answer.source) == (None, "flaky")
    assert answer.absent == {"looks": f"2 of 5 failed: {sampler.reason_of(error)}"}
    assert state.answer().absent == {}, "counted once"


def test_what_all_devices_cost_together_is_kept_to_one_share() -> None:
    """Whoever has looked: what each thread took at its last look, and all programs in a round."""
    costs = sampler._Costs()
    assert costs.of_a_round(0, 0.001, 0.0) == pytest.approx(0.001)
    assert costs.of_a_round(1, 0.002, 0.03) == pytest.approx(0.033)
    assert costs.of_a_round(0, 0.003, 0.04) == pytest.approx(0.045)
    assert sampler.pause_seconds(0.045, 0.2, cores=4) == pytest.approx(2.25)


def test_a_source_that_opens_at_the_second_try_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def opened() -> Source:
        tries.append(1)
        if len(tries) < 2:
            raise NotObservable("busy")
        return Flaky(Reading(power_watts=5.0))

    _, answer = watched(monkeypatch, opened, 3)
    assert len(answer.seen) == 2 and answer.problem is None


def test_a_source_that_never_opens_is_a_problem_after_three_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opened() -> Source:
        raise NotObservable("no such tool")

    _, answer = watched(monkeypatch, opened, 99)
    assert (answer.problem, answer.source) == ("no such tool", "")


def test_a_device_that_never_answers_again_is_asked_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, answer = watched(monkeypatch, lambda: Flaky(RuntimeError("lost")), 20)
    assert (answer.seen, answer.trouble, answer.problem) == ((), "RuntimeError: lost", None)
    assert answer.absent == {"looks": "20 of 20 failed: RuntimeError: lost"}
    assert state.busy_since is None


def test_one_quantity_that_is_missed_costs_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how often it was, so that a figure of three looks is not taken for one of all."""
    source = Flaky(Reading(power_watts=5.0, clock_mhz=9), Reading(clock_mhz=9))
    source.users = RuntimeError("no permission")
    _, answer = watched(monkeypatch, lambda: source, 4)
    assert [look.reading.clock_mhz for look in answer.seen] == [9] * 4
    assert answer.absent == {
        "power": "flaky: it says nothing (in 3 of 4 looks)",
        "processes": "RuntimeError: no permission",
    }
    assert answer.seen[0].users is None


def test_what_cannot_be_is_left_out_whoever_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    impossible = Reading(power_watts=65535.0, clock_mhz=1410, temperature_celsius=255)
    _, answer = watched(monkeypatch, lambda: Flaky(impossible), 2)
    assert [look.reading for look in answer.seen] == [Reading(clock_mhz=1410)] * 2
    assert answer.absent == {
        "power": "flaky: 65,535 W is outside 0 to 10,000",
        "temperature": "flaky: 255 C is outside 0 to 120",
    }


@pytest.mark.parametrize(
    ("backend", "index", "devices", "here", "indices"),
    [
        ("cuda", 2, (1,), 8, (2,)),
        ("cuda", 3, (1, 2), 8, (0, 1, 3)),
        ("cuda", 0, (1, 4, 2), 8, (0, 1, 2, 3)),
        ("cuda", 0, (1, 2, 16), 8, tuple(range(8))),
        ("cpu", 0, (4,), 1, (0,)),
        ("cpu", 0, (4,), 4, (0,)),
    ],
)
def test_as_many_devices_are_watched_as_any_case_takes(
    backend: str, index: int, devices: tuple[int, ...], here: int, indices: tuple[int, ...]
) -> None:
    """And no more than this host has: the others of a case have hosts of their own."""
    cases = [make_case(devices=n, parallelism="none" if n == 1 else f"dp{n}") for n in devices]
    info = DeviceInfo(backend=backend, index=index, name="x", memory_bytes=None)
    assert to_watch(cases, info, catalogue.backend(backend), here) == indices


def test_devices_of_points_that_are_not_tried_are_not_watched() -> None:
    """A run of two devices of a host of eight, whose suite sweeps up to a thousand."""
    cases = [make_case(devices=n, parallelism=f"dp{n}") for n in (2, 4, 1024)]
    info = DeviceInfo(backend="cuda", index=0, name="x", memory_bytes=None)
    far = [case.fingerprint for case in cases[1:]]
    assert to_watch(cases, info, catalogue.backend("cuda"), 8, far) == (0, 1)


def test_who_looks_is_no_user_of_the_device() -> None:
    """It has the device open, and a driver may keep memory for that."""
    source = Flaky(Reading(power_watts=1.0))
    source.users = (Process(os.getpid(), 2**21), Process(7, 2**30))
    assert sampler.look(source, with_users=True)[0].users == (Process(7, 2**30),)
    source.users = (Process(os.getpid(), None),)
    assert sampler.look(source, with_users=True)[0].users == ()
