"""The next step where a server was measured from outside: no command of `accelmark run` fits."""

from __future__ import annotations

from typing import Any

import pytest

from bench.judging.comparing.compare import compare
from bench.judging.summary import summarize
from bench.records.endpoint import Endpoint, Server
from bench.records.outcome import Outcome, Void
from bench.records.run import End, RunFile
from bench.report import Canvas
from bench.reports.terminal.comparison import render
from bench.reports.wording.rows import next_step
from bench.tests.serving.values import CASE
from bench.tests.values import failed, make_file, make_launch, make_measured

FINE = make_measured(0.01)
SERVER = Server(name="x", version="1", model="m", settings={}, started="by the run", same_host=True)
ENDPOINT = Endpoint(server=SERVER, weights="w", prompts="token ids", warm_up_requests=1)
COMMAND = ("accelmark", "serve-bench", "--endpoint", "http://127.0.0.1:1", "--weights", "w")


def file(*outcomes: Outcome, seen: Endpoint | None = ENDPOINT, **changes: Any) -> RunFile:
    launches = [
        make_launch(outcome, CASE, launch=k, order=k, endpoint=seen)
        for k, outcome in enumerate(outcomes)
    ]
    given: dict[str, Any] = {"suite": "serve-bench", "command": COMMAND}
    return make_file([CASE], launches, **{**given, **changes})


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (file(failed(), failed()), "put it right on the server or the client"),
        (file(failed(), seen=None), "put it right on the server or the client"),
        (file(Void(reason="wrong"), command=("accelmark", "(private)")), "put it right on the"),
        (file(FINE, FINE, FINE, failed(), failed()), "put it right on the server or the client"),
        (file(end=End(reason="interrupted", finished_at="x")), "run the same command again"),
        (file(FINE), "for intervals, run again with more --launches"),
    ],
)
def test_a_run_of_it_is_told_no_command_of_run(run: RunFile, said: str) -> None:
    step = next_step(run, summarize(run))
    assert said in step and "accelmark run" not in step


@pytest.mark.parametrize(
    "outcomes", [[Void(reason="wrong")] * 5, [FINE] * 3], ids=["nothing", "few"]
)
@pytest.mark.parametrize("seen", [ENDPOINT, None], ids=["seen", "unseen"])
def test_a_comparison_of_two_is_told_none_either(
    outcomes: list[Outcome], seen: Endpoint | None
) -> None:
    base, other = (file(*outcomes, seen=seen) for _ in range(2))
    last = render([compare(base, other)], Canvas(width=200)).splitlines()[-1]
    assert "accelmark serve-bench with --server-command --launches 10" in last
    assert "accelmark run" not in last
