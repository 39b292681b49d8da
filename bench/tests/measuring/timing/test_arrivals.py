"""What steps waited for their inputs: the device's time where it queues, else the host's."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from bench.measuring.timing.blocks import BlockTimer
from bench.measuring.timing.single_steps import queueing
from bench.records.run import Settings
from bench.tests.fakes import MS, FakeDevice, FakeJob, ScriptedClock
from bench.tests.simulated.processes import Processes


class Fed(FakeJob):
    """The host waits 100 ms for each batch; what a step queues on the device follows."""

    input_wait_ns = 0
    mark: Callable[[], None] | None = None
    batches = 1

    def on_input(self, mark: Callable[[], None] | None) -> None:
        self.mark = mark

    def step(self) -> None:
        for _ in range(self.batches):
            self.device.clock.advance(100 * MS)
            self.input_wait_ns += 100 * MS
            if self.mark is not None:
                self.mark()
        super().step()


def fed(step_ms: int, synchronous: bool = False) -> tuple[BlockTimer, Fed]:
    device = FakeDevice(ScriptedClock(), synchronous)
    job = Fed(device, [step_ms * MS], host_ns=MS)
    return BlockTimer(job, device, Settings(), device.clock), job


@pytest.mark.parametrize(
    ("step_ms", "waited_ms"),
    [(95, 100 + 9 * 5), (99, 100 + 9), (101, 100), (10, 100 + 9 * 90), (500, 100)],
)
def test_what_counts_is_how_long_the_device_had_nothing_to_do(step_ms: int, waited_ms: int) -> None:
    """Of the first batch, all: the device was idle. Queueing, 1 ms a step, is no waiting."""
    timer, job = fed(step_ms)
    for _ in range(2):
        block = timer.block(10)
        assert block.input_wait_ns == waited_ms * MS
        assert sum(block.step_ns) == block.wall_ns
    assert job.mark is None, "nothing is marked outside of a block"


def test_within_a_block_nothing_is_asked_of_the_device() -> None:
    timer, job = fed(95)
    timer.block(3)
    assert job.device.actions.lstrip("e") == "Se" + "ese" * 3 + "S"


@pytest.mark.parametrize("synchronous", [True, False])
def test_without_events_it_is_the_hosts_time(
    monkeypatch: pytest.MonkeyPatch, synchronous: bool
) -> None:
    timer, job = fed(95, synchronous)
    if not synchronous:
        monkeypatch.setattr(job.device, "event", lambda: None)
    assert timer.block(10).input_wait_ns == 1000 * MS
    assert job.mark is None


@pytest.mark.parametrize("batches", [0, 2])
def test_steps_that_do_not_mark_once_have_the_hosts_time(batches: int) -> None:
    timer, job = fed(95)
    job.batches = batches
    assert timer.block(10).input_wait_ns == batches * 1000 * MS


def test_inputs_that_lie_ready_have_no_event() -> None:
    device = FakeDevice(ScriptedClock(), synchronous=False)
    block = BlockTimer(FakeJob(device, [MS]), device, Settings(), device.clock).block(3)
    assert block.input_wait_ns is None and device.actions.lstrip("e") == "S" + "es" * 3 + "eS"


def test_queueing_is_without_all_that_the_host_waited() -> None:
    timer, job = fed(95)
    assert queueing(job, timer.device, timer.clock) == (MS,) * 5


SLOW_LOADER = """
from bench import catalogue
from bench.measuring.timing.blocks import BlockTimer
from bench.precision import PRECISIONS
from bench.records.run import Settings
from bench.workload import Site
from bench.workloads.jobs.pipeline import Feed, PipelineJob

device = catalogue.backend("ascend").open(0, PRECISIONS["fp32"])
site = Site(device=device.torch_device, precision=PRECISIONS["fp32"], seed=0)
x = torch.ones(4, device="npu")

class Loaded(PipelineJob):
    def __init__(self, batches):
        self._feed, self._batches = (feed := Feed(batches, site)), feed

    def _next_batches(self):
        return [next(self._batches)]

    def _run(self, batches):
        return None, x.erfinv()

def just_late():
    while True:
        torch.npu.synchronize()
        time.sleep(0.005)
        yield torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.int64)

def in_time():
    while True:
        time.sleep(0.005)
        yield torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.int64)

told = []
for batches in (just_late, in_time):
    job = Loaded(batches())
    timer = BlockTimer(job, device, Settings(), time.perf_counter_ns)
    timer.block(1)
    before = job.input_wait_ns
    block = timer.block(6)
    told.append([x / 1e6 for x in (block.input_wait_ns, job.input_wait_ns - before, block.wall_ns)])
print(json.dumps(told))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each test is a forked process")
def test_a_loader_that_is_just_late_is_not_the_whole_step(processes: Processes) -> None:
    """Real queueing: a step of 100 ms, whose next batch is there 5 ms after it; or 95 before."""
    late, in_time = processes.run(SLOW_LOADER, slow="erfinv=100").said
    waited, hosts, wall = late
    assert hosts > 500, "the host waits while the device works"
    assert 6 * 5 <= waited <= wall - 6 * 100
    assert waited < hosts / 2
    waited, hosts, wall = in_time
    assert hosts >= 6 * 5
    assert 5 <= waited <= wall - 6 * 100, "but for the first, in time"
