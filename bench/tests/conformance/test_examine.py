"""The parent's side of the checks: whatever becomes of one, the others go on and none stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from bench.backend import DeviceInfo
from bench.conformance import examine
from bench.conformance.check import Check, Finding, Stand
from bench.conformance.examine import Examined

CPU = DeviceInfo(backend="cpu", index=0, name="a CPU", memory_bytes=None)


def nothing(stand: Stand) -> Iterator[Finding]:
    yield from ()


def run(code: str, limit: float = 60.0, device: DeviceInfo = CPU) -> list[Examined]:
    """Two checks whose processes run this code, after reading what they are asked."""
    wanted = [Check(name=name, summary="s", parts=(nothing,), limit_seconds=limit) for name in "ab"]
    prefix = "import sys, os, time\ntask = sys.stdin.readline()\nfirst = '\"a\"' in task\n"
    prefix += "def say(text):\n    print(text, flush=True)\n"
    prefix += "say('true')\nsys.stdin.readline()\n"
    return list(examine.examine(device, wanted, (sys.executable, "-c", prefix + code)))


def children() -> set[int]:
    """Processes of this one, the zygote among them."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


GOOD = 'say(\'{"title": "t", "verdict": "pass", "observed": "o"}\')\n'


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os.kill(os.getpid(), 11)", "the worker was killed by SIGSEGV"),
        ("sys.exit('CANNOT')", "the worker left with exit code 1 and no report: CANNOT"),
        ("say('{')", "what it said is garbled"),
        ("time.sleep(60)", "it did not end within 1 s"),
        ("if os.fork() == 0: time.sleep(60)\nos._exit(3)", "left with exit code 3"),
    ],
)
def test_whatever_becomes_of_a_check_the_others_go_on(code: str, reason: str) -> None:
    start, before = time.monotonic(), children()
    bad = "".join(f"    {line}\n" for line in code.splitlines())
    first, second = run(f"{GOOD}if first:\n{bad}{GOOD}say('null')\n", limit=1.0)
    assert [f.verdict for f in first.findings] == ["pass", "fail"]
    assert first.findings[1].title == "a: to its end"
    assert reason in first.findings[1].reason
    assert (second.failures, len(second.findings)) == (0, 2)
    assert time.monotonic() - start < 50
    assert children() == before


def test_what_would_hide_a_fallback_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    said = 'say(\'{"title": "t", "verdict": "pass", "observed": "%s"}\' % names)'
    code = f"names = os.environ.get('PYTHONWARNINGS', 'none')\n{said}\nsay('null')\n"
    for found in run(code, device=msgspec.structs.replace(CPU, backend="ascend")):
        assert [finding.observed for finding in found.findings] == ["none"], found


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="POSIX")
def test_what_was_said_in_time_is_read_though_this_process_was_stopped_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by Ctrl-Z and fg: a check's process is in a session of its own, and goes on."""
    tell = examine._Running._tell

    def stopped(running: examine._Running, line: bytes) -> None:
        tell(running, line)
        if not line:
            os.waitid(os.P_PID, running._process.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(examine._Running, "_tell", stopped)
    for found in run(f"{GOOD * 2}say('null')\n", limit=0.0):
        assert [finding.verdict for finding in found.findings] == ["pass", "pass"], found


def test_a_framework_that_hangs_in_its_import_has_the_limit_of_an_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examine, "IMPORT_SECONDS", 0.0)
    command = (sys.executable, "-c", "import time; time.sleep(60)")
    wanted = [Check(name="a", summary="s", parts=(nothing,))]
    ((found,),) = (one.findings for one in examine.examine(CPU, wanted, command))
    assert found.reason == "it had not imported its framework after 0 s"


def test_a_check_whose_reader_is_gone_leaves_no_process() -> None:
    before = children()
    going = examine.examine(
        CPU, [Check(name="a", summary="s", parts=(nothing,))] * 3, (sys.executable, "-c", "input()")
    )
    next(going)
    going.close()
    assert children() == before


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they end with their stdin")
def test_a_parent_that_is_killed_leaves_no_process() -> None:
    arguments = ["check-backend", "cpu", "--only", "operators"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    started: list[psutil.Process] = []
    while not started:
        assert parent.poll() is None
        time.sleep(0.05)
        there = psutil.Process(parent.pid).children(recursive=True)
        started = [p for p in there if "bench.conformance.worker" in command_line(p)]
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(started, timeout=60)[1] == []


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it is gone
        return ""


def test_the_parent_imports_no_torch() -> None:
    code = (
        "import sys\nfrom bench.conformance import examine\n"
        "from bench.commands import check_backend\n"
        "assert len(examine.all_checks()) > 10\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
