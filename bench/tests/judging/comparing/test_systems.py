"""Two runs as whole systems: what stands beside what, the factors, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bench.errors import ComparisonError
from bench.judging.comparing.compare import Prices, compare
from bench.judging.comparing.comparison import CaseComparison
from bench.judging.comparing.system import Product
from bench.judging.comparing.systems import compare_systems
from bench.judging.interval import Interval
from bench.records.outcome import Skipped
from bench.records.run import RunFile, Settings
from bench.reports.wording.systems import lines
from bench.tests.judging.two_runs import FIXED, SIMULATED, only, steps, ten
from bench.tests.judging.two_systems import WORK, Figure, batch, on, runs_on, strong, system, weak
from bench.tests.scripts import systems as truth
from bench.tests.values import failed, make_case, make_file, make_launch, make_measured


def product(case: CaseComparison) -> Product:
    assert case.system is not None and case.system.product is not None
    return case.system.product


def holds(interval: Interval | None, value: float) -> bool:
    """Whether it is about so much, and not exactly: it has a width."""
    assert interval is not None and interval.low is not None and interval.high is not None
    assert interval.value == pytest.approx(value, rel=1e-3)
    return interval.low < value < interval.high


def test_eight_strong_devices_against_sixty_four_weaker_ones() -> None:
    """720 and 896 a second: 1.244 = 64/8 x 20/100 x 0.7/0.9."""
    case = only(compare_systems(strong(), weak()))
    assert case.verdict == "FASTER" and case.ratio == pytest.approx(896 / 720, rel=1e-4)
    assert case.system is not None and case.system.spreads == ("dp8", "fsdp64")
    found = product(case)
    assert found.count == 8 and not found.unsplit
    assert holds(found.chip, 0.2) and holds(found.scaling, 7 / 9)
    assert holds(found.per_device, 896 / 720 / 8)
    assert [holds(one, value) for one, value in zip(found.efficiencies, (0.9, 0.7), strict=True)]


PAIRS: dict[str, tuple[dict[str, Figure], dict[str, Figure]]] = {
    "eight against sixty-four": ({"none": 1e2, "dp8": 7e2}, {"none": 2e1, "fsdp64": 9e2}),
    "one against eight": ({"none": 1e2}, {"none": 2e1, "dp8": 1.5e2}),
    "eight against one": ({"none": 2e1, "hsdp2x4": 1.5e2}, {"none": 1e2}),
    "as many of each": ({"none": 1e2, "dp8": 7e2}, {"none": 2e1, "dp8": 1.5e2}),
    "six against four": ({"none": 1e2, "dp6": 5e2}, {"none": 3e1, "dp4": 1e2}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_factors_make_the_ratio_and_are_turned_over_with_it(name: str) -> None:
    base, other = (system(figures, spread=0.02) for figures in PAIRS[name])
    there, back = (only(compare_systems(*pair)) for pair in ((base, other), (other, base)))
    one, turned = product(there), product(back)
    assert one.chip is not None and one.scaling is not None and there.ratio is not None
    made = one.count * one.chip.value * one.scaling.value
    assert made == pytest.approx(there.ratio, rel=1e-12)
    assert one.per_device.value * one.count == pytest.approx(there.ratio, rel=1e-12)
    assert turned.count == pytest.approx(1 / one.count)
    for mine, theirs in ((one.chip, turned.chip), (one.scaling, turned.scaling)):
        assert theirs is not None and mine.low is not None and theirs.high is not None
        assert theirs.high == pytest.approx(1 / mine.low, rel=1e-9)


def test_the_interval_of_scaling_is_that_of_four_groups_of_launches() -> None:
    """Variances of the logs add up: each of four groups gives its own; of one device against eight
    the one group on both sides of the fraction gives nothing."""

    def width(base: RunFile, other: RunFile) -> float:
        scaling = product(only(compare_systems(base, other))).scaling
        assert scaling is not None and scaling.low and scaling.high
        return math.log(scaling.high / scaling.low) / 2

    four = width(strong(spread=0.01), weak(spread=0.01))
    two = width(system({"none": 100.0}), weak(spread=0.01))
    # Ten deviations of SD 0.913 %; t of 36 and of 18 degrees of freedom.
    assert four == pytest.approx(2.0281 * 0.00890 * math.sqrt(4 / 10), rel=0.01)
    assert two == pytest.approx(2.1009 * 0.00890 * math.sqrt(2 / 10), rel=0.01)


def test_one_device_scales_as_itself() -> None:
    found = product(only(compare_systems(system({"none": 100.0}), weak())))
    assert found.efficiencies[0] == Interval(value=1.0, low=1.0, high=1.0)
    assert found.scaling == found.efficiencies[1]


@pytest.mark.parametrize(
    ("wanted", "spreads", "ratio"),
    [
        (("", ""), ("dp8", "fsdp64"), 896 / 720),
        (("2", "fsdp8"), ("dp2", "fsdp8"), 150 / 195),
        (("1", "64"), ("1 device", "fsdp64"), 896 / 100),
        (("dp8", ""), ("dp8", "fsdp64"), 896 / 720),
    ],
)
def test_what_is_wanted_stands_for_a_side(
    wanted: tuple[str, str], spreads: tuple[str, str], ratio: float
) -> None:
    case = only(compare_systems(strong(), weak(), None, wanted))
    assert case.system is not None and case.system.spreads == spreads
    assert case.ratio == pytest.approx(ratio, rel=1e-3)


def test_what_a_side_has_not_is_no_choice() -> None:
    for wanted in ("16", "dp16", "fsdp2"):
        with pytest.raises(ComparisonError, match=r"other .*It has 1, fsdp8, fsdp64: give one"):
            compare_systems(strong(), weak(), None, ("", wanted))


def test_the_most_devices_with_a_number_stand_for_a_side_and_the_rest_is_said() -> None:
    other = system({"none": 20.0, "dp8": 150.0, "dp64": [failed("oom", "no memory")]})
    case = only(compare_systems(strong(), other))
    assert case.system is not None and case.system.spreads == ("dp8", "dp8")
    assert case.system.beside == ("other on dp64: failed: oom in measure: no memory",)
    left = {on("dp64").fingerprint: "beyond the 8 devices here"}
    short = only(compare_systems(strong(), system({"dp8": 150.0, "dp64": []}, left_out=left)))
    assert short.system is not None and short.system.beside == (), "nobody meant to try it"
    none = system({"dp64": [failed("oom", "no memory")]})
    assert only(compare_systems(strong(), none)).codes == ("failed",)


def test_alike_schemes_stand_beside_each_other_and_what_is_left_is_said() -> None:
    base = system({"fsdp8": 700.0, "dp8": 720.0})
    other = system({"dp64": 900.0, "hsdp8x8": 880.0, "fsdp64": 890.0})
    cases = compare_systems(base, other).cases
    spreads = [case.system.spreads for case in cases if case.system]
    assert spreads == [("fsdp8", "fsdp64"), ("dp8", "dp64")]
    assert all(c.system and c.system.beside == ("other on hsdp8x8: measured",) for c in cases)


def test_equal_work_is_paired_before_what_is_near() -> None:
    """The batch that only the base has comes first, and must not take the other's."""
    base = runs_on((on("none", batch(128)), 90.0), (on("none"), 100.0))
    case = only(compare_systems(base, weak()))
    assert case.ratio == pytest.approx(8.96, rel=1e-3)


