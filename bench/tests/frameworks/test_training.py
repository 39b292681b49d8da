"""Training in another framework than torch: held to the same law, by its own tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from bench import catalogue
from bench.framework import Moved
from bench.frameworks.torch import TorchTensors
from bench.measuring.proving.watch import READ_AFTER, Watch
from bench.precision import PRECISIONS
from bench.records.executed import Executed
from bench.records.proof import GRADIENTS, LOSS
from bench.tests.frameworks.plain import FRAMEWORK, Arrays, Plain
from bench.workload import Job, Training

Array = Any
FP32 = PRECISIONS["fp32"]
SETTINGS: dict[str, dict[str, Any]] = {
    "adamw": {"lr": 1e-2, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8},
    "sgd": {"lr": 1e-2, "weight_decay": 1e-4, "momentum": 0.9},
}


class Fitted(Job):
    """Weights that are drawn to a target, by functions of numpy's; settings: those it goes by."""

    facts: Mapping[str, str] = {}

    def __init__(self, asked: dict[str, Any], settings: dict[str, Any], updates: bool) -> None:
        drawn = np.random.default_rng(0)
        self.asked, self.settings, self.updates = asked, settings, updates
        self.fitted = [drawn.standard_normal(s).astype(np.float32) for s in ((40, 50), (77,))]
        self.kept = [[np.zeros_like(w), np.zeros_like(w)] for w in self.fitted]
        self.gradients: list[Array] = []
        self.loss: Array = np.zeros(())
        self.taken = 0

    def step(self) -> None:
        self.again()
        self.taken += 1
        for weight, kept, gradient in zip(self.fitted, self.kept, self.gradients, strict=True):
            if self.updates:
                self.update(weight, kept, gradient)

    def update(self, weight: Array, kept: list[Array], gradient: Array) -> None:
        rate, decay = self.settings["lr"], self.settings["weight_decay"]
        if "betas" not in self.settings:
            kept[0][...] = self.settings["momentum"] * kept[0] + gradient + decay * weight
            weight -= rate * kept[0]
            return
        first, second = self.settings["betas"]
        kept[0][...] = first * kept[0] + (1 - first) * gradient
        kept[1][...] = second * kept[1] + (1 - second) * gradient**2
        root = np.sqrt(kept[1] / (1 - second**self.taken)) + self.settings["eps"]
        weight *= 1 - rate * decay
        weight -= rate * kept[0] / (1 - first**self.taken) / root

    def again(self) -> bool:
        self.gradients = [weight - np.float32(0.5) for weight in self.fitted]
        self.loss = np.asarray(sum(float(np.square(g).mean()) for g in self.gradients), np.float32)
        return True

    def witness(self) -> float:
        return float(self.loss)

    def probe(self) -> dict[str, Any]:
        return {LOSS: self.loss}

    def outputs(self) -> Mapping[str, Sequence[Any]]:
        return {LOSS: [self.loss], GRADIENTS: self.gradients}

    def weights(self) -> Sequence[Any]:
        return self.fitted

    def training(self) -> Training:
        return Training(optimizer=self, settings=self.asked)

    def moved(self) -> Sequence[Moved]:
        names = ["exp_avg", "exp_avg_sq"] if "betas" in self.asked else ["momentum_buffer"]
        gradients = self.gradients or [None, None]
        return [
            Moved(weight, gradient, dict(zip(names, kept, strict=False)), self.taken)
            for weight, kept, gradient in zip(self.fitted, self.kept, gradients, strict=True)
        ]


class Copying(Arrays):
    """Gives copies of gradients besides."""

    def gradients(self, optimizer: Any, which: Sequence[int]) -> Sequence[Any]:
        return [optimizer.gradients[number].copy() for number in which]


