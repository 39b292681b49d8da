"""MindSpore's models: they pass the gate, their work is torch's, and other work is void.

Skipped, with the reason, where no Python with MindSpore is named.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.judging.comparing.equal_work import of_launches
from bench.measuring.messages import Report
from bench.measuring.proving.watch import READ_AFTER
from bench.records.case import Case
from bench.records.outcome import Measured, Void
from bench.records.proof import Proof
from bench.running.elsewhere import Elsewhere
from bench.tests.frameworks.mindspore_faults import shallow
from bench.tests.frameworks.mindspore_launches import Trial, launched
from bench.tests.frameworks.test_mindspore import handed, there
from bench.tests.measuring.proving.watching import proof_of

__all__ = ["there"]

IMAGES: dict[str, Any] = {"batch_size": 4, "image_size": 48}
"""As in the gate: of smaller ones the gradients are all noise."""
TOKENS: dict[str, Any] = {"model": "tiny", "batch_size": 2, "sequence_length": 16}


def case(workload: str, mode: str, execution: str, precision: str = "fp32", **given: Any) -> Case:
    return Case(
        workload=workload,
        version=2 if workload == "bert" else 1,
        mode=mode,
        precision=precision,
        execution=execution,
        parameters={**(TOKENS if workload == "bert" else IMAGES), **given},
    )


WHOLE = "resnet50 in all its depth"
HONEST = {
    WHOLE: case("resnet50", "infer", "compile"),
    "resnet50 infer eager": case("resnet50", "infer", "eager"),
    "resnet50 infer fp16": case("resnet50", "infer", "eager", "fp16"),
    "resnet50 train eager": case("resnet50", "train", "eager"),
    "resnet50 train compile": case("resnet50", "train", "compile"),
    "bert infer eager": case("bert", "infer", "eager"),
    "bert infer compile": case("bert", "infer", "compile"),
    "bert infer fp16": case("bert", "infer", "eager", "fp16"),
    "bert train eager": case("bert", "train", "eager"),
    "bert train compile": case("bert", "train", "compile", accumulation_steps=2),
}
BY_THE_GATE = [
    ("wrong weights", "resnet50", "infer"),
    ("wrong weights", "bert", "infer"),
    ("other epsilon", "resnet50", "infer"),
    ("other epsilon", "bert", "infer"),
    ("dropout left on", "bert", "infer"),
    ("dropout left on", "bert", "train"),
    ("products in fp16", "bert", "infer"),
    ("products in fp16", "resnet50", "infer"),
    ("training mode", "resnet50", "infer"),
]
AS_A_GRAPH = [
    (fault, "bert", "infer", "compile")
    for fault in ("wrong weights", "other epsilon", "products in fp16")
]
PLANTED = [*((*fault, "eager") for fault in BY_THE_GATE), *AS_A_GRAPH]
BY_THE_LAW = [
    ("update skipped", "bert"),
    ("rate doubled", "bert"),
    ("momentum off", "bert"),
    ("momentum off", "resnet50"),
    ("steps dropped", "bert"),
]


def trial(one: Case, folder: Path, *, whole: bool) -> Trial:
    """whole: ResNet-50 as it is; else cut, see `shallow`. Its steps may be as slow as they are."""
    own = folder / str(whole)
    own.mkdir(exist_ok=True)
    with nullcontext() if whole else shallow():
        request = handed(one, own)
    settings = msgspec.structs.replace(request.settings, warmup_limit_seconds=20.0)
    request = msgspec.structs.replace(request, settings=settings, samples=2)
    return Trial(request=request, shallow=not whole)


def torchs(one: Case, *, whole: bool) -> Proof:
    with nullcontext() if whole else shallow():
        return proof_of(one, seed=1)


@pytest.fixture(scope="module")
def reports(
    there: Elsewhere, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], Report]:
    """Of one process, which imports MindSpore once: each launch by what it is."""
    folder = tmp_path_factory.mktemp("handed")
    trials: dict[tuple[str, ...], Trial] = {
        (name,): trial(one, folder, whole=name == WHOLE) for name, one in HONEST.items()
    }
    by_the_law = ((fault, workload, "train", "eager") for fault, workload in BY_THE_LAW)
    for fault, workload, mode, execution in [*PLANTED, *by_the_law]:
        wrong = trial(case(workload, mode, execution), folder, whole=False)
        trials[fault, workload, mode, execution] = msgspec.structs.replace(wrong, fault=fault)
    return dict(zip(trials, launched(there, trials.values(), folder), strict=True))


@pytest.mark.parametrize("name", HONEST)
def test_its_models_pass_the_gate_and_their_work_is_torchs(
    reports: dict[tuple[str, ...], Report], name: str
) -> None:
    outcome, one = reports[(name,)].outcome, HONEST[name]
    assert isinstance(outcome, Measured), outcome
    assert all(check.passed for check in outcome.numerics.checks)
    assert outcome.proof is not None
    found = of_launches(
        [(1, torchs(one, whole=name == WHOLE))], [(1, outcome.proof)], one.precision
    )
    assert found.proved, found.words
    assert {reading.step for reading in outcome.proof.readings} == {*READ_AFTER}
    assert len(outcome.proof.law) == (2 if one.mode == "train" else 0)
    assert outcome.proof.not_over == ""


@pytest.mark.parametrize(("fault", "workload", "mode", "execution"), PLANTED)
def test_planted_faults_are_void(
    reports: dict[tuple[str, ...], Report], fault: str, workload: str, mode: str, execution: str
) -> None:
    outcome = reports[fault, workload, mode, execution].outcome
    assert isinstance(outcome, Void) and outcome.reason.startswith("numerics: "), outcome


@pytest.mark.parametrize(("fault", "workload"), BY_THE_LAW)
def test_wrong_updates_are_void(
    reports: dict[tuple[str, ...], Report], fault: str, workload: str
) -> None:
    outcome = reports[fault, workload, "train", "eager"].outcome
    assert isinstance(outcome, Void), outcome
    assert "the optimizer's step is not what was asked for" in outcome.reason
