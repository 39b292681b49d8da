"""Two runs side by side: what is refused and why, every verdict by arithmetic, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from bench.errors import ComparisonError
from bench.judging.comparability import unequal
from bench.judging.compare import Prices, compare
from bench.judging.comparison import CaseComparison, CompareVerdict, Comparison
from bench.judging.verdicts import slower_than, undecidable
from bench.records.case import Case
from bench.records.outcome import Measured, Outcome, Void
from bench.records.run import End, RunFile, Settings
from bench.report import Canvas
from bench.reports._comparison import WORDS, render
from bench.tests.conftest import Accelmark
from bench.tests.fakes import (
    BAD_NUMERICS,
    failed,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)
from bench.tests.scripts.regenerate import BASE, GOLDEN, OTHER, OUTPUTS

CASE = make_case(workload="bert", mode="train", parameters={"batch_size": 8, "length": 128})
FIXED = Settings(launches=10)
AUTO = Settings(launches="auto")


def steps(seconds: Sequence[float], **changes: Any) -> list[Outcome]:
    """One launch of each of these step times."""
    return [make_measured([s], **changes) for s in seconds]


TEN = (-1.5, -1.0, -0.6, -0.3, 0.0, 0.1, 0.3, 0.6, 1.0, 1.4)
"""Deviations of ten launches from their mean; standard deviation 0.91."""


def ten(seconds: float, spread: float) -> list[float]:
    return [seconds * (1 + spread * z) for z in TEN]


def run(seconds: Sequence[float], case: Case = CASE, **changes: Any) -> RunFile:
    """A run of one case with these step times, a launch each."""
    return make_file([case], make_launches(case, steps(seconds)), **{"settings": FIXED, **changes})


def runs(*cases: tuple[Case, Sequence[Outcome]], **changes: Any) -> RunFile:
    """A run of several cases."""
    launches = [launch for case, outcomes in cases for launch in make_launches(case, outcomes)]
    return make_file([case for case, _ in cases], launches, **{"settings": FIXED, **changes})


def only(comparison: Comparison) -> CaseComparison:
    (case,) = comparison.cases
    return case


def by_scipy(base: RunFile, other: RunFile, level: float) -> tuple[float, float, float, float]:
    """Ratio, its interval and p, by an implementation that is not ours."""
    logs = [
        [math.log(x.outcome.throughput) for x in file.launches if isinstance(x.outcome, Measured)]
        for file in (other, base)
    ]
    test = reference.ttest_ind(*logs, equal_var=False)
    interval = test.confidence_interval(level)
    ratio = math.exp(sum(logs[0]) / len(logs[0]) - sum(logs[1]) / len(logs[1]))
    return ratio, math.exp(interval.low), math.exp(interval.high), float(test.pvalue)


# --- What is not the same work -------------------------------------------------------------------

FAST, SLOW = ten(0.010, 0.01), ten(0.011, 0.01)
FULL = make_case(workload="bert", mode="train", precision="fp32", parameters=CASE.parameters)


def changed(**changes: Any) -> Case:
    return msgspec.structs.replace(CASE, **changes)


def parameter(name: str, value: Any) -> RunFile:
    return run(SLOW, changed(parameters={**CASE.parameters, name: value}))


def seen(environment: dict[str, Any], case: Case = CASE) -> RunFile:
    """A run whose workers saw this."""
    launches = [
        make_launch(outcome, case, launch=k, order=k, environment=environment)
        for k, outcome in enumerate(steps(SLOW))
    ]
    return make_file([case], launches, settings=FIXED)


WRONG = Void(reason="numerics: " + BAD_NUMERICS.complaint, numerics=BAD_NUMERICS)
SIMULATED = {"backend": "cpu", "index": 0, "name": "Fake CPU", "simulated": True}
REFUSED: dict[str, tuple[RunFile, str]] = {
    "batch": (parameter("batch_size", 16), "batch_size differs (8, 16)"),
    "sequence length": (parameter("length", 512), "length differs (128, 512)"),
    "optimizer": (parameter("optimizer", "sgd"), "optimizer differs (none, sgd)"),
    "type of a value": (parameter("batch_size", 8.0), "batch_size differs (8, 8.0)"),
    "precision": (run(SLOW, changed(precision="fp16")), "precision differs (bf16, fp16)"),
    "execution": (run(SLOW, changed(execution="compile")), "execution differs (eager, compile)"),
    "version": (run(SLOW, changed(version=2)), "workload version differs (1, 2)"),
    "world size": (run(SLOW, changed(devices=8)), "device count differs (1, 8)"),
    "parallelism": (run(SLOW, changed(parallelism="ddp")), "parallelism differs (none, ddp)"),
    "numerics": (
        runs((CASE, [*steps(SLOW), WRONG])),
        "other is void: numerics: output off by 0.5 (tolerance 0.01)",
    ),
    "simulated device": (run(SLOW, device=SIMULATED), "other: a simulated device"),
    "simulated worker": (seen({"device": SIMULATED}), "other: a simulated device"),
    "record schema": (run(SLOW, schema=2), "record schema differs (1, 2)"),
    "timing mode": (
        run(SLOW, settings=Settings(launches=10, timing="step")),
        "timing mode differs (block, step)",
    ),
    "unit": (
        runs((CASE, steps(SLOW, unit="token"))),
        "unit of throughput differs (image/s, token/s)",
    ),
    "out of memory": (
        runs((CASE, [failed("oom", "no memory")])),
        "other is failed: oom in measure: no memory",
    ),
    "never reached": (
        runs((CASE, []), end=End(reason="budget", finished_at="x")),
        "other is skipped: not reached: the time budget was spent",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unequal_work_is_refused_with_its_reason(kind: str) -> None:
    other, reason = REFUSED[kind]
    found = only(compare(run(FAST), other))
    assert (found.verdict, found.reasons) == ("INCOMPARABLE", (reason,))
    assert found.ratio is None and found.interval is None and found.p_value is None
    assert found.split is None and found.not_excluded is None
    assert compare(run(FAST), other).geometric_mean is None


@pytest.mark.parametrize("kind", REFUSED)
def test_refusal_does_not_depend_on_which_is_the_base(kind: str) -> None:
    other, reason = REFUSED[kind]
    found = only(compare(other, run(FAST)))
    assert found.verdict == "INCOMPARABLE" and found.ratio is None
    (turned,) = found.reasons
    words = set(turned.replace("base", "other").translate(str.maketrans("(),:", "    ")).split())
    assert words == set(reason.translate(str.maketrans("(),:", "    ")).split())


def test_a_float32_case_with_tf32_on_is_refused_on_either_side() -> None:
    strict = run(FAST, FULL)
    reduced = seen({"float32_reduced": True}, FULL)
    said = "float32 products were allowed a shorter mantissa (TF32 or its like)"
    assert only(compare(strict, reduced)).reasons == (f"other: {said}",)
    assert only(compare(reduced, strict)).reasons == (f"base: {said}",)
    assert only(compare(strict, seen({"float32_reduced": False}, FULL))).verdict == "SLOWER"
    short = msgspec.structs.replace(FULL, precision="tf32")
    on, off = seen({"float32_reduced": True}, short), seen({"float32_reduced": False}, short)
    assert only(compare(on, on)).verdict == "EQUIVALENT"
    said = "float32 products were not allowed the shorter mantissa that the precision asks for"
    assert only(compare(on, off)).reasons == (f"other: {said}",)
    half = seen({"float32_reduced": True})
    assert only(compare(run(FAST), half)).verdict == "SLOWER", "it has no float32 products"


def test_every_reason_is_given() -> None:
    other = run(
        SLOW,
        changed(precision="fp32", execution="compile", parameters={"batch_size": 8, "length": 512}),
        device=SIMULATED,
        schema=2,
        settings=Settings(timing="step"),
    )
    assert only(compare(run(FAST), other)).reasons == (
        "precision differs (bf16, fp32)",
        "execution differs (eager, compile)",
        "length differs (128, 512)",
        "record schema differs (1, 2)",
        "timing mode differs (block, step)",
        "other: a simulated device",
    )


def test_equal_cases_have_no_difference() -> None:
    assert list(unequal(CASE, changed())) == []


# --- Verdicts ------------------------------------------------------------------------------------


def test_faster_with_the_figures_of_scipy() -> None:
    """11 ms against 10 ms a step, launches spread by 1 %: other does 1.100 of base."""
    base, other = run(SLOW), run(FAST)
    found = only(compare(base, other))
    ratio, low, high, p_value = by_scipy(base, other, 0.95)
    assert found.verdict == "FASTER" and found.reasons == ()
    assert found.interval is not None
    assert found.ratio == pytest.approx(1.1, rel=1e-6)
    assert found.ratio == pytest.approx(ratio, rel=1e-12)
    assert found.interval.value == pytest.approx(ratio, rel=1e-12)
    assert found.interval.low == pytest.approx(low, rel=1e-9)
    assert found.interval.high == pytest.approx(high, rel=1e-9)
    assert found.p_value == pytest.approx(p_value, rel=1e-6)
    assert found.not_excluded == pytest.approx(high - 1)


def test_slower() -> None:
    found = only(compare(run(FAST), run(SLOW)))
    assert found.verdict == "SLOWER" and found.ratio == pytest.approx(1 / 1.1, rel=1e-6)
    assert found.interval is not None
    assert found.not_excluded == pytest.approx(1 - found.interval.low)


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [
        # Ten launches a side: the interval's half-width is 0.85 of the spread.
        (1.000, 0.010, "EQUIVALENT"),
        (1.008, 0.004, "EQUIVALENT"),  # surely faster, and by less than 1 %
        (1.009, 0.015, "UNDECIDED"),  # 0.996 to 1.022
        (1.000, 0.030, "UNDECIDED"),  # 0.975 to 1.026
        (1.015, 0.005, "FASTER"),  # within 2 %, but surely more than 1 %
        (1.019, 0.030, "UNDECIDED"),  # 0.993 to 1.045
        (0.985, 0.005, "SLOWER"),
        (0.978, 0.030, "UNDECIDED"),
        (0.930, 0.030, "SLOWER"),
    ],
)
def test_verdicts(factor: float, spread: float, verdict: str) -> None:
    base, other = run(ten(0.01, spread)), run(ten(0.01 / factor, spread))
    found = only(compare(base, other))
    _, low, high, p_value = by_scipy(base, other, 0.95)
    assert found.verdict == verdict, (low, high, p_value)
    assert found.interval is not None and found.interval.low == pytest.approx(low, rel=1e-9)
    if verdict == "EQUIVALENT":
        assert low >= 1 / 1.02 and high <= 1.02
    elif verdict == "UNDECIDED":
        assert p_value >= 0.05 and (low < 1 / 1.02 or high > 1.02)
    else:
        assert p_value < 0.05


@pytest.mark.parametrize(
    ("step", "verdict"),
    [(9_900_991, "EQUIVALENT"), (9_900_989, "FASTER"), (10_100_001, "SLOWER")],
)
def test_less_than_1_percent_is_no_difference_however_sure(step: int, verdict: str) -> None:
    """10 ms over 1.01 is 9.900990 ms. No launch varies: the interval is the ratio itself."""
    found = only(compare(run([0.01] * 5), run([step / 1e9] * 5)))
    assert found.interval is not None and found.interval.half_width == 0
    assert found.p_value == 0.0 and found.verdict == verdict


def test_sides_that_do_not_vary_at_all() -> None:
    same = only(compare(run([0.01] * 5), run([0.01] * 5)))
    assert (same.verdict, same.ratio, same.p_value) == ("EQUIVALENT", 1.0, 1.0)
    one = only(compare(run([0.01] * 10), run(SLOW)))
    assert one.verdict == "SLOWER"


@pytest.mark.parametrize("launches", [(4, 10), (10, 4), (4, 4), (1, 5)])
def test_fewer_than_five_launches_have_a_ratio_and_nothing_else(
    launches: tuple[int, int],
) -> None:
    found = only(compare(run(FAST[: launches[0]]), run(SLOW[: launches[1]])))
    assert found.verdict == "NO_INTERVAL"
    assert found.ratio is not None and found.interval is None and found.p_value is None
    assert found.reasons == (
        f"{launches[0]} and {launches[1]} launches: a verdict needs 5 of each (--launches 10)",
    )


def test_five_launches_a_side_are_enough() -> None:
    assert only(compare(run(FAST[:5]), run(SLOW[:5]))).verdict == "SLOWER"


@pytest.mark.parametrize("side", [0, 1])
def test_disturbed_launches_are_shown_and_not_ranked(side: int) -> None:
    unsteady = runs((CASE, steps(SLOW, flags=("NO_STEADY_STATE",))))
    pair = (unsteady, run(FAST)) if side == 0 else (run(FAST), unsteady)
    found = only(compare(*pair))
    assert found.verdict == "UNRANKED"
    assert found.ratio is not None and found.interval is not None and found.p_value is None
    who = ("base", "other")[side]
    assert found.reasons == (f"{who} is NO_STEADY_STATE: 10 of 10 launches never became steady",)


def test_an_invalid_row_is_not_ranked_and_does_not_weigh_on_the_others() -> None:
    """Holm counts the ranked cases only: p stays what it is."""
    invalid = make_case()
    base = runs((CASE, steps(FAST)), (invalid, steps(FAST)))
    other = runs((CASE, steps(SLOW)), (invalid, [*steps(SLOW), *[failed()] * 6]))
    first, second = compare(base, other).cases
    assert second.verdict == "UNRANKED"
    assert second.reasons == ("other is INVALID: 6 of 16 launches failed",)
    assert first.p_value == pytest.approx(by_scipy(run(FAST), run(SLOW), 0.95)[3])


def test_too_few_and_disturbed_says_both() -> None:
    unsteady = runs((CASE, steps(SLOW[:4], flags=("NO_STEADY_STATE",))))
    found = only(compare(run(FAST), unsteady))
    assert found.verdict == "NO_INTERVAL" and len(found.reasons) == 2


def test_a_noisy_row_is_ranked_since_its_noise_is_in_the_interval() -> None:
    base, other = run(ten(0.010, 0.05)), run(ten(0.012, 0.05))
    found = only(compare(base, other))
    assert found.base is not None and found.base.verdict == "NOISY"
    assert found.verdict == "SLOWER"


NEAR = ten(0.01 / 1.028, 0.03)
"""2.8 % faster, spread by 3 %: p = 0.033 alone."""


@pytest.mark.parametrize(("beside", "verdict"), [(0, "FASTER"), (1, "UNDECIDED"), (7, "UNDECIDED")])
def test_the_more_cases_the_surer_each_must_be(beside: int, verdict: str) -> None:
    """Holm: the least p is multiplied by the number of cases."""
    others = [
        (changed(parameters={"batch_size": 100 + k, "length": 1}), steps(ten(0.01, 0.03)))
        for k in range(beside)
    ]
    base = runs((CASE, steps(ten(0.01, 0.03))), *others)
    found = compare(base, runs((CASE, steps(NEAR)), *others)).cases[0]
    alone = by_scipy(run(ten(0.01, 0.03)), run(NEAR), 0.95)[3]
    assert 0.025 < alone < 0.05
    assert found.p_value == pytest.approx(min(1.0, alone * (beside + 1)), rel=1e-6)
    assert found.verdict == verdict


@pytest.mark.parametrize("adaptive", [(AUTO, FIXED), (FIXED, AUTO), (AUTO, AUTO)])
def test_a_run_that_stopped_when_it_looked_narrow_is_judged_at_98_percent(
    adaptive: tuple[Settings, Settings],
) -> None:
    plain = run(ten(0.01, 0.03)), run(NEAR)
    base, other = (
        make_file([CASE], file.launches, settings=s)
        for file, s in zip(plain, adaptive, strict=True)
    )
    found = compare(base, other)
    case = only(found)
    ratio, low, high, p_value = by_scipy(*plain, 0.98)
    assert found.level == 0.98 and case.interval is not None and case.interval.level == 0.98
    assert (case.interval.low, case.interval.high) == pytest.approx((low, high), rel=1e-9)
    assert 0.02 < p_value < 0.05 and case.verdict == "UNDECIDED"
    assert compare(*plain).level == 0.95 and only(compare(*plain)).verdict == "FASTER"
    assert ratio == pytest.approx(case.ratio)


NANOSECONDS = st.integers(9_000_000, 9_400_000)
LAUNCHES = st.lists(NANOSECONDS, min_size=3, max_size=8)
TURNED: dict[CompareVerdict, CompareVerdict] = {"FASTER": "SLOWER", "SLOWER": "FASTER"}


@settings(max_examples=60, deadline=None)
@given(LAUNCHES, LAUNCHES, st.sampled_from([1.0, 1.01, 1.02, 1.1]))
def test_which_is_called_base_only_turns_the_ratio_over(
    mine: list[int], theirs: list[int], factor: float
) -> None:
    one, two = run([n / 1e9 for n in mine]), run([n * factor / 1e9 for n in theirs])
    forth, back = only(compare(one, two)), only(compare(two, one))
    assert back.verdict == TURNED.get(forth.verdict, forth.verdict)
    assert forth.ratio is not None and back.ratio == pytest.approx(1 / forth.ratio)
    assert back.p_value == pytest.approx(forth.p_value)
    if forth.interval is not None and back.interval is not None:
        assert back.interval.low == pytest.approx(1 / forth.interval.high)
        assert back.interval.high == pytest.approx(1 / forth.interval.low)


def test_a_verdict_at_the_edge_does_not_depend_on_the_base() -> None:
    """1 / 1.01 = 0.990099: less than 1 % below, although it is 1 % the other way."""
    one, two = run([0.0101] * 5), run([0.0100] * 5)
    assert only(compare(one, two)).verdict == "FASTER"
    assert only(compare(two, one)).verdict == "SLOWER"
    # 0.9801 to 1.00: within 2 % below; the other way it reaches 1.0203.
    one, two = run([0.01] * 5), run([0.01 / 0.9903] * 4 + [0.0100])
    assert only(compare(one, two)).verdict == only(compare(two, one)).verdict


# --- Which case stands beside which --------------------------------------------------------------


def test_equal_work_first_then_the_nearest_then_what_is_left() -> None:
    far = changed(precision="fp32", parameters={"batch_size": 64, "length": 512})
    near = changed(precision="fp32")
    alone_base, alone_other = make_case(), make_case(workload="memory", mode="copy")
    half = changed(precision="fp16")
    base = runs(*((c, steps(FAST)) for c in (half, CASE, alone_base)))
    other = runs(*((c, steps(SLOW)) for c in (far, near, alone_other, CASE)))
    found = compare(base, other)
    pairs = [(c.base and c.base.case, c.other and c.other.case) for c in found.cases]
    assert (CASE, CASE) in pairs and (half, near) in pairs and (alone_base, None) in pairs
    assert (None, far) in pairs and (None, alone_other) in pairs and len(pairs) == 5
    reasons = {c.case.label: c.reasons for c in found.cases}
    assert reasons[alone_base.label] == ("no such case in the other run",)
    assert reasons[alone_other.label] == ("no such case in the base run",)
    assert [c.verdict for c in found.cases].count("INCOMPARABLE") == 4


def test_a_case_stands_beside_one_other_only() -> None:
    base = runs(*((changed(precision=p), steps(FAST)) for p in ("bf16", "fp16")))
    other = runs(*((changed(precision=p, execution="compile"), steps(SLOW)) for p in ("bf16",)))
    found = compare(base, other).cases
    assert [c.reasons for c in found] == [
        ("execution differs (eager, compile)",),
        ("no such case in the other run",),
    ]


def test_nothing_in_common_is_an_error_and_names_both() -> None:
    other = run(SLOW, make_case(workload="memory", mode="copy"))
    with pytest.raises(ComparisonError, match=r"in common: bert-train against memory-copy\. Comp"):
        compare(run(FAST), other)
    with pytest.raises(ComparisonError, match=r"bert-train against no case"):
        compare(run(FAST), make_file([], []))


def test_the_geometric_mean_says_of_how_many() -> None:
    """Ratios 2 and 1/8 of three cases: their geometric mean is 1/2."""
    second, third = changed(execution="compile"), make_case()
    base = runs((CASE, steps([0.01] * 5)), (second, steps([0.01] * 5)), (third, steps([0.01] * 5)))
    other = runs((CASE, steps([0.005] * 5)), (second, steps([0.08] * 3)), (third, [failed()]))
    found = compare(base, other)
    assert found.ratios == pytest.approx([2, 1 / 8])
    assert found.geometric_mean == pytest.approx(0.5)
    card = render([found], Canvas(width=100))
    assert "Geometric mean of the ratios of 2 of 3 cases (a summary, no verdict): 0.500" in card


# --- Chip or software ----------------------------------------------------------------------------

GEMM = make_case(parameters={"shape": "2x2x2"})
BIG_GEMM = make_case(parameters={"shape": "4x4x4"})
TRIAD = make_case(workload="memory", mode="triad", parameters={"size_bytes": 64})


def boxed(
    matmul: float | None, bandwidth: float | None, work: float
) -> list[tuple[Case, list[Outcome]]]:
    """Step times of a matmul of 100 FLOP, a triad of 100 bytes, work of 10 FLOP and 10 bytes."""
    found = [(CASE, steps([work] * 5, flop=10, moved_bytes=10))]
    if matmul is not None:
        found.append((GEMM, steps([matmul] * 5, flop=100)))
    if bandwidth is not None:
        found.append((TRIAD, steps([bandwidth] * 5, moved_bytes=100)))
    return found


def test_chip_times_software_is_the_ratio() -> None:
    """Base: 1,000 FLOP/s of 10,000, 10 %, and 1,000 B/s of 2,000: 50 %, so nearer. Other: four
    times the bandwidth and twice the work: chip 4, software 1/2.
    """
    found = compare(runs(*boxed(0.01, 0.05, 0.01)), runs(*boxed(0.01, 0.0125, 0.005))).cases[0]
    assert found.split is not None and found.ratio is not None
    assert found.split.ceiling == "memory bandwidth"
    assert found.split.chip == pytest.approx(4) and found.split.software == pytest.approx(0.5)
    assert found.split.shares == pytest.approx((0.5, 0.25))
    assert found.split.chip * found.split.software == pytest.approx(found.ratio, rel=1e-12)


def test_the_ceiling_is_the_one_that_the_base_is_nearer_to() -> None:
    """Base: 50 % of matmul and 10 % of the bandwidth; the other is the other way round."""
    base, other = runs(*boxed(0.05, 0.01, 0.01)), runs(*boxed(0.01, 0.05, 0.01))
    forth, back = compare(base, other).cases[0].split, compare(other, base).cases[0].split
    assert forth is not None and forth.ceiling == "matmul"
    assert forth.chip == pytest.approx(5)
    assert back is not None and back.ceiling == "memory bandwidth"


def test_no_split_where_a_run_has_no_ceiling() -> None:
    both, none = runs(*boxed(0.01, 0.05, 0.01)), runs(*boxed(None, None, 0.01))
    assert compare(both, none).cases[0].split is None
    assert compare(none, both).cases[0].split is None
    matmul = compare(both, runs(*boxed(0.01, None, 0.01))).cases[0].split
    assert matmul is not None and matmul.ceiling == "matmul"


def test_a_ceiling_is_of_cases_that_both_runs_measured() -> None:
    """The other's larger matmul, which the base did not measure, is no property of its chip."""
    larger = (BIG_GEMM, steps([0.001] * 5, flop=1000))
    base = runs(*boxed(0.01, None, 0.01))
    split = compare(base, runs(*boxed(0.01, None, 0.01), larger)).cases[0].split
    assert split is not None and split.chip == pytest.approx(1)
    only_larger = runs(*boxed(None, None, 0.01), larger)
    assert compare(base, only_larger).cases[0].split is None
    both = compare(runs(*boxed(0.01, None, 0.01), larger), runs(*boxed(0.005, None, 0.01), larger))
    assert both.cases[0].split is not None and both.cases[0].split.chip == pytest.approx(1)


