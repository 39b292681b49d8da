"""Steps taken once more after the timing: stale results, a fixed batch, blocks that leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import catalogue
from bench.frameworks.torch import TorchTensors
from bench.measuring import left_out, retaken
from bench.precision import PRECISIONS
from bench.tests.fakes import ScriptedClock
from bench.tests.measuring.watching import opened
from bench.tests.small_workloads import build, one_thread, site

__all__ = ["one_thread"]

Late = Callable[[Any], object]


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

    monkeypatch.setattr(left_out, "MOST_KEPT", 6)
    for _ in range(8):
        step()
    job.step = step
    before, taken = [x.clone() for x in job.inputs()], 0
    seconds = (STEP_NS if by == "nothing" else KEPT_NS) / 1e9
    found = "".join(left_out.kept(job, device, seconds, clock, TorchTensors()))
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
    assert not [*left_out.kept(job, device, 20.0, clock, TorchTensors())]
