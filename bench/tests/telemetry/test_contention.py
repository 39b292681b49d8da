"""What the kernel's counters say of other work, and how the engine reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bench.measuring.timing.engine import Engine
from bench.records.observed import Contention
from bench.records.outcome import Block
from bench.records.run import Settings
from bench.telemetry import contention
from bench.telemetry.contention import Counters, HostCounters, causes, over
from bench.tests.fakes import FakeDevice, FakeJob, ScriptedClock
from bench.tests.values import make_case, make_launch, make_measured

CASE = make_case()


def proc(folder: Path, files: dict[str, str]) -> HostCounters:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return HostCounters(folder / "proc", folder / "cgroup")


LINUX = {
    "proc/self/task/10/schedstat": "5000 700 3\n",
    "proc/self/task/11/schedstat": "9000 300 8\n",
    "proc/self/cgroup": "9:name=systemd:/\n0::/user.slice/job\n",
    "proc/pressure/cpu": "some avg10=1.25 avg60=0.00 avg300=0.00 total=999\n",
    "proc/stat": "cpu  1 2 3 4 5 6 7 100 0 0\n"
    + "".join(f"cpu{n} 1 2 3 4 5 6 7 {10 + n} 0 0\n" for n in range(2))
    + "cpu999 1 2 3 4 5 6 7 5000 0 0\nintr 1\n",
    "cgroup/user.slice/job/cpu.pressure": "some avg10=0.00 total=4321\nfull avg10=0.00 total=0\n",
    "cgroup/user.slice/job/cpu.stat": "usage_usec 1\nnr_throttled 2\nthrottled_usec 777\n",
}


def test_counters_of_this_process_its_cores_and_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "_usable", lambda: (0, 1))
    monkeypatch.setattr("time.perf_counter_ns", lambda: 10**9)
    monkeypatch.setattr("time.process_time_ns", lambda: 3 * 10**8)
    found = proc(tmp_path, LINUX).read()
    assert found[1:] == (1000, 4321, 21, 777, 0, None, 1_310_000_000)
    # Two cores' second, less 39 ticks without work or stolen, less its own.


def test_what_lies_over_the_kernels_file_does_not_say_what_others_did(tmp_path: Path) -> None:
    """In a container lxcfs puts another file there, on a file system of its own."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").symlink_to("/proc/stat")
    found = HostCounters(tmp_path / "proc", tmp_path).read()
    assert found.others_ns is None
    if Path("/proc/stat").exists():
        assert found.steal_ticks is not None
        assert HostCounters().read().others_ns is not None or contention._file_system(
            Path("/proc/stat")
        ) != contention._file_system(Path("/proc"))


def test_an_older_kernel_counts_the_machines_pressure_and_nanoseconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "_usable", lambda: (0,))
    older = {k: v for k, v in LINUX.items() if not k.startswith("cgroup")}
    older["proc/self/cgroup"] = "3:cpu:/\n"
    older["cgroup/cpu/cpu.stat"] = "nr_periods 0\nthrottled_time 5000\n"
    found = proc(tmp_path, older).read()
    assert (found.pressure_us, found.steal_ticks, found.throttled_us) == (999, 10, 5)


def test_a_host_without_such_counters_says_none(tmp_path: Path) -> None:
    assert HostCounters(tmp_path, tmp_path).read()[1:] == (None, None, None, None, 0, None, None)


def test_processes_of_the_jobs_own_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "_usable", lambda: (0,))
    monkeypatch.setattr(contention, "_started", lambda: (21, 22))
    stat = "{} (pt data) worker) S 1 2 3 4 5 6 7 8 9 10 {} {} 0 0 20 0 1\n"
    files = {
        "proc/21/stat": stat.format(21, 300, 40),
        "proc/22/stat": stat.format(22, 5, 5),
    }
    assert proc(tmp_path, {**LINUX, **files}).read().helper_ticks == 350


@pytest.mark.alone
def test_reading_the_counters_of_this_host_is_quick() -> None:
    host = HostCounters()
    host.read()
    before = time.process_time()
    for _ in range(20):
        host.read()
    assert (time.process_time() - before) / 20 < 0.02