def test_what_is_one_device_on_both_sides_and_collectives_are_no_systems() -> None:
    gemm, ring = make_case(), make_case(workload="collective", mode="all-reduce", devices=8)
    base, other = (
        runs_on((gemm, 10.0), (ring, 10.0), (on("none"), 100.0), (on("dp8"), 700.0))
        for _ in range(2)
    )
    assert only(compare_systems(base, other)).case == WORK
    with pytest.raises(ComparisonError, match="base has what devices do together"):
        compare_systems(runs_on((gemm, 10.0), (ring, 10.0)), runs_on((gemm, 10.0), (ring, 10.0)))


BARE = {"dp64": 900.0}


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (system(BARE), "other has no figure of one device alone at this batch"),
        (
            system({**BARE, "none": [Skipped(reason="does not fit: 90 GiB")]}),
            "at this batch (skipped: does not fit: 90 GiB)",
        ),
        (
            system({**BARE, "none": steps(ten(0.05, 0.01), flags=("THROTTLED",))}),
            "at this batch (it is THROTTLED: 10 of 10 launches throttled)",
        ),
        (
            system({**BARE, "none": [make_measured([0.05], unit="token")] * 10}),
            "of one device alone they are not comparable: unit of throughput differs (image/s, tok",
        ),
    ],
    ids=["none", "skipped", "throttled", "unlike"],
)
def test_without_one_device_chip_and_scaling_are_one_factor(other: RunFile, why: str) -> None:
    case = only(compare_systems(strong(), other))
    found = product(case)
    assert case.verdict == "FASTER" and why in found.unsplit
    assert (found.chip, found.scaling) == (None, None)
    assert holds(found.per_device, 900 / 720 / 8)
    assert holds(found.efficiencies[0], 0.9), "the side that has one keeps it"


