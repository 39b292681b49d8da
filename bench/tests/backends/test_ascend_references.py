"""The reference of a model whose library calls torch_npu for tensors of the host, too."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest

from bench.tests.simulated.processes import Processes

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="processes are forked"),
    pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed"),
]

GATE = """
from bench import catalogue
from bench.measuring.gates.numerics import gate
from bench.precision import PRECISIONS
from bench.workload import Site
torch.npu.set_device(0)
workload = catalogue.workload("diffusion")
parameters = workload.modes["infer"].parameters(model="tiny-unet", batch_size=1)
at = Site(device=torch.device("npu", 0), precision=PRECISIONS[NAMED], seed=0)
switches = catalogue.backend("ascend").library_switches if HELD else ()
verdict = gate(workload, "infer", parameters, at, switches)
print(json.dumps([verdict.passed, verdict.complaint, [c.error for c in verdict.checks]]))
"""


def gate(processes: Processes, held: bool, precision: str = "bf16") -> Any:
    code = GATE.replace("HELD", str(held)).replace("NAMED", repr(precision))
    return processes.run(code)


def test_the_unets_reference_calls_nothing_of_torch_npu(processes: Processes) -> None:
    passed, complaint, errors = gate(processes, held=True).said
    assert passed, complaint
    assert all(error > 0 for error in errors)


def test_it_would_fail_there(processes: Processes) -> None:
    ended = gate(processes, held=False)
    assert ended.code == 1
    assert "Could not run 'npu::npu_geglu' with arguments from the 'CPU' backend" in ended.err
