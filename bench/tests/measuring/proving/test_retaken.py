"""Steps taken once more after the timing: stale results, a fixed batch, blocks that leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from bench import catalogue
from bench.frameworks.torch import TorchTensors
from bench.measuring.proving import retaken, written
from bench.measuring.proving.otherwise import Otherwise
from bench.measuring.proving.watch import Watch
from bench.precision import PRECISIONS
from bench.tests.measuring.proving.watching import opened
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import build, one_thread, site

__all__ = ["one_thread"]

Late = Callable[[Any], object]


@pytest.mark.parametrize(
    ("mode", "seconds", "told"),
    [
        ("train", 1e-3, ""),
        ("train", 30.0, "steps back to back; a step on a changed input"),
        ("infer", 1e-3, ""),
        ("infer", 5.0, "a step on an input that never was"),
    ],
)
def test_a_record_says_what_there_was_no_time_for(mode: str, seconds: float, told: str) -> None:
    watch, job = opened("bert", mode)
    for number in (1, 2, 3):
        job.step()
        watch.after(number)
    watch.thorough = True
    watch.before(1, True)
    job.step()
    watch.finish(seconds)
    job.close()
    assert (watch.complaint, watch.proof.no_time) == ("", told)


def said(name: str, mode: str, late: Late, step_seconds: float = 1e-3, **how: Any) -> str:
    """Of a job that is spoiled after the steps that are read first."""
    watch, job = opened(name, mode, **how)
    for number in (1, 2, 3):
        job.step()
        watch.after(number)
    watch.thorough = True  # without its noise, which takes as long as all of this
    late(job)
    watch.before(1, False)
    job.step()
    watch.finish(step_seconds)
    job.close()
    return watch.complaint


def stale_gradients(job: Any) -> None:
    """No backward any more: each weight has the gradient that it had, and the loss goes on."""
    real = job._update
    held = [(weight, weight.grad.clone()) for weight in job.weights() if weight.grad is not None]

    def update(batches: Any) -> Any:
        found = real(batches)
        for weight, gradient in held:
            weight.grad = gradient.clone()
        return found

    job._update = update


def fixed_batch(job: Any) -> None:
    """A step reads what lay there once, as a recording may."""
    real, (tokens, targets) = job._run, job._taken[0]
    noted = [(tokens.clone(), targets.clone())]
    job._run = lambda batches: real(noted)


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (stale_gradients, "gave the gradients of the one before"),
        (fixed_batch, "the gradients of a timed step differ by"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_of_another_step_are_told(late: Late, reason: str, precision: str) -> None:
    assert reason in said("llama", "train", late, precision=precision)


class LeavesOut:
    """A device that updates weights where somebody has read something since the last step."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.read = patch, True

    def __call__(self, job: Any) -> None:
        picked, update = TorchTensors.picked, job._optimizer.step

        def pick(*given: Any) -> Any:
            self.read = True
            return picked(*given)

        def step(*given: Any, **named: Any) -> None:
            if self.read:
                update(*given, **named)
            self.read = False

        self.patch.setattr(TorchTensors, "picked", pick)
        job._optimizer.step = step


