"""A run that ended early goes on: nothing lost, nothing twice, nothing mixed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.backend import DeviceInfo
from bench.backends import cpu
from bench.errors import OutputError, RecordError
from bench.records import environment
from bench.records.outcome import Measured
from bench.records.run import End, Launch, RunFile, Settings
from bench.records.runfile import Writer, read
from bench.running import resume as resuming
from bench.running.face import Nobody
from bench.running.header import begin
from bench.running.resume import mixture, resume
from bench.running.session import EndReason, Session
from bench.tests.commands.test_ab import Log
from bench.tests.commands.tiny import TINY
from bench.tests.fakes import FakeBackend
from bench.tests.scripts.regenerate import command
from bench.tests.stage import marked, wait_until
from bench.tests.values import make_case, make_launch, make_measured

pytestmark = pytest.mark.usefixtures("forked")

ONE, TWO = make_case(precision="bf16"), make_case(precision="fp32")
SETTINGS = Settings(launches=2)
DEVICE = FakeBackend().devices()[0]
CPU = msgspec.structs.replace(DEVICE, backend="cpu")
PACKAGES = {"torch": "2.13.0", "transformers": "5.0.0"}
HOST: dict[str, Any] = {
    "accelmark": "0.1.0",
    "packages": PACKAGES,
    "python": "CPython 3.11.9",
    "load_1min": 0.5,
}


@pytest.fixture(autouse=True)
def same_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "host", lambda: dict(HOST))


def write(
    path: Path, launches: list[Launch], end: End | None = None, device: DeviceInfo = DEVICE
) -> RunFile:
    """A run of two cases that got so far."""
    writer = begin(path, "id", "fake", [ONE, TWO], SETTINGS, device, ["accelmark", "run"])
    for launch in launches:
        writer.append(launch)
    if end is not None:
        writer.append(end)
    writer.close()
    return read(path)


def first(count: int) -> list[Launch]:
    cases = [ONE, TWO, ONE, TWO]
    return [make_launch(make_measured(), cases[k], k // 2, k) for k in range(count)]


def go_on(file: RunFile) -> tuple[str, EndReason, RunFile]:
    """Resumes with scripted workers; which cases were launched."""
    log = Log([ONE, TWO])
    writer = resume(file, DEVICE, ["accelmark", "run", "--resume"])
    session = Session(
        [ONE, TWO],
        SETTINGS,
        DEVICE,
        FakeBackend(),
        writer,
        Nobody(),
        log.launcher("", {}),
        done=file.launches,
    )
    reason = session.run()
    writer.close()
    return " ".join(log.words), reason, read(Path(file.path))


@pytest.mark.parametrize(
    ("done", "launched"), [(0, "1 2 1 2"), (1, "1 2 2"), (2, "1 2"), (3, "2"), (4, "")]
)
def test_only_what_is_missing_is_measured(tmp_path: Path, done: int, launched: str) -> None:
    words, reason, file = go_on(write(tmp_path / "run.jsonl", first(done)))
    assert (words, reason) == (launched, "complete")
    assert file.damage is None and file.end is not None and len(file.resumed) == 1
    kept = [(x.fingerprint, x.launch, x.seed) for x in file.launches]
    assert sorted(kept) == sorted((c.fingerprint, k, k) for c in (ONE, TWO) for k in range(2))
    assert [x.order for x in file.launches] == list(range(4))


@pytest.mark.parametrize("reason", ["interrupted", "budget"])
def test_a_run_that_said_why_it_ended_goes_on_too(tmp_path: Path, reason: Any) -> None:
    end = End(reason=reason, finished_at="2026-01-01T00:00:00.000+00:00")
    words, _, file = go_on(write(tmp_path / "run.jsonl", first(2), end))
    assert words == "1 2"
    assert file.end is not None and file.end.reason == "complete"


def test_a_run_that_goes_on_has_not_ended(tmp_path: Path) -> None:
    end = End(reason="budget", finished_at="2026-01-01T00:00:00.000+00:00")
    file = write(tmp_path / "run.jsonl", first(1), end)
    resume(file, DEVICE, []).close()
    assert read(Path(file.path)).end is None


def test_a_line_that_was_being_written_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, first(2))
    whole = path.read_bytes()
    path.write_bytes(whole + msgspec.json.encode(first(3)[2])[:-7])
    file = read(path)
    assert file.cut_short and file.whole_bytes == len(whole)
    words, _, file = go_on(file)
    assert words == "1 2" and file.damage is None


def test_damage_in_the_middle_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write(path, first(2))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    before = path.read_bytes()
    with pytest.raises(RecordError, match="not a line of a record"):
        resume(read(path), DEVICE, [])
    assert path.read_bytes() == before


CHANGES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (
        lambda host: host.update(packages={"torch": "2.12.0"}),
        "'5.0.0'}, is {'torch': '2.12.0'}",
    ),
    (lambda host: host.update(accelmark="0.2.0"), "accelmark was 0.1.0, is 0.2.0"),
    (lambda host: host.update(git={"commit": "b", "changed": False}), "git was None"),
    (lambda host: host.update(cpu="Another"), "cpu was None, is Another"),
    (lambda host: host.update(governor="powersave"), "governor was None, is powersave"),
    (lambda host: host.update(affinity_cores=1), "affinity_cores was None, is 1"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_launches_of_two_environments_do_not_mix(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], None],
    said: str,
) -> None:
    file = write(tmp_path / "run.jsonl", first(1))
    before = Path(file.path).read_bytes()
    now = dict(HOST)
    change(now)
    monkeypatch.setattr(environment, "host", lambda: now)
    with pytest.raises(RecordError) as caught:
        resume(file, DEVICE, [])
    assert said in str(caught.value) and "start a new run" in str(caught.value)
    assert Path(file.path).read_bytes() == before


def test_another_driver_or_device_does_not_mix(tmp_path: Path) -> None:
    file = write(tmp_path / "run.jsonl", first(1))
    for other in (
        msgspec.structs.replace(DEVICE, name="Other"),
        msgspec.structs.replace(DEVICE, facts={"driver": "2"}),
    ):
        described: DeviceInfo = other
        assert mixture(file.run, HOST, msgspec.to_builtins(described))
        with pytest.raises(RecordError, match="do not mix"):
            resume(file, described, [])


def with_environment(**environment: Any) -> list[Launch]:
    """One launch, and what its worker said of itself."""
    return [msgspec.structs.replace(first(1)[0], environment=environment)]


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ({"variables": {"OMP_NUM_THREADS": "3"}}, "OMP_NUM_THREADS was 3, is 2"),
        ({"variables": {}}, "OMP_NUM_THREADS was not set, is 2"),
        (
            {"variables": {"OMP_NUM_THREADS": "2", "MINE": "1"}},
            "variable MINE was 1, is not set",
        ),
        (
            {"variables": {"OMP_NUM_THREADS": "2", "DNNL_MAX_CPU_ISA": "SSE41"}},
            "variable DNNL_MAX_CPU_ISA was SSE41, is not set",
        ),
        ({"packages": {"torch": "2.12.0"}}, "a launch's packages were {'torch': '2.12.0'}"),
        ({"python": "3.12.1"}, "a launch's python was 3.12.1, is CPython 3.11.9"),
    ],
)
def test_launches_of_another_worker_do_not_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: dict[str, Any], said: str
) -> None:
    """The parent's host and device look the same."""
    same_variables(monkeypatch)
    file = write(tmp_path / "run.jsonl", with_environment(**then), device=CPU)
    with pytest.raises(RecordError) as caught:
        resume(file, CPU, [])
    assert said in str(caught.value) and "do not mix" in str(caught.value)


