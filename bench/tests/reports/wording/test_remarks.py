"""What must be known beside a figure stands beside it in every report that people read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from bench import api, catalogue
from bench.judging.measured import PASSED_OVER
from bench.records.executed import Executed
from bench.records.outcome import Outcome
from bench.records.run import RunFile
from bench.report import Canvas
from bench.tests import scaled
from bench.tests.judging.ranks.test_slow import cluster, run_of
from bench.tests.judging.two_runs import FAST, SLOW, runs, steps
from bench.tests.reports.page.pages import Page
from bench.tests.reports.wording.test_again_server import file as server
from bench.tests.values import (
    another,
    failed,
    make_block,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)

CASE = make_case()


def failed_often() -> RunFile:
    outcomes: list[Outcome] = [make_measured(0.01 + k / 1e5) for k in range(7)]
    outcomes += [failed(message="lost")] * 3
    return make_file([CASE], make_launches(CASE, outcomes))


def replaced(outcomes: Sequence[Outcome]) -> RunFile:
    run = make_file([CASE], make_launches(CASE, outcomes))
    why = {CASE.fingerprint: "fp32 instead of bf16: by reference code"}
    return msgspec.structs.replace(run, run=msgspec.structs.replace(run.run, instead=why))


def brief() -> RunFile:
    warmup = (make_block(60.0), make_block(2.0))
    outcome = make_measured(step_clock="device event", flop=10**9, warmup=warmup)
    return make_file([CASE], make_launches(CASE, [outcome] * 5))


def passed_over() -> RunFile:
    environment = {"job": {PASSED_OVER: "fused SGD is wrong here: off by 2.4; foreach is used"}}
    launches = [make_launch(case=CASE, launch=k, environment=environment) for k in range(5)]
    return make_file([CASE], launches)


def in_cache() -> RunFile:
    stream = make_case(workload="memory", mode="triad", parameters={"size_bytes": 2**20})
    run = make_file([stream], make_launches(stream, [make_measured()] * 5))
    device = {**run.run.device, "facts": {"last_level_cache_bytes": str(2**20)}}
    return msgspec.structs.replace(run, run=msgspec.structs.replace(run.run, device=device))


def spread() -> RunFile:
    case = scaled.training(2)
    job = {"job": {"parallelism": "dp2: DDP", "gradients reduced as": "float32"}}
    return make_file([case], [make_launch(case=case, environment=job)])


@pytest.mark.parametrize("name", ["table", "markdown", "html"])
@pytest.mark.parametrize(
    ("run", "said"),
    [
        (failed_often(), "3 of 10 launches failed: crash in measure: lost"),
        (replaced([make_measured()] * 5), "fp32 instead of bf16: by reference code"),
        (brief(), "not sustained under 10 s of load"),
        (passed_over(), "fused sgd is wrong here: off by 2.4; foreach is used"),
        (in_cache(), "are less than 4 times the 1 mib of last-level caches, so no ceiling"),
        (spread(), "dp2: ddp; gradients reduced as float32"),
        (
            scaled.run_of(scaled.over_devices({2: 1.0}, shared=True)),
            "ranks compute on the cores of one host, as one device",
        ),
        (run_of(cluster(8, r3=0.2)), "rank 3 (device 3) computes 20 % longer than the rest"),
    ],
)
def test_no_report_gives_a_figure_without_what_must_be_known_beside_it(
    name: str, run: RunFile, said: str
) -> None:
    text = catalogue.load("reports", name).render([run], Canvas(width=200))
    if name == "html":
        text = text.partition("<th scope=row>")[2].partition("</tr>")[0]
    words = " ".join(text.split()).lower().replace("sustained: under", "sustained under")
    assert words.count(said) == 1


@pytest.mark.parametrize("name", ["table", "markdown", "html"])
def test_every_report_says_which_server_it_was(name: str) -> None:
    text = " ".join(api.render(server(make_measured(0.01)), name).split())
    assert "server: x 1, serving m; each launch a start of its own" in text


def test_what_has_no_figure_says_which_precision_it_stands_in_for() -> None:
    run = replaced([failed(message="broke")] * 2)
    text = catalogue.load("reports", "markdown").render([run], Canvas())
    assert "crash in measure: broke; fp32 instead of bf16: by reference code |" in text


@pytest.mark.parametrize("name", ["markdown", "html"])
def test_outputs_and_experts_that_differ_stand_beside_the_verdict(name: str) -> None:
    base, other = (
        runs((CASE, steps(seconds, witness=(output, 1.0), executed=Executed(expert_tokens=tokens))))
        for seconds, output, tokens in ((FAST, 4.0, (9, 11)), (SLOW, 5.2, (10, 10)))
    )
    text = api.render([base, another(other)], name)
    if name == "html":
        (drawn,) = Page(text).data["ratios"]
        assert "first loss or mean output differs at equal seeds: 23%" in drawn[0]["hover"][2]
        text = text.partition("The ratios as a list")[2].partition("</ul>")[0]
    said = next(line for line in text.splitlines() if "SLOWER" in line)
    assert "first loss or mean output differs at equal seeds: 23%" in said
    assert "0.05 of the tokens went to other experts at seed 0" in said
