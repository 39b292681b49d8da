"""A process that stood still is told from one that computed, waited for a core, or was slow."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from bench.judging.measured import measured_row
from bench.measuring.messages import Request
from bench.measuring.timing.usage import suspended_ns
from bench.records.observed import Contention
from bench.records.outcome import Block, Measured, Share
from bench.records.run import Settings
from bench.records.runfile import read
from bench.records.served import Served
from bench.reports.wording.rows import next_step
from bench.telemetry import flags, standstill
from bench.telemetry.contention import causes
from bench.tests.launching import launch
from bench.tests.publishing.test_results import FOLDERS
from bench.tests.served_runs import measured as loaded
from bench.tests.served_runs import served
from bench.tests.values import make_case, make_file, make_launches, make_measured

QUIET = Contention(elapsed_seconds=30.0, threads=2, cores=2, waiting_seconds=0.01)
WAITED = Contention(elapsed_seconds=30.0, threads=2, cores=2, waiting_seconds=25.0)
STOLEN = Contention(
    elapsed_seconds=30.0, threads=2, cores=2, waiting_seconds=0.0, steal_seconds=21.0
)
UNKNOWN = Contention(elapsed_seconds=30.0, threads=2, cores=2)


def block(seconds: Sequence[float], beside: float = 0.0) -> Block:
    steps = tuple(round(s * 1e9) for s in seconds)
    return Block(wall_ns=sum(steps) + round(beside * 1e9), step_ns=steps)


def series(step: float = 0.1, stop: float = 0.0, beside: float = 0.0) -> list[Block]:
    """Ten blocks of five steps; the fourth has a stop in its third step, or behind its last."""
    blocks = [block([step] * 5) for _ in range(10)]
    blocks[3] = block([step, step, step + stop, step, step], beside)
    return blocks


def computed(blocks: Sequence[Block], step: float = 0.1, more: float = 0.0) -> list[int]:
    """CPU ns of each block on two threads, with `more` seconds of both in the fourth."""
    found = [round(2 * step * len(b.step_ns) * 1e9) for b in blocks]
    found[3] += round(2 * more * 1e9)
    return found


# --- What is a stop, and what is none -------------------------------------------------------------


def test_a_stop_within_a_step() -> None:
    blocks = series(stop=20.0)
    said = standstill.seen(blocks, QUIET, computed(blocks))
    assert said == "the process stood still for 20 s in 1 of 10 blocks without CPU time"


def test_a_stop_behind_the_last_event_of_a_device_that_queues() -> None:
    said = standstill.seen(series(beside=3.0), None)
    assert said == "the process stood still for 3 s in 1 of 10 blocks"


@pytest.mark.parametrize("contention", [QUIET, UNKNOWN, None])
def test_a_long_stop_needs_no_counters(contention: Contention | None) -> None:
    assert standstill.seen(series(stop=20.0), contention)


def test_a_stop_of_a_long_step_is_seen_by_the_cpu_time_that_it_lacks() -> None:
    """Three times the usual step: far beyond the rest only where the rest is accounted for."""
    blocks = series(step=5.0, stop=10.0)
    assert standstill.seen(blocks, QUIET, computed(blocks, step=5.0))
    assert not standstill.seen(blocks, UNKNOWN, computed(blocks, step=5.0))
    assert not standstill.seen(blocks, QUIET)


def test_a_step_that_computed_longer_is_none() -> None:
    """A search for a kernel, say: the job's own."""
    blocks = series(stop=20.0)
    assert not standstill.seen(blocks, QUIET, computed(blocks, more=20.0))


@pytest.mark.parametrize("contention", [WAITED, STOLEN], ids=["waited", "stolen"])
def test_a_step_that_waited_for_a_core_is_contention(contention: Contention) -> None:
    blocks = series(stop=20.0)
    assert not standstill.seen(blocks, contention, computed(blocks))


