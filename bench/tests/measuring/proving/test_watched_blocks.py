"""A job under watch between the blocks of an engine: the last step timed is the one looked at."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
import torch

from bench import catalogue
from bench.measuring import operators
from bench.measuring.proving import early
from bench.measuring.proving.watch import Watch
from bench.precision import PRECISIONS
from bench.tests.measuring.proving.watching import opened
from bench.tests.measuring.ranks.test_edges import Shared
from bench.tests.small_workloads import build, one_thread, site

__all__ = ["one_thread"]

FP32 = PRECISIONS["fp32"]


class Timed:
    """A job under watch as an engine times it on a host: in blocks of one step."""

    def __init__(self, name: str, mode: str, blocks: int, thorough: bool = False) -> None:
        self.watch, self.job = opened(name, mode, thorough=thorough)
        self.steps = 0
        real = self.job.step

        def step() -> None:
            self.steps += 1
            real()

        self.job.step = step
        for number in range(1, blocks + 1):
            if number > 1:
                self.watch.before(1, number > 3)
            self.job.step()
            if number <= 3:
                self.watch.after(number)

    def finish(self) -> str:
        self.watch.finish(step_seconds=1.0)
        return self.watch.complaint


@pytest.mark.parametrize(
    ("name", "mode", "blocks"),
    [
        ("llama", "train", 4),
        ("bert", "infer", 5),  # the first input comes again
        ("bert", "infer", 8),  # what came of the fourth was read before a later block
        ("memory", "copy", 4),
        ("whisper", "infer", 8),  # whose first steps are others: with given tokens
    ],
)
def test_where_a_step_takes_long_the_last_one_timed_is_the_one_looked_at(
    name: str, mode: str, blocks: int
) -> None:
    timed = Timed(name, mode, blocks)
    assert timed.finish() == "" and timed.steps == blocks
    assert len(timed.watch.proof.law) == (2 if mode == "train" else 0)
    if mode != "train":
        assert timed.watch.proof.recomputed == 0.0


@pytest.mark.parametrize(("name", "mode"), [("bert", "infer"), ("whisper", "infer")])
def test_nothing_that_came_of_nudged_weights_is_learned(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the step after them is none that can be looked at."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no such mode here")

    monkeypatch.setattr(operators, "executed", fail)
    timed = Timed(name, mode, 11, thorough=True)
    assert timed.finish() == "" and timed.watch.proof.recomputed == 0.0 and timed.watch.proof.noise
    assert timed.watch.executed is not None
    assert timed.watch.executed.absent == "not observable: RuntimeError: no such mode here"


def test_what_came_of_given_tokens_is_not_held_against_what_did_not() -> None:
    """Where no block follows the third step, as in a script."""
    timed = Timed("whisper", "infer", 3, thorough=True)
    assert timed.finish() == "" and timed.watch.proof.recomputed == 0.0


def test_a_last_step_timed_that_was_not_taken_is_told() -> None:
    timed = Timed("llama", "train", 4)
    timed.watch.before(1, True)
    assert "its weights went astray by 1 of" in timed.finish() and timed.steps == 4
    timed = Timed("bert", "infer", 4)
    timed.watch.before(1, True)
    next(timed.job._inputs)
    assert "from the same computed another time" in timed.finish() and timed.steps == 4


def test_what_is_noted_before_a_block_that_was_not_the_last_is_noted_again() -> None:
    """Else two steps would be held to the law of one."""
    timed = Timed("llama", "train", 4)
    timed.watch.before(1, False)
    timed.job.step()
    assert timed.finish() == "" and timed.steps == 6


@pytest.mark.parametrize("spoiled", [0, 1])
def test_a_rank_whose_outputs_are_not_finite_leaves_no_other_waiting(spoiled: int) -> None:
    """Whether there is anything to look at again all say together: a rank that had nothing once
    left the others in a look that all must come to, until the time limit."""
    shared = Shared(2)
    alone = threading.Lock()

    device = catalogue.backend("cpu").open(0, FP32)
    jobs: list[Any] = [build("llama", "decode", site(FP32, seed=1)) for _ in range(2)]

    def one(rank: int) -> Watch:
        job = jobs[rank]
        watch = Watch(job, device, FP32, 1, edges=shared.of(rank))
        watch.start()
        if rank == spoiled:
            real = job.outputs
            job.outputs = lambda: {
                name: [torch.full_like(tensor, torch.nan) for tensor in tensors]
                for name, tensors in real().items()
            }
        for number in range(1, 5):
            with alone:  # what is computed here is no rank's business but its own
                job.step()
            if number <= 3:
                watch.after(number)
        watch.finish(step_seconds=1.0)
        return watch

    with ThreadPoolExecutor(2) as pool:
        watches = list(pool.map(one, range(2)))
    assert [watch.proof.absent for watch in watches if watch is not watches[spoiled]] == [""]
    assert "not all values are finite" in watches[spoiled].complaint
    assert watches[1 - spoiled].complaint == ""


def test_a_rank_without_room_for_its_noise_leaves_no_other_waiting() -> None:
    """A compiled job is not held to steps as written without its noise: on no rank, then."""
    shared, alone = Shared(2), threading.Lock()
    device = catalogue.backend("cpu").open(0, FP32)
    jobs: list[Any] = [build("llama", "decode", site(FP32, seed=1)) for _ in range(2)]

    def one(rank: int) -> Any:
        job = jobs[rank]
        given = (job, device, FP32, 1)
        watch: Any = Watch(*given, thorough=True, execution="compile", edges=shared.of(rank))
        watch._note_executed = lambda step: step()
        watch.start()
        again = job.again
        if rank == 0:
            job.again = mock.Mock(side_effect=torch.OutOfMemoryError("no room"))
        for number in range(1, 5):
            with alone:
                job.step()
            if number <= 3:
                watch.after(number)
        job.again = again
        watch.finish(step_seconds=1e-3)
        assert watch.edges.all(True), "what is asked next is asked of both"
        return watch

    with ThreadPoolExecutor(2) as pool:
        watches = list(pool.map(one, range(2)))
    assert [bool(watch._noise) for watch in watches] == [False, True]
    assert {watch.complaint for watch in watches} == {""}


@pytest.mark.parametrize("thorough", [True, False])
def test_of_a_device_that_queues_one_block_more_is_taken_where_all_is_looked_at(
    thorough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of as many steps as the last one that was timed."""
    asked: list[int] = []

    def complaints(_: object, steps: int) -> tuple[str, ...]:
        asked.append(steps)
        return ()

    monkeypatch.setattr(early, "complaints", complaints)
    timed = Timed("gemm", "matmul", 3, thorough)
    timed.watch.before(17, True)
    timed.watch.device.synchronous = False
    timed.finish()
    assert asked == ([17] if thorough else [])
