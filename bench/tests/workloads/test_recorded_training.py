"""Training that is recorded once and replayed: from the weights that it was built with."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from bench.measuring.gates import numerics
from bench.records.execution import ALL_EXECUTIONS
from bench.tests.replay import FakeRecorder
from bench.tests.small_workloads import TRAINING, WORKLOADS, build, one_thread, site, small
from bench.workload import Unsupported
from bench.workloads.jobs import optimizers

__all__ = ["one_thread"]  # a fixture, used by being here

RECORDED = [
    (name, mode)
    for name, mode in TRAINING
    if WORKLOADS[name].modes[mode].executions == ALL_EXECUTIONS
]

KINDS = [("llama", "lora"), ("resnet50", "train"), ("deepseek", "train")]
"""What differs: weights that stay, batch statistics and momentum, experts. The others, slower ones
among them, are of the same code."""


def recorded(name: str, mode: str) -> tuple[Any, FakeRecorder]:
    recorder = FakeRecorder()
    at = msgspec.structs.replace(site(), execution="graph", recorder=recorder)
    return build(name, mode, at), recorder


def all_of(job: Any) -> list[torch.Tensor]:
    """What its steps compute and move."""
    return [*(t for ts in job.outputs().values() for t in ts), *job.weights()]


def test_what_takes_from_the_host_is_not_recorded() -> None:
    assert {name for name, _ in TRAINING} - {name for name, _ in RECORDED} == {"dlrm"}
    assert set(KINDS) < set(RECORDED)
    assert ("resnet50", "train-pipeline") not in RECORDED


@pytest.mark.usefixtures("small_vision")
@pytest.mark.parametrize(("name", "mode"), KINDS)
def test_replayed_steps_train_as_the_others_do(name: str, mode: str) -> None:
    """From the first one on: what the recording itself moved is put back."""
    eager, (replayed, recorder) = build(name, mode, site()), recorded(name, mode)
    for _ in range(3):
        eager.step()
        replayed.step()
        torch.testing.assert_close(all_of(replayed), all_of(eager))
    assert eager.again() and replayed.again()
    torch.testing.assert_close(all_of(replayed), all_of(eager))
    eager.step()
    replayed.step()
    torch.testing.assert_close(all_of(replayed), all_of(eager))
    assert (recorder.recordings, recorder.replays) == (1, 4)
    assert replayed.facts["replayed"] == "one graph a step"


def test_the_gate_runs_the_replay_of_all_its_steps() -> None:
    recorder = FakeRecorder()
    at = msgspec.structs.replace(site(), execution="graph", recorder=recorder)
    verdict = numerics.gate(WORKLOADS["bert"], "train", small("bert", "train"), at)
    assert verdict.passed, verdict.complaint
    assert (recorder.recordings, recorder.replays) == (1, 3)


def test_an_optimizer_that_counts_on_the_host_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = optimizers.trial
    unfit = optimizers.Trial(2.0, 1.0)
    monkeypatch.setattr(
        optimizers,
        "trial",
        lambda name, how, *kind: unfit if how == "fused" else trial(name, how, *kind),
    )
    with pytest.raises(Unsupported, match="AdamW is not fused here"):
        recorded("bert", "train")
