"""Workers launched together, as real processes: what overlaps, and what one does to another."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.records import limits
from bench.records.observed import Telemetry
from bench.records.outcome import Measured, Outcome, Phase, Skipped, Void
from bench.running import launcher
from bench.telemetry.joined import Sight, Where
from bench.tests import launching
from bench.tests.running.scripted_workers import REPORT, failure, request, scripted
from bench.tests.served_runs import serve_case
from bench.tests.telemetry.launches import seen, steady

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")


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
    command = scripted(code, str(log))
    both = list(launcher.launch_together([request(), request()], {}, command=command))
    assert [finished.report for finished in both] == [REPORT, REPORT]
    words = ["import", "import", "measure", "end", "measure", "end"]
    assert log.read_text().split() == words


def test_a_fallback_that_the_users_variable_would_hide_voids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    code = """
        import warnings
        sys.stdin.readline()
        warnings.warn("The operator 'aten::x' will fall back to run on the CPU.")
        sys.stdout.buffer.write(REPORT); sys.stdout.flush()
    """
    asked = msgspec.structs.replace(request(), backend="ascend")
    (found,) = launcher.launch_together([asked], {}, command=scripted(code))
    assert isinstance(found.report.outcome, Void) and "aten::x" in found.report.outcome.reason


def test_a_worker_that_dies_while_another_imports_is_its_own_outcome_only() -> None:
    code = """
        if json.loads(sys.stdin.readline())["seed"] == 1:
            os._exit(3)
        print('{"line":"progress","phase":"open"}', flush=True)
        sys.stdin.readline()
        sys.stdout.buffer.write(REPORT); sys.stdout.flush()
    """
    command = scripted(code)
    requests = [msgspec.structs.replace(request(), seed=seed) for seed in (0, 1, 2)]
    first, second, third = launcher.launch_together(requests, {}, command=command)
    assert first.report == third.report == REPORT
    assert failure(second).kind == "crash" and "exit code 3" in failure(second).message


def test_waiting_for_others_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second imports for longer than the limit of the open phase, in which the first waits."""
    monkeypatch.setattr(limits, "SHORTEST_LIMIT_SECONDS", 1.2)
    shares: dict[Phase, float] = {"start": 1.0, "import": 1.0, "open": 0.001}
    monkeypatch.setattr(limits, "SHARES", {**limits.SHARES, **shares})
    code = """
        seed = json.loads(sys.stdin.readline())["seed"]
        time.sleep(1.5 * seed)
        print('{"line":"progress","phase":"open"}', flush=True)
        sys.stdin.readline()
        sys.stdout.buffer.write(REPORT); sys.stdout.flush()
    """
    command = scripted(code)
    requests = [msgspec.structs.replace(request(), seed=seed) for seed in (0, 1)]
    both = list(launcher.launch_together(requests, {}, command=command))
    assert [finished.report for finished in both] == [REPORT, REPORT]


def test_one_that_hangs_in_its_import_is_gone_when_another_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SHORTEST_LIMIT_SECONDS", 0.5)
    shares = {**dict.fromkeys(limits.SHARES, 1.0), "import": 0.01}
    monkeypatch.setattr(limits, "SHARES", shares)
    code = """
        import psutil
        if json.loads(sys.stdin.readline())["seed"] == 1:
            open(sys.argv[1] + ".part", "w").write(str(os.getpid()))
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # no stacks
            os.rename(sys.argv[1] + ".part", sys.argv[1])
            print('{"line":"progress","phase":"import"}', flush=True)
            time.sleep(600)
        print('{"line":"progress","phase":"open"}', flush=True)
        sys.stdin.readline()
        hung = psutil.Process(int(open(sys.argv[1]).read()))
        os.write(2, hung.status().encode())
        sys.stdout.buffer.write(REPORT); sys.stdout.flush()
    """
    command = scripted(code, str(tmp_path / "pid"))
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

    command = scripted("sys.stdin.readline(); sys.stdout.buffer.write(REPORT)")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    both = [request(), request()]
    before = len([*Path("/proc/self/fd").iterdir()]) if sys.platform == "linux" else 0
    one, two = launcher.launch_together(both, {}, command=command)
    assert one.report == REPORT
    assert (failure(two).kind, failure(two).phase) == ("error", "start")
    assert "no worker could be started" in failure(two).message
    if sys.platform == "linux":
        assert len([*Path("/proc/self/fd").iterdir()]) == before, "no descriptor is left open"


def of_device(telemetry: Telemetry | str) -> dict[Where, Sight]:
    return {(0, 0): Sight(index=0, telemetry=telemetry)}


def test_a_counter_that_is_not_believed_is_named_in_the_record() -> None:
    """The launch keeps what was seen, and why its energy is the power's."""
    report = msgspec.structs.replace(REPORT, outcome=steady())
    fell = seen(power=lambda at: 300.0, counter=lambda at: 300.0 * (at % 20))
    observed, telemetry = launcher._observed(report, of_device(fell))
    assert isinstance(observed.outcome, Measured) and isinstance(telemetry, Telemetry)
    assert observed.outcome.energy_method == "power"
    assert telemetry.absent["energy counter"].startswith("NVML: the counter fell from 5940 to 0 J")
    assert telemetry.readings == fell.readings
    assert launcher._observed(report, of_device("no tool"))[1] == "no tool"


def test_a_load_that_comes_for_longer_than_a_launch_measures_is_not_served(tmp_path: Path) -> None:
    """64 requests at 0.05 a second come over some 1,280 s; two thirds of a limit are for them."""
    command = scripted(
        """
        open(sys.argv[1], "w").close()
        sys.stdin.readline(); sys.stdout.buffer.write(REPORT)
        """,
        str(tmp_path / "started"),
    )

    def served(limit_seconds: float, **changes: Any) -> Outcome:
        version = catalogue.workload("serve").version
        case = msgspec.structs.replace(serve_case(**changes), version=version)
        asked = msgspec.structs.replace(request(limit_seconds), case=case)
        return launching.launch(asked, {}, command=command).report.outcome

    found = served(1800.0, requests=64, rate=0.05)
    assert isinstance(found, Skipped) and not (tmp_path / "started").exists()
    assert re.fullmatch(
        r"its requests come over 1,\d{3} s, and a launch measures for 1,200 s at most: .*"
        r"launch_limit_seconds = \d+ .*",
        found.reason,
    ), found.reason
    assert isinstance(served(1800.0, requests=64, rate=0.5), Measured)
    limit = float(found.reason.partition("launch_limit_seconds = ")[2].split()[0])
    assert isinstance(served(limit, requests=64, rate=0.05), Measured)
    assert isinstance(served(60.0, requests=64), Measured), "a closed loop comes as it is answered"
