"""Steps that a lazy device leaves out of a block, by a clock that passes when a step is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import catalogue
from bench.measuring.proving import left_out
from bench.measuring.proving.left_out import Told
from bench.measuring.proving.otherwise import Otherwise
from bench.measuring.ranks.edges import SINGLE, Edges
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
    said = "; ".join(left_out.complaints(Otherwise(job, device, in_block, clock, TORCH, edges)))
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


def queues(job: Any, device: Any) -> None:
    """A host that does every step."""
    device.queues_on_host = True


def drops(job: Any, device: Any) -> None:
    """What lies in its queue behind two steps is not done, and counted as if it were."""
    queues(job, device)
    step, synchronize, queued = job.step, device.synchronize, list[int]()

    def behind() -> None:
        queued.append(1)
        if len(queued) <= 2:
            step()
            return
        if job._index == job._new_tokens:
            job._rewind()
        job._index += 1

    def waited() -> None:
        queued.clear()
        synchronize()

    job.step, device.synchronize = behind, waited


def test_of_a_host_that_queues_they_are_told_by_what_comes_of_given_tokens() -> None:
    assert found("llama", "decode", SHORT, queues) == ""
    assert "of 32 steps of a block gave what" in found("llama", "decode", SHORT, drops)


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
