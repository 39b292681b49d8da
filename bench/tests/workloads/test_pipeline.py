"""The input pipeline: its images, its waiting, and the end of its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.measuring.timing.engine import Engine
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Block
from bench.records.run import Settings
from bench.report import Canvas
from bench.reports import table
from bench.tests.fakes import FakeDevice, FakeJob, ScriptedClock
from bench.tests.small_workloads import site
from bench.tests.values import make_block, make_case, make_file, make_launch, make_measured
from bench.workloads.jobs.pipeline import DEVIATION, MEAN, Endless, Feed, GeneratedImages
from bench.workloads.resnet50 import WORKLOAD, PipelineParameters, TrainParameters

SECONDS = 100
START = """if True:
    import json, sys, threading, warnings
    import psutil, torch
    from types import SimpleNamespace
    from bench import lifeline
    from bench.workloads.jobs.pipeline import Feed, GeneratedImages, data_loader
    from bench.precision import PRECISIONS
    from bench.workload import Site

    warnings.simplefilter("ignore")  # more processes than cores
    torch.set_num_threads(1)
    # As in a worker: a thread that holds stdin when the loader's processes are forked.
    stdin = sys.stdin.buffer
    threading.Thread(target=lifeline.leave_with_parent, args=(stdin,), daemon=True).start()
    at = Site(device=torch.device("cpu"), precision=PRECISIONS["fp32"], seed=3)

    def feed(processes):
        parameters = SimpleNamespace(num_workers=processes, pin_memory=True, prefetch_factor=2)
        return Feed(data_loader(GeneratedImages(3, 32, 10), 4, parameters, at), at)
"""


def child(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )


def said(process: subprocess.Popen[str]) -> Any:
    """The JSON that a child prints at its end."""
    assert process.stdout is not None
    with process:
        return json.loads(process.stdout.readline())


def test_an_image_comes_from_the_seed_and_its_index() -> None:
    images, again, other = (GeneratedImages(seed, 32, 10) for seed in (1, 1, 2))
    image, label = images[5]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32
    assert torch.equal(image, again[5][0]) and label == again[5][1]
    assert not torch.equal(image, images[6][0]) and not torch.equal(image, other[5][0])
    assert {images[i][1] for i in range(100)} == set(range(10))
    order = iter(Endless())
    assert [next(order) for _ in range(3)] == [0, 1, 2]


def test_an_image_is_bytes_normalized_as_photographs_are() -> None:
    image, _ = GeneratedImages(0, 64, 10)[0]
    for channel, mean, deviation in zip(image, MEAN, DEVIATION, strict=True):
        values = channel * deviation + mean
        assert torch.allclose(values, values.round(), atol=1e-3)
        assert -1e-3 < values.min() < 10 and 245 < values.max() < 255.001


def test_crops_and_flips_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image from a known picture: where its corner comes from tells both."""
    rows = torch.arange(37, dtype=torch.uint8)
    picture = torch.stack([rows.view(-1, 1).expand(37, 37), *[rows.expand(37, 37)] * 2])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: picture)
    found = set()
    for index in range(200):
        image, _ = GeneratedImages(0, 32, 10)[index]
        top = round(float(image[0, 0, 0]) * DEVIATION[0] + MEAN[0])
        first, last = (
            round(float(image[1, 0, column]) * DEVIATION[1] + MEAN[1]) for column in (0, -1)
        )
        assert abs(first - last) == 31
        found.add((top, min(first, last), first > last))
    assert {top for top, _, _ in found} == {left for _, left, _ in found} == set(range(6))
    assert {flipped for _, _, flipped in found} == {False, True}


@pytest.mark.skipif(os.name != "posix", reason="the loader's processes are forked")
def test_batches_do_not_depend_on_the_processes_and_those_end_with_the_job() -> None:
    process = child("""
    found = []
    for processes in (0, 1, 2):
        batches = feed(processes)
        sums = [[float(x.double().sum()), y.tolist()] for x, y in (next(batches) for _ in range(5))]
        here = len(psutil.Process().children())
        batches.close()
        gone = len(psutil.Process().children())
        found.append([sums, here, gone, batches.facts["loader processes"], batches.wait_ns > 0])
    print(json.dumps(found))
    """)
    alone, one, two = said(process)
    assert alone[0] == one[0] == two[0]
    assert [x[1:3] for x in (alone, one, two)] == [[0, 0], [1, 0], [2, 0]]
    assert alone[3] == "none" and one[3] in ("fork", "forkserver", "spawn")
    assert alone[4] and one[4] and two[4]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch looks every five seconds")
def test_no_process_outlives_a_launch_that_is_killed() -> None:
    process = child("""
    batches = feed(2)
    next(batches)
    print(json.dumps([c.pid for c in psutil.Process().children()]), flush=True)
    threading.Event().wait()
    """)
    assert process.stdout is not None
    pids = json.loads(process.stdout.readline())
    assert len(pids) == 2
    with process:
        process.kill()
    until = time.monotonic() + SECONDS
    while any(psutil.pid_exists(pid) and alive(pid) for pid in pids):
        assert time.monotonic() < until, "a loader's process is left"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Pipeline(FakeJob):
    """A fake job whose steps wait 4 of their 10 ns for a batch."""

    input_wait_ns = 0

    def step(self) -> None:
        self.input_wait_ns += 4
        super().step()


def test_a_block_says_what_its_steps_waited() -> None:
    device = FakeDevice(ScriptedClock(), synchronous=True)
    engine = Engine(Pipeline(device, [10]), device, Settings(), clock=device.clock)
    assert engine.block(3).input_wait_ns == 12
    assert engine.block(1).input_wait_ns == 4
    plain = Engine(FakeJob(device, [10]), device, Settings(), clock=device.clock)
    assert plain.block(1).input_wait_ns is None


