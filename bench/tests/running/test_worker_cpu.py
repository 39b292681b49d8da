"""What a worker has used of the cores, by which a rank at work is told from one that hangs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from bench.running import worker_process
from bench.tests.running.scripted_workers import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX processes")


def test_what_a_child_of_a_worker_computes_is_the_workers(tmp_path: Path) -> None:
    """As a compiler does, for which the worker only waits."""
    busy = "import time; start = time.process_time()\nwhile time.process_time() < start + 0.3: pass"
    code = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {busy!r}])
child = subprocess.Popen([sys.executable, "-c", {busy!r} + "\\ntime.sleep(60)"])
open({str(tmp_path / "started")!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    worker = object.__new__(worker_process.WorkerProcess)
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            worker.process = cast(Any, process)
            wait_until(lambda: worker.cpu_seconds() > 0.6)
            assert psutil.Process(process.pid).cpu_times().user < 0.5
        finally:
            with contextlib.suppress(psutil.Error):
                for child_of_it in psutil.Process(process.pid).children():
                    child_of_it.kill()
            process.kill()