def test_a_ceiling_is_of_the_same_arithmetic() -> None:
    """The chip's float32 matmul doubles, its bfloat16 one does not."""
    single = make_case(precision="fp32")
    base, other = (
        runs(
            (FULL, steps([0.01] * 5, flop=10)),
            (GEMM, steps([0.01] * 5, flop=100)),
            (single, steps([seconds] * 5, flop=20)),
        )
        for seconds in (0.01, 0.005)
    )
    split = compare(base, other).cases[0].split
    assert split is not None and split.chip == pytest.approx(2)
    assert split.shares == pytest.approx((0.5, 0.25))


def test_a_disturbed_matmul_is_no_ceiling() -> None:
    shaky = (GEMM, steps([0.01] * 5, flop=100, flags=("NO_STEADY_STATE",)))
    other = runs((CASE, steps([0.01] * 5, flop=10)), shaky)
    assert compare(runs(*boxed(0.01, None, 0.01)), other).cases[0].split is None


def test_per_joule_and_per_currency_unit() -> None:
    """Base: 100 items/s at 2 J an item. Other: 200 items/s at 0.5 J, at three times the price."""
    joules: dict[str, Any] = {"energy_absent": None}
    base = runs((CASE, steps([0.01] * 5, energy_joules=2.0, **joules)))
    other = runs((CASE, steps([0.005] * 5, energy_joules=0.5, **joules)))
    found = only(compare(base, other, Prices(base=1.0, other=3.0)))
    assert found.joule_ratio == pytest.approx(4)
    assert found.price_ratio == pytest.approx(2 / 3)
    bare = only(compare(base, run([0.005] * 5)))
    assert bare.joule_ratio is None and bare.price_ratio is None


