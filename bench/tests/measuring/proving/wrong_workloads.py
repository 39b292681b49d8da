"""The numerics gate on the small workloads, and on those that go wrong in one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.measuring.gates import numerics
from bench.measuring.gates.numerics import gate
from bench.precision import PRECISIONS, REFERENCE, Precision
from bench.records.outcome import Numerics
from bench.tests.small_workloads import MODES, WORKLOADS, site
from bench.workload import Job, Parameters, Site, Workload
from bench.workloads import resnet50, vit_b16

TF32_CASES = [
    (name, mode, "tf32")
    for name, mode in MODES
    if "tf32" in WORKLOADS[name].modes[mode].precisions
    and (mode != "train" or name in ("llama", "dlrm", "bert", "resnet50"))
]

_REFERENCES: dict[Any, dict[str, Any]] = {}


@pytest.fixture(autouse=True, scope="module")
def one_reference() -> Iterator[None]:
    """Computes each float64 reference once: half of the time of these tests."""
    real = numerics._probe

    def probe(workload: Workload, mode: str, twin: Any, at: Site, *by: Any) -> dict[str, Any]:
        if at.precision.name != REFERENCE.name:
            return real(workload, mode, twin, at, *by)
        sizes = (resnet50.DEPTHS, vit_b16.HIDDEN)  # see `small_vision`
        key = (workload.name, mode, twin, at.seed, at.precision, sizes)
        if key not in _REFERENCES:
            _REFERENCES[key] = real(workload, mode, twin, at, *by)
        return _REFERENCES[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numerics, "_probe", probe)
        yield


WHOLE = {
    "test_the_gate_passes_what_is_right": {"resnet50", "vit-b16"},
    "test_an_optimizer_that_does_nothing_is_caught": {"vit-b16"},  # its rate is for the whole
}
"""Tests of large models as they are. In others what goes wrong does so in a block of each stage, or
in narrow layers; and the pipeline, which brings other batches to the same job, needs no more."""


@pytest.fixture(autouse=True)
def small_pipeline(request: pytest.FixtureRequest) -> None:
    """ResNet-50 and ViT-B/16 are small but where they are `WHOLE`."""
    spec = getattr(request.node, "callspec", None)
    given = {} if spec is None else spec.params
    whole = WHOLE.get(request.node.originalname, set())
    small = given.get("name") in {"resnet50", "vit-b16"} - whole
    if small or given.get("mode") == "train-pipeline":
        request.getfixturevalue("small_vision")


def parameters(name: str, mode: str, **given: Any) -> Parameters:
    """The smallest model, else the defaults; the gate takes its twin by itself."""
    kind = WORKLOADS[name].modes[mode].parameters
    smallest = {"model": "tiny"} if "model" in kind.__struct_fields__ else {}
    if name == "gemm":
        smallest = {"shape": "128x128x256"}
    return kind(**smallest, **given)


class Wrong(Workload):
    """A workload that goes wrong on the device, and not in the reference."""

    def __init__(self, right: Workload, spoil: Callable[[Job], None]) -> None:
        self._right, self._spoil = right, spoil
        self.name, self.version, self.modes = right.name, right.version, right.modes

    def work(self, mode: str, parameters: Any, precision: Precision) -> Any:
        return self._right.work(mode, parameters, precision)

    def twin(self, mode: str, parameters: Any) -> Parameters:
        return self._right.twin(mode, parameters)

    def build(self, mode: str, parameters: Any, at: Site) -> Job:
        job = self._right.build(mode, parameters, at)
        if at.precision.name != REFERENCE.name:
            self._spoil(job)
        return job


def gate_wrong(
    name: str, mode: str, precision: str, spoil: Callable[[Any], None], **given: Any
) -> Numerics:
    wrong = Wrong(WORKLOADS[name], spoil)
    return gate(wrong, mode, parameters(name, mode, **given), site(PRECISIONS[precision], seed=5))
