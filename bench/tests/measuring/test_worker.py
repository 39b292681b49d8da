"""The real worker, launched by a real parent."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import pytest

from bench.measuring import messages
from bench.measuring.messages import Progress, Request
from bench.records.outcome import Measured, Phase, Work
from bench.records.run import Settings
from bench.tests.launching import launch
from bench.tests.values import make_block, make_case

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and process groups")


TINY = Settings(
    launches=1,
    block_seconds=0.001,
    warmup_seconds=0.0,
    warmup_limit_seconds=0.5,
    launch_limit_seconds=120.0,
)


def test_progress_says_the_throughput_and_what_it_counts() -> None:
    """Two steps of half a second, ten tokens each; nothing is said of a warm-up's throughput."""
    stream = io.BytesIO()
    channel = messages.Channel(stream)
    work = Work(items=10, unit="token")
    channel.blocks("warm-up", [make_block(0.5, steps=2)], work)
    channel.blocks("measure", [make_block(0.5, steps=2)], work)
    said = [msgspec.json.decode(x, type=Progress) for x in stream.getvalue().splitlines()]
    assert said == [
        Progress(phase="warm-up", samples=1, unit="token"),
        Progress(phase="measure", samples=1, throughput=20.0, unit="token"),
    ]


def test_lines_are_few_and_fewest_while_steps_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parent draws then takes the host's time, and a step may need all of the host."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream, work, block = io.BytesIO(), Work(items=1, unit="token"), make_block(0.5)
    channel = messages.Channel(stream)
    said: list[tuple[float, str]] = []
    for tenth in range(140):
        now[0] = tenth / 10 + 1
        phase: Phase = "warm-up" if tenth < 70 else "measure"
        before = stream.tell()
        channel.blocks(phase, [block], work)
        said += [(now[0], phase)] if stream.tell() > before else []
    gaps = {
        phase: [b - a for (a, one), (b, _) in itertools.pairwise(said) if one == phase]
        for phase in ("warm-up", "measure")
    }
    assert min(gaps["warm-up"][:-1]) >= messages.PROGRESS_SECONDS and len(gaps["warm-up"]) > 10
    assert min(gaps["measure"]) >= messages.MEASURING_SECONDS and len(gaps["measure"]) == 2


def test_a_real_launch_of_a_tiny_gemm() -> None:
    """End to end: import, gate, warm-up, measurement, with Python and C printing in between."""
    noisy = textwrap.dedent(
        """
        import ctypes, os, sys
        from bench.measuring import messages, worker
        from bench.workloads import gemm
        build = gemm.Gemm.build
        def chatty(*arguments):
            print("python says hello")
            ctypes.CDLL(None).puts(b"C says hello")
            ctypes.CDLL(None).fflush(None)
            os.system("echo the shell says hello")
            return build(*arguments)
        gemm.Gemm.build = chatty
        worker.main()
        """
    )
    phases: list[str] = []
    case = make_case(precision="fp32", parameters={"shape": "512x512x512"})
    asked = Request(case=case, backend="cpu", index=0, settings=TINY, samples=12, seed=3)
    finished = launch(
        asked,
        {"MALLOC_ARENA_MAX": "7", "OMP_NUM_THREADS": "1"},
        lambda progress: phases.append(progress.phase),
        (sys.executable, "-c", noisy),
    )
    outcome = finished.report.outcome
    assert isinstance(outcome, Measured), finished
    assert len(outcome.steady) == 12
    assert outcome.work.unit == "FLOP" and outcome.work.items == 2 * 512**3
    assert outcome.numerics.passed and outcome.step_clock == "host"
    assert outcome.throughput > 0 and outcome.memory.scope == "process RSS"
    steps = [step for block in outcome.steady for step in (block.step_cpu_ns or ())]
    assert len(steps) == outcome.steady_steps
    for said in ("python", "C", "the shell"):
        assert f"{said} says hello" in finished.stderr_tail
    once = list(dict.fromkeys(phases))
    assert once[:6] == ["import", "open", "numerics", "build", "warm-up", "measure"]
    cold = finished.report.cold
    assert all(value is not None for value in msgspec.to_builtins(cold).values())
    stack = finished.report.environment
    assert stack["variables"]["MALLOC_ARENA_MAX"] == os.environ.get("MALLOC_ARENA_MAX", "7")
    assert stack["device"]["backend"] == "cpu" and stack["job"]
    assert finished.report.clock_ns is not None, "its parent has answered"


def test_a_worker_whose_parent_is_gone_leaves(tmp_path: Path) -> None:
    """The parent is killed outright: its end of the worker's stdin closes, and the worker exits."""
    code = textwrap.dedent(
        """
        import os, sys, threading, time
        from bench import lifeline
        threading.Thread(target=lifeline.leave_with_parent, args=(sys.stdin.buffer,)).start()
        print("ready", flush=True)
        time.sleep(600)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.stdin.close()
    assert child.wait(20) == 1
    child.stdout.close()