def same_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_NUM_THREADS=2, and no other variable that is recorded."""
    for name in (*environment.variables(environment.VARIABLES), "MINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(cpu.BACKEND, "worker_environment", dict, raising=False)


def test_the_same_worker_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same_variables(monkeypatch)
    said = {"variables": {"OMP_NUM_THREADS": "2"}, "packages": PACKAGES, "python": "3.11.9"}
    file = write(tmp_path / "run.jsonl", with_environment(**said), device=CPU)
    resume(file, CPU, []).close()


def test_what_the_backend_sets_is_what_a_worker_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_variables(monkeypatch)
    monkeypatch.setattr(
        cpu.BACKEND, "worker_environment", lambda: {"MALLOC_ARENA_MAX": "7"}, raising=False
    )
    then = {"OMP_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "7"}
    file = write(tmp_path / "run.jsonl", with_environment(variables=then), device=CPU)
    resume(file, CPU, []).close()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["accelmark", "ab", "quick", "--env", "X=1"], "one side of `accelmark ab`"),
        (["pytest", "--pyargs", "bench.suite"], "`pytest --pyargs` made it"),
        ([], "only a run of `accelmark run` can go on"),
    ],
)
def test_only_a_run_goes_on(tmp_path: Path, command: list[str], said: str) -> None:
    path = tmp_path / "run.jsonl"
    begin(path, "id", "fake", [ONE, TWO], SETTINGS, DEVICE, command).close()
    before = path.read_bytes()
    with pytest.raises(RecordError) as caught:
        resume(read(path), DEVICE, [])
    assert said in str(caught.value)
    assert path.read_bytes() == before


def test_a_busier_host_is_the_same_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "run.jsonl", first(1))
    monkeypatch.setattr(environment, "host", lambda: {**HOST, "load_1min": 7.0})
    resume(file, DEVICE, []).close()


def test_two_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    writer = begin(path, "id", "fake", [ONE], SETTINGS, DEVICE, [])
    with pytest.raises(OutputError, match="End the run that writes it now"):
        Writer.again(read(path))
    writer.close()
    Writer.again(read(path)).close()


# --- The command ---------------------------------------------------------------------------------


def test_a_real_run_is_killed_again_and_again_and_loses_nothing(tmp_path: Path) -> None:
    """`python -m bench.tests.scripts.kills` does it fifty times."""
    (tmp_path / "tiny.toml").write_text(TINY.format(launches=16))
    random.seed(7)
    assert kill_again_and_again(tmp_path, 3, most_seconds=0.5) == 3
    done = command("run", "--resume", str(record_of(tmp_path)), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    file = read(record_of(tmp_path))
    assert file.damage is None and file.end is not None and file.end.reason == "complete"
    assert [x.launch for x in file.launches] == list(range(16))
    assert all(isinstance(x.outcome, Measured) for x in file.launches)
    again = command("run", "--resume", str(record_of(tmp_path)), folder=tmp_path)
    assert again.returncode == 0 and "nothing is left to measure" in again.stderr
    assert read(record_of(tmp_path)) == file


def record_of(folder: Path) -> Path:
    (found,) = (folder / "out").glob("*.jsonl")
    return found


def kill_again_and_again(
    folder: Path, times: int, most_seconds: float = 6.0, most_launches: int = 0
) -> int:
    """Starts a run, kills it (SIGKILL) at a random moment, resumes it, kills it, ...

    The moment: after up to `most_launches` more launches, and up to `most_seconds` later. After
    each kill nothing is left of it. How often it was killed: it may come to its end before.
    """
    mark = uuid.uuid4().hex
    for kills in range(times):
        there = list((folder / "out").glob("*.jsonl"))
        new = ["tiny.toml", "--device", "cpu", "--out", "out"]
        arguments = ["--resume", str(there[0])] if there else new
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", "run", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "FAULT_MARK": mark},
        )
        if not there:
            wait(process, 60.0, lambda: any((folder / "out").glob("*.jsonl")))
        wait_for_launches(process, folder, random.randint(0, most_launches))
        wait(process, random.uniform(0.0, most_seconds), lambda: False)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not marked(mark, folder), 30.0)
        if process.returncode != -signal.SIGKILL:
            return kills
    return times


def wait_for_launches(process: subprocess.Popen[bytes], folder: Path, more: int) -> None:
    enough = launches_in(folder) + more
    wait(process, 300.0, lambda: launches_in(folder) >= enough)


def launches_in(folder: Path) -> int:
    return record_of(folder).read_bytes().count(b'{"line":"launch"')


def wait(process: subprocess.Popen[bytes], seconds: float, enough: Callable[[], bool]) -> None:
    """Until it has ended, or the time has passed, or something is so."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not enough():
        time.sleep(0.01)