@pytest.mark.parametrize("price", [0, -1, math.inf, math.nan])
def test_a_price_is_above_zero(price: float) -> None:
    with pytest.raises(ComparisonError, match="above zero"):
        Prices(base=1.0, other=price)


def test_the_outputs_of_equal_seeds_are_compared() -> None:
    """Seeds 0 to 4; the third differs most: 4 of 5."""
    base = runs((CASE, [make_measured([0.01], witness=(4.0, 1.0)) for _ in range(5)]))
    other = runs((CASE, [make_measured([0.01], witness=(w, 9.0)) for w in (4.0, 4.1, 5.0, 4, 4)]))
    found = compare(base, other)
    assert only(found).witness_gap == pytest.approx(0.2)
    assert "the outputs after the first step differ by 20%" in render([found], Canvas(width=200))
    later = [msgspec.structs.replace(x, seed=x.seed + 10) for x in other.launches]
    assert only(compare(base, make_file([CASE], later))).witness_gap is None
    zero = runs((CASE, [make_measured([0.01], witness=(0.0, 0.0)) for _ in range(5)]))
    assert only(compare(zero, zero)).witness_gap == 0.0
    assert only(compare(zero, base)).witness_gap == 1.0


# --- In what the runs differ ---------------------------------------------------------------------