@pytest.mark.parametrize(("name", "precision"), [("bert", "fp32"), ("bert", "bf16")])
def test_updates_left_out_of_a_block_are_told(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = said(name, "train", LeavesOut(monkeypatch), precision=precision)
    assert "of 8 steps back to back, went astray by 0." in found
    monkeypatch.undo()
    assert said(name, "train", lambda job: None, precision=precision) == ""


def test_gradients_left_out_of_a_block_are_told() -> None:
    def late(job: Any) -> None:
        job._run = lambda batches: job._optimizer.zero_grad() or (job._loss, job._loss)

    assert "of 8 steps back to back, were never stepped" in said("bert", "train", late)


@pytest.mark.parametrize("seconds", [1e-3, 0.3, 15.0, 30.0])
def test_long_steps_are_few(seconds: float) -> None:
    """The law's own; then a block and one on a changed input, as far as they may last."""
    steps: list[int] = []

    def late(job: Any) -> None:
        real = job.step

        def step() -> None:
            steps.append(1)
            real()

        job.step = step

    assert said("bert", "train", late, step_seconds=seconds) == ""
    block = {1e-3: retaken.BLOCK, 0.3: 3}.get(seconds, 0)
    assert len(steps) == 1 + 1 + block + (seconds < 20)


def rolled(job: Any) -> None:
    """No model: each token's logits are those before, a place on."""
    job.generator.decode = lambda token, index: job._output.roll(1, -1)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_tokens_that_no_model_gives_are_told(precision: str) -> None:
    found = said("llama", "decode", rolled, precision=precision)
    assert "after the same tokens the output of step 1 differs by 1." in found
    assert said("llama", "decode", lambda job: None, precision=precision) == ""


def not_computed(job: Any) -> None:
    """From the fifth token of a window on there is no model: as `rolled`, whatever is executed."""
    decode, replay = job.generator.decode, getattr(job, "_replay", lambda: None)

    def replayed() -> None:
        if job._index < 4:
            replay()
            return
        with torch.inference_mode():
            job._output.copy_(job._output.roll(1, -1))
            job.token.copy_(job._output.max(-1).indices)
            job._place.add_(1)

    job._replay = replayed
    job.generator.decode = lambda token, index: (
        decode(token, index) if index < 4 else job._output.roll(1, -1)
    )


WINDOW = 12


def windowed(name: str, execution: str) -> tuple[Watch, Any]:
    """In the midst of a second window."""
    asked, recorder = PRECISIONS["fp32"], FakeRecorder()
    at = msgspec.structs.replace(site(asked, seed=1), execution=execution, recorder=recorder)
    job: Any = build(name, "decode", at, new_tokens=WINDOW)
    for _ in range(WINDOW + 2):
        job.step()
    return Watch(job, catalogue.backend("cpu").open(0, asked), asked, 1), job


def anew(watch: Watch, seconds: float = 1e-3) -> Otherwise:
    """Of steps that take so long."""
    return Otherwise(watch.job, watch.device, seconds, watch.clock, watch._kit)


@pytest.mark.parametrize("execution", ["eager", "graph"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt-oss", "deepseek"])
def test_later_tokens_that_no_model_gives_are_told(name: str, execution: str) -> None:
    watch, job = windowed(name, execution)
    job.begin()
    job.step()
    first = job.outputs()["output"][0].clone()
    assert [*watch._retaken.apart(job, anew(watch))] == []
    job.step()
    assert torch.equal(job.outputs()["output"][0], first), "the window begins as ever"
    not_computed(job)
    (found,) = watch._retaken.apart(job, anew(watch))
    assert f"the outputs of 8 of {WINDOW} steps that build on one another differ by up to" in found


@pytest.mark.parametrize("seconds", [1e-3, 0.4, 4.9, 5.0])
def test_of_long_steps_the_last_ones_are_held(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of many short ones not each; of those that take a minute together none."""
    watch, job = windowed("llama", "graph")
    monkeypatch.setattr(retaken, "HELD", 5)
    places, held, step, written = [], [], job.step, job.generator.written

    def counted() -> None:
        places.append(int(job._place))
        step()

    def noted(token: Any, index: int) -> Any:
        held.append(index)
        return written(token, index)

    job.step = counted
    job.generator.written = noted
    assert [*watch._retaken.apart(job, anew(watch, seconds))] == []
    beyond = WINDOW, 1
    first, each = {1e-3: (0, 3), 0.4: (WINDOW - 5, 1), 4.9: (WINDOW - 2, 1)}.get(seconds, beyond)
    assert places == [*range(first, WINDOW)]
    assert held == [*range(WINDOW - 1, first - 1, -each)][::-1]


@pytest.mark.parametrize(("astray", "told"), [(6, False), (7, True)])
def test_a_router_may_choose_another_expert_now_and_then(astray: int, told: bool) -> None:
    watch, job = windowed("deepseek", "eager")
    real = job.generator.decode
    job.generator.decode = lambda token, index: real(token, index) * (1 + (index < astray))
    assert bool([*watch._retaken.apart(job, anew(watch))]) is told
    job.facts = {name: text for name, text in job.facts.items() if name != written.ROUTED}
    assert [*watch._retaken.apart(job, anew(watch))] != []


def test_what_has_no_room_to_be_computed_as_written_is_no_fault() -> None:
    watch, job = windowed("llama", "eager")
    not_computed(job)

    def fail(token: Any, index: int) -> Any:
        raise torch.OutOfMemoryError("no room")

    job.generator.written = fail
    assert [*watch._retaken.apart(job, anew(watch))] == []