def watched(name: str, updates: bool = True, **changed: Any) -> Watch:
    asked = SETTINGS[name]
    job = Fitted(asked, {**asked, **changed}, updates)
    device = FRAMEWORK.open(catalogue.backend("cpu"), 0, FP32)
    watch = Watch(job, device, FP32, 1, thorough=True, framework=FRAMEWORK)
    watch.start()
    for step in range(1, READ_AFTER[-1] + 1):
        job.step()
        watch.after(step)
    watch.finish(1e-3)
    return watch


@pytest.mark.parametrize("name", SETTINGS)
def test_honest_training_is_proved(name: str) -> None:
    watch = watched(name)
    assert watch.complaint == ""
    proof = watch.proof
    assert proof.not_over.endswith("while steps are queued"), "its tensors give no copies"
    assert len(proof.law) == 2 and max(proof.law) < 1e-4
    assert {*proof.readings[0].quantities} == {LOSS, GRADIENTS, "update"} and proof.noise


@pytest.mark.parametrize("dropped", [False, True])
def test_steps_back_to_back_are_held_to_the_law(
    monkeypatch: pytest.MonkeyPatch, dropped: bool
) -> None:
    """Where its tensors give copies of gradients; dropped: those that nobody reads in between."""
    monkeypatch.setattr(Plain, "tensors", Copying())
    real, read = Fitted.update, [True]

    def update(job: Fitted, *given: Any) -> None:
        if read or not dropped:
            real(job, *given)
        if given[0] is job.fitted[-1]:
            read.clear()

    def moved(job: Fitted) -> Sequence[Moved]:
        read.append(True)
        return held(job)

    held = Fitted.moved
    monkeypatch.setattr(Fitted, "update", update)
    monkeypatch.setattr(Fitted, "moved", moved)
    watch = watched("adamw")
    assert watch.proof.not_over == ""
    assert ("of 8 steps back to back, went astray" in watch.complaint) is dropped


@pytest.mark.parametrize("late", [False, True])
def test_what_ran_is_asked_for_in_the_warm_up_or_after_the_timing(
    monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    asked: list[str] = []

    def executed(self: Any, step: Callable[[], object], device: Any, execution: str) -> Executed:
        step()
        asked.append(execution)
        return Executed(kernels={"host": ("MatMul",)})

    monkeypatch.setattr(Plain, "executed", executed)
    monkeypatch.setattr(Plain, "executed_late", late)
    job = Fitted(SETTINGS["sgd"], SETTINGS["sgd"], updates=True)
    device = FRAMEWORK.open(catalogue.backend("cpu"), 0, FP32)
    watch = Watch(job, device, FP32, 1, True, "compile", framework=FRAMEWORK)
    watch.start()
    for step in range(1, READ_AFTER[-1] + 1):
        job.step()
        watch.after(step)
    assert asked == ([] if late else ["compile"])
    watch.finish(1e-3)
    assert asked == ["compile"] and watch.complaint == ""
    assert watch.executed == Executed(kernels={"host": ("MatMul",)})


FAULTS: dict[str, Callable[[str], Watch]] = {
    "update skipped": lambda name: watched(name, updates=False),
    "rate doubled": lambda name: watched(name, lr=2e-2),
    "a tenth more": lambda name: watched(name, lr=1.1e-2),
    "momentum off": lambda name: watched(
        name, **({"betas": (0.0, 0.999)} if name == "adamw" else {"momentum": 0.0})
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_training_is_found(name: str, fault: str) -> None:
    assert "the optimizer's step is not what was asked for" in FAULTS[fault](name).complaint


def test_values_are_rounded_as_what_holds_them() -> None:
    import torch

    values = np.array([1 + 2.0**-9, 1 + 2.0**-30, 3.0])
    kit = TorchTensors()
    assert kit.rounded(values, torch.ones(1, dtype=torch.bfloat16)).tolist() == [1, 1, 3]
    assert kit.rounded(values, torch.ones(1)).tolist() == [1 + 2.0**-9, 1, 3]
    assert FRAMEWORK.tensors.rounded(values, np.ones(1, np.float32)).tolist() == [1 + 2.0**-9, 1, 3]