@pytest.mark.parametrize("taken", ["steal_seconds", "throttled_seconds"])
def test_what_is_usual_on_each_of_many_cores_explains_no_stop(taken: str) -> None:
    """0.4 % of 64 cores is less than is told of, and added up as long as the stop."""
    blocks = series(stop=3.0)
    usual = Contention(elapsed_seconds=8.0, threads=64, cores=64, waiting_seconds=0.0)
    seen = msgspec.structs.replace(usual, **{taken: 64 * 0.004 * 8.0})
    assert not causes(seen)
    assert "stood still for 3 s" in standstill.seen(blocks, seen, computed(blocks))


def test_what_its_threads_waited_for_one_another_explains_no_stop() -> None:
    blocks = series(stop=20.0)
    own = msgspec.structs.replace(WAITED, others_seconds=0.1)
    assert "stood still for 20 s" in standstill.seen(blocks, own, computed(blocks))


def test_a_step_that_waited_for_its_input_is_none() -> None:
    blocks = series(stop=20.0)
    blocks[3] = msgspec.structs.replace(blocks[3], input_wait_ns=20 * 10**9)
    assert not standstill.seen(blocks, QUIET, computed(blocks))


@pytest.mark.parametrize(
    ("step", "stop", "told"), [(0.1, 0.4, False), (0.1, 0.6, True), (20.0, 9.0, False)]
)
def test_a_stop_that_changes_no_figure_is_left(step: float, stop: float, told: bool) -> None:
    blocks = series(step=step, stop=stop)
    assert bool(standstill.seen(blocks, QUIET, computed(blocks, step))) is told


def test_stops_in_most_blocks() -> None:
    blocks = [block([0.1, 0.1, 2.1]) if k % 5 < 3 else block([0.1] * 3) for k in range(10)]
    cpu = [round(0.6e9)] * 10
    assert "12 s in 6 of 10 blocks" in standstill.seen(blocks, QUIET, cpu)


def shares(blocks: Sequence[Block], *stops: float) -> tuple[Share, ...]:
    """Ranks with the time of the blocks, and in the fourth one's stead a stop of their own."""
    memory = make_measured().memory
    found = []
    for rank, stop in enumerate(stops):
        busy = [sum(one.step_ns) for one in blocks]
        busy[3] += round(stop * 1e9)
        found.append(Share(rank=rank, device=rank, busy_ns=tuple(busy), memory=memory))
    return tuple(found)


def test_of_a_record_of_several_ranks_the_first_ones_own_time_is_looked_at() -> None:
    """The rest of a block it waits for the slowest, whose own worker has said why."""
    steady = tuple(series(beside=3.0))
    alone = make_measured(steady=steady, step_clock="device event")
    others, own = (
        msgspec.structs.replace(alone, ranks=shares(steady, *stops))
        for stops in ((0.0, 3.0), (3.0, 0.0))
    )
    told = "the process stood still for 3 s in 1 of 10 blocks"
    assert [standstill.recorded(one) for one in (alone, others, own)] == [told, "", told]
    assert not flags.hindered(others)


def test_a_suspended_machine_has_its_clocks_apart() -> None:
    said = standstill.seen(series(), QUIET, suspended_ns=2_500_000_000)
    assert said == "the machine was suspended for 2.5 s"
    assert not standstill.seen(series(), QUIET, suspended_ns=1_000_000)


def test_a_stop_between_requests() -> None:
    requests = [10_000_000] * 100
    assert not standstill.seen(series(), None, requests_ns=requests)
    requests[50] += 3 * 10**9
    assert "3 s in 1 of 100 requests" in standstill.seen(series(), None, requests_ns=requests)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"idle_share": 0.5}, True),
        ({"idle_share": 0.05}, False),
        ({"idle_share": 0.5, "waiting_seconds": 14.0}, False),
        ({"idle_share": 0.5, "helper_seconds": 9.0}, False),
        ({"idle_share": 0.5, "waiting_seconds": None}, False),
    ],
)
def test_stops_too_short_to_see_add_up_for_one_thread(changes: dict[str, Any], told: bool) -> None:
    """As a limiter of CPU time makes them, ten a second."""
    one = msgspec.structs.replace(QUIET, threads=1, **changes)
    assert ("neither ran nor waited" in standstill.seen(series(), one)) is told
    fed = [msgspec.structs.replace(b, input_wait_ns=10**8) for b in series()]
    assert not standstill.seen(fed, one)


