"""An implementation of an optimizer that does not move the weights as it must is never used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.judging.measured import PASSED_OVER as JUDGED
from bench.precision import PRECISIONS
from bench.tests.small_workloads import build, site
from bench.workload import Wrong
from bench.workloads.jobs import optimizers
from bench.workloads.jobs.jobs import PASSED_OVER
from bench.workloads.jobs.optimizers import (
    IMPLEMENTATIONS,
    SETTINGS,
    Trial,
    choose,
    make_optimizer,
    predicted,
    trial,
)

CPU = torch.device("cpu")
DTYPES = (torch.bfloat16, torch.float32, torch.float64)
RIGHT, OFF = Trial(0.0, 1.0), Trial(2.0, 1.0)


@pytest.fixture(autouse=True)
def untried() -> Iterator[None]:
    """What one test finds is no other's."""
    trial.cache_clear()
    yield
    trial.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_torchs_loop_is_as_the_formula_says(name: str, dtype: torch.dtype) -> None:
    """By which the formulas are right too: they were written down without it."""
    found = trial(name, "loop", dtype, CPU)
    assert found.passed, found.finding
    assert found.error < found.tolerance / 4


def test_a_prediction_by_hand() -> None:
    """w = 1, g = 1, then 2; rate 0.5, decay 0.5: worked out on paper."""
    weight, gradients = torch.ones(1), [torch.ones(1), 2 * torch.ones(1)]
    decayed = {"momentum": 0.5, "weight_decay": 0.5}
    # 1.5; 1 - 0.75 = 0.25.  2 + 0.125 + 0.75 = 2.875; 0.25 - 1.4375.
    assert float(predicted("sgd", decayed, weight, gradients)) == -1.1875
    assert float(predicted("plain-sgd", {}, weight, gradients)) == -0.5
    # First step: 0.75 - 0.5 * 1.
    once = predicted("adamw", {"weight_decay": 0.5}, weight, gradients[:1])
    assert float(once) == pytest.approx(0.25)


Fault = Callable[[Any, list[Tensor]], None]


def _skipped(optimizer: Any, weights: list[Tensor], which: Callable[[Tensor], Any]) -> None:
    """A step in which some elements of every weight stay what they were."""
    before = [w.detach().clone() for w in weights]
    type(optimizer).step(optimizer)
    for weight, old in zip(weights, before, strict=True):
        where = which(weight)
        weight.data[where] = old[where]


def _scaled(optimizer: Any, weights: list[Tensor]) -> None:
    for weight in weights:
        weight.grad = weight.grad * 1.25 if weight.grad is not None else None
    type(optimizer).step(optimizer)


def _forgetting(optimizer: Any, weights: list[Tensor]) -> None:
    optimizer.state.clear()
    type(optimizer).step(optimizer)


def _without_decay(optimizer: Any, weights: list[Tensor]) -> None:
    optimizer.param_groups[0]["weight_decay"] = 0.0
    type(optimizer).step(optimizer)


