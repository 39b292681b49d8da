"""`accelmark run`: real runs that end well or are interrupted; what is said before one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import psutil
import pytest

from bench.commands.common import termination_as_interrupt
from bench.errors import DeviceUnavailable
from bench.records.outcome import Measured
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.records.schema import json_schema
from bench.running import probe
from bench.tests.commands.tiny import TINY
from bench.tests.conftest import Accelmark
from bench.tests.stage import marked


def test_a_bad_file_of_chips_is_said_before_anything_runs(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text("chip = 3\n")
    monkeypatch.setenv("ACCELMARK_CHIPS", "mine.toml")
    code, out, err = accelmark("run", "smoke", "--device", "cpu")
    assert (code, out) == (2, "")
    assert err.startswith("error: mine.toml: this file of chips cannot be used")
    assert not (tmp_path / "runs").exists()


def test_a_device_whose_runtime_is_broken(
    accelmark: Accelmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(address: str | None, *_: object) -> object:
        raise DeviceUnavailable("no device can be used:\n  - cpu: torch does not load")

    monkeypatch.setattr(probe, "choose_of", choose)
    code, out, err = accelmark("run", "smoke")
    assert (code, out, err) == (
        2,
        "",
        "error: no device can be used:\n  - cpu: torch does not load\n",
    )


def start(folder: Path, launches: int) -> subprocess.Popen[str]:
    """`accelmark run` of a tiny case, its record in the folder `out`."""
    (folder / "tiny.toml").write_text(TINY.format(launches=launches))
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "bench", "run", "tiny.toml"),
            *("--device", "cpu", "--out", "out"),
        ],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def record(folder: Path) -> RunFile:
    """The run's record, every line of it valid by the schema."""
    (path,) = (folder / "out").glob("tiny-cpu-*.jsonl")
    validator = jsonschema.Draft202012Validator(json_schema())
    for line in path.read_text(encoding="utf-8").splitlines():
        validator.validate(json.loads(line))
    found = read(path)
    assert found.damage is None
    return found


def test_a_real_run_from_suite_to_card(tmp_path: Path) -> None:
    process = start(tmp_path, 1)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found = record(tmp_path)
    (launch,) = found.launches
    assert isinstance(launch.outcome, Measured)
    assert found.end is not None and found.end.reason == "complete"
    assert found.run.command == (
        *("accelmark", "run", "tiny.toml", "--device", "cpu", "--out", "out"),
    )
    assert "gemm-matmul fp32" in out and " none " in out and "1 launch of 1 case" in out
    lines = err.splitlines()
    assert lines[0].startswith("device: cpu, ")
    assert lines[1] == "1 case, 0 of 1 launches, time left unknown"
    assert lines[2].startswith("gemm-matmul fp32 (32x32x32), 1 launch: ")
    assert lines[-1].startswith("record: out") and len(lines) == 4
    assert str(tmp_path) not in (tmp_path / "out" / Path(found.path).name).read_text()


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_terminal_that_goes_may_say_so_twice() -> None:
    """The second time nothing is interrupted: workers are being ended, and the record."""
    before = signal.getsignal(signal.SIGHUP)
    with termination_as_interrupt():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) == before


def test_another_thread_leaves_signals_as_they_are() -> None:
    """Python lets none but the main one set them: pytest may be called from any."""

    def within() -> bool:
        with termination_as_interrupt():
            return True

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(within).result()


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_command_that_shall_outlive_its_terminal_does() -> None:
    """As `nohup` starts it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with termination_as_interrupt():
            signal.raise_signal(signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.usefixtures("forked_here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_keeps_what_was_measured(tmp_path: Path, number: signal.Signals) -> None:
    def children() -> list[psutil.Process]:
        return [one for one in marked("", tmp_path) if one.pid != process.pid]

    process = start(tmp_path, 1000)
    try:
        deadline = time.monotonic() + 120
        while (
            not [  # the header and one launch on disk, and the next worker under way
                p for p in tmp_path.glob("out/*.jsonl") if p.read_bytes().count(b"\n") >= 2
            ]
            or not children()
        ):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # not in the middle of starting it, when it would end by itself
        begun = children()
        assert begun
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, err
    found = record(tmp_path)
    assert len(found.launches) >= 1
    assert all(isinstance(launch.outcome, Measured) for launch in found.launches)
    assert found.end is not None and found.end.reason == "interrupted"
    assert "INTERRUPTED" in out and "gemm-matmul fp32" in out
    # Where the signal finds it starting a process, as a slow host does for long, Python itself says
    # of what it had in hand that nobody closed it: to users nothing, as they have no -W error.
    err = re.sub(
        r"Exception ignored in: [^\n]*\nTraceback [^\n]*\n(?:  [^\n]*\n)*ResourceWarning: [^\n]*\n",
        "",
        err,
    )
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("record: out")
    _, living = psutil.wait_procs(begun, timeout=20)
    assert living == [], "no worker outlives its run"
