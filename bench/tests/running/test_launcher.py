"""The parent's side of a worker, with real processes: whatever one does becomes an outcome."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import psutil
import pytest

from bench.measuring.worker import Progress, Report, Request
from bench.records.outcome import Cold, Failed, Measured, Phase
from bench.records.run import Settings
from bench.running import child, launcher
from bench.running.child import STDERR_TAIL_BYTES
from bench.running.launcher import Finished, launch
from bench.tests.fakes import make_case, make_measured

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")

REPORT = Report(
    outcome=make_measured(), cold=Cold(build_seconds=0.5), environment={"torch": "2.13.0"}
)


def request(limit_seconds: float = 30.0) -> Request:
    return Request(
        case=make_case(),
        backend="cpu",
        index=0,
        settings=Settings(launch_limit_seconds=limit_seconds),
        samples=10,
        seed=7,
    )


def run(
    code: str,
    limit_seconds: float = 30.0,
    variables: Mapping[str, str] | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
) -> Finished:
    """Launches a worker that is only this code; `REPORT` in it is a whole report line."""
    line = msgspec.json.encode(REPORT) + b"\n"
    head = f"import os, sys, time, signal\nREPORT = {line!r}\n"
    command = (sys.executable, "-c", head + textwrap.dedent(code))
    return launch(request(limit_seconds), variables or {}, listen, command)


def failure(finished: Finished) -> Failed:
    assert isinstance(finished.report.outcome, Failed), finished
    return finished.report.outcome


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# --- A worker that reports -----------------------------------------------------------------------


def test_a_report_is_received_whole() -> None:
    heard: list[Progress] = []
    finished = run(
        """
        sys.stdin.readline()
        for line in (b'{"line":"progress","phase":"build"}',
                     b'{"line":"progress","phase":"measure","samples":3,"throughput":2.5}'):
            os.write(1, line + b"\\n")
        os.write(2, b"a word of the vendor's\\n")
        os.write(1, REPORT[:100]); time.sleep(0.1); os.write(1, REPORT[100:])
        """,
        listen=heard.append,
    )
    assert finished.report == REPORT
    assert finished.stderr_tail == "a word of the vendor's\n"
    assert heard == [
        Progress(phase="build"),
        Progress(phase="measure", samples=3, throughput=2.5),
    ]
    assert finished.seconds >= 0.1


def test_the_worker_is_given_the_request() -> None:
    finished = run("os.write(2, sys.stdin.buffer.readline()); os.write(1, REPORT)")
    assert msgspec.json.decode(finished.stderr_tail.encode(), type=Request) == request()


def test_a_long_report_is_received_whole() -> None:
    """Longer than a pipe holds."""
    blocks = b",".join([b'{"wall_ns":10000000,"step_ns":[10000000]}'] * 50_000)
    finished = run(
        f"""
        blocks = {blocks[:41]!r}
        whole = REPORT.replace(b'"steady":[', b'"steady":[' + (blocks + b",") * 50_000)
        sys.stdout.buffer.write(whole); sys.stdout.flush()
        """
    )
    assert isinstance(finished.report.outcome, Measured)
    assert len(finished.report.outcome.steady) == 50_010


def test_a_worker_that_lingers_after_its_report_is_ended() -> None:
    finished = run("os.write(1, REPORT); time.sleep(60)")
    assert finished.report == REPORT
    assert finished.seconds < 30


# --- A worker that dies --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "the worker was killed by SIGKILL, perhaps by the kernel for want of memory",
        ),
        ("os.kill(os.getpid(), signal.SIGTERM)", "the worker was killed by SIGTERM"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the worker was killed by SIGSEGV"),
        ("import ctypes; ctypes.string_at(0)", "the worker was killed by SIGSEGV"),
        ("os.abort()", "the worker was killed by SIGABRT"),
        ("os.kill(os.getpid(), 40)", "the worker was killed by signal 40"),
        ("os._exit(3)", "the worker left with exit code 3 and no report"),
        ("pass", "the worker left with exit code 0 and no report"),
        (
            'os.write(2, b"warming up\\nNPU: no memory\\n\\n"); os._exit(7)',
            "the worker left with exit code 7 and no report: NPU: no memory",
        ),
        (
            "raise SystemError('lost it')",
            "the worker left with exit code 1 and no report: SystemError: lost it",
        ),
        (
            "os.write(1, REPORT[:50]); os._exit(4)",
            "the worker left with exit code 4 and no report",
        ),
    ],
)
def test_a_worker_that_dies_is_a_crash_with_its_cause(code: str, message: str) -> None:
    outcome = failure(run(code))
    assert outcome.kind == "crash" and outcome.phase == "start"
    assert outcome.message == message


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open (Linux)")
def test_a_worker_that_dies_is_not_waited_for_because_of_a_child_that_lives() -> None:
    """A data loader's processes hold the worker's stdout open, and outlive its violent end."""
    code = """
        if os.fork() == 0:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    failed = failure(run(code, limit_seconds=30))
    assert failed.kind == "crash" and "SIGKILL" in failed.message