def differences(base: RunFile, other: RunFile) -> dict[str, tuple[str, str]]:
    return {d.name: (d.base, d.other) for d in compare(base, other).differences}


def test_what_differs_is_listed_and_what_is_equal_is_not() -> None:
    base = seen(
        {
            "torch": "2.13.0",
            "packages": {"transformers": "5.0.0", "numpy": "2.0"},
            "threads": 8,
            "variables": {"OMP_NUM_THREADS": "8", "LD_PRELOAD": "x.so"},
            "device": {"facts": {"driver": "580"}, "memory_bytes": 1},
            "device_state": {"power_limit": "700 W", "sm_clock_mhz": "1980"},
            "job": {"memory_format": "channels_last"},
        }
    )
    other = seen(
        {
            "torch": "2.12.0",
            "packages": {"transformers": "5.0.0", "numpy": "2.1"},
            "threads": 8,
            "variables": {"LD_PRELOAD": "x.so"},
            "device": {"facts": {"driver": "550"}, "memory_bytes": 2},
            "device_state": {"power_limit": "500 W", "sm_clock_mhz": "1200"},
            "job": {"memory_format": "contiguous"},
        }
    )
    assert differences(base, other) == {
        "torch": ("2.13.0", "2.12.0"),
        "numpy": ("2.0", "2.1"),
        "OMP_NUM_THREADS": ("8", "absent"),
        "driver": ("580", "550"),
        "power_limit": ("700 W", "500 W"),
        "bert-train memory_format": ("channels_last", "contiguous"),
    }
    assert differences(base, base) == {}
    assert "The runs differ in nothing else." in render([compare(base, base)], Canvas())


