"""Every verdict by arithmetic, beside the figures of scipy; and what a CI makes of them."""

from __future__ import annotations

import math

import msgspec
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import api
from bench.errors import ComparisonError
from bench.judging.comparing.compare import compare
from bench.judging.comparing.comparison import CompareVerdict
from bench.judging.comparing.reasons import Code
from bench.judging.comparing.verdicts import slower_than, unanswered, undecidable
from bench.records.case import Case
from bench.records.outcome import Flag, Measured, Skipped
from bench.records.run import RunFile, Settings
from bench.tests.judging.two_runs import (
    AUTO,
    CASE,
    FAST,
    FIXED,
    NEAR,
    REFUSED,
    SLOW,
    changed,
    only,
    run,
    runs,
    steps,
    ten,
)
from bench.tests.served_runs import SPEEDS, measured, serve_case, served, served_run
from bench.tests.values import another, failed, make_case, make_file


def by_scipy(base: RunFile, other: RunFile, level: float) -> tuple[float, float, float, float]:
    """Ratio, its interval and p, by an implementation that is not ours."""
    logs = [
        [math.log(x.outcome.throughput) for x in file.launches if isinstance(x.outcome, Measured)]
        for file in (other, base)
    ]
    test = scipy.stats.ttest_ind(*logs, equal_var=False)
    interval = test.confidence_interval(level)
    ratio = math.exp(sum(logs[0]) / len(logs[0]) - sum(logs[1]) / len(logs[1]))
    return ratio, math.exp(interval.low), math.exp(interval.high), float(test.pvalue)


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


def test_where_two_runs_stopped_when_they_looked_narrow_p_counts_tenfold() -> None:
    """The sides of one `ab` stop together, and it counts for less."""
    files = run(ten(0.01, 0.03)), run(ten(0.01 / 1.035, 0.03))
    p_value = by_scipy(files[0], files[1], 0.98)[3]
    assert 0.005 < p_value < 0.02 and only(compare(*files)).p_value == pytest.approx(p_value)
    for ends, verdict, counts in (
        (("-a", "-b"), "FASTER", 2.5),
        (("-b", "-a"), "FASTER", 2.5),
        (("-c", "-d"), "UNDECIDED", 10),
    ):
        base, other = (
            make_file([CASE], file.launches, settings=AUTO, run_id=f"one{end}")
            for file, end in zip(files, ends, strict=True)
        )
        case = only(compare(base, other))
        assert case.verdict == verdict and case.p_value == pytest.approx(counts * p_value)


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


def test_beside_others_what_neither_device_can_do_is_owed_no_verdict() -> None:
    """Else no CI could watch a suite with such a case; what one of them does is to be said."""
    lacking = make_case(precision="fp8"), [Skipped(reason="fp8: this device has none")]
    both = compare(runs((CASE, steps(FAST)), lacking), runs((CASE, steps(SLOW)), lacking))
    assert [case.verdict for case in both.cases] == ["SLOWER", "INCOMPARABLE"]
    assert undecidable(both) == []
    neither = compare(runs(lacking), another(runs(lacking)))
    assert undecidable(neither) == [*neither.cases], "nothing would be watched"
    able = runs((CASE, steps(FAST)), (lacking[0], steps(FAST)))
    for one in (compare(able, both.other), compare(both.other, able)):
        assert [case.codes for case in undecidable(one)] == [("skipped",)]


def test_beside_others_a_load_at_a_given_rate_is_owed_no_verdict() -> None:
    """Else no CI could watch a suite with such a load; of that alone nothing would be watched."""

    def served_at(*cases: tuple[Case, float]) -> RunFile:
        return served_run([(x, [served(1, ms / faster) for ms in SPEEDS]) for x, faster in cases])

    rate, loop = serve_case(rate=2.0), serve_case()
    (alone,) = undecidable(compare(served_at((rate, 1.0)), served_at((rate, 1.01))))
    assert (alone.verdict, alone.interval is not None) == ("UNRANKED", True)
    both = compare(served_at((rate, 1.0), (loop, 1.0)), served_at((rate, 1.01), (loop, 1.1)))
    assert [case.verdict for case in both.cases] == ["UNRANKED", "FASTER"]
    assert undecidable(both) == []
    short = compare(served_at((rate, 1.0)), served_at((rate, 0.8)))
    assert [case.verdict for case in short.cases] == ["SLOWER"], "it does not keep up"
    assert both.geometric_mean == pytest.approx(1.1)
    assert "of 1 of 2 cases" in api.render(both)


@pytest.mark.parametrize(("launches", "flags"), [(3, ()), (1, ()), (5, ("THROTTLED",))])
def test_a_load_at_a_given_rate_says_so_whatever_else_is_wrong(
    launches: int, flags: tuple[Flag, ...]
) -> None:
    """Ten launches of a cool device would not make it a throughput of who answers."""

    def run_of(faster: float, flags: tuple[Flag, ...] = ()) -> RunFile:
        loads = [served(1, ms / faster) for ms in SPEEDS[:launches]]
        outcomes = [msgspec.structs.replace(measured(one), flags=flags) for one in loads]
        return runs((serve_case(rate=2.0), outcomes), (CASE, steps(SLOW)))

    found = compare(run_of(1.0), run_of(1.02, flags))
    case = found.cases[0]
    assert (case.verdict, case.codes[0]) == ("UNRANKED", Code.RATE_GIVEN)
    assert list(case.codes[1:]) == [flag.lower() for flag in flags]
    assert undecidable(found) == [] and found.geometric_mean == pytest.approx(1.0)
    assert "--launches" not in api.render(found)
    short = compare(run_of(1.0), run_of(0.8, flags)).cases[0]
    assert Code.RATE_GIVEN not in short.codes, "it does not keep up"
    behind = compare(run_of(1.0), run_of(1.02, ("NO_STEADY_STATE",))).cases[0]
    assert Code.RATE_GIVEN not in behind.codes


def test_where_memory_ran_out_at_the_end_of_a_sweep_no_ratio_is_owed() -> None:
    small, large = (make_case(parameters={"batch_size": batch}) for batch in (1, 8))
    full = [failed("oom", "no memory")]
    one, two = (runs((small, steps(FAST)), (large, full)) for _ in range(2))
    found = compare(one, two)
    assert [c.verdict for c in found.cases][1] == "INCOMPARABLE" and unanswered(found) == []
    broken = runs((small, steps(FAST)), (large, [failed()]))
    assert len(unanswered(compare(one, broken))) == 1
