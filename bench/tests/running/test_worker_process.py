"""One worker, a real process: whatever it does becomes an outcome, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bench.measuring.messages import Progress, Request
from bench.planning.sweep import too_large
from bench.planning.tuning import hopeless
from bench.records import limits
from bench.records.outcome import Measured, Phase
from bench.running import child
from bench.running.child import STDERR_TAIL_BYTES
from bench.tests.launching import launch
from bench.tests.running.scripted_workers import (
    FAMILY,
    REPORT,
    alive,
    failure,
    pids,
    request,
    run,
    wait_until,
)
from bench.tests.values import make_case

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")


# --- A worker that reports ------------------------------------------------------------------------


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


# --- A worker that dies ---------------------------------------------------------------------------


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
@pytest.mark.parametrize(
    ("name", "after", "kind"),
    [
        ("memory.events", "max 9\noom_kill 1\n", "oom"),
        ("memory.oom_control", "under_oom 0\noom_kill 1\n", "oom"),
        ("memory.events", "max 9\noom_kill 0\n", "crash"),
        ("memory.oom_control", "under_oom 0\n", "crash"),
    ],
)
def test_a_worker_that_the_kernel_killed_for_memory_did_not_fit(
    name: str, after: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known where its control group counts one more: then no other launch would end else."""
    monkeypatch.setattr(child, "groups", lambda controller: [(0, tmp_path)])
    (tmp_path / name).write_text(after.replace("oom_kill 1", "oom_kill 0"))
    count = f"open({str(tmp_path / name)!r}, 'w').write({after!r})"
    count += """; os.write(1, b'{"line":"progress","phase":"build"}\\n')"""
    outcome = failure(run(f"{count}; os.kill(os.getpid(), signal.SIGKILL)"))
    assert outcome.kind == kind and too_large(outcome) == hopeless(outcome) == (kind == "oom")
    perhaps = "" if kind == "oom" else "perhaps "
    assert outcome.message == (
        f"the worker was killed by SIGKILL, {perhaps}by the kernel for want of memory"
    )
    (tmp_path / name).write_text("oom_kill 0\n")
    assert failure(run(f"{count}; os._exit(3)")).kind == "crash"


def test_a_worker_that_dies_is_not_waited_for_because_of_a_child_that_lives() -> None:
    """A data loader's processes hold the worker's stdout open, and outlive its violent end."""
    code = """
        if os.fork() == 0:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    failed = failure(run(code, limit_seconds=30))
    assert failed.kind == "crash" and "SIGKILL" in failed.message


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


# --- A worker that hangs --------------------------------------------------------------------------


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
        limit_seconds=5.0,
    )
    outcome = failure(finished)
    assert outcome.kind == "timeout" and outcome.phase == "warm-up"
    assert outcome.message == "no report within 5 s; ended in its warm-up phase"
    assert 5 <= finished.seconds < 30
    found = pids(tmp_path / "pids")
    assert len(found) == 2
    wait_until(lambda: not any(alive(pid) for pid in found))


def test_a_worker_that_hangs_leaves_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SHORTEST_LIMIT_SECONDS", 0.5)
    monkeypatch.setitem(limits.SHARES, "start", 1.0)
    monkeypatch.setitem(limits.SHARES, "measure", 0.01)
    code = """
        import faulthandler
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        def stuck_in_here():
            time.sleep(60)
        os.write(1, b'{"line":"progress","phase":"measure"}\\n')
        stuck_in_here()
    """
    finished = run(code)
    assert failure(finished).kind == "timeout"
    assert "in stuck_in_here" in finished.stderr_tail


@pytest.mark.usefixtures("forked_here")
def test_a_real_worker_that_is_too_slow_leaves_its_stack() -> None:
    """Cut short in a product of 1 TFLOP, of which a launch makes thirteen at the least."""
    case = make_case(precision="fp32", parameters={"shape": "8192x8192x8192"})
    slow = msgspec.structs.replace(request(limit_seconds=5.0), case=case)
    finished = launch(slow, {"OMP_NUM_THREADS": "1"})
    assert failure(finished).kind == "timeout"
    assert "worker.py" in finished.stderr_tail and "most recent call first" in finished.stderr_tail


def test_each_phase_has_a_limit_of_its_own() -> None:
    """1800 s: five minutes to import; 60 s: no phase less than all of it."""
    found = {phase: limits.phase_limit(phase, 1800.0) for phase in limits.SHARES}
    assert found["import"] == 300.0 and found["start"] == 120.0 and found["measure"] == 1200.0
    assert set(found) == set(get_args(Phase)) and max(found.values()) < 1800.0
    # A launch of 13 steps, as long as may be: three more are read once all is timed.
    assert 3 * found["measure"] / 13 <= found["report"]
    assert {limits.phase_limit(phase, 60.0) for phase in limits.SHARES} == {60.0}


def test_a_hang_in_a_phase_is_ended_by_the_limit_of_that_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SHORTEST_LIMIT_SECONDS", 0.5)
    monkeypatch.setitem(limits.SHARES, "start", 1.0)
    monkeypatch.setitem(limits.SHARES, "numerics", 0.01)
    finished = run(
        'os.write(1, b\'{"line":"progress","phase":"numerics"}\\n\'); time.sleep(600)',
        limit_seconds=100.0,
    )
    outcome = failure(finished)
    assert (outcome.kind, outcome.phase) == ("timeout", "numerics")
    assert outcome.message == "its numerics phase took more than 1 s of the launch's 100 s; ended"
    assert finished.seconds < 60


@pytest.mark.parametrize("blocks", [1, 50_000], ids=["short", "longer than a pipe holds"])
def test_what_was_said_while_the_parent_was_held_up_is_heard(blocks: int) -> None:
    """Ctrl-Z and fg, or a terminal that stalls: the worker has measured to its end meanwhile."""
    finished = run(
        f"""
        blocks = b'{{"wall_ns":10000000,"step_ns":[10000000]}},' * {blocks}
        sys.stdout.buffer.write(b'{{"line":"progress","phase":"measure"}}\\n')
        sys.stdout.buffer.write(REPORT.replace(b'"steady":[', b'"steady":[' + blocks))
        sys.stdout.flush()
        """,
        limit_seconds=3.0,
        listen=lambda progress: time.sleep(3.5),
    )
    assert isinstance(finished.report.outcome, Measured), finished
    assert len(finished.report.outcome.steady) == blocks + 10


# --- What is left of it ---------------------------------------------------------------------------


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


# --- Its environment ------------------------------------------------------------------------------


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