def test_device_host_commit_and_settings() -> None:
    device = {"backend": "cpu", "index": 0, "name": "Fake CPU"}
    git = {"commit": "0123456789abcdef", "changed": True}
    base = run(FAST, device=device, host={"cpu": "A", "git": git, "load_1min": 1.0})
    other = run(
        SLOW,
        device={**device, "name": "Other CPU"},
        host={"cpu": "B", "git": {**git, "changed": False}, "load_1min": 9.0},
        settings=Settings(launches=10, block_seconds=0.5),
    )
    assert differences(base, other) == {
        "device": ("Fake CPU", "Other CPU"),
        "accelmark commit": ("0123456789ab with changes", "0123456789ab"),
        "setting block_seconds": ("0.05", "0.5"),
        "host cpu": ("A", "B"),
    }


def varying(*values: Any) -> RunFile:
    launches = [
        make_launch(outcome, CASE, launch=k, order=k, environment={"threads": value})
        for k, (outcome, value) in enumerate(zip(steps([0.01] * len(values)), values, strict=True))
    ]
    return make_file([CASE], launches, settings=FIXED)


def test_values_that_vary_within_a_run() -> None:
    assert differences(varying(1, 2, 1), varying(1, 1, 1)) == {"threads": ("1, 2", "1")}
    assert differences(varying(1, 2, 1), varying(2, 1, 1)) == {}, "in another order"
    many = differences(varying(1, 2, 3, 4, 5), varying(1, 2, 3, 4))
    assert many == {"threads": ("1, 2, 3, ...", "1, 2, 3, ...")}


