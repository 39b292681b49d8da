"""A device without float64, as Apple's are: what is read of it is widened on the host.

torch.mps converts a copy to the host on the device: to float64 that is a TypeError in torch 2.13,
and zeros without a word in 2.14 (pytorch issue 197715). Every workload is held to this by
`test_ascend_works.py`, whose device refuses float64 in the same way.
"""

from __future__ import annotations

import os

import pytest

from bench.tests.simulated.processes import Processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")

REFUSALS = """
x, told = torch.ones(3, device="npu"), []
for act in (lambda: x.to("cpu", torch.float64), lambda: x.to(device="cpu", dtype=torch.float64),
            x.double, lambda: torch.ones(3).double().npu(), lambda: torch.ones(3).copy_(x),
            lambda: torch.ones(3).double().to("npu", torch.float32),
            lambda: x.cpu().to(torch.float64)):
    try:
        told.append(str(act().dtype))
    except TypeError as error:
        told.append(str(error))
print(json.dumps(told))
"""
READERS = """
from types import SimpleNamespace
from torch import distributed
from bench import catalogue, ranks
from bench.backends import _trial
from bench.conformance.checks import narrow
from bench.formats import encode
from bench.frameworks.torch import TorchTensors
from bench.measuring.gates import readings
from bench.precision import PRECISIONS
from bench.workloads.jobs import gradients
from bench.workloads.jobs import optimizers

place, kit = torch.device("npu:0"), TorchTensors()
x = torch.arange(6.0).view(2, 3)
there = x.to(place)
told = {"whole": kit.on_host(there).tolist(), "rank": readings._host(there).tolist()}

distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
alone = SimpleNamespace(control=None, size=1)
told["mean"] = ranks.Ranks.mean(alone, there).tolist()

layer = torch.nn.Linear(2, 1, bias=False).to(place)
layer(torch.tensor([[3.0, 4.0]], device=place)).sum().backward()
told["gradients"] = float(gradients.gradient_norm(layer))
told["optimizer"] = optimizers.trial("sgd", "loop", torch.float32, place).passed

class Products:
    def product(self, rows, matrix, how, place):
        found = (rows.exactly() @ matrix.exactly().t()).to(place, torch.float32)
        return SimpleNamespace(queue=lambda: found)
    def grouped(self, rows, matrices, how, place):
        made = [self.product(a, b, how, place).queue() for a, b in zip(rows, matrices)]
        return SimpleNamespace(queue=lambda: torch.cat(made))
    def by_experts(self, codes, scales, place):
        exact = [encode(narrow._normals(narrow.N, 9 + i), PRECISIONS["mxfp4"], True)
                 for i in range(len(narrow.COUNTS))]
        def by(rows, ends):
            parts = rows.cpu().double().split(narrow.COUNTS)
            made = [a @ b.exactly().t() for a, b in zip(parts, exact)]
            return torch.cat(made).to(place, torch.bfloat16)
        return by

how = PRECISIONS["mxfp8"]
backend = SimpleNamespace(products=Products(), unsupported=lambda info, how: None,
                          failure_kind=lambda error: "error")
told["format"] = _trial._wrong_format(backend, place, how)
stand = SimpleNamespace(backend=backend, place=place, open=lambda how: None,
                        unsupported=lambda how: None, lacks=lambda name: "")
found = [narrow._numbers(stand, "mxfp8", how), *narrow.grouped(stand), *narrow.by_experts(stand)]
told["narrow"] = {finding.title: finding.verdict for finding in found}
print(json.dumps(told))
"""


def test_a_device_can_refuse_float64_in_the_words_of_a_real_one(processes: Processes) -> None:
    *refused, plain, narrowed, widened = processes.run(REFUSALS, float64="refused").said
    assert len(refused) == 4
    assert all("MPS Tensor to float64" in said for said in refused)
    assert (plain, narrowed, widened) == ("torch.float32", "torch.float32", "torch.float64")


def test_whoever_reads_a_device_widens_on_the_host(processes: Processes) -> None:
    said = processes.run(READERS, float64="refused").said
    values = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert said["whole"] == said["rank"] == said["mean"] == values
    assert (said["gradients"], said["optimizer"], said["format"]) == (5.0, True, None)
    assert len(said["narrow"]) > 4
    assert set(said["narrow"].values()) == {"pass"}
