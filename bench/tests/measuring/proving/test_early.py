"""Devices that say they are done before they are, by a clock that passes as their queues do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bench import catalogue
from bench.measuring.proving import early, left_out
from bench.measuring.proving.otherwise import Otherwise
from bench.measuring.ranks.edges import Edges
from bench.precision import PRECISIONS
from bench.tests.fakes import ScriptedClock
from bench.tests.small_workloads import build, one_thread, site

__all__ = ["one_thread"]

TORCH: Any = catalogue.framework("torch").tensors


class Queue:
    """Work is done one after the other, whatever the host does; who reads waits for all of it."""

    def __init__(self, job: Any, device: Any, clock: ScriptedClock) -> None:
        job.step()
        again = job.step if job.training() is None else lambda: None  # by this clock it is the same
        self._step, self._clock = again, clock
        self._free = 0
        self.step_ns, self.host_ns, self.limit_ns, self.depth = 5_000_000, 100_000, 10**12, 10**6
        """A synchronization waits so long; more steps than `depth` are not taken on."""
        self.reads_ns = itertools.repeat(30_000)
        """What readings cost besides."""
        job.step, device.synchronize = self.step, self.synchronize

    def step(self) -> None:
        self._step()
        self._clock.advance(self.host_ns)
        if self._free - self._clock.now <= self.depth * self.step_ns:
            self._free = max(self._free, self._clock.now) + self.step_ns

    def synchronize(self) -> None:
        self._clock.now = max(self._clock.now, min(self._free, self._clock.now + self.limit_ns))

    def picked(self, *what: Any) -> Any:
        self._clock.now = max(self._clock.now, self._free) + next(self.reads_ns)
        return type(TORCH).picked(TORCH, *what)


def of_queue(monkeypatch: pytest.MonkeyPatch, name: str, mode: str, **how: Any) -> str:
    """What is said of a device that queues, after blocks of so many steps."""
    monkeypatch.setattr(early, "AGAIN", how.pop("tries", 1))
    monkeypatch.setattr(left_out, "TRIES", 1)
    clock, steps = ScriptedClock(), how.pop("steps", 120)
    job: Any = build(name, mode, site(PRECISIONS["fp32"], seed=3))
    device: Any = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    device.synchronous, device.queues_on_host = False, how.pop("on_host", False)
    queue = Queue(job, device, clock)
    for key, value in how.items():
        setattr(queue, key, value)
    monkeypatch.setattr(TORCH, "picked", queue.picked)
    device.synchronize()
    before = clock()
    for _ in range(steps):
        job.step()
    device.synchronize()
    step_seconds = (clock() - before) / 1e9 / steps
    otherwise = Otherwise(job, device, step_seconds, clock, TORCH)
    said = "; ".join([*early.complaints(otherwise, steps), *left_out.complaints(otherwise)])
    job.close()
    return said


def test_looks_share_their_time_and_what_does_not_fit_is_kept() -> None:
    clock = ScriptedClock()
    job: Any = build("gemm", "matmul", site(PRECISIONS["fp32"], seed=3))
    device = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    otherwise = Otherwise(job, device, 4.0, clock, TORCH)
    assert otherwise.fits("first", 12)
    clock.advance(48 * 10**9)
    assert otherwise.fits("short", 2)
    assert not otherwise.fits("second", 12)
    assert not [*early.complaints(otherwise, 1)]
    assert otherwise.skipped == ["second", "a block that is waited for"]


def test_steps_too_long_to_be_set_back_to_back_are_kept_too() -> None:
    job: Any = build("gemm", "matmul", site(PRECISIONS["fp32"], seed=3))
    device = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    otherwise = Otherwise(job, device, 6.0, ScriptedClock(), TORCH)
    assert not [*left_out._untrue(otherwise)]
    assert otherwise.skipped == [left_out.BACK_TO_BACK]


class Another(Edges):
    """Another rank's time is up."""

    def all(self, said: bool) -> bool:
        return False


def test_what_does_not_fit_on_one_rank_is_looked_at_on_none() -> None:
    job: Any = build("gemm", "matmul", site(PRECISIONS["fp32"], seed=3))
    device = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    otherwise = Otherwise(job, device, 1e-3, ScriptedClock(), TORCH, Another())
    assert not otherwise.fits("a look", 12)
    assert otherwise.skipped == ["a look"]


QUEUED = [("gemm", "matmul"), ("dlrm", "train"), ("transfer", "to-host"), ("llama", "decode")]
EARLY = "synchronize returned before the work was done"


@pytest.mark.parametrize(("name", "mode"), QUEUED)
def test_a_device_is_done_when_it_was_waited_for(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where outputs lie on the host and where steps train, too; and of a long queue nothing is
    left out, which a step alone and a short block would not show."""
    assert of_queue(monkeypatch, name, mode) == ""
    assert EARLY in of_queue(monkeypatch, name, mode, limit_ns=0)
    assert EARLY in of_queue(monkeypatch, name, mode, limit_ns=20_000_000)
    fewer = of_queue(monkeypatch, name, mode, depth=20)
    assert "s in a block of 16 and" in fewer and EARLY not in fewer


@pytest.mark.parametrize(
    "how",
    [
        {"reads_ns": itertools.repeat(10**9)},
        {
            "reads_ns": itertools.chain([30_000, 10**9, 30_000] * 6, itertools.repeat(30_000)),
            "tries": 8,
        },
        {"step_ns": 1_000, "host_ns": 2_000},
        {"step_ns": 10_000, "host_ns": 2_000, "reads_ns": itertools.cycle([4_000_000, 10_000])},
        {"steps": 1},
        {"on_host": True},
    ],
    ids=["slow", "held up", "the host's", "short", "one step", "on the host"],
)
def test_a_sound_device_is_not_said_to_return_early(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings that are slow, or were held up now and then; blocks of which nothing can be said."""
    assert of_queue(monkeypatch, "gemm", "matmul", **how) == ""