def test_a_kind_of_work_that_one_run_lacks_is_no_difference_of_how_it_was_run() -> None:
    job = {"job": {"memory_format": "channels_last"}}
    launch = make_launch(make_measured(), GEMM, environment=job)
    base = seen({})
    both = make_file([CASE, GEMM], [*base.launches, launch], settings=FIXED)
    assert differences(both, base) == {}


@pytest.mark.parametrize("odd", [[], None, 3, "x", {"facts": 3}], ids=repr)
def test_descriptions_of_another_version_are_borne(odd: Any) -> None:
    base = seen({"packages": odd, "device": odd, "job": odd, "variables": odd})
    render([compare(base, run(FAST, host={"git": odd}))], Canvas())


# --- For a CI ------------------------------------------------------------------------------------


def test_slower_than_counts_sure_cases_by_their_ratio() -> None:
    found = compare(run(FAST), run(SLOW))  # 0.909: 9.1 % slower
    assert [len(slower_than(found, p)) for p in (0, 5, 9, 9.2, 50, 100)] == [1, 1, 1, 0, 0, 0]
    unsure = compare(run(ten(0.01, 0.1)), run(ten(0.0104, 0.1)))
    assert slower_than(unsure, 0) == [] and undecidable(unsure) == []
    assert slower_than(compare(run(SLOW), run(FAST)), 0) == []
    with pytest.raises(ComparisonError, match="percentage"):
        slower_than(found, math.nan)


