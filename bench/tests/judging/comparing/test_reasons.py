"""Each code of a verdict or refusal is given by two runs that deserve it, and is on its page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest

from bench import guide
from bench.errors import ComparisonError
from bench.judging.comparing.at_tpot import compare_at_tpot
from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import CompareVerdict, Comparison
from bench.judging.comparing.reasons import Code
from bench.judging.comparing.systems import compare_systems
from bench.judging.comparing.verdicts import DISTURBED
from bench.judging.row import UNDISTURBED, Verdict
from bench.records.outcome import Skipped
from bench.records.proof import Proof, StepReading, Vector
from bench.records.run import RunFile, Settings
from bench.report import Canvas
from bench.reports.flat.comparison import flat
from bench.reports.html import REPORT as HTML
from bench.reports.markdown import REPORT as MARKDOWN
from bench.tests.judging.comparing.test_at_tpot import at_once, near
from bench.tests.judging.comparing.test_configured import ran, with_torch
from bench.tests.judging.test_clocks import looks
from bench.tests.judging.test_clocks import run as at_clock
from bench.tests.judging.test_load import MATMUL, loaded, run_of
from bench.tests.judging.two_runs import (
    CASE,
    FAST,
    FIXED,
    FULL,
    GEMM,
    REFUSED,
    SLOW,
    changed,
    only,
    run,
    runs,
    seen,
    steps,
    ten,
)
from bench.tests.judging.two_systems import batch, on, runs_on
from bench.tests.served_runs import SPEEDS, serve_case, served, served_run
from bench.tests.values import another, failed, make_case, make_file, make_launch

NAMED_ALIKE = [
    run(FAST, changed(workload=workload, mode=mode))
    for workload, mode in (("vit", "b16-train"), ("vit-b16", "train"))
]
"""Two workloads whose names, with their modes, read alike."""
SHORT = changed(precision="tf32")
Pair = tuple[RunFile, RunFile]


def beside(other: RunFile) -> Pair:
    return run(FAST), other


def refused(kind: str) -> Pair:
    return beside(REFUSED[kind][0])


def tuned(*batches: int) -> RunFile:
    """A run of the tuned track: the best of these batches is 1."""
    case = changed(parameters={"length": 128}, tuned={"batch_size": batches})
    launches = [
        make_launch(outcome, case, launch=k, order=k, choice={"batch_size": 1})
        for k, outcome in enumerate(steps(FAST))
    ]
    return make_file([case], launches, settings=FIXED)


def witnessed(norm: float) -> RunFile:
    """A run of which the outputs' length was read."""
    output = Vector(size=2, norm=norm)
    reading = StepReading(step=1, quantities={"output": output})
    proved = [msgspec.structs.replace(x, proof=Proof(readings=(reading,))) for x in steps(FAST)]
    return runs((CASE, proved))


def flagged(flag: Any) -> Pair:
    return beside(runs((CASE, steps(SLOW, flags=(flag,)))))


def at_a_rate(faster: float) -> RunFile:
    """Requests at random, at a rate that both keep up with."""
    return served_run([(serve_case(rate=2.0), [served(1, ms / faster) for ms in SPEEDS])])


def more(*cases: Any) -> RunFile:
    return runs((CASE, steps(FAST)), *cases)