def test_a_side_of_ab_and_another_environment_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.format(launches=1))
    done = command(
        *("ab", "tiny.toml", "--device", "cpu", "--env", "OMP_NUM_THREADS=1", "--out", "out"),
        *("--launches", "1"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "out").glob("*.jsonl"):
        cut(path)
        done = command("run", "--resume", str(path), folder=tmp_path)
        assert done.returncode == 2 and "one side of `accelmark ab`" in done.stderr
        path.unlink()

    done = command("run", "tiny.toml", "--device", "cpu", "--out", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    cut(record_of(tmp_path))
    before = record_of(tmp_path).read_bytes()
    again = ("run", "--resume", str(record_of(tmp_path)))
    done = command(*again, folder=tmp_path, OMP_NUM_THREADS="31")
    assert done.returncode == 2 and "OMP_NUM_THREADS" in done.stderr and "is 31" in done.stderr
    assert record_of(tmp_path).read_bytes() == before
    assert command(*again, folder=tmp_path).returncode == 0


def cut(path: Path) -> None:
    """As if the run had been killed before it could say that it had ended."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert b'"line":"end"' in lines[-1]
    path.write_bytes(b"".join(lines[:-1]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quick"], "Leave out SUITE, or start a new run"),
        (["--device", "cpu", "--launches", "3"], "Leave out --device, --launches, or"),
        (["--out", "x"], "Leave out --out, or"),
    ],
)
def test_a_resumed_run_takes_no_other_plan(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = command("run", "--resume", "run.jsonl", *arguments, folder=tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_mixture_is_of_what_decides() -> None:
    assert set(resuming.HOST_FACTS) >= {"packages", "git", "accelmark"}
