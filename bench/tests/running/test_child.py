"""How children are ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from bench.running import child

HELD_SECONDS = 10.0
"""For so long a driver holds on to a process that was killed."""


class Clock:
    """Goes on only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0


class Stubborn:
    """A process that leaves only when it is killed, and its driver lets it go."""

    stdin = stdout = None

    def __init__(self, clock: Clock, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.gone_at = float("inf")
        self._clock = clock

    def poll(self) -> int | None:
        if self._clock.now >= self.gone_at:
            self.returncode = -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        raise AssertionError("its whole group is asked")

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None
        if self._clock.now + timeout < self.gone_at:
            self._clock.now += timeout
            raise subprocess.TimeoutExpired("it", timeout)
        self._clock.now = max(self._clock.now, self.gone_at)
        self.returncode = -signal.SIGKILL
        return self.returncode


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The one that waits go by."""
    found = Clock()
    monkeypatch.setattr(child, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def kills(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, *processes: Stubborn
) -> dict[int, list[int]]:
    """What each group is sent, by its process id."""
    sent: dict[int, list[int]] = {process.pid: [] for process in processes}
    by_pid = {process.pid: process for process in processes}

    def killpg(group: int, sign: int) -> None:
        sent[group].append(sign)
        if sign == signal.SIGKILL:
            process = by_pid[group]
            process.gone_at = min(process.gone_at, clock.now + HELD_SECONDS)

    monkeypatch.setattr(os, "killpg", killpg)
    return sent


pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")


def test_one_that_was_killed_is_waited_for_until_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Until then it holds the device."""
    process = Stubborn(clock, 4242)
    sent = kills(monkeypatch, clock, process)
    child.end(process)
    assert process.returncode == -signal.SIGKILL
    assert sent[4242][:2] == [signal.SIGTERM, signal.SIGKILL]


def test_many_are_waited_for_together(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Eight ranks whose drivers hold on take no longer than one."""
    alone = Stubborn(clock, 4242)
    kills(monkeypatch, clock, alone)
    child.end(alone)
    took, clock.now = clock.now, 0.0
    ranks = [Stubborn(clock, pid) for pid in range(10, 18)]
    sent = kills(monkeypatch, clock, *ranks)
    child.end(*ranks)
    assert clock.now == took
    assert all(rank.returncode == -signal.SIGKILL for rank in ranks)
    assert all(signs[:2] == [signal.SIGTERM, signal.SIGKILL] for signs in sent.values())


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
@pytest.mark.usefixtures("reaper")
@pytest.mark.parametrize("running", [False, True])
def test_orphans_of_its_group_are_no_zombies_where_the_parent_is_pid_1(running: bool) -> None:
    code = f"""if True:
        import os
        running = {running}
        if pid := os.fork():
            print(pid, flush=True)
            running or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # who leaves it a zombie
        elif running:
            import time
            time.sleep(100)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    child.end(process)
    assert not psutil.pid_exists(orphan)


def test_the_group_of_one_that_was_ended_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be somebody else's by then."""
    process = subprocess.Popen(["true"], stdout=subprocess.PIPE, start_new_session=True)
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, sign: killed.append(group))
    child.end(process)
    assert killed == [process.pid]
    child.end(process)
    assert killed == [process.pid]