def blocks(cpu: float | None = 1.0, switches: int | None = 2) -> list[Block]:
    """Two blocks of a second, two steps each; cpu: CPU time over wall time."""
    return [
        Block(
            wall_ns=10**9,
            step_ns=(5 * 10**8,) * 2,
            step_cpu_ns=None if cpu is None else (round(5e8 * cpu),) * 2,
            step_switches=None if switches is None else (switches,) * 2,
        )
    ] * 2


def test_the_rise_of_every_counter_over_the_steady_blocks() -> None:
    before = Counters(10**9, 10**8, 500, 3, None, 10, None, -(10**9))
    after = Counters(3 * 10**9, 6 * 10**8, 250_500, 5, None, 20, None, -(10**8))
    found = over(before, after, blocks(), threads=1, cores=2)
    assert found == Contention(
        elapsed_seconds=2,
        threads=1,
        cores=2,
        idle_share=0.0,
        switches=8,
        waiting_seconds=0.5,
        pressure_seconds=0.25,
        steal_seconds=0.02,
        throttled_seconds=None,
        helper_seconds=0.1,
        quota_cores=None,
        others_seconds=0.8,
    )
    bare = over(before, after, blocks(None, None), threads=2, cores=2)
    assert (bare.idle_share, bare.switches) == (None, None)


def test_ranks_of_one_host_are_no_other_work_to_each_other() -> None:
    """They wait for their peers and for cores; what a hypervisor and a quota took is left."""
    before = Counters(0, 0, 0, 0, 0, others_ns=0)
    after = Counters(2 * 10**9, 10**9, 10**6, 20, 10**6, quota_cores=2, others_ns=10**9)
    found = over(before, after, blocks(cpu=0.5), threads=4, cores=2, alone=False)
    assert found.others_seconds is None
    assert (found.waiting_seconds, found.pressure_seconds, found.idle_share) == (None,) * 3
    told = causes(found)
    assert told["CONTENDED"] == "the host of this virtual machine took 5% of its time"
    assert told["QUOTA"].startswith("the CPU quota of 2 cores held its 4 threads back 25% of")
    one = over(before, after, blocks(cpu=0.5), threads=1, cores=2, alone=False)
    assert one.idle_share is None, "its one thread waits for its peers"


WAITED = "its threads together waited for a core"


@pytest.mark.parametrize(
    "seen, words",
    [
        ({}, ""),
        ({"threads": 1, "idle_share": 0.019}, ""),
        ({"threads": 1, "idle_share": 0.26}, "its one thread did not run for 26% of the time"),
        ({"threads": 1, "idle_share": 0.26, "waiting_seconds": 0.19}, ""),  # it waited for data
        (
            {"threads": 1, "waiting_seconds": 0.3},
            f"{WAITED} 3% of the time",
        ),
        ({"waiting_seconds": 0.49, "steal_seconds": 0.3}, ""),
        ({"waiting_seconds": 1.3}, f"{WAITED} 13% of the time"),
        (
            {"waiting_seconds": 1.3, "helper_seconds": 0.4},
            f"{WAITED} 13% of the time",
        ),
        ({"waiting_seconds": 1.3, "helper_seconds": 5.0}, ""),  # for its own loaders, perhaps
        ({"steal_seconds": 1.0}, "the host of this virtual machine took 5% of its time"),
        # Threads that are more than the cores wait for one another.
        ({"waiting_seconds": 9.0, "others_seconds": 0.45}, ""),
        (
            {"waiting_seconds": 1.3, "others_seconds": 4.0},
            f"{WAITED} 13% of the time",
        ),
        (
            {"waiting_seconds": 9.0, "others_seconds": 0.7},
            f"{WAITED} 90% of the time, and others ran for 7% of it at most",
        ),
        ({"threads": 1, "idle_share": 0.26, "others_seconds": 0.1}, ""),
        ({"pressure_seconds": 2.0, "others_seconds": 0.1}, ""),
        # In so short a time ticks tell nothing of others.
        (
            {"elapsed_seconds": 0.2, "waiting_seconds": 0.1, "others_seconds": 0.0},
            f"{WAITED} 50% of the time, and others ran for 9% of it at most",
        ),
        ({"pressure_seconds": 2.0}, "tasks waited for a core for 20% of the time"),
        ({"pressure_seconds": 2.0, "waiting_seconds": 0.0}, ""),
        (
            {"steal_seconds": 2.0, "waiting_seconds": 1.0},
            f"{WAITED} 10% of the time; the host of this virtual machine took 10% of its time",
        ),
    ],
)
def test_a_cause_and_its_figure(seen: dict[str, Any], words: str) -> None:
    """Ten seconds on two cores. The threads' own waiting goes before the machine's pressure."""
    found = Contention(**{"elapsed_seconds": 10.0, "threads": 2, "cores": 2, **seen})
    assert causes(found) == ({"CONTENDED": words} if words else {})


