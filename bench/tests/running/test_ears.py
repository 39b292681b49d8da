"""Who waits for children, and was suspended with them meanwhile."""

from __future__ import annotations

import errno
import os

import pytest

from bench import lifeline
from bench.records.outcome import Measured
from bench.running import worker_process
from bench.tests.running.scripted_workers import failure, run, suspend

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")


def test_what_all_were_suspended_for_is_not_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `docker pause` does: the wait ends late, by the limit that the worker had no part of."""
    monkeypatch.setattr(worker_process, "WAIT_SECONDS", 0.1)
    suspend(monkeypatch, 60.0)
    finished = run("time.sleep(0.5); sys.stdout.buffer.write(REPORT)", limit_seconds=20.0)
    assert isinstance(finished.report.outcome, Measured), finished


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_a_worker_is_heard_where_the_kernel_refuses_to_say_that_it_ends(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 5.3 and sandboxes do, whatever Python was built for; nothing is forked then,
    and what a worker leaves of its last words is heard all the same."""

    def refused(pid: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refused, raising=False)
    assert not lifeline.tells_ends()
    finished = run("sys.stdout.buffer.write(REPORT)", limit_seconds=20.0)
    assert isinstance(finished.report.outcome, Measured), finished
    died = failure(run("os._exit(3)", limit_seconds=20.0))
    assert died.message == "the worker left with exit code 3 and no report"


def test_a_want_of_descriptors_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", none_left, raising=False)
    with pytest.raises(OSError, match="open files"):
        lifeline.tells_ends()
