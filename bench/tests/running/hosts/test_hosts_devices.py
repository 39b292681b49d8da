"""Hosts that have accelerators: each counts its own from 0, and they are all different ones."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from bench import catalogue
from bench.measuring.launch import ALLOW_SIMULATED
from bench.measuring.messages import Request
from bench.planning.plan import plan
from bench.planning.suite_file import read_suite
from bench.records.outcome import Measured
from bench.running.launcher import COMMAND, launch_together
from bench.tests import forked, simulated
from bench.tests.running.hosts.two_hosts import led

SUITE = """
[settings]
launches = 1
warmup_seconds = 0.0
warmup_limit_seconds = 0.3
block_seconds = 0.001
steady_limit_seconds = 0.3
launch_limit_seconds = 200.0

[[case]]
workload = "llama"
mode = "prefill"
precision = "fp32"
model = "tiny"
prompt_length = 16
batch_size = 2
parallelism = "replicas2"
"""


@pytest.mark.skipif(not forked.AVAILABLE, reason="each rank is forked")
@pytest.mark.usefixtures("forked")
def test_the_first_device_of_each_of_two_hosts_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**simulated.environment(devices=1), ALLOW_SIMULATED: "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.toml").write_text(SUITE, encoding="utf-8")
    suite = read_suite("suite.toml")
    (case,) = plan(suite, 2)
    asked = Request(
        case=case, backend="ascend", index=0, settings=suite.settings, samples=10, seed=7, here=2
    )
    variables = catalogue.backend("ascend").worker_environment()
    with led(COMMAND) as (leader, _):
        made = launch_together([asked], variables, command=COMMAND, leader=leader)
        with contextlib.closing(made) as launches:
            finished = next(launches)
    outcome = finished.report.outcome
    assert isinstance(outcome, Measured), (outcome, finished.stderr_tail)
    assert [(one.host, one.device) for one in outcome.ranks] == [(0, 0), (1, 0)]
