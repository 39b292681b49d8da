"""A step of the simulated device, explained by what torch's profiler sees of it."""

from __future__ import annotations

import os

import pytest

from bench.tests.simulated.processes import Processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")

CODE = """
import os
from types import SimpleNamespace
os.environ["KINETO_LOG_LEVEL"] = "99"
from bench.measuring.explaining import kernels, profiled
from bench.measuring.explaining.replay import operands
from bench.measuring.explaining.tape import recorded
from bench.measuring.explaining.undone import in_place

device = SimpleNamespace(synchronize=torch.npu.synchronize, synchronous=False)
w, x = (torch.ones(4, 4, device="npu", requires_grad=grad) for grad in (True, False))

def step():
    w.grad = None
    (torch.relu(x @ w) @ w).erfinv().sum().backward()

def refill():
    x.erfinv()

job = SimpleNamespace(refill=refill, step=step)
profiler = profiled.Profiler(job, device)
for _ in range(2):
    profiler.look()
tape = recorded(step, "npu")
undone = in_place(tape, profiler.names(tape))
profile, rows = profiler.seen(tape)
graph, stream = torch.npu.NPUGraph(), torch.npu.Stream()
with torch.no_grad(), torch.npu.graph(graph, stream=stream):
    y = torch.relu(x @ w).erfinv()
replayed = SimpleNamespace(refill=refill, step=graph.replay)
at = torch.tensor([1, 1], device="npu")
placed = recorded(lambda: x.index_select(0, at.cumsum(0)), "npu")
indices = [operands(placed, call, x.device)[0] for call in placed.calls]
first, second = profiled.whole(profiled.events_of(replayed, device, 2)[0])
seen = kernels.rows(first + second, 2, "fp32", synchronous=False)
print(json.dumps([
    undone,
    {kind: round(ns) for kind, ns in profile.kinds.items()},
    {n: c for n, c in profile.calls.items() if n.endswith(("mm", "erfinv"))},
    [round(sum(row.ns for row in rows if row.name == f"aten::{n}")) for n in ("mm", "erfinv")],
    [[row.name, row.kind, row.calls, round(row.ns)] for row in seen],
    [indices[0][0].tolist(), indices[1][2].tolist()],
]))
"""


def test_kernels_are_seen_of_a_step_and_of_its_graph(processes: Processes) -> None:
    """Those of what is done before a step are not among them; a backward's are."""
    said = processes.run(CODE, slow="mm=2,erfinv=5", operator_microseconds=100).said
    undone, kinds, calls, taken, replayed, placed = said
    assert placed == [[1, 1], [1, 2]], "integers are kept, those of the step too"
    assert undone == 1, "two uses of a weight"
    assert calls == {"aten::mm": 5.0, "aten::erfinv": 2.0}, "whose backward calls it again"
    assert taken == [5 * 2_100_000, 2 * 5_100_000] and kinds["matmul"] == 5 * 2_100_000
    assert replayed == [
        ["Erfinv", "elementwise", 1, 5_100_000],
        ["MatMulV2", "matmul", 1, 2_100_000],
        ["Relu", "elementwise", 1, 100_000],
    ]