TWO = changed(devices=2, parallelism="dp2")
PAIRS: dict[Code, Callable[[], Pair]] = {
    Code.NOT_IN_BASE: lambda: beside(more((make_case(), steps(FAST)))),
    Code.NOT_IN_OTHER: lambda: (more((make_case(), steps(FAST))), run(SLOW)),
    Code.WORKLOAD: lambda: (NAMED_ALIKE[0], NAMED_ALIKE[1]),
    Code.MODE: lambda: (NAMED_ALIKE[0], NAMED_ALIKE[1]),
    Code.VERSION: lambda: refused("version"),
    Code.PRECISION: lambda: refused("precision"),
    Code.EXECUTION: lambda: refused("execution"),
    Code.TRACK: lambda: beside(tuned(1, 2)),
    Code.DEVICE_COUNT: lambda: refused("world size"),
    Code.PARALLELISM: lambda: refused("parallelism"),
    Code.PARAMETER: lambda: refused("batch"),
    Code.CHOICES: lambda: (tuned(1, 2), tuned(1, 4)),
    Code.SCHEMA: lambda: refused("record schema"),
    Code.TIMING: lambda: refused("timing mode"),
    Code.UNIT: lambda: refused("unit"),
    Code.LOAD: lambda: (run_of((MATMUL, loaded(2.0))), run_of((MATMUL, loaded(10.0)))),
    Code.VOID: lambda: refused("numerics"),
    Code.FAILED: lambda: refused("out of memory"),
    Code.SKIPPED: lambda: beside(runs((CASE, [Skipped(reason="no bf16 here")]))),
    Code.NOT_REACHED: lambda: refused("never reached"),
    Code.SIMULATED: lambda: refused("simulated worker"),
    Code.SHORT_MANTISSA: lambda: (run(FAST, FULL), seen({"float32_reduced": True}, FULL)),
    Code.FULL_MANTISSA: lambda: (
        seen({"float32_reduced": True}, SHORT),
        seen({"float32_reduced": False}, SHORT),
    ),
    Code.SHARED_HOST: lambda: (
        seen({"world": {"shared_host": True}}, TWO),
        seen({"world": {"shared_host": False}}, TWO),
    ),
    Code.UNTRAINED: lambda: (
        run(FAST),
        seen(
            {
                "torch": "2.13.0+cpu",
                "device": {"backend": "cpu"},
                "job": {"optimizer": "SGD(fused=True)"},
            },
            CASE,
        ),
    ),
    Code.OTHER_WORK: lambda: (witnessed(1.0), witnessed(2.0)),
    Code.FEW_LAUNCHES: lambda: beside(run(SLOW[:4])),
    Code.RATE_GIVEN: lambda: (at_a_rate(1.0), at_a_rate(1.02)),
    Code.UNSTEADY: lambda: flagged("NO_STEADY_STATE"),
    Code.THROTTLED: lambda: flagged("THROTTLED"),
    Code.INVALID: lambda: beside(runs((CASE, [*steps(SLOW), *[failed()] * 6]))),
    Code.FASTER: lambda: (run(SLOW), run(FAST)),
    Code.SLOWER: lambda: (run(FAST), run(SLOW)),
    Code.EQUIVALENT: lambda: (run(FAST), another(run(FAST))),
    Code.UNDECIDED: lambda: (run(ten(0.01, 0.03)), another(run(ten(0.01, 0.03)))),
}
"""Two runs that are judged so."""
SYSTEMS: dict[Code, Callable[[], Pair]] = {
    Code.GLOBAL_BATCH: lambda: (
        runs_on((on("dp8"), 7.0), (on("dp8", CASE), 7.0)),
        runs_on((on("dp8", batch(512)), 7.0), (on("dp8", CASE), 7.0)),
    ),
}
"""Two runs that are judged so as whole systems."""
AT_LIMIT: dict[Code, Callable[[], Pair]] = {
    Code.NO_LOAD_IN_LIMIT: lambda: (near(20, 25, 27), near(33, 35, 37)),
    Code.BEST_NOT_MEASURED: lambda: (at_once(1, 2), at_once(1, 2, 4)),
    Code.LIMIT_IN_DOUBT: lambda: (near(20, 25, 27), near(20, 25, 30.2)),
}
"""Two that are judged so at 30 ms a token."""
VERDICTS: dict[Code, CompareVerdict] = {
    **dict.fromkeys((*PAIRS, *SYSTEMS, *AT_LIMIT), "INCOMPARABLE"),
    Code.FEW_LAUNCHES: "NO_INTERVAL",
    **dict.fromkeys((Code.RATE_GIVEN, Code.UNSTEADY, Code.THROTTLED, Code.INVALID), "UNRANKED"),
    Code.FASTER: "FASTER",
    Code.SLOWER: "SLOWER",
    Code.EQUIVALENT: "EQUIVALENT",
    Code.UNDECIDED: "UNDECIDED",
}
REFUSALS: dict[Code, Callable[[], Pair]] = {
    Code.SAME_RUN: lambda: (NAMED_ALIKE[0], NAMED_ALIKE[0]),
    Code.NOTHING_IN_COMMON: lambda: beside(run(FAST, make_case())),
}
"""Two runs that are not set side by side at all."""
DOUBTS: dict[Code, Callable[[], Pair]] = {
    Code.SETTINGS_DIFFER: lambda: (ran(), ran(variables={"OMP_NUM_THREADS": "1"})),
    Code.SETTINGS_UNKNOWN: lambda: (ran(), ran(variables_looked_for=None)),
    Code.FRAMEWORKS_DIFFER: lambda: (ran(), ran(run={"framework": "mindspore"})),
    Code.VERSIONS_DIFFER: lambda: (with_torch("2.6.0"), with_torch("2.13.0")),
    Code.CLOCKS_DIFFER: lambda: (
        at_clock(*looks(), case=GEMM),
        at_clock(*looks(clock_mhz=990.0), case=GEMM, step=4.0),
    ),
}
"""Two runs of which no chip is judged."""