def test_only_the_imports_of_workers_launched_together_overlap(tmp_path: Path) -> None:
    """Each logs when it imports and when it measures: none measures before all have imported."""
    log = tmp_path / "log"
    code = """
        def note(word):
            with open(sys.argv[1], "a") as file: file.write(word + "\\n")
        sys.stdin.readline()
        note("import")
        time.sleep(0.2)
        print('{"line":"progress","phase":"open"}', flush=True)
        sys.stdin.readline()
        note("measure")
        time.sleep(0.2)
        note("end")
        sys.stdout.buffer.write(REPORT); sys.stdout.flush()
        time.sleep(600)
    """
    line = msgspec.json.encode(REPORT) + b"\n"
    head = f"import os, sys, time, signal\nREPORT = {line!r}\n"
    command = (sys.executable, "-c", head + textwrap.dedent(code), str(log))
    both = list(launcher.launch_together([request(), request()], {}, command=command))
    assert [finished.report for finished in both] == [REPORT, REPORT]
    words = ["import", "import", "measure", "end", "measure", "end"]
    assert log.read_text().split() == words


def test_a_worker_that_dies_while_another_imports_is_its_own_outcome_only() -> None:
    code = """
        if json.loads(sys.stdin.readline())["seed"] == 1:
            os._exit(3)
        print('{"line":"progress","phase":"open"}', flush=True)
        sys.stdin.readline()
        sys.stdout.buffer.write(REPORT); sys.stdout.flush()
    """
    line = msgspec.json.encode(REPORT) + b"\n"
    head = f"import json, os, sys\nREPORT = {line!r}\n"
    command = (sys.executable, "-c", head + textwrap.dedent(code))
    requests = [msgspec.structs.replace(request(), seed=seed) for seed in (0, 1, 2)]
    first, second, third = launcher.launch_together(requests, {}, command=command)
    assert first.report == third.report == REPORT
    assert failure(second).kind == "crash" and "exit code 3" in failure(second).message


def test_a_crash_names_the_phase_it_happened_in() -> None:
    outcome = failure(
        run('os.write(1, b\'{"line":"progress","phase":"numerics"}\\n\'); os._exit(3)')
    )
    assert outcome.phase == "numerics"


@pytest.mark.parametrize(
    "line",
    [
        b"Loading vendor runtime...",
        b"",
        b"{}",
        b'{"line":"report"}',
        b'{"line":"progress","phase":"lunch"}',
        b'{"line":"progress","phase":"\xff"}',
        b"\x00\xff\xfe",
        b"[" * 100_000,
    ],
    ids=["text", "empty", "object", "partial", "phase", "not UTF-8", "binary", "deep"],
)
def test_a_garbled_report_is_a_crash(line: bytes) -> None:
    head, count = (line[:1], len(line)) if len(set(line)) == 1 else (line, 1)
    code = f"sys.stdout.buffer.write({head!r} * {count} + b'\\n' + REPORT); sys.stdout.flush()"
    outcome = failure(run(code))
    assert outcome.kind == "crash"
    assert outcome.message.startswith("the worker's report is garbled: ")


def test_ten_megabytes_of_stderr_neither_block_nor_fill_the_record() -> None:
    finished = run(
        """
        for k in range(10 * 2**20 // 64):
            os.write(2, b"%063d\\n" % k)
        os.write(1, REPORT)
        """
    )
    assert finished.report == REPORT
    assert len(finished.stderr_tail) == STDERR_TAIL_BYTES
    assert finished.stderr_tail.endswith(f"{10 * 2**20 // 64 - 1:063d}\n")