def test_what_the_host_takes_for_a_step_is_without_its_waiting() -> None:
    device = FakeDevice(ScriptedClock(), synchronous=False)
    engine = Engine(Pipeline(device, [10], host_ns=6), device, Settings(), clock=device.clock)
    plain = Engine(FakeJob(device, [10], host_ns=6), device, Settings(), clock=device.clock)
    assert [a - b for a, b in zip(plain._queueing(), engine._queueing(), strict=True)] == [4] * 5


def test_a_wait_below_zero_is_nonsense() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        Block(wall_ns=1, step_ns=(1,), input_wait_ns=-1)


@pytest.mark.parametrize(("idle", "counted"), [(True, True), (False, False)])
def test_a_wait_counts_where_the_device_waits_too(idle: bool, counted: bool) -> None:
    """While it is at work on the step before, nothing is lost."""
    batch = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    feed = Feed([batch, batch], site())
    marks: list[str] = []
    feed._done = SimpleNamespace(query=lambda: idle, record=lambda: marks.append("recorded"))
    next(feed)
    feed.stepped()
    assert (feed.wait_ns > 0) is counted
    assert marks == ["recorded"]


def test_where_the_timer_asks_the_device_the_feed_only_says_when_a_batch_has_come() -> None:
    """After the host's wait and before the transfer, in any state of the device."""
    marks: list[str] = []

    class Loud(torch.Tensor):
        def to(self, *_: Any, **__: Any) -> Any:
            marks.append("transfer")
            return self.as_subclass(torch.Tensor)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        marks.append("made")
        yield torch.zeros(2, 3, 4, 4).as_subclass(Loud), torch.zeros(2, dtype=torch.int64)

    feed = Feed(batches(), site())
    feed._done = SimpleNamespace()
    feed.mark = lambda: marks.append("come")
    next(feed)
    feed.stepped()
    assert marks == ["made", "come", "transfer"]
    assert feed.wait_ns > 0, "for what the host takes by itself"


def measured_case(case: Case, waits: list[int | None]) -> Row:
    blocks = tuple(
        Block(wall_ns=10**7, step_ns=(5 * 10**6,) * 2, input_wait_ns=wait) for wait in waits
    )
    outcome = make_measured(steady=blocks, warmup=(make_block(0.01),))
    (row,) = summarize(make_file([case], [make_launch(outcome, case)]))
    return row


def test_a_row_says_how_long_its_steps_waited_and_what_limits_it() -> None:
    case = make_case(workload="resnet50", mode="train-pipeline")
    row = measured_case(case, [8 * 10**6, 6 * 10**6])
    assert row.input_fraction == pytest.approx(0.7)
    assert row.input_wait_seconds == pytest.approx(0.0035)
    assert row.limit is not None and row.limit[0] == "input"
    assert measured_case(case, [8, None]).input_fraction is None, "another version's blocks"
    none = measured_case(case, [0, 0])
    assert (none.input_fraction, none.input_wait_seconds) == (0.0, 0.0)


def test_the_card_says_it_too() -> None:
    case = make_case(workload="resnet50", mode="train-pipeline")
    blocks = (Block(wall_ns=10**7, step_ns=(5 * 10**6,) * 2, input_wait_ns=7 * 10**6),)
    launch = make_launch(make_measured(steady=blocks), case)
    text = table.REPORT.render([make_file([case], [launch])], Canvas(width=200))
    assert "input 70%" in text and "Held back by input in 1 case (70%)" in text
    assert "input: the time that a step waits for it" in " ".join(text.split())


def test_a_batch_crosses_in_every_step_and_the_twin_starts_no_process() -> None:
    parameters = PipelineParameters(batch_size=8)
    work = WORKLOAD.work("train-pipeline", parameters, PRECISIONS["bf16"])
    assert work.transferred_bytes == 8 * (3 * 224 * 224 * 4 + 8)
    plain = WORKLOAD.work("train", parameters, PRECISIONS["bf16"])
    assert (work.flop, work.items) == (plain.flop, plain.items)
    assert plain.transferred_bytes is None
    assert WORKLOAD.twin("train-pipeline", parameters).num_workers == 0  # type: ignore[attr-defined]


@pytest.mark.usefixtures("small_vision")
def test_its_memory_is_that_of_training() -> None:
    parameters = PipelineParameters(batch_size=2, image_size=48, num_workers=1)
    plain = TrainParameters(batch_size=2, image_size=48)
    found = WORKLOAD.peak_bytes("train-pipeline", parameters, site())
    assert found == WORKLOAD.peak_bytes("train", plain, site())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death")
def test_a_loader_whose_parent_is_gone_already_ends() -> None:
    """The parent may die before the child has asked the kernel for its signal."""
    code = (
        "from bench.workloads.jobs.pipeline import _end_with_launch\n"
        "import os\n_end_with_launch(int(os.environ['PARENT']), 0)\nprint('goes on')"
    )
    for parent, ended in ((os.getpid(), (0, "goes on\n")), (1, (-signal.SIGKILL, ""))):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PARENT": str(parent)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == ended, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death")
def test_a_loader_that_a_server_of_forks_starts_goes_on() -> None:
    """As Python does by default from 3.14: its parent is that server, not the launch."""
    code = (
        "import multiprocessing, os\n"
        "from bench.workloads.jobs.pipeline import _end_with_launch\n"
        "start = multiprocessing.get_context('forkserver').Process\n"
        "one = start(target=_end_with_launch, args=(os.getpid(), 0))\n"
        "one.start(); one.join(); print(one.exitcode)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
