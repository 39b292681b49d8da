"""Steps that a lazy device leaves out of a block, by a clock that passes when a step is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from bench import catalogue
from bench.measuring import left_out
from bench.measuring.edges import SINGLE, Edges
from bench.measuring.left_out import Told
from bench.precision import PRECISIONS
from bench.tests.fakes import ScriptedClock
from bench.tests.small_workloads import MODES, build, one_thread, site
from bench.tests.validation.planted import OnlyTheLast, Unread

__all__ = ["one_thread"]

Lazy = Callable[[Any, Any], object]
REPEATED = [
    (name, mode)
    for name, mode in MODES
    if "train" not in mode and mode not in ("lora", "decode") and name != "launch"
]
"""All inference whose steps repeat one another."""
LONG, SHORT = 5_000_000, 5_000
"""Nanoseconds of a step; the latter is not seen by its time alone."""
QUICK = [("gemm", "matmul"), ("memory", "copy"), ("bert", "infer"), ("llama", "prefill")]
"""Whose small steps are so short that many of them are cheap: operands, one input, integers."""
TORCH: Any = catalogue.framework("torch").tensors
BLOCK = 32
"""Steps of a timed block."""


@pytest.fixture(autouse=True)
def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this clock nothing else is ever slow, so one turn says what ten do."""
    monkeypatch.setattr(left_out, "TRIES", 1)
    monkeypatch.setattr(left_out, "MOST_READ", 16)


def found(
    name: str, mode: str, step_ns: int, lazy: Lazy | None = None, edges: Edges = SINGLE
) -> str:
    """What is said of a job on a device that queues; every step that is done takes so long."""
    clock = ScriptedClock()
    how = PRECISIONS["fp32"]
    job: Any = build(name, mode, site(how, seed=3))
    device: Any = catalogue.backend("cpu").open(0, how)
    device.synchronous = False
    real = job.step

    def step() -> None:
        real()
        clock.advance(step_ns)

    job.step = step
    job.step()
    if lazy is not None:
        lazy(job, device)
    device.synchronize()
    before = clock()
    for _ in range(BLOCK):
        job.step()
    device.synchronize()
    in_block = (clock() - before) / 1e9 / BLOCK
    said = "; ".join(left_out.complaints(job, device, in_block, clock, edges))
    job.close()
    return said


@pytest.mark.parametrize("lazy", [OnlyTheLast, Unread])
@pytest.mark.parametrize(("name", "mode"), REPEATED)
def test_what_is_left_out_of_a_block_is_found_in_every_inference(
    name: str, mode: str, lazy: Lazy
) -> None:
    assert "not every step of a block was done" in found(name, mode, LONG, lazy)


@pytest.mark.parametrize(("name", "mode"), QUICK)
def test_however_short_it_is(name: str, mode: str) -> None:
    """Too short to be told alone: by the block that is read, and by what comes of the inputs."""
    assert found(name, mode, SHORT) == ""
    assert "of which every output is read" in found(name, mode, SHORT, Unread)
    said = found(name, mode, SHORT, OnlyTheLast)
    assert "steps of a block gave what comes of another input" in said


@pytest.mark.parametrize(("name", "mode"), [("launch", "queue"), ("llama", "decode")])
def test_steps_that_build_on_one_another_are_told_by_one_alone(name: str, mode: str) -> None:
    assert found(name, mode, SHORT) == ""
    assert "s alone and" in found(name, mode, LONG, OnlyTheLast)


class Queue:
    """Work is done one after the other, whatever the host does; who reads waits for all of it."""

    def __init__(self, job: Any, device: Any, clock: ScriptedClock) -> None:
        job.step()
        again = job.step if job.training() is None else lambda: None  # by this clock it is the same
        self._step, self._clock = again, clock
        self._free = 0
        self.step_ns, self.host_ns, self.limit_ns, self.depth = LONG, 100_000, 10**12, 10**6
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
    monkeypatch.setattr(left_out, "KEPT_TRIES", how.pop("tries", 1))
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
    said = "; ".join(left_out.complaints(job, device, step_seconds, clock, steps=steps))
    job.close()
    return said


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


class Skewed(Edges):
    """Of two ranks: the other one comes first, and waits for us in each single step."""

    def slowest(self, ns: int) -> int:
        waited = 220_000
        return max(ns, ns + waited if ns > 0 else ns - waited)


def test_who_waits_for_the_last_to_come_leaves_no_step_out() -> None:
    """A collective takes 30 us, and alone as long as the other rank is behind."""
    assert found("gemm", "matmul", 30_000, edges=Skewed()) == ""
    assert "s alone and" in found("gemm", "matmul", LONG, OnlyTheLast, edges=Skewed())


def test_sums_tell_inputs_from_one_another_or_say_nothing() -> None:
    told = Told({"a": 1.0, "b": -1.0, "c": 5.0})
    assert told.of_another("a", 5.01) and told.of_another("c", 1.02)
    assert not told.of_another("a", 1.01) and not told.of_another("c", 3.1)
    assert not told.of_another("unknown", 5.0)
    assert not Told({"a": 1.0, "b": 1.001}).of_another("a", 1.001), "rounding may do that"
    assert not Told({"a": 1.0}).of_another("a", 7.0)