def test_few_launches_give_factors_without_an_interval() -> None:
    few = system({"none": steps([0.05] * 4), "dp64": 900.0})
    case = only(compare_systems(strong(), few))
    found = product(case)
    assert case.verdict == "FASTER", "of the systems there are enough"
    assert found.chip is not None and found.chip.value == pytest.approx(0.2, rel=1e-3)
    assert (found.chip.low, found.chip.high) == (None, None)
    assert found.scaling is not None and found.scaling.low is None
    fewer = only(compare_systems(strong(), system({"dp64": steps([0.001] * 4)})))
    assert fewer.verdict == "NO_INTERVAL" and product(fewer).per_device.low is None


def drifted() -> RunFile:
    """A run that adapts: one device was steady after five launches, eight after fifteen, the last
    ten of them in a warmer room."""
    early, late = ten(1 / 720, 0.01)[:5], ten(1 / 600, 0.01)
    one = steps(ten(0.01, 0.001)[:5])
    return system({"none": one, "dp8": steps([*early, *late])}, settings=Settings(launches="auto"))


def test_what_drifts_after_one_device_had_its_launches_is_no_scaling() -> None:
    """The ratio is of all launches; its factors are of the rounds of both."""
    case = only(compare_systems(drifted(), weak()))
    found = product(case)
    assert found.efficiencies[0] is not None and case.ratio is not None
    assert found.efficiencies[0].value == pytest.approx(0.9, rel=0.01)
    assert found.ratio == pytest.approx(896 / 720, rel=0.01) and case.ratio > 1.35
    assert found.chip is not None and found.scaling is not None
    made = found.count * found.chip.value * found.scaling.value
    assert made == pytest.approx(found.ratio, rel=1e-12)
    assert "= count" in (line := next(lines(case, "chip"))) and line.startswith(
        f"{found.ratio:.3f} in equal rounds"
    )


def test_prices_are_of_the_devices_that_a_system_has() -> None:
    """Eight at 2 an hour, sixty-four at 0.5: 16 against 32."""
    found = only(compare_systems(strong(), weak(), Prices(base=2.0, other=0.5)))
    assert found.price_ratio == pytest.approx(896 / 720 * 16 / 32, rel=1e-3)


def test_what_a_price_buys_is_of_the_launches_that_the_ratio_is_of() -> None:
    """Of fifteen launches, not of the five that its factors are of: half of the ratio beside it."""
    found = only(compare_systems(drifted(), weak(), Prices(base=2.0, other=0.5)))
    assert found.ratio is not None and found.ratio > 1.35
    assert found.price_ratio == pytest.approx(found.ratio * 16 / 32, rel=1e-12)


def test_joules_are_those_of_all_devices() -> None:
    def powered(spread: str, joules: float) -> RunFile:
        told: dict[str, Any] = {"energy_joules": joules, "energy_absent": None}
        return system({spread: steps([0.01] * 5, **told)})

    found = only(compare_systems(powered("dp8", 2.0), powered("dp64", 8.0)))
    assert found.joule_ratio == pytest.approx(0.25)
    assert only(compare_systems(powered("dp8", 2.0), strong())).joule_ratio is None


def test_a_run_that_looks_is_judged_at_its_level() -> None:
    comparison = compare_systems(strong(settings=Settings(launches="auto")), weak())
    assert comparison.level == 0.98 and comparison.of_systems
    assert not compare(strong(), strong()).of_systems


def changed(**changes: Any) -> RunFile:
    work = msgspec.structs.replace(WORK, **changes)
    return system({"none": 20.0, "dp64": 900.0}, work)


def with_parameter(name: str, value: Any) -> RunFile:
    return changed(parameters={**WORK.parameters, name: value})