def test_what_cannot_be_judged() -> None:
    assert [c.verdict for c in undecidable(compare(run(FAST), run(SLOW[:4])))] == ["NO_INTERVAL"]
    other, _ = REFUSED["batch"]
    assert [c.verdict for c in undecidable(compare(run(FAST), other))] == ["INCOMPARABLE"]


# --- The command ---------------------------------------------------------------------------------


def write(path: Path, file: RunFile) -> Path:
    """The file as `accelmark run` would have written it."""
    lines = [file.run, *file.launches, *([file.end] if file.end else [])]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("other", "code", "said"),
    [
        (run(SLOW), 3, "slower by 9.1%: bert-train bf16 (batch 8, length 128)"),
        (run(ten(0.0101, 0.03)), 0, ""),
        (run(ten(0.0104, 0.01)), 0, ""),  # slower, and by less than 5 %
        (run(ten(0.009, 0.01)), 0, ""),
        (run(SLOW[:4]), 1, "not judged (NO_INTERVAL): bert-train bf16 (batch 8, length 128)"),
        (REFUSED["batch"][0], 1, "not judged (INCOMPARABLE): bert-train"),
    ],
)
def test_fail_if_slower(
    accelmark: Accelmark, tmp_path: Path, other: RunFile, code: int, said: str
) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    write(tmp_path / "b.jsonl", other)
    found, out, err = accelmark("compare", "a.jsonl", "b.jsonl", "--fail-if-slower", "5")
    assert found == code and err.startswith(said) and bool(err) == bool(said)
    assert out.startswith("base   fake on Fake CPU (cpu)")


