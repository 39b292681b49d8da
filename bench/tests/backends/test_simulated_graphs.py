"""The simulated device's graphs and compiler behave as torch's do on a real one."""

from __future__ import annotations

import os

import pytest

from bench.tests.simulated.processes import Processes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")

CAPTURED = """
x, total = torch.arange(6.0, device="npu").reshape(2, 3), torch.zeros(2, 3, device="npu")
w, graph, drawn = torch.ones(3, 3, device="npu"), torch.npu.NPUGraph(), torch.get_rng_state()
with torch.npu.graph(graph, stream=torch.npu.Stream()):
    capturing = torch.npu.is_current_stream_capturing()
    y = x @ w
    total.add_(y)
    best, chance = total.argmax(-1), torch.rand(2, device="npu")
told = [capturing, torch.npu.is_current_stream_capturing()]
told += [torch.equal(drawn, torch.get_rng_state()), total.tolist(), bool((y > 2).any())]
graph.replay()
told += [y.tolist(), total.tolist(), best.tolist()]
first = chance.tolist()
x.neg_()
w.fill_(2.0)
graph.replay()
told += [y[:, 0].tolist(), total[:, 0].tolist(), chance.tolist() != first]
"""
REFUSED = """
def refused(act, stream=None):
    graph, words = torch.npu.NPUGraph(), []
    try:
        with torch.npu.graph(graph, stream=stream):
            try:
                act()
            except RuntimeError as error:
                words.append(str(error))
    except RuntimeError as error:
        words.append(str(error))
    try:
        graph.replay()
    except RuntimeError as error:
        words.append(str(error))
    return words

event = torch.npu.Event()
event.record()
acts = [lambda: x.sum().item(), lambda: x.cpu(), lambda: torch.ones(2).to("npu"), lambda: x[x > 0],
        lambda: x.nonzero(), torch.npu.synchronize, event.synchronize, event.query,
        lambda: torch.npu.current_stream().synchronize(), lambda: x.cumsum(0), graph.replay]
told = [refused(act) for act in acts]
told.append(refused(lambda: None, torch.npu.default_stream()))
told.append([x.sum().item() != 0])
"""
TIME = """
graph, stream = torch.npu.NPUGraph(), torch.npu.Stream()
x, clock = torch.ones(4, device="npu"), torch_npu._devices.current().timeline
with torch.npu.graph(graph, stream=stream):
    for _ in range(5):
        x.erfinv()
torch.npu.synchronize()
told = [stream.stream_id in clock._ends]
start = time.perf_counter()
graph.replay()
torch.npu.synchronize()
told.append(time.perf_counter() - start >= 0.1)
"""
COMPILED = """
def work(x):
    y = x @ x
    for _ in range(5):
        y = (y - 1.0).erfinv().nan_to_num(0.5)
    return y

def recorded(run):
    run(x)
    graph = torch.npu.NPUGraph()
    with torch.npu.graph(graph):
        y = run(x)
    graph.replay()
    return y, graph._capture.seconds

x = torch.full((4, 4), 0.25, device="npu")
eager, kernels = recorded(work)
found, fewer = recorded(torch.compile(work, backend="npu", fullgraph=True))
told = [torch.equal(found, eager), round(1e3 * kernels), round(1e3 * fewer)]
told.append("npu" in torch._dynamo.list_backends())
"""
MEMORY = """
npu, MIB = torch.npu, 2**20

def made():
    return torch.full((MIB // 4,), 3.0, device="npu")

def step():
    parts = [made() for _ in range(8)]
    total = parts[0] + parts[1].view(2, -1)[1:].repeat(2, 1).view(-1)
    while parts:
        total.add_(parts.pop())
    return total

def counted():
    return [n // MIB for n in (npu.memory_allocated(), npu.max_memory_allocated(),
                               npu.memory_reserved(), npu.max_memory_reserved())]

def fresh():
    npu.empty_cache()
    npu.reset_peak_memory_stats()

y = step()
del y
told = [counted()]
fresh()
told.append(counted())
graph = npu.NPUGraph()
with npu.graph(graph):
    y = step()
told.append(counted())
fresh()
graph.replay()
beside = made()
told += [counted(), [y[0].item(), npu.mem_get_info()[0] // MIB]]
try:
    rest = torch.empty(4 * MIB, device="npu")
except torch.OutOfMemoryError as error:
    told.append(str(error))
del graph, y, beside
fresh()
told.append(counted())
"""
PRINT = "print(json.dumps(told))"


def test_what_is_recorded_has_not_run_and_is_replayed_where_it_lay(processes: Processes) -> None:
    capturing, after, drawn, before, made, *replays = processes.run(CAPTURED + PRINT).said
    assert (capturing, after, drawn) == (True, False, True)
    assert before == [[0.0] * 3] * 2, "what it changed is as it was"
    assert not made, "what it made has not been computed"
    assert replays[:3] == [[[3.0] * 3, [12.0] * 3]] * 2 + [[0, 0]]
    assert replays[3:] == [[-6.0, -24.0], [-3.0, -12.0], True]


def test_who_waits_within_a_capture_is_refused_and_ends_it(processes: Processes) -> None:
    *refused, on_default, (works,) = processes.run(
        CAPTURED + REFUSED + PRINT, fallback="cumsum"
    ).said
    assert len(refused) == 11 and works
    for said in refused:
        assert len(said) == 3, said
        assert "operation not permitted when stream is capturing" in said[0]
        assert "due to a previous error during capture" in said[1]
        assert "without a preceding successful capture" in said[2]
    assert "must be captured on a non-default stream" in on_default[0]


def test_a_recording_takes_no_time_and_its_replay_all_of_it(processes: Processes) -> None:
    assert processes.run(TIME + PRINT, slow="erfinv=20").said == [False, True]


def test_compiled_code_is_fused(processes: Processes) -> None:
    """Operators of a millisecond each."""
    said = processes.run(COMPILED + PRINT, operator_microseconds=1000).said
    assert said == [True, 16, 1, True]


def test_what_a_recording_freed_is_reserved_and_not_allocated(processes: Processes) -> None:
    """As of torch: Note [Checkpointing PrivatePoolState] in its CUDACachingAllocator.cpp."""
    said = processes.run(MEMORY + PRINT, memory_bytes=24 * 2**20).said
    eager, fresh, recorded, replayed, (value, free), full, ended = said
    assert eager[0] == 0 and eager[1] == eager[3] >= 10
    assert fresh == [0] * 4
    assert recorded == [1, eager[1], eager[3], eager[3]], "while it is recorded it allocates"
    assert replayed == [2, 2, eager[3] + 1, eager[3] + 1], "a replay allocates nothing"
    assert (value, free) == (30.0, 24 - eager[3] - 1)
    assert "out of memory" in full, "what a graph keeps is nobody else's"
    assert ended == [0] * 4
