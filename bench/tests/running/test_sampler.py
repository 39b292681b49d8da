"""The side process and the parent's side of it, with real processes: it costs and hurts nobody."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from bench.records.observed import Reading, Scope, Telemetry
from bench.running import monitor, sampler
from bench.running.monitor import Monitor, strangers
from bench.running.sampler import Answer, Order, Seen, pause_seconds
from bench.telemetry.joined import Sight
from bench.telemetry.source import Process
from bench.tests import simulated

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups and a shell script")

NPU = Order(backend="ascend", indices=(0,))
CPU = Order(backend="cpu", indices=(0,))


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def group_of(leader: int) -> list[int]:
    """Processes of a group that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def seen(watch: Monitor, first_step_ns: int | None = None) -> Telemetry | str:
    """Of its one device, whose worker is process 1."""
    (sight,) = watch.saw([1], {0: first_step_ns})
    return sight.telemetry


def leader_of(watch: Monitor) -> int:
    assert watch._process is not None
    return watch._process.pid


@pytest.fixture
def watches() -> Iterator[list[Monitor]]:
    """Closed at the end, whatever comes of the test."""
    found: list[Monitor] = []
    yield found
    for watch in found:
        watch.close()


def tool(folder: Path, script: str) -> dict[str, str]:
    """An environment with a npu-smi that does as the script says."""
    path = folder / "npu-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


# --- what it sees


def test_a_launch_is_watched_and_the_idle_devices_before_it(watches: list[Monitor]) -> None:
    """Dies of two packages by one side process; one that is not there costs the others nothing."""
    dies = Order(backend="ascend", indices=(0, 3, 9))
    watch = Monitor(dies, {**os.environ, **simulated.environment(smi="A3", devices=4)})
    watches.append(watch)
    watch.lets_go()
    first_step = time.perf_counter_ns()
    found: dict[int, Sight] = {}

    def look() -> bool:
        sights = watch.saw([1], {0: first_step, 3: first_step + 10**9})
        found.update({one.index: one for one in sights if isinstance(one.telemetry, Telemetry)})
        return len(found) == 2

    wait_until(look)
    for index, card, watts in ((0, "0", 71.7), (3, "1", 81.7)):
        telemetry = found[index].telemetry
        assert isinstance(telemetry, Telemetry)
        assert (found[index].card, found[index].card_devices) == (card, 2)
        assert (telemetry.source, telemetry.scope) == ("npu-smi", "package")
        assert telemetry.readings[0].power_watts == watts and telemetry.readings[0].at_seconds > 0
        assert telemetry.first_step_seconds is not None
        assert index // 3 <= telemetry.first_step_seconds < index // 3 + 1
        assert telemetry.others is None and "processes" in telemetry.absent
        assert "reasons" in telemetry.absent
    wait_until(lambda: "which of its dies" in str(watch.saw([1], {9: None})[0].telemetry))
    assert watch.saw([1], {7: None}) == (Sight(index=7, telemetry="nobody looked"),)


@pytest.mark.parametrize(("scope", "watts"), [("shared", None), ("board", 90.0)])
def test_a_host_on_which_workers_import_is_not_idle(
    scope: Scope, watts: float | None, watches: list[Monitor]
) -> None:
    """An accelerator is, until they are let go."""
    looks = [Seen(at_ns=k * 10**9, reading=Reading(power_watts=90.0)) for k in range(9)]
    answer = msgspec.json.encode([Answer(source="x", scope=scope, seen=tuple(looks))]).decode()
    code = f"import sys\nfor line in sys.stdin:\n    print({answer!r}, flush=True)"
    watch = Monitor(CPU, os.environ, (sys.executable, "-c", code))
    watches.append(watch)
    watch.lets_go()
    telemetry = seen(watch)
    assert isinstance(telemetry, Telemetry)
    assert telemetry.idle_watts == watts