# --- A load that is served ------------------------------------------------------------------------


def slowed(load: Served, step: int, seconds: float, idle: bool = False, due: bool = True) -> Served:
    """All from one of its steps on is later: that step took longer, or the engine was idle before
    it; due: requests are too."""
    steps, more = load.steps, round(seconds * 1e9)
    assert steps is not None
    since = steps.start_ns[step] + (not idle)

    def moved(ns: int | None) -> Any:
        return ns + more if ns is not None and ns >= since else ns

    requests = [
        msgspec.structs.replace(
            one,
            due_ns=moved(one.due_ns) if due else one.due_ns,
            **{name: moved(getattr(one, name)) for name in ("admitted_ns", "first_ns", "last_ns")},
        )
        for one in load.requests
    ]
    wall = [ns + more * (k == step and not idle) for k, ns in enumerate(steps.wall_ns)]
    starts = tuple(moved(ns) for ns in steps.start_ns)
    return msgspec.structs.replace(
        load,
        requests=tuple(requests),
        arrived_ns=tuple(moved(ns) for ns in load.arrived_ns),
        steps=msgspec.structs.replace(steps, start_ns=starts, wall_ns=tuple(wall)),
    )


def told_of(load: Served, contention: Contention | None = None) -> str:
    return standstill.recorded(msgspec.structs.replace(loaded(load), contention=contention))


STOOD = "the process stood still for 30 s in 1 of its engine's steps"


@pytest.mark.parametrize("contention", [QUIET, None])
def test_a_stop_of_an_engine_is_seen_in_its_steps(contention: Contention | None) -> None:
    """The window is one block of one step: half of it may have been a stop."""
    stopped = slowed(served(), 40, 30.0)
    assert told_of(stopped, contention) == STOOD
    assert flags.hindered(loaded(stopped))
    assert not told_of(stopped, msgspec.structs.replace(WAITED, waiting_seconds=30.0))
    assert not told_of(served(), contention)
    assert not told_of(slowed(served(), 40, 0.4), contention)
    assert not told_of(slowed(served(), 2, 30.0), contention), "before its steady part"
    assert not told_of(slowed(served(step_ms=5000.0), 40, 30.0)), "no ten times as long"


def test_an_engine_that_waits_for_a_request_does_not_stand_still() -> None:
    """Unless it goes on waiting when the request is there."""
    assert not told_of(slowed(served(), 48, 30.0, idle=True))
    assert told_of(slowed(served(), 48, 30.0, idle=True, due=False)) == STOOD


def test_steps_that_do_more_are_no_stops() -> None:
    """A part of a prompt among many tokens, or some steps in a row that look back far."""
    every, row = served(), served()
    for step in range(1, 16):
        every = slowed(every, 6 * step, 2.0)
    for step in range(40, 48):
        row = slowed(row, step, 2.0)
    assert not told_of(row)
    assert told_of(every)
    assert every.steps is not None
    prompts = tuple(8 if k % 6 == 0 else 0 for k in range(len(every.steps.wall_ns)))
    steps = msgspec.structs.replace(every.steps, prompt_rows=prompts)
    assert not told_of(msgspec.structs.replace(every, steps=steps))


