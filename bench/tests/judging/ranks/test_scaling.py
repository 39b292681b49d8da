"""Efficiency over devices: curves, their intervals, what is exposed; refused on a shared host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from bench import stats
from bench.judging.ranks.scaling import Scaling, of_equal_rounds, scalings
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.records.outcome import Outcome, Skipped
from bench.records.run import Launch, Settings
from bench.reports.flat.row import flat
from bench.tests import scaled
from bench.tests.judging.two_runs import steps, ten
from bench.tests.judging.two_systems import system
from bench.tests.scripts import efficiency
from bench.tests.values import failed, make_launches, make_measured


def curves(found: Sequence[Launch], **changes: Any) -> list[Scaling]:
    return list(scalings(summarize(scaled.run_of(found, **changes))))


def rows(found: Sequence[Launch], **changes: Any) -> list[Row]:
    return summarize(scaled.run_of(found, **changes))


# --- Efficiency ----------------------------------------------------------------------------------


def test_strong_scaling_is_throughput_a_device_over_that_of_one() -> None:
    (curve,) = curves(scaled.over_devices())
    assert (curve.kind, curve.scheme, curve.against, curve.absent) == ("strong", "dp", 1, "")
    assert [row.case.devices for row in curve.points] == [1, 2, 4, 8]
    found = [curve.efficiency(row) for row in curve.points]
    assert [one and one.value for one in found] == pytest.approx([1, 0.9, 0.75, 0.5])
    assert curve.work == scaled.training(1)


def test_its_interval_is_welchs_over_launches() -> None:
    base, two, *_ = rows(scaled.over_devices())
    expected = stats.welch(base.rates, two.rates, 0.95)
    assert expected is not None and two.strong is not None
    assert two.strong.low == pytest.approx(expected.ratio.low / 2)
    assert two.strong.high == pytest.approx(expected.ratio.high / 2)
    assert base.strong is not None
    assert (base.strong.value, base.strong.low, base.strong.high) == (1.0, None, None)


def test_of_an_adaptive_run_it_is_of_98_percent() -> None:
    fixed, adaptive = (
        rows(scaled.over_devices(), settings=Settings(launches=number))[1].strong
        for number in (5, "auto")
    )
    assert fixed is not None and fixed.low is not None
    assert adaptive is not None and adaptive.low is not None
    assert adaptive.low < fixed.low


def test_two_launches_give_no_interval() -> None:
    two = rows(scaled.over_devices(noise=(1.0, 1.01)))[1].strong
    assert two is not None and (two.low, two.high) == (None, None)
    assert two.value == pytest.approx(0.9)


def test_without_one_device_it_is_against_the_fewest_and_says_so() -> None:
    (curve,) = curves(scaled.over_devices({2: 0.9, 8: 0.45}))
    assert curve.against == 2
    assert curve.points[1].strong is not None
    assert curve.points[1].strong.value == pytest.approx(0.5)


def test_a_point_whose_figure_may_not_be_used_has_none_and_is_no_base() -> None:
    unsteady = [
        msgspec.structs.replace(x, outcome=msgspec.structs.replace(x.outcome, flags=flags))
        for x in scaled.over_devices()
        for flags in [("NO_STEADY_STATE",) if x.case.devices == 1 else ()]
    ]
    (curve,) = curves(unsteady)
    assert curve.against == 2 and len(curve.points) == 4
    assert curve.points[0].strong is None


def test_weak_scaling_is_told_from_strong_by_the_batch() -> None:
    (curve,) = curves(scaled.over_devices(weak=True))
    assert (curve.kind, curve.against) == ("weak", 1)
    assert [row.weak and row.weak.value for row in curve.points] == pytest.approx(
        [1, 0.9, 0.75, 0.5]
    )
    assert all(row.strong is None for row in curve.points)
    assert curve.work.parameters["batch_size"] == scaled.ITEMS


def test_points_of_strong_curves_are_not_told_again_as_weak_ones() -> None:
    """Each of two batches on one and on two devices: 16 and 32 on two are 8 and 16 each."""
    grid = [
        launch
        for batch in (16, 32)
        for devices in (1, 2)
        for launch in scaled.launches(
            scaled.training(devices, batch=batch), scaled.outcomes(0.01, batch, None)
        )
    ]
    assert [(one.kind, one.work.parameters["batch_size"]) for one in curves(grid)] == [
        ("strong", 16),
        ("strong", 32),
    ]
    assert rows(grid)[3].weak is not None, "though its row has both"
    lacking = [one for one in grid if one.case != scaled.training(2, batch=16)]
    assert [one.kind for one in curves(lacking)] == ["strong"]


def test_a_batch_that_does_not_divide_has_no_part_a_device() -> None:
    assert not curves(
        [
            *scaled.launches(scaled.training(1, batch=4), scaled.outcomes(0.01, 4, None)),
            *scaled.launches(scaled.training(2, batch=9), scaled.outcomes(0.01, 9, None)),
        ]
    )


def test_a_point_that_meets_another_schemes_weak_curve_makes_none_of_its_own() -> None:
    found = [
        *scaled.over_devices({1: 1, 2: 0.9}),
        *scaled.over_devices({2: 0.8}, scheme="fsdp"),
        *scaled.launches(scaled.training(1, batch=8), scaled.outcomes(0.04, 8, None)),
        *scaled.launches(scaled.training(4, batch=32), scaled.outcomes(0.05, 32, None)),
    ]
    told = [(one.kind, one.scheme, len(one.points)) for one in curves(found)]
    assert told == [("strong", "dp", 2), ("strong", "fsdp", 2), ("weak", "dp", 3)]


def test_each_scheme_has_a_curve_and_they_share_the_device_alone() -> None:
    both = [*scaled.over_devices(), *scaled.over_devices({2: 0.8}, scheme="fsdp")]
    found = curves(both)
    assert [(one.scheme, len(one.points)) for one in found] == [("dp", 4), ("fsdp", 2)]
    assert found[1].points[0].case.devices == 1


def test_other_work_is_no_point() -> None:
    other = scaled.launches(
        msgspec.structs.replace(scaled.training(4), precision="fp32"), [make_measured()] * 3
    )
    (curve,) = curves([*scaled.over_devices({1: 1.0, 2: 0.9}), *other])
    assert [row.case.devices for row in curve.points] == [1, 2]
    assert curves(scaled.over_devices({8: 0.5})) == []


def test_points_without_a_number_are_on_no_curve() -> None:
    skipped = make_launches(scaled.training(16), [Skipped(reason="no")])
    (curve,) = curves([*scaled.over_devices(), *skipped])
    assert 16 not in [row.case.devices for row in curve.points]


def test_a_shared_host_has_no_efficiency_and_says_why() -> None:
    found = rows(scaled.over_devices(shared=True))
    assert all(row.strong is None for row in found)
    (curve,) = scalings(found)
    assert curve.absent == "its ranks share the cores of one host" and curve.against == 0


def test_points_of_hosts_that_are_not_shared_have_theirs() -> None:
    """Two hosts of one rank each, and four ranks that share them."""
    found = scaled.over_devices({1: 1.0, 2: 0.9})
    shared = scaled.over_devices({4: 0.5}, shared=True)
    (curve,) = curves([*found, *shared])
    assert curve.absent == "" and curve.against == 1
    assert [curve.efficiency(row) is not None for row in curve.points] == [True, True, False]


def test_launches_of_other_rounds_are_left_out() -> None:
    """A cluster that slows down while only one of two cases still runs scales as it did."""
    alone = scaled.launches(scaled.training(1), scaled.outcomes(0.08, 16, None))
    drifting = (*scaled.NOISE, *[3.0] * 5)
    four = scaled.launches(scaled.training(4), scaled.outcomes(0.02, 16, None, drifting))
    _, row = rows([*alone, *four])
    assert row.strong is not None and row.strong.value == pytest.approx(1.0)
    assert row.rounds == tuple(range(10)) and row.throughput is not None
    assert row.throughput < 600


FIVE = ten(0.01, 0.01)[:5]


@pytest.mark.parametrize(
    "one",
    [
        [*steps(FIVE[:2]), failed(), *steps(FIVE[2:])],  # the third was made again as a sixth
        [*steps(FIVE[:2]), *steps(FIVE[2:3], flags=("THROTTLED",)), *steps(FIVE[3:])],
    ],
)
def test_of_a_round_that_one_case_lost_neither_has_its_launch(one: Sequence[Outcome]) -> None:
    found = summarize(system({"none": one, "dp8": steps(FIVE)}, settings=Settings(launches=5)))
    kept = [FIVE[k] for k in (0, 1, 3, 4)]
    mine, theirs = of_equal_rounds(*found)
    assert len(mine) == 4 and theirs == pytest.approx([1 / x for x in kept], rel=1e-6)
    back = summarize(system({"none": steps(FIVE), "dp8": one}, settings=Settings(launches=5)))
    assert of_equal_rounds(*back) == (theirs, mine)
    row = found[1].strong
    assert row is not None and row.low is not None


def test_with_too_few_rounds_in_common_it_is_of_as_many_first_ones() -> None:
    """Two of three, where one was made again as a fourth: an interval is owed all the same."""
    one = [*steps(FIVE[:1]), failed(), *steps(FIVE[1:3])]
    found = summarize(system({"none": one, "dp8": steps(FIVE[:3])}, settings=Settings(launches=3)))
    assert list(map(len, of_equal_rounds(*found))) == [3, 3]


@pytest.mark.parametrize(("slowed", "common"), [(3, 2), (5, 0)])
def test_a_drift_is_no_scaling_where_few_rounds_are_common(slowed: int, common: int) -> None:
    """Launches of other rounds would give an interval, and it would be wrong."""
    times = [0.01 * 1.01**k for k in range(10)]
    late = [*steps(times[:slowed], flags=("THROTTLED",)), *steps(times[slowed:])]
    found = summarize(
        system({"none": late, "dp8": steps(times[:5])}, settings=Settings(launches=10))
    )
    mine, theirs = of_equal_rounds(*found)
    assert len(mine) == len(theirs) == 2
    assert not common or mine == pytest.approx([1 / x for x in times[3:5]], rel=1e-6)


# --- What is exposed -----------------------------------------------------------------------------


def test_exposed_communication_is_the_median_of_a_launch_and_t_over_launches() -> None:
    alone, two, *_ = rows(scaled.over_devices())
    assert (alone.exposed, alone.exposed_fraction) == (None, None)
    assert two.exposed is not None and two.exposed_fraction is not None
    step = scaled.STEP / 2 / 0.9
    assert two.exposed.value == pytest.approx(step * 0.1, rel=1e-6)
    expected = stats.t_quantile(0.975, 4) * stats.variance(scaled.NOISE) ** 0.5 / 5**0.5
    assert two.exposed.low is not None
    assert two.exposed.value - two.exposed.low == pytest.approx(step * 0.1 * expected, rel=1e-4)
    assert two.exposed_fraction.value == pytest.approx(0.1, rel=1e-6)


def test_beside_it_stands_what_the_gradients_take_by_themselves() -> None:
    found = [*scaled.over_devices({1: 1.0, 2: 0.9, 4: 0.7}), *scaled.all_reduce(4)]
    (curve,) = curves(found)
    crossing = 2 * 3 / 4 * scaled.PARAMETERS * 4
    expected = scaled.LATENCY + crossing / scaled.BANDWIDTH
    assert curve.fabric[:2] == (None, None)
    assert curve.fabric[2] == pytest.approx(expected, rel=1e-3)
    changes: tuple[dict[str, Any], ...] = ({"precision": "bf16"}, {"parameters": {"chained": 8}})
    for other in changes:
        others = [
            msgspec.structs.replace(row, case=msgspec.structs.replace(row.case, **other))
            if row.link
            else row
            for row in rows(found)
        ]
        assert next(scalings(others)).fabric[2] is None, other
    (sharded,) = curves([*scaled.over_devices({1: 1, 4: 0.7}, scheme="fsdp"), *found[15:]])
    assert sharded.fabric == (None, None), "its weights travel too"


def test_rows_for_programs_have_it_all() -> None:
    run = scaled.run_of(scaled.over_devices())
    told = flat(run, summarize(run)[1])
    assert told["strong_efficiency"] == pytest.approx(0.9)
    assert told["strong_efficiency_low"] < 0.9 < told["strong_efficiency_high"]
    assert told["strong_efficiency_against_devices"] == 1
    assert told["weak_efficiency"] is None
    assert told["exposed_fraction"] == pytest.approx(0.1)
    assert told["reduced_bytes"] == 4 * scaled.PARAMETERS


# --- How often it is right -----------------------------------------------------------------------


@pytest.mark.parametrize("launches", [5, "auto", efficiency.HINDERED])
def test_intervals_hold_the_truth_of_clusters_that_drift(launches: efficiency.Launches) -> None:
    """Thousands of reruns are `python -m bench.tests.scripts.efficiency`'s; by all launches of an
    adaptive run it would be 79 %."""
    noise = efficiency.PROMISED["drift of 5 %, 0.3 %"]
    hits = efficiency.covered(3, noise, launches, 20)
    assert sum(hits.values()) >= 0.93 * 20 * len(hits)


def test_the_script_sees_an_interval_that_is_wrong() -> None:
    noise = efficiency.PROMISED["normal, 1 %"]
    hits = efficiency.covered(3, noise, 5, 10, lambda n: 1.05 * efficiency.truth(n))
    assert sum(hits.values()) < 0.2 * 10 * len(hits)
