"""How a child is ended."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from bench.running import child


class Stubborn:
    """A process whose driver holds on to it for ten seconds after it was killed, by its own clock
    of the waits for it."""

    pid = 4242
    stdin = stdout = None

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.left = float("inf")

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        raise AssertionError("its whole group is asked")

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None
        if timeout < self.left:
            self.left -= timeout
            raise subprocess.TimeoutExpired("it", timeout)
        self.returncode = -signal.SIGKILL
        return self.returncode


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")
def test_one_that_was_killed_is_waited_for_until_it_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then it holds the device."""
    process = Stubborn()
    sent: list[int] = []

    def killpg(group: int, sign: int) -> None:
        assert group == process.pid
        sent.append(sign)
        if sign == signal.SIGKILL:
            process.left = min(process.left, 10.0)

    monkeypatch.setattr(os, "killpg", killpg)
    child.end(process)
    assert process.returncode == -signal.SIGKILL
    assert sent[:2] == [signal.SIGTERM, signal.SIGKILL]