# --- Honest noise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_stop(seed: int) -> None:
    """Steps of a millisecond to ten seconds: a heavy tail, drift, half the steps twice as long."""
    dice = random.Random(seed)
    step = 10 ** dice.uniform(-3, 1)
    kinds: dict[str, Callable[[int], float]] = {
        "tail": lambda k: step * dice.lognormvariate(0, 0.3),
        "drift": lambda k: step * (1 + 0.1 * k),
        "two levels": lambda k: step * dice.choice((1, 1.9)),
        "one slow": lambda k: step * (1.9 if k == 4 else 1),
    }
    for kind, of in kinds.items():
        blocks = [block([of(k) for _ in range(5)]) for k in range(12)]
        cpu = [2 * b.wall_ns for b in blocks]
        assert not standstill.seen(blocks, QUIET, cpu), kind
        assert not standstill.seen(blocks, None), kind


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_no_published_launch_stood_still(path: Any) -> None:
    measured = [x.outcome for x in read(path).launches if isinstance(x.outcome, Measured)]
    assert len(measured) > 100
    assert [said for said in map(standstill.recorded, measured) if said] == []


# --- What is made of it ---------------------------------------------------------------------------


def stood(seconds: float = 20.0) -> Measured:
    """As an edited record of before: no flag, and one step of ten with a stop."""
    return make_measured([0.1] * 9 + [0.1 + seconds])


def test_a_launch_that_stood_still_is_left_out_and_counted() -> None:
    case = make_case()
    launches = make_launches(case, [make_measured(0.1)] * 5 + [stood()])
    row = measured_row(case, launches, 0, Settings())
    assert (row.launches, row.hindered, row.verdict) == (5, 1, "OK")
    assert row.throughput == pytest.approx(make_measured(0.1).throughput)
    assert "STOPPED" in row.flags
    assert row.left_out == (
        "1 of 6 launches slowed from outside: the process stood still for 20 s in 1 of 10 blocks"
    )
    assert flags.hindered(stood()) and not flags.hindered(make_measured(0.1))


def test_a_case_that_stood_still_throughout_has_no_ok() -> None:
    """Five times too slow, and each launch alike: an interval of nothing."""
    case = make_case()
    row = measured_row(case, make_launches(case, [stood(4.0)] * 5), 0, Settings())
    assert row.verdict == "INVALID" and row.hindrance
    said = next_step(make_file([case], make_launches(case, [stood(4.0)] * 5)), [row])
    assert "stops this process or suspends this machine" in said and "end other work" not in said


def test_the_flag_of_a_worker_says_why() -> None:
    outcome = make_measured(0.1, flags=("STOPPED",), causes={"STOPPED": "the machine was"})
    ((number, found),) = flags.slowed_launches(make_launches(make_case(), [outcome])).items()
    assert (number, found) == (0, ("STOPPED", "the machine was"))


# --- For real -------------------------------------------------------------------------------------


@pytest.mark.alone
def test_the_machines_two_clocks_agree_while_it_runs() -> None:
    before = suspended_ns()
    assert abs(suspended_ns() - before) < standstill.SUSPENDED_SECONDS * 1e9


STOPPING = """
import os, signal, subprocess
from bench.measuring import worker
from bench.measuring.timing import engine
from bench.workloads import gemm
take, step, armed = engine.Engine._take, gemm.MatmulJob.step, []
def taking(*arguments):
    armed.append(True)
    return take(*arguments)
def stopping(job):
    if armed == [True]:
        armed.append(True)
        subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
    step(job)
engine.Engine._take, gemm.MatmulJob.step = taking, stopping
worker.main()
"""
"""A worker that stops in the first step behind its warm-up, until another lets it go on."""


@pytest.mark.alone
@pytest.mark.alone
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="POSIX")
def test_a_worker_that_is_stopped_says_so() -> None:
    """Its blocks are short, so that what it waits for on a busy host explains no stop."""
    asked = Request(
        case=make_case(precision="fp32", parameters={"shape": "256x256x256"}),
        backend="cpu",
        index=0,
        settings=Settings(launches=1, block_seconds=0.005, launch_limit_seconds=120.0),
        samples=20,
        seed=0,
    )
    command = (sys.executable, "-c", STOPPING)
    outcome = launch(asked, {"OMP_NUM_THREADS": "1"}, command=command).report.outcome
    assert isinstance(outcome, Measured), outcome
    assert "STOPPED" in outcome.flags
    assert "in 1 of 20 blocks without CPU time" in outcome.causes["STOPPED"]
    assert flags.hindered(outcome)