def test_an_answer_is_heard_though_this_process_was_stopped_meanwhile(
    watches: list[Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z and fg: the side process is in a session of its own, and goes on."""
    seen_once = [Answer(source="x", seen=(Seen(at_ns=1, reading=Reading()),))]
    line = msgspec.json.encode(seen_once) + b"\n"
    code = f"import os\ninput()\nos.write(1, {line!r})"
    watch = Monitor(CPU, os.environ, (sys.executable, "-c", code))
    watches.append(watch)
    watch.start()
    assert watch._process is not None and watch._process.stdout is not None
    select.select([watch._process.stdout], [], [], 30)
    monkeypatch.setattr(monitor, "ANSWER_SECONDS", 0.0)
    watch.lets_go()
    assert watch._lost is None


def test_the_interval_is_kept_and_no_more_than_a_share_of_the_host_is_taken() -> None:
    assert pause_seconds(0.0, 0.2, cores=2) == 0.2
    assert pause_seconds(0.0, 0.05, cores=2) == 0.2, "at most five times a second"
    assert pause_seconds(0.005, 0.2, cores=2) == pytest.approx(0.5)
    assert pause_seconds(0.005, 0.2, cores=64) == 0.2
    assert pause_seconds(9.0, 0.2, cores=2) == 5.0


@pytest.mark.alone
def test_looking_at_a_cpu_takes_less_than_a_hundredth_of_a_core(watches: list[Monitor]) -> None:
    watch = Monitor(CPU, os.environ)
    watches.append(watch)
    watch.start()
    process = psutil.Process(leader_of(watch))
    wait_until(lambda: bool(watch._ask()[0].seen))

    def used() -> float:
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    before, cpu_before = time.monotonic(), used()
    time.sleep(2)
    assert used() - cpu_before < 0.01 * (time.monotonic() - before) + 0.01  # a tick of the clock
    wait_until(lambda: process.status() in (psutil.STATUS_SLEEPING, psutil.STATUS_IDLE))
    assert process.nice() >= sampler.NICENESS
    group = Path(f"/proc/{process.pid}/autogroup")
    if group.exists() and group.read_text(encoding="ascii").strip():
        assert group.read_text(encoding="ascii").split()[-1] == str(sampler.NICENESS)


def test_the_side_process_never_loads_torch() -> None:
    code = (
        "import sys\nfrom bench import catalogue\nfrom bench.running import sampler\n"
        "for name in catalogue.plug_ins('backends'):\n"
        "    try:\n        catalogue.backend(name).telemetry(0).read()\n"
        "    except sampler.NotObservable:\n        pass\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- others on the device


def test_others_are_those_who_are_neither_the_worker_nor_came_with_it() -> None:
    worker, old, new = Process(7, 100), Process(8, 50), Process(9, None)
    assert strangers([None, None], [7], ()) is None
    assert strangers([(), (worker,)], [7], ()) == ()
    assert strangers([(worker,), (worker, old), (worker,)], [7], {8}) == (old,)
    assert strangers([(worker, old, new)], [7], {8}) == (old, new)


def test_in_a_container_the_one_that_came_is_the_worker() -> None:
    """The source counts processes as the host does: none of its numbers is the worker's."""
    assert strangers([(Process(4001, 1),)], [7], ()) == ()
    assert strangers([(Process(3000, 1), Process(4001, 2))], [7], {3000}) == (Process(3000, 1),)
    assert strangers([(Process(3000, 1),)], [7], {3000}) == (Process(3000, 1),)
    # Nobody looked before: one of them may be the worker, or a stranger.
    assert strangers([(Process(4001, 1),)], [7], None) is None
    assert strangers([(Process(7, 1), Process(4001, 2))], [7], None) == (Process(4001, 2),)


def test_a_list_without_anybody_says_nothing_of_others() -> None:
    """The worker has the device: a container whose list shows nobody hides strangers as well."""
    assert strangers([()], [7], ()) is None
    assert strangers([(), None, ()], [7], None) is None


# --- it hurts nobody


def test_a_source_that_hangs_costs_no_launch_anything(
    tmp_path: Path, watches: list[Monitor]
) -> None:
    watch = Monitor(NPU, tool(tmp_path, "sleep 600"))
    watches.append(watch)
    watch.start()
    leader = leader_of(watch)
    wait_until(lambda: len(group_of(leader)) >= 2)
    before = time.monotonic()
    watch.lets_go()
    telemetry = seen(watch)
    assert telemetry == "the launch was over before the device was looked at"
    watch.close()
    assert time.monotonic() - before < 15
    wait_until(lambda: not group_of(leader))


def test_a_source_that_has_hung_for_long_is_said_to() -> None:
    state = sampler._State()
    state.busy_since = time.monotonic() - 60
    assert state.answer().problem == "its source has not answered for 60 s"


def test_a_source_that_breaks_is_a_reason_and_its_process_ends(
    tmp_path: Path, watches: list[Monitor]
) -> None:
    watch = Monitor(NPU, tool(tmp_path, "echo no driver >&2; exit 1"))
    watches.append(watch)
    watch.start()
    leader = leader_of(watch)
    wait_until(lambda: "no driver" in str(seen(watch)))
    wait_until(lambda: watch._ask()[0].problem is not None)
    wait_until(lambda: not group_of(leader))
    watch.lets_go()
    assert "no driver" in str(seen(watch)), "said of every launch"


def test_a_launch_without_a_reading_says_what_failed(watches: list[Monitor]) -> None:
    answer = '[{"source": "x", "trouble": "it hiccuped"}]'
    code = f"import sys\nfor line in sys.stdin:\n    print({answer!r}, flush=True)"
    watch = Monitor(CPU, os.environ, (sys.executable, "-c", code))
    watches.append(watch)
    watch.lets_go()
    assert seen(watch) == "it hiccuped"
    assert watch._process is not None, "there may be another look"


@pytest.mark.parametrize(
    "code", ["", "import time; time.sleep(60)", "input(); print('nonsense', flush=True)"]
)
def test_a_side_process_that_dies_hangs_or_babbles_is_a_reason(
    code: str, watches: list[Monitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "ANSWER_SECONDS", 1.0)
    watch = Monitor(CPU, os.environ, (sys.executable, "-c", code))
    watches.append(watch)
    watch.start()
    leader = leader_of(watch)
    watch.lets_go()
    assert seen(watch) == "the side process gave no answer in time"
    wait_until(lambda: not group_of(leader))


def test_a_side_process_that_died_is_started_again_for_the_next_launch(
    tmp_path: Path, watches: list[Monitor]
) -> None:
    """The first dies at its first question; the second sees a reading."""
    mark = tmp_path / "mark"
    answer = msgspec.json.encode([Answer(source="x", seen=(Seen(at_ns=1, reading=Reading()),))])
    code = (
        "import os, sys\ninput()\n"
        f"if not os.path.exists({str(mark)!r}):\n    open({str(mark)!r}, 'w')\n    os._exit(1)\n"
        f"for line in sys.stdin:\n    print({answer.decode()!r}, flush=True)"
    )
    watch = Monitor(CPU, os.environ, (sys.executable, "-c", code))
    watches.append(watch)
    watch.start()
    wait_until(mark.exists)
    watch.lets_go()
    assert watch._lost == "the side process gave no answer in time"
    watch.start()
    watch.lets_go()
    assert isinstance(seen(watch), Telemetry)


def test_a_side_process_that_always_dies_is_given_up(watches: list[Monitor]) -> None:
    watch = Monitor(CPU, os.environ, (sys.executable, "-c", ""))
    watches.append(watch)
    for _ in range(monitor.DEATHS):
        watch.lets_go()
    watch.start()
    assert watch._process is None
    assert seen(watch) == "the side process gave no answer in time"


def test_a_side_process_that_cannot_start_is_a_reason(watches: list[Monitor]) -> None:
    watch = Monitor(CPU, os.environ, ("/nonexistent/python",))
    watch.lets_go()
    assert seen(watch) == "the side process does not start (No such file or directory)"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_its_parent_and_so_does_what_it_started(
    sign: signal.Signals, tmp_path: Path
) -> None:
    """The parent has no chance to say goodbye, and the source hangs in a program of its own."""
    code = (
        "import os, time\nfrom bench.running.monitor import Monitor\n"
        "from bench.running.sampler import Order\n"
        "watch = Monitor(Order(backend='ascend', indices=(0,)), os.environ)\nwatch.start()\n"
        "print(watch._process.pid, flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=tool(tmp_path, "sleep 600")
    )
    with parent:
        assert parent.stdout is not None
        leader = int(parent.stdout.readline())
        wait_until(lambda: len(group_of(leader)) >= 2)
        parent.send_signal(sign)
    wait_until(lambda: not group_of(leader))


def test_an_answer_is_bounded_and_survives_its_own_encoding() -> None:
    state = sampler._State()
    for k in range(sampler.MOST_READINGS + 10):
        state.seen.append(Seen(at_ns=k, reading=Reading(power_watts=1.0)))
    assert len(state.seen) == sampler.MOST_READINGS
    answer = Answer(source="x", seen=tuple(state.seen)[:3], absent={"clock": "no"})
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Answer) == answer
