"""Steps that were not computed, but known, by a clock that passes where a step is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import catalogue
from bench.frameworks.torch import TorchTensors
from bench.measuring.proving import remembered
from bench.measuring.proving.otherwise import AGAIN, Otherwise
from bench.precision import PRECISIONS
from bench.tests.fakes import ScriptedClock
from bench.tests.measuring.proving.test_retaken import WINDOW, windowed
from bench.tests.small_workloads import build, one_thread, site

__all__ = ["one_thread"]


@pytest.mark.parametrize("execution", ["eager", "graph"])
@pytest.mark.parametrize("keeps", [True, False])
def test_steps_behind_tokens_seen_before_that_were_kept_are_told(
    execution: str, keeps: bool
) -> None:
    """By a clock that passes where a step is computed: of a text that was seen it is not."""
    _, job = windowed("llama", execution)
    clock, known, steps = ScriptedClock(), set[Any](), []
    real, text = job.step, list[Any]()

    def step() -> None:
        anew = job._index == WINDOW
        text[:] = [] if anew or job._index == 0 else text
        text.append((job.first_token if anew else job.token).numpy().tobytes())
        steps.append(1)
        clock.advance(KEPT_NS if keeps and tuple(text) in known else STEP_NS)
        known.add(tuple(text))
        real()

    job.step = step
    job.begin()
    for _ in range(WINDOW):
        job.step()
    steps.clear()
    device = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    seconds = (KEPT_NS if keeps else STEP_NS) / 1e9
    otherwise = Otherwise(job, device, seconds, clock, TorchTensors())
    found = "".join(remembered.complaints(otherwise, torchs=False))
    assert ("behind one seen before: it was not computed, but kept" in found) is keeps
    apart = sum(number.bit_count() % 2 for number in range(1, AGAIN + 1))
    assert len(steps) == ((2 * AGAIN + apart) * WINDOW if keeps else 3 * 4)
    assert torch.equal(job.token, job.first_token) and job._index == 0


STEP_NS, KEPT_NS = 5_000_000, 5_000


@pytest.mark.parametrize(
    ("name", "mode", "by"),
    [
        *(("gemm", "matmul", by) for by in ("version", "values", "nothing")),
        *(("bert", "infer", by) for by in ("version", "nothing")),
    ],
)
def test_results_that_were_kept_are_told(
    name: str, mode: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that passes where a step is computed: of operands that were seen it is not."""
    clock, how = ScriptedClock(), PRECISIONS["fp32"]
    job: Any = build(name, mode, site(how, seed=3))
    device: Any = catalogue.backend("cpu").open(0, how)
    real, known, taken = job.step, set[Any](), 0

    def step() -> None:
        nonlocal taken
        taken += 1
        real()
        (x, *_) = job.inputs()
        key: Any = (x.data_ptr(), x._version) if by == "version" else x.numpy().tobytes()
        clock.advance(KEPT_NS if key in known and by != "nothing" else STEP_NS)
        known.add(key)

    monkeypatch.setattr(remembered, "MOST_KEPT", 6)
    for _ in range(8):
        step()
    job.step = step
    before, taken = [x.clone() for x in job.inputs()], 0
    seconds = (STEP_NS if by == "nothing" else KEPT_NS) / 1e9
    found = "".join(remembered.complaints(Otherwise(job, device, seconds, clock, TorchTensors())))
    assert ("s on one seen before, of which it was not computed, but kept" in found) is (
        by != "nothing"
    )
    assert all(bool((x == was).all()) for x, was in zip(job.inputs(), before, strict=True))
    if by == "nothing":
        assert taken == 2 * (4 + 1) + 1


def test_what_takes_long_is_not_asked() -> None:
    job: Any = build("gemm", "matmul", site(PRECISIONS["fp32"], seed=3))
    device = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    job.step()
    clock = ScriptedClock()
    slow = Otherwise(job, device, 5.0, clock, TorchTensors())
    assert not [*remembered.complaints(slow)]
    assert slow.skipped == ["a step on an input that never was"]
    job.step = job.again = lambda: pytest.fail("it was asked")
    quick = Otherwise(job, device, 1e-3, clock, TorchTensors())
    assert not [*remembered.complaints(quick, torchs=False)], "nor what no row can be changed of"


class Shared(ScriptedClock):
    """Of a core that another process has each time that this one had it for so many steps."""

    def __init__(self, turn: int) -> None:
        super().__init__()
        self.turn, self.taken = turn, 0

    def step(self) -> None:
        self.taken += 1
        self.advance(STEP_NS * (1 if self.taken % self.turn else 1 + max(4, self.turn)))


@pytest.mark.parametrize("turn", [1, 2, 3, 4, 5, 6, 8])
def test_a_core_that_is_lost_in_step_with_the_pairs_is_none_of_the_job(turn: int) -> None:
    """One step a block, and two untimed ones a pair."""
    clock, how = Shared(turn), PRECISIONS["fp32"]
    job: Any = build("gemm", "matmul", site(how, seed=3))
    real = job.step
    job.step()

    def step() -> None:
        real()
        clock.step()

    job.step = step
    device = catalogue.backend("cpu").open(0, how)
    for first in range(turn):
        clock.taken = first
        asked = Otherwise(job, device, 1.0, clock, TorchTensors())
        assert not [*remembered.complaints(asked)]


@pytest.mark.parametrize("turn", [1, 2, 3, 4, 5, 6, 8])
def test_nor_behind_a_token(turn: int) -> None:
    _, job = windowed("llama", "eager")
    clock, real = Shared(turn * WINDOW), job.step

    def step() -> None:
        real()
        clock.step()

    job.step = step
    device = catalogue.backend("cpu").open(0, PRECISIONS["fp32"])
    for first in range(turn):
        clock.taken = first * WINDOW
        asked = Otherwise(job, device, 1e-3, clock, TorchTensors())
        assert not [*remembered.complaints(asked, torchs=False)]