def test_one_slower_case_outweighs_one_that_cannot_be_judged(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", runs((CASE, steps(FAST)), (GEMM, steps(FAST))))
    write(tmp_path / "b.jsonl", runs((CASE, steps(SLOW)), (GEMM, [failed()])))
    assert accelmark("compare", "a.jsonl", "b.jsonl", "--fail-if-slower", "5")[0] == 3
    assert accelmark("compare", "a.jsonl", "b.jsonl")[0] == 0
    assert accelmark("compare", "b.jsonl", "a.jsonl", "--fail-if-slower", "5")[0] == 1


def test_nothing_that_could_be_compared_is_exit_code_1(
    accelmark: Accelmark, tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    write(tmp_path / "b.jsonl", REFUSED["precision"][0])
    code, out, err = accelmark("compare", "a.jsonl", "b.jsonl")
    assert (code, err) == (1, "")
    assert "INCOMPARABLE  bert-train bf16" in out and "precision differs (bf16, fp16)" in out
    assert "Geometric mean" not in out and "ratio" not in out


def test_several_others_have_a_card_each(accelmark: Accelmark, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    write(tmp_path / "b.jsonl", run(SLOW))
    prices = [x for p in ("1", "2", "4") for x in ("--price", p)]
    code, out, _ = accelmark("compare", "a.jsonl", "b.jsonl", "a.jsonl", "--json", *prices)
    found = json.loads(out)
    assert code == 0 and [x["cases"][0]["verdict"] for x in found] == ["SLOWER", "EQUIVALENT"]
    ratios = [x["cases"][0]["per_currency_unit_ratio"] for x in found]
    assert ratios == pytest.approx([1 / 2.2, 1 / 4], rel=1e-6)


FIGURES = ("ratio", "ratio_low", "ratio_high", "level", "p_value_adjusted", "not_excluded")


def test_flat_rows_have_nulls_and_never_zeros() -> None:
    (found,) = json.loads((GOLDEN / "compare-json.txt").read_text(encoding="utf-8"))
    assert found["cases_compared"] == 7 and len(found["cases"]) == 10
    assert {c["verdict"] for c in found["cases"]} == set(get_args(CompareVerdict))
    for case in found["cases"]:
        assert case["verdict"] in WORDS and isinstance(case["reasons"], list)
        have = {name for name in FIGURES if case[name] is not None}
        assert have == {
            "INCOMPARABLE": set(),
            "NO_INTERVAL": {"ratio"},
            "UNRANKED": set(FIGURES) - {"p_value_adjusted"},
        }.get(case["verdict"], set(FIGURES))
        assert bool(case["reasons"]) == (
            case["verdict"] in ("INCOMPARABLE", "NO_INTERVAL", "UNRANKED")
        )
        for name in (*FIGURES, "chip_ratio", "software_ratio", "per_joule_ratio"):
            assert case[name] is None or 0 < case[name] < math.inf
        for side in ("base", "other"):
            if case[side] is not None and case[side]["status"] != "measured":
                assert case[side]["throughput"] is None and case[side]["ci_low"] is None


def test_the_cards_have_every_word_and_fit() -> None:
    for width in (80, 120):
        card = (GOLDEN / f"compare-{width}.txt").read_text(encoding="utf-8")
        text = " ".join(card.split())
        for word in WORDS.values():
            assert word in text or word.split()[0] in text, word
        for part in ("MFU 61.7% and 58.4%", "of memory bandwidth", "driver: 580.1 | 7.2"):
            assert part in text
        for line in card.splitlines():
            assert len(line) <= width and line == line.rstrip()
    assert "per currency unit" in text and "no significant difference,\n" in card


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_figure_is_cut_off(width: int) -> None:
    """Long rates and long names: lines are folded."""
    long = make_case(workload="w" * 30, mode="train", parameters={"name": "n" * 50})
    quick = ten(8.12e-7, 0.05)
    base, other = (runs((long, steps(quick, unit="sequence"))) for _ in range(2))
    text = render([compare(base, other)], Canvas(width=width))
    assert text.count("1,23") == 2 and text.count(" sequence/s") == 2
    assert "EQUIVALENT" in text or "excluded" in text


def test_colour_is_not_needed() -> None:
    found = compare(run(FAST), run(SLOW))
    coloured = render([found], Canvas(width=100, colour=True))
    assert "\x1b[" in coloured and "\x1b" not in render([found], Canvas(width=100))


def test_why_a_clear_interval_may_have_no_verdict() -> None:
    """Two cases: the interval of one excludes 1, and Holm's p does not fall below 5 %."""
    beside = (GEMM, steps(ten(0.01, 0.03)))
    base = runs((CASE, steps(ten(0.01, 0.03))), beside)
    card = render([compare(base, runs((CASE, steps(NEAR)), beside))], Canvas(width=120))
    assert "not excluded, p = 0.06" in " ".join(card.split())


def test_a_run_that_did_not_end_by_itself_says_so() -> None:
    half = compare(run(FAST), run(SLOW, end=None))
    first, second = render([half], Canvas(width=120)).splitlines()[:2]
    assert "UNFINISHED" in second and "UNFINISHED" not in first


@pytest.mark.parametrize(
    ("other", "step"),
    [
        (run(SLOW), "the pictures"),
        (run(SLOW[:4]), "for verdicts, on both machines: accelmark run fake --launches 10"),
        (run(ten(0.0101, 0.03)), "narrower intervals, on both machines: accelmark run fake --l"),
        (REFUSED["batch"][0], "run the same suite on both"),
        (runs((CASE, steps(SLOW, flags=("NO_STEADY_STATE",)))), "end other work"),
    ],
)
def test_the_next_step(other: RunFile, step: str) -> None:
    last = render([compare(run(FAST), other)], Canvas(width=200)).splitlines()[-1]
    assert last.startswith(f"Next: {step}")


def bad_files(folder: Path) -> None:
    good = write(folder / "good.jsonl", run(FAST)).read_bytes()
    lines = good.splitlines(keepends=True)
    (folder / "text.jsonl").write_text("no record\n")
    (folder / "cut.jsonl").write_bytes(good[: len(good) // 2])
    newer = json.loads(lines[0]) | {"schema": 99}
    (folder / "newer.jsonl").write_bytes(json.dumps(newer).encode() + b"\n")
    twice = json.loads(lines[0])
    twice["plan"] *= 2
    (folder / "planned.jsonl").write_bytes(
        b"".join([json.dumps(twice).encode(), b"\n", *lines[1:]])
    )
    (folder / "again.jsonl").write_bytes(b"".join([*lines[:3], lines[1]]))
    write(folder / "foreign.jsonl", run(FAST, make_case(workload="memory", mode="copy")))


BAD = {
    "text.jsonl": ["text.jsonl", "line 1", "Give a run file"],
    "cut.jsonl": ["cut.jsonl, line 6: cut short", "not compared", "accelmark report"],
    "newer.jsonl": ["newer.jsonl, line 1: schema 99", "reads schema 1", "Use the accelmark"],
    "planned.jsonl": ["planned.jsonl, line 1: bert-train bf16", "is planned twice"],
    "again.jsonl": ["again.jsonl, line 4: launch 0 of bert-train", "again", "not compared"],
    "foreign.jsonl": ["nothing in common", "bert-train", "memory-copy", "same suite"],
    "nowhere.jsonl": ["nowhere.jsonl", "No such file"],
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_message(
    accelmark: Accelmark, tmp_path: Path, name: str, first: bool
) -> None:
    bad_files(tmp_path)
    code, out, err = accelmark(
        "compare", *((name, "good.jsonl") if first else ("good.jsonl", name))
    )
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    for part in BAD[name]:
        assert part in err


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--price", "1"], "--price is given 1 times for 2 runs"),
        (["--price", "1"] * 3, "--price is given 3 times for 2 runs"),
        (["--price", "0", "--price", "1"], "--price"),
        (["--price", "nan", "--price", "1"], "a price must be finite"),
        (["--price", "1", "--price", "inf"], "a price must be finite"),
        (["--fail-if-slower", "nan"], "--fail-if-slower nan"),
        (["--fail-if-slower", "101"], "--fail-if-slower"),
        (["--fail-if-slower", "-1"], "--fail-if-slower"),
    ],
)
def test_bad_options(accelmark: Accelmark, tmp_path: Path, options: list[str], part: str) -> None:
    write(tmp_path / "a.jsonl", run(FAST))
    code, _, err = accelmark("compare", "a.jsonl", "a.jsonl", *options)
    assert code == 2 and part in err and "Traceback" not in err


def test_both_files_are_needed(accelmark: Accelmark) -> None:
    code, out, err = accelmark("compare", str(BASE))
    assert (code, out) == (2, "") and "Missing argument 'OTHER...'" in err


def test_the_golden_runs_compare_with_themselves(accelmark: Accelmark) -> None:
    code, out, _ = accelmark("compare", str(OTHER), str(OTHER))
    assert code == 0 and "FASTER\n" not in out and "SLOWER\n" not in out
    assert {"compare-80.txt", "compare-120.txt", "compare-json.txt"} <= set(OUTPUTS)
