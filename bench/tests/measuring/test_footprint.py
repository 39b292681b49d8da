"""Memory of the harness itself, over the workload's own: its processes, and its part of a worker.

Counted: the parent, from its start to its card; the side process that reads telemetry; and what a
worker holds when it has imported everything and opened nothing, less what Python and the workload's
libraries hold alone. Not counted: the worker that waits its turn while another measures (where two
import side by side), which holds its workload's libraries, no more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import catalogue
from bench.measuring.messages import Request
from bench.records.run import Settings
from bench.tests import forked
from bench.tests.values import make_case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MOST_BYTES = 150 * 10**6
SUITE = """
[settings]
launches = 2
block_seconds = 0.001
steady_limit_seconds = 0.1

[[case]]
workload = "gemm"
precision = "fp32"
shape = "64x64x64"
"""
TELL = "print('held', open('/proc/self/status').read())"
PARENT = f"""if True:
    import subprocess, sys
    from bench import cli
    if sys.argv[1:]:  # what it starts is forked: it holds what it takes to ask for that, besides
        from bench.tests import forked
        forked.PLACES += sys.argv[1:]
        subprocess.Popen = forked.Popen
    sys.argv = ["accelmark", "run", "suite.toml", "--device", "cpu"]
    try:
        cli.main()
    except SystemExit as end:
        assert end.code == 0
    {TELL}
"""
WORKER = f"""if True:
    import sys, msgspec
    from bench.measuring import messages, worker
    from bench.measuring.launch import Launch

    def stop():
        {TELL}
        sys.stdout.flush()
        worker.os._exit(0)

    worker.gc.disable()
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=messages.Request)
    Launch(request, messages.Channel(sys.stderr.buffer), stop).run()
"""


def held(code: str, folder: Path, given: bytes = b"", peak: bool = False, *words: str) -> int:
    """Bytes that a process holds when it tells, or its most so far."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        input=given,
        capture_output=True,
        cwd=folder,
        env={**catalogue.backend("cpu").worker_environment(), **os.environ},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode().rpartition("held")[2]
    found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.usefixtures("nursery")
def test_the_harness_holds_little_over_what_the_workload_does(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(SUITE, encoding="utf-8")
    request = Request(
        case=make_case(), backend="cpu", index=0, settings=Settings(), samples=10, seed=0
    )  # which is told to stop where it has imported all
    parent = held(PARENT, tmp_path, b"", True, *forked.PLACES[-1:])
    side = held(f"import bench.running.sampler\n{TELL}", tmp_path)
    worker = held(WORKER, tmp_path, msgspec.json.encode(request) + b"\n")
    alone = held(f"import torch\n{TELL}", tmp_path)
    parts = {"parent": parent, "side process": side, "in the worker": max(0, worker - alone)}
    total = sum(parts.values())
    assert total < MOST_BYTES, {name: f"{count / 1e6:.0f} MB" for name, count in parts.items()}
    assert parent > side > 0 and worker > 10 * parts["in the worker"], "something was measured"
