"""Who waits for children, and was suspended with them meanwhile."""

from __future__ import annotations

import os

import pytest

from bench.records.outcome import Measured
from bench.running import worker_process
from bench.tests.running.scripted_workers import run, suspend

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")


def test_what_all_were_suspended_for_is_not_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `docker pause` does: the wait ends late, by the limit that the worker had no part of."""
    monkeypatch.setattr(worker_process, "WAIT_SECONDS", 0.1)
    suspend(monkeypatch, 60.0)
    finished = run("time.sleep(0.5); sys.stdout.buffer.write(REPORT)", limit_seconds=20.0)
    assert isinstance(finished.report.outcome, Measured), finished