HELD = "the CPU quota of {} cores held its 2 threads back {} of the time: "


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"throttled_seconds": 0.05}, ""),
        # Of 16 threads at once, each 8 ms of ten seconds: the kernel adds them up.
        ({"throttled_seconds": 0.128, "threads": 16, "cores": 16, "quota_cores": 15.5}, ""),
        (
            {"throttled_seconds": 0.4},
            "the container's CPU quota held it back 2% of the time: raise the quota",
        ),
        (
            {"throttled_seconds": 10.0, "quota_cores": 1.0},
            HELD.format(1, "50%") + "set OMP_NUM_THREADS=1, or raise the quota to 2 or more",
        ),
        (
            {"throttled_seconds": 10.0, "quota_cores": 1.5},
            HELD.format(1.5, "50%") + "set OMP_NUM_THREADS=1, or raise the quota to 2 or more",
        ),
        (
            {"throttled_seconds": 5.0, "quota_cores": 0.5, "threads": 1},
            "the CPU quota of 0.5 cores held its 1 thread back 50% of the time: "
            "raise the quota to 1 core",
        ),
        (
            {"throttled_seconds": 10.0, "quota_cores": 4.0},
            HELD.format(4, "50%") + "something else in the group uses it: raise the quota",
        ),
    ],
)
def test_a_quota_is_no_other_work_and_says_what_helps(seen: dict[str, Any], words: str) -> None:
    """`end other work` never helps there: moby 38839, oneTBB 190. Of both threads at once."""
    found = Contention(**{"elapsed_seconds": 10.0, "threads": 2, "cores": 2, **seen})
    assert causes(found) == ({"QUOTA": words} if words else {})


def test_what_waits_for_a_quota_waits_for_no_other_work() -> None:
    """A thread that is held back stands on its run queue: ten seconds of two threads' twenty."""
    seen: dict[str, Any] = {
        "waiting_seconds": 10.0,
        "pressure_seconds": 5.0,
        "throttled_seconds": 5.0,
    }
    host: dict[str, Any] = {"elapsed_seconds": 10.0, "threads": 2, "cores": 2}
    assert set(causes(Contention(**host, **seen, quota_cores=1.0))) == {"QUOTA"}
    stolen = Contention(**host, **seen, quota_cores=1.0, steal_seconds=2.0)
    assert causes(stolen)["CONTENDED"] == "the host of this virtual machine took 10% of its time"
    assert set(causes(Contention(**host, **{**seen, "throttled_seconds": 0.0}))) == {"CONTENDED"}


@pytest.mark.alone
def test_a_quota_of_any_level_is_seen_to_hold_back(tmp_path: Path) -> None:
    """It is counted where it was set, which need not be this process's own group."""
    files = {
        "cgroup/user.slice/cpu.stat": "usage_usec 9\nthrottled_usec 500000\n",
        "cgroup/user.slice/cpu.max": "150000 100000\n",
        "cgroup/user.slice/job/cpu.max": "max 100000\n",
    }
    found = proc(tmp_path, {**LINUX, **files}).read()
    assert found.throttled_us == 500_777 and found.quota_cores == 1.5
    v1 = {
        "proc/self/cgroup": "4:memory:/x\n1:cpu,cpuacct:/docker/1f\n0::/\n",
        "cgroup/cpu,cpuacct/docker/1f/cpu.stat": "nr_throttled 3\nthrottled_time 7000\n",
        "cgroup/cpu,cpuacct/docker/1f/cpu.cfs_quota_us": "50000\n",
        "cgroup/cpu,cpuacct/docker/1f/cpu.cfs_period_us": "100000\n",
    }
    found = proc(tmp_path / "v1", v1).read()
    assert found.throttled_us == 7 and found.quota_cores == 0.5