# --- A worker that hangs -------------------------------------------------------------------------

FAMILY = """
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open({pids!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
"""
"""The beginning of a worker that has a child of its own, and says who they are."""


def pids(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()]


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ignores SIGTERM is ended after 0.3 s instead of 3."""
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.3)


@pytest.mark.parametrize("stubborn", [False, True], ids=["polite", "stubborn"])
@pytest.mark.usefixtures("quick_end")
def test_a_worker_that_hangs_is_ended_with_its_children(tmp_path: Path, stubborn: bool) -> None:
    family = FAMILY.format(pids=str(tmp_path / "pids"))
    ignoring = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else ""
    finished = run(
        f"{ignoring}\n{textwrap.dedent(family)}\n"
        'os.write(1, b\'{"line":"progress","phase":"warm-up"}\\n\')\ntime.sleep(600)',
        limit_seconds=2.0,
    )
    outcome = failure(finished)
    assert outcome.kind == "timeout" and outcome.phase == "warm-up"
    assert outcome.message == "no report within 2 s; ended in its warm-up phase"
    assert 2 <= finished.seconds < 30
    found = pids(tmp_path / "pids")
    assert len(found) == 2
    wait_until(lambda: not any(alive(pid) for pid in found))


def test_a_worker_that_hangs_leaves_its_stack() -> None:
    code = """
        import faulthandler
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        def stuck_in_here():
            time.sleep(60)
        stuck_in_here()
    """
    finished = run(code, limit_seconds=1.5)
    assert failure(finished).kind == "timeout"
    assert "in stuck_in_here" in finished.stderr_tail


def test_a_real_worker_that_is_too_slow_leaves_its_stack() -> None:
    """Cut short in a product of 1 TFLOP, of which a launch makes thirteen at the least."""
    case = make_case(precision="fp32", parameters={"shape": "8192x8192x8192"})
    slow = msgspec.structs.replace(request(limit_seconds=8.0), case=case)
    finished = launch(slow, {"OMP_NUM_THREADS": "1"})
    assert failure(finished).kind == "timeout"
    assert "worker.py" in finished.stderr_tail and "most recent call first" in finished.stderr_tail


def test_each_phase_has_a_limit_of_its_own() -> None:
    """1800 s: five minutes to import; 60 s: no phase less than all of it."""
    limits = {phase: launcher.phase_limit(phase, 1800.0) for phase in launcher.SHARES}
    assert limits["import"] == 300.0 and limits["start"] == 120.0 and limits["measure"] == 1200.0
    assert set(limits) == set(get_args(Phase)) and max(limits.values()) < 1800.0
    assert {launcher.phase_limit(phase, 60.0) for phase in launcher.SHARES} == {60.0}


def test_a_hang_in_a_phase_is_ended_by_the_limit_of_that_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "SHORTEST_LIMIT_SECONDS", 0.5)
    monkeypatch.setitem(launcher.SHARES, "start", 1.0)
    monkeypatch.setitem(launcher.SHARES, "numerics", 0.01)
    finished = run(
        'os.write(1, b\'{"line":"progress","phase":"numerics"}\\n\'); time.sleep(600)',
        limit_seconds=100.0,
    )
    outcome = failure(finished)
    assert (outcome.kind, outcome.phase) == ("timeout", "numerics")
    assert outcome.message == "its numerics phase took more than 1 s of the launch's 100 s; ended"
    assert finished.seconds < 60


def test_waiting_for_others_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second imports for longer than the limit of the open phase, in which the first waits."""
    monkeypatch.setattr(launcher, "SHORTEST_LIMIT_SECONDS", 0.7)
    shares: dict[Phase, float] = {"start": 1.0, "import": 1.0, "open": 0.001}
    monkeypatch.setattr(launcher, "SHARES", {**launcher.SHARES, **shares})
    code = """
        seed = json.loads(sys.stdin.readline())["seed"]
        time.sleep(1.5 * seed)
        print('{"line":"progress","phase":"open"}', flush=True)
        sys.stdin.readline()
        sys.stdout.buffer.write(REPORT); sys.stdout.flush()
    """
    line = msgspec.json.encode(REPORT) + b"\n"
    head = f"import json, os, sys, time\nREPORT = {line!r}\n"
    command = (sys.executable, "-c", head + textwrap.dedent(code))
    requests = [msgspec.structs.replace(request(), seed=seed) for seed in (0, 1)]
    both = list(launcher.launch_together(requests, {}, command=command))
    assert [finished.report for finished in both] == [REPORT, REPORT]