def found(comparison: Comparison, code: Code) -> Any:
    """The case with this code, as JSON has it."""
    (case,) = [case for case in flat(comparison)["cases"] if code in case["codes"]]
    return case


def test_every_code_is_tried() -> None:
    assert {*PAIRS, *SYSTEMS, *AT_LIMIT, *REFUSALS, *DOUBTS} == set(Code)


@pytest.mark.parametrize("code", PAIRS)
def test_a_case_is_given_the_code_and_its_verdict(code: Code) -> None:
    comparison = compare(*PAIRS[code]())
    case = found(comparison, code)
    assert case["verdict"] == VERDICTS[code]
    assert len(case["codes"]) == max(1, len(case["reasons"]))


@pytest.mark.parametrize("code", SYSTEMS)
def test_a_system_is_given_the_code_and_its_verdict(code: Code) -> None:
    assert found(compare_systems(*SYSTEMS[code]()), code)["verdict"] == VERDICTS[code]


@pytest.mark.parametrize("code", AT_LIMIT)
def test_loads_at_a_limit_are_given_the_code_and_its_verdict(code: Code) -> None:
    assert found(compare_at_tpot(*AT_LIMIT[code](), 0.03), code)["verdict"] == VERDICTS[code]


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refusal_of_the_whole_names_its_code(code: Code) -> None:
    with pytest.raises(ComparisonError) as caught:
        compare(*REFUSALS[code]())
    assert caught.value.code == code and str(caught.value).endswith(f" [{code}]")


@pytest.mark.parametrize("code", DOUBTS)
def test_a_doubt_about_the_chip_names_its_code(code: Code) -> None:
    comparison = compare(*DOUBTS[code]())
    assert comparison.configured.chip_doubt
    assert flat(comparison)["chip_doubt_code"] == code
    assert flat(compare(ran(), another(ran())))["chip_doubt_code"] is None


def test_every_reason_has_its_own_code_in_their_order() -> None:
    other = run(SLOW, changed(precision="fp32", version=2), settings=Settings(timing="step"))
    case = only(compare(run(FAST), other))
    assert case.codes == ("other-version", "other-precision", "other-timing")
    assert [r.words for r in case.because] == list(case.reasons)
    text = MARKDOWN.render([run(FAST), other], Canvas())
    assert "(`other-version`, `other-precision`, `other-timing`)" in text
    page = HTML.render([run(FAST), other], Canvas())
    assert "<code>other-version, other-precision, other-timing</code>" in page


def test_a_verdict_of_a_side_is_either_ranked_or_has_a_code() -> None:
    """A new one must be put on one side or the other."""
    assert set(get_args(Verdict)) - set(DISTURBED) == set(UNDISTURBED)


def test_the_page_lists_each_code_with_its_verdict() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|", guide.page("comparability").text, re.M)
    listed = {code: verdict.strip() for code, verdict in rows}
    assert len(rows) == len(listed)
    refused, doubted = dict.fromkeys(REFUSALS, "refused"), dict.fromkeys(DOUBTS, "chip not judged")
    assert listed == {**VERDICTS, **refused, **doubted}