def test_a_tick_of_steal_in_a_short_launch_says_nothing() -> None:
    assert not causes(Contention(elapsed_seconds=0.1, threads=1, cores=2, steal_seconds=0.03))


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="schedstat is Linux's")
def test_a_process_that_shares_its_only_core_is_seen_to_wait() -> None:
    """The real counters: two that compute on one core wait for each other."""
    code = (
        "import os, time\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(flush=True)\nend = time.monotonic() + {}\n"
        "while time.monotonic() < end: pass\n"
    )
    hog = subprocess.Popen([sys.executable, "-c", code.replace("{}", "60")], stdout=subprocess.PIPE)
    with hog:
        assert hog.stdout is not None
        hog.stdout.readline()
        watched = code.replace("{}", "0.5").replace("print(flush=True)", WATCH_BEFORE) + WATCH_AFTER
        said = subprocess.run(
            [sys.executable, "-c", watched], capture_output=True, text=True, check=True
        ).stdout
        hog.kill()
    assert "its threads together waited" in said


WATCH_BEFORE = (
    "from bench.telemetry.contention import HostCounters, over, causes\n"
    "from bench.records.outcome import Block\n"
    "host = HostCounters(); before = host.read()"
)
WATCH_AFTER = (
    "steady = [Block(wall_ns=1, step_ns=(1,))]\n"
    "print(causes(over(before, host.read(), steady, threads=1, cores=1)))\n"
)


def test_the_load_before_a_run_is_two_numbers_at_most() -> None:
    found = contention.load()
    assert set(found) <= {"average_1_minute", "pressure_percent_10_seconds"}
    assert all(value >= 0 for value in found.values())
    assert found or not hasattr(os, "getloadavg")


def test_the_cores_of_this_process_are_those_it_may_use() -> None:
    if hasattr(psutil.Process, "cpu_affinity"):
        assert set(contention._usable()) == set(psutil.Process().cpu_affinity())


def test_contention_in_a_record_is_read_back() -> None:
    seen = Contention(elapsed_seconds=1.0, threads=2, cores=2, waiting_seconds=0.5)
    launch = make_launch(make_measured(contention=seen, flags=("CONTENDED",), causes={"a": "b"}))
    assert msgspec.json.decode(msgspec.json.encode(launch), type=type(launch)) == launch


@pytest.mark.parametrize("synchronous", [True, False])
def test_the_engine_counts_from_before_the_first_steady_block_and_between_blocks_only(
    synchronous: bool,
) -> None:
    """Ten milliseconds of waiting a step: the warm-up's is not counted."""
    clock = ScriptedClock()
    device = FakeDevice(clock, synchronous)
    job = FakeJob(device, [40_000_000, 20_000_000, *[10_000_000] * 500], witness=(1.0, 0.5))
    inside = False

    def host() -> Counters:
        assert not inside
        return Counters(clock.now, job.steps * 10_000_000, None, None, None)

    engine = Engine(job, device, Settings(block_seconds=0.05), clock=clock, host=host, threads=2)
    block = engine.block

    def watched(steps: int) -> Block:
        nonlocal inside
        inside = True
        made = block(steps)
        inside = False
        return made

    engine.block = watched  # type: ignore[method-assign]
    series = engine.measure(samples=10)
    if not synchronous:
        assert series.contention is None, "its work is not the host's"
        return
    assert series.contention is not None
    steps = sum(len(b.step_ns) for b in series.steady)
    assert series.contention.waiting_seconds == pytest.approx(steps * 0.01)
    assert series.contention.elapsed_seconds == pytest.approx(
        sum(b.wall_ns for b in series.steady) / 1e9
    )
    assert series.contention.threads == 2
    starts = [b.start_ns for b in (*series.warmup, *series.steady)]
    assert starts[0] == 0 and starts == sorted(starts, key=lambda ns: ns or 0)