FAULTS: dict[str, tuple[str, Fault]] = {
    "whole vectors stay": ("sgd", lambda o, ws: _skipped(o, ws, lambda w: slice(len(w) & ~31))),
    "one lane stays": ("adamw", lambda o, ws: _skipped(o, ws, lambda w: slice(3, None, 32))),
    "the rest stays": ("plain-sgd", lambda o, ws: _skipped(o, ws, lambda w: slice(1024, None))),
    "nothing moves": ("adamw", lambda o, ws: None),
    "another rate": ("plain-sgd", _scaled),
    "no momentum": ("sgd", _forgetting),
    "no moments": ("adamw", _forgetting),
    "no decay": ("sgd", _without_decay),
    "no decay of Adam's": ("adamw", _without_decay),
}
"""By what is wrong with it: an optimizer, and its step."""


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(
    fault: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, step = FAULTS[fault]
    real = optimizers.make

    def make(*arguments: Any) -> Any:
        made: Any = real(*arguments)
        made.step = lambda: step(made, arguments[2])
        return made

    monkeypatch.setattr(optimizers, "make", make)
    found = trial(name, "loop", dtype, CPU)
    assert found.wrong, found.finding


def found_by(monkeypatch: pytest.MonkeyPatch, **outcomes: Trial) -> None:
    """Has each implementation's trial come out as given."""
    monkeypatch.setattr(optimizers, "trial", lambda name, how, *_: outcomes.get(how, RIGHT))


def test_the_first_that_is_right_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [torch.nn.Parameter(torch.ones(4))]
    found_by(monkeypatch)
    assert choose("sgd", 0.1, weights)[1:] == ("fused", "")
    absent = Trial(9.0, 1.0, RuntimeError("`fused=True` requires another device"))
    found_by(monkeypatch, fused=absent)
    assert choose("sgd", 0.1, weights)[1:] == ("foreach", ""), "what there is not, is not wrong"
    found_by(monkeypatch, fused=OFF)
    chosen = choose("sgd", 0.1, weights)
    assert chosen.optimizer.defaults["foreach"] is True
    assert chosen.passed_over == (
        "fused SGD is wrong here in float32: weights off by 2 after 2 steps (tolerance 1); "
        "foreach is used"
    )
    found_by(monkeypatch, fused=OFF, foreach=OFF)
    chosen = choose("adamw", 0.1, weights)
    assert chosen.implementation == "loop" and chosen.passed_over.count("is wrong here") == 2


def test_where_none_is_right_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [torch.nn.Parameter(torch.ones(4))]
    found_by(monkeypatch, **dict.fromkeys(IMPLEMENTATIONS, OFF))
    with pytest.raises(Wrong, match="loop SGD is wrong here in float32: weights off by 2"):
        choose("sgd", 0.1, weights)
    lost = RuntimeError("the device is lost")
    found_by(monkeypatch, **dict.fromkeys(IMPLEMENTATIONS, Trial(9.0, 1.0, lost)))
    with pytest.raises(RuntimeError, match="lost") as raised:
        choose("sgd", 0.1, weights)
    assert raised.value is lost, "its kind is told by the runtime's own words"


def test_every_dtype_of_a_model_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters in float32 on a model in bfloat16."""
    weights = [torch.nn.Parameter(torch.ones(4).to(dtype)) for dtype in DTYPES]
    tried: list[torch.dtype] = []

    def note(name: str, how: str, dtype: torch.dtype, device: torch.device) -> Trial:
        tried.append(dtype)
        return RIGHT

    monkeypatch.setattr(optimizers, "trial", note)
    choose("sgd", 0.1, weights)
    assert tried == list(DTYPES)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_job_is_given_moves_bfloat16_weights(name: str) -> None:
    """torch 2.13's fused SGD does not, on a CPU (pytorch 191763)."""
    layer = torch.nn.Linear(64, 64, dtype=torch.bfloat16)
    before = layer.weight.detach().clone()
    optimizer, _ = make_optimizer(name, 0.1, layer)
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    assert not bool((layer.weight == before).any())


def test_a_jobs_record_says_what_was_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    found_by(monkeypatch, fused=OFF)
    job: Any = build("dlrm", "train", site(PRECISIONS["bf16"]))
    job.step()
    assert job.facts["optimizer"] == "SGD(foreach=True)"
    assert job.facts[PASSED_OVER].startswith("fused SGD is wrong here in bfloat16")
    assert all(look.asked == look.seen for look in job.looks())
    job._optimizer.param_groups[0].update(foreach=False, fused=True)
    seen = {look.what: look for look in job.looks()}["kernels of the optimizer"]
    assert (seen.asked, seen.seen) == ("foreach", "fused"), "whoever turns it on again is told"
    assert PASSED_OVER == JUDGED