REFUSED: dict[str, tuple[RunFile, str, str]] = {
    "precision": (changed(precision="fp32"), "other-precision", "precision differs (bf16, fp32)"),
    "length": (
        with_parameter("sequence_length", 512),
        "other-parameter",
        "sequence_length differs (128, 512)",
    ),
    "version": (changed(version=2), "other-version", "workload version differs (1, 2)"),
    "execution": (
        changed(execution="compile"),
        "other-execution",
        "execution differs (eager, compile)",
    ),
    "shared host": (
        weak(shared=True),
        "shared-host",
        "other: its 64 ranks share the cores of one host: one device",
    ),
    "simulated": (weak(device=SIMULATED), "simulated", "other: a simulated device"),
    "timing": (
        weak(settings=Settings(launches=10, timing="step")),
        "other-timing",
        "timing mode differs (block, step)",
    ),
    "unit": (
        system({"dp64": steps(ten(0.001, 0.01), unit="token")}),
        "other-unit",
        "unit of throughput differs (image/s, token/s)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_as_strict_as_of_one_device(name: str) -> None:
    other, code, words = REFUSED[name]
    case = only(compare_systems(strong(), other))
    assert case.verdict == "INCOMPARABLE" and case.ratio is None
    assert (case.codes, case.reasons) == ((code,), (words,))
    back = only(compare_systems(other, strong()))
    assert back.codes == (code,), "whichever is the base"


def test_ranks_of_one_host_are_no_system_on_either_side() -> None:
    """Equal cases of two such runs compare; as systems they say nothing."""
    first, second = strong(shared=True), strong(shared=True)
    assert {c.verdict for c in compare(first, second).cases} == {"EQUIVALENT"}
    assert only(compare_systems(first, second)).codes == ("shared-host",) * 2


def test_a_disturbed_side_is_not_ranked() -> None:
    slow = system({"dp64": steps(ten(0.001, 0.01), flags=("NO_STEADY_STATE",))})
    case = only(compare_systems(strong(), slow))
    assert (case.verdict, case.codes) == ("UNRANKED", ("no-steady-state",))


BESIDE = (on("dp8", make_case(parameters={"batch_size": 8})), 10.0)
"""Other work, of which both sides have the same: so that the runs have something in common."""


@pytest.mark.parametrize(
    ("base", "other", "words"),
    [
        (
            [(on("dp8"), 700.0)],
            [(on("dp64", batch(512)), 900.0)],
            "global batch differs (256 on 8 devices, 512 on 64 devices); "
            "nearest that divides over both: 512",
        ),
        (
            [(on("dp8"), 700.0)],
            [(on("dp64", batch(2048)), 900.0)],
            "global batch differs (256 on 8 devices, 2048 on 64 devices: 32 each, which is weak "
            "scaling); nearest that divides over both: 2048",
        ),
        (
            [(on("dp6", batch(96)), 700.0)],
            [(on("dp4", batch(100)), 900.0)],
            "global batch differs (96 on 6 devices, 100 on 4 devices); "
            "nearest that divides over both: 96",
        ),
        (
            [(on("dp8"), 700.0), (on("dp4", batch(64)), 400.0)],
            [(on("dp64", batch(512)), 900.0), (on("dp16", batch(64)), 500.0)],
            "global batch differs (256 on 8 devices, 512 on 64 devices); "
            "nearest that both measured: 64",
        ),
    ],
)
def test_unequal_global_batches_are_named_with_the_nearest_common_one(
    base: Any, other: Any, words: str
) -> None:
    cases = compare_systems(runs_on(*base, BESIDE), runs_on(*other, BESIDE)).cases
    refused = [case for case in cases if case.verdict == "INCOMPARABLE"]
    assert [(case.codes, case.reasons) for case in refused] == [(("other-global-batch",), (words,))]
    if "both measured" not in words:  # nothing else in common: the whole is refused
        with pytest.raises(ComparisonError, match="no work at equal global batch") as caught:
            compare_systems(runs_on(*base), runs_on(*other))
        assert words in str(caught.value) and caught.value.code == "nothing-in-common"


def test_a_tuned_batch_is_that_of_its_choice() -> None:
    """Two systems at their best have other batches each: no equal global batch."""

    work = make_case(workload="gpt", mode="train", parameters={}, tuned={"batch_size": (64, 128)})

    def tuned(spread: str, chosen: int) -> RunFile:
        case = on(spread, work)
        launches = [
            make_launch(outcome, case, launch=k, order=k, choice={"batch_size": chosen})
            for k, outcome in enumerate(steps([0.01] * 5))
        ]
        beside = runs_on(BESIDE)
        return make_file([case, *beside.run.plan], [*launches, *beside.launches], settings=FIXED)

    first, *_ = compare_systems(tuned("dp8", 64), tuned("dp64", 128)).cases
    assert first.codes == ("other-global-batch",)
    first, *_ = compare_systems(tuned("dp8", 64), tuned("dp64", 64)).cases
    assert first.verdict == "EQUIVALENT"


def test_a_run_is_no_system_against_itself() -> None:
    file = strong(settings=FIXED)
    with pytest.raises(ComparisonError, match="same run"):
        compare_systems(file, file)


def test_the_factors_intervals_hold_the_truth() -> None:
    """Of 60 reruns a true 95 % reads less than 85 % once in 1,000; the script takes thousands."""
    shares = truth.covered(5, "normal", truth.SPREADS[2], FIXED, 60)
    assert set(shares) == {"ratio", "chip", "scaling"} and min(shares.values()) >= 0.85
    assert truth.short({"ratio": 0.93, "chip": 0.929, "scaling": 0.95}) == ["chip 92.9%"]
