"""Peak memory of a step that is recorded: what its replays keep is in it, activations too."""

from __future__ import annotations

import os

import pytest

from bench.records.execution import RESERVED
from bench.tests.simulated.processes import Processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")

PEAKS = """
import gc
from bench import catalogue
from bench.measuring.execution import Execution
from bench.precision import PRECISIONS
from bench.tests.small_workloads import build
from bench.workload import Site

fp32, backend, told = PRECISIONS["fp32"], catalogue.backend("ascend"), {}
for work in ("llama prefill", "llama train"):
    for how in ("eager", "graph", "compile-graph"):
        device = backend.open(0, fp32)
        execution = Execution(how, backend, device)
        site = Site(device=device.place, precision=fp32, seed=1, execution=how,
                    compiler=execution.compiler, recorder=execution.recorder)
        job = build(*work.split(), site, batch_size=8)
        for _ in range(3):
            job.step()
        held = torch.npu.memory_allocated()
        device.reset_peak_memory()
        for _ in range(2):
            job.step()
        device.synchronize()
        memory = device.memory()
        told[f"{work} {how}"] = [memory.peak_bytes, memory.scope, held]
        job.close()
        del job, execution, site
        gc.collect()
        device.release_memory()
told["left"] = torch.npu.memory_reserved()
print(json.dumps(told))
"""


def test_recorded_or_not_a_step_needs_as_much(processes: Processes) -> None:
    said = processes.run(PEAKS).said
    assert said.pop("left") < 2**20, "a graph that has ended keeps nothing"
    for work in ("llama prefill", "llama train"):
        eager, scope, held = said[f"{work} eager"]
        assert scope == "device allocator"
        assert eager > 1.3 * held, "activations count here"
        for how in ("graph", "compile-graph"):
            peak, scope, _ = said[f"{work} {how}"]
            assert scope == f"device allocator, {RESERVED}"
            assert 0.9 * eager < peak < 2 * eager, (work, how)