def test_one_that_hangs_in_its_import_is_gone_when_another_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "SHORTEST_LIMIT_SECONDS", 2.0)
    monkeypatch.setattr(launcher, "SHARES", dict.fromkeys(launcher.SHARES, 0.01))
    code = """
        if json.loads(sys.stdin.readline())["seed"] == 1:
            open(sys.argv[1] + ".part", "w").write(str(os.getpid()))
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # no stacks
            os.rename(sys.argv[1] + ".part", sys.argv[1])
            time.sleep(600)
        print('{"line":"progress","phase":"open"}', flush=True)
        sys.stdin.readline()
        hung = psutil.Process(int(open(sys.argv[1]).read()))
        os.write(2, hung.status().encode())
        sys.stdout.buffer.write(REPORT); sys.stdout.flush()
    """
    line = msgspec.json.encode(REPORT) + b"\n"
    head = f"import json, os, psutil, signal, sys, time\nREPORT = {line!r}\n"
    command = (sys.executable, "-c", head + textwrap.dedent(code), str(tmp_path / "pid"))
    requests = [msgspec.structs.replace(request(), seed=seed) for seed in (0, 1)]
    one, two = launcher.launch_together(requests, {}, command=command)
    assert failure(two).kind == "timeout"
    assert failure(one).kind == "crash" and "NoSuchProcess" in one.stderr_tail, "it looked in vain"


def test_a_process_that_is_refused_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the worker that was started before goes on."""
    real = subprocess.Popen
    started: list[int] = []

    def refuse(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(1)
        if len(started) == 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*arguments, **options)

    line = msgspec.json.encode(REPORT) + b"\n"
    code = f"import sys; sys.stdin.readline(); sys.stdout.buffer.write({line!r})"
    monkeypatch.setattr(subprocess, "Popen", refuse)
    both = [request(), request()]
    before = len([*Path("/proc/self/fd").iterdir()]) if sys.platform == "linux" else 0
    one, two = launcher.launch_together(both, {}, command=(sys.executable, "-c", code))
    assert one.report == REPORT
    assert (failure(two).kind, failure(two).phase) == ("error", "start")
    assert "no worker could be started" in failure(two).message
    if sys.platform == "linux":
        assert len([*Path("/proc/self/fd").iterdir()]) == before, "no descriptor is left open"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal for a closed pipe")
def test_a_group_goes_with_the_parent_even_from_a_c_call_that_holds_the_interpreter(
    tmp_path: Path,
) -> None:
    child = """
        import ctypes, os, subprocess, sys
        from bench import lifeline
        lifeline.hold()
        assert lifeline.VARIABLE not in os.environ
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open("pids.part", "w").write(f"{os.getpid()} {other.pid}")
        os.rename("pids.part", "pids")
        ctypes.PyDLL(None).sleep(600)
    """
    parent = f"""
        import os, signal, subprocess, sys, time
        from bench.lifeline import Lifeline
        Lifeline().start([sys.executable, "-c", {textwrap.dedent(child)!r}], os.environ)
        while not os.path.exists("pids"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(parent)], cwd=tmp_path, timeout=60)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not any(alive(pid) for pid in pids(tmp_path / "pids")))


def test_the_children_of_a_worker_that_reported_are_ended(tmp_path: Path) -> None:
    family = FAMILY.format(pids=str(tmp_path / "pids"))
    finished = run(f"{textwrap.dedent(family)}\nos.write(1, REPORT)")
    assert finished.report == REPORT
    wait_until(lambda: not any(alive(pid) for pid in pids(tmp_path / "pids")))


@pytest.mark.usefixtures("quick_end")
def test_an_interrupted_parent_leaves_no_process(tmp_path: Path) -> None:
    family = FAMILY.format(pids=str(tmp_path / "pids"))
    path = tmp_path / "pids"

    def interrupt() -> None:
        wait_until(lambda: path.exists() and len(path.read_text().split()) == 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(f"{textwrap.dedent(family)}\ntime.sleep(600)")
    finally:
        thread.join()
    wait_until(lambda: not any(alive(pid) for pid in pids(path)))


def test_a_listener_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    def listen(progress: Progress) -> None:
        raise KeyboardInterrupt

    family = FAMILY.format(pids=str(tmp_path / "pids"))
    with pytest.raises(KeyboardInterrupt):
        run(
            f"{textwrap.dedent(family)}\n"
            'os.write(1, b\'{"line":"progress","phase":"build"}\\n\')\ntime.sleep(600)',
            listen=listen,
        )
    wait_until(lambda: not any(alive(pid) for pid in pids(tmp_path / "pids")))


# --- The worker's environment --------------------------------------------------------------------


def test_the_users_environment_wins_over_the_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELMARK_TEST_USER", "user")
    monkeypatch.delenv("ACCELMARK_TEST_BACKEND", raising=False)
    finished = run(
        """
        for name in ("ACCELMARK_TEST_USER", "ACCELMARK_TEST_BACKEND"):
            os.write(2, os.environ[name].encode() + b" ")
        os.write(1, REPORT)
        """,
        variables={"ACCELMARK_TEST_USER": "backend", "ACCELMARK_TEST_BACKEND": "backend"},
    )
    assert finished.stderr_tail == "user backend "


def test_a_worker_is_a_session_of_its_own() -> None:
    """So that Ctrl-C reaches the parent alone, which ends the worker in order."""
    finished = run("os.write(2, f'{os.getsid(0) == os.getpid()}'.encode()); os.write(1, REPORT)")
    assert finished.stderr_tail == "True"


# --- The real worker -----------------------------------------------------------------------------

TINY = Settings(launches=1, block_seconds=0.001, warmup_seconds=0.0, launch_limit_seconds=120.0)


def test_a_real_launch_of_a_tiny_gemm() -> None:
    """End to end: import, gate, warm-up, measurement, with Python and C printing in between."""
    noisy = textwrap.dedent(
        """
        import ctypes, os, sys
        from bench.measuring import worker
        from bench.workloads import gemm
        build = gemm.Gemm.build
        def chatty(*arguments):
            print("python says hello")
            ctypes.CDLL(None).puts(b"C says hello")
            ctypes.CDLL(None).fflush(None)
            os.system("echo the shell says hello")
            return build(*arguments)
        gemm.Gemm.build = chatty
        worker.main()
        """
    )
    phases: list[str] = []
    case = make_case(precision="fp32", parameters={"shape": "512x512x512"})
    asked = Request(case=case, backend="cpu", index=0, settings=TINY, samples=12, seed=3)
    finished = launch(
        asked,
        {"MALLOC_ARENA_MAX": "7"},
        lambda progress: phases.append(progress.phase),
        (sys.executable, "-c", noisy),
    )
    outcome = finished.report.outcome
    assert isinstance(outcome, Measured), finished
    assert len(outcome.steady) == 12
    assert outcome.work.unit == "FLOP" and outcome.work.items == 2 * 512**3
    assert outcome.numerics.passed and outcome.step_clock == "host"
    assert outcome.throughput > 0 and outcome.memory.scope == "process RSS"
    steps = [step for block in outcome.steady for step in (block.step_cpu_ns or ())]
    assert len(steps) == outcome.steady_steps
    for said in ("python", "C", "the shell"):
        assert f"{said} says hello" in finished.stderr_tail
    once = list(dict.fromkeys(phases))
    assert once[:6] == ["import", "open", "numerics", "build", "warm-up", "measure"]
    cold = finished.report.cold
    assert all(value is not None for value in msgspec.to_builtins(cold).values())
    stack = finished.report.environment
    assert stack["variables"]["MALLOC_ARENA_MAX"] == os.environ.get("MALLOC_ARENA_MAX", "7")
    assert stack["device"]["backend"] == "cpu" and stack["job"]


def test_a_worker_whose_parent_is_gone_leaves(tmp_path: Path) -> None:
    """The parent is killed outright: its end of the worker's stdin closes, and the worker exits."""
    code = textwrap.dedent(
        """
        import os, sys, threading, time
        from bench.measuring import worker
        threading.Thread(target=worker._leave_with_parent, args=(sys.stdin.buffer,)).start()
        print("ready", flush=True)
        time.sleep(600)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.stdin.close()
    assert child.wait(20) == 1
    child.stdout.close()
