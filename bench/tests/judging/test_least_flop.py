"""What cannot be true, and what limits a case, is judged by the FLOP that must be done."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench import catalogue
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.planning.least_flop import least_flop
from bench.planning.shapes import LEAST_BLOCKS, Shapes
from bench.precision import PRECISIONS
from bench.records.case import Case
from bench.records.outcome import Measured, Work
from bench.records.run import Settings
from bench.tests.values import make_case, make_file, make_launches, make_measured
from bench.workloads import llama

A100 = "NVIDIA A100-SXM4-80GB"
DEVICE = {"name": A100}
LONG = {"model": "llama-3.1-8b", "prompt_length": 131_072, "batch_size": 1}
MATMUL = make_case(parameters={"shape": "1024x1024x1024"})
PRODUCT = 2 * 1024**3


def prefill() -> Case:
    workload = llama.WORKLOAD
    return make_case(
        workload="llama",
        mode="prefill",
        version=workload.version_of("prefill"),
        parameters=LONG,
    )


def work() -> Work:
    parameters = msgspec.convert(LONG, llama.PrefillParameters)
    return llama.WORKLOAD.work("prefill", parameters, PRECISIONS["bf16"])


def outcome(done_flop_per_second: float, old: bool) -> Measured:
    """A record of a prefill whose kernels are causal; an old one has no least FLOP."""
    counted = work()
    assert counted.least_flop is not None
    seconds = counted.least_flop / done_flop_per_second
    least = {} if old else {"least_flop": counted.least_flop}
    given = Work(items=counted.items, unit=counted.unit, flop=counted.flop, **least)
    return make_measured(seconds, work=given)


def long_row(rate: float, old: bool, case: Case | None = None, matmul: float = 2.5e14) -> Row:
    case = case or prefill()
    ceiling = make_measured(PRODUCT / matmul, flop=PRODUCT)
    launches = [
        *make_launches(MATMUL, [ceiling] * 3),
        *make_launches(case, [outcome(rate, old)] * 3, 3),
    ]
    return summarize(make_file([MATMUL, case], launches, device={"name": A100}))[1]


@pytest.mark.parametrize("old", [False, True])
def test_a_causal_prefill_that_an_a100_can_do_is_not_void(old: bool) -> None:
    """209 TFLOP/s done of a peak of 312 are 357 by the count in full."""
    row = long_row(209e12, old)
    assert row.status == "measured", row.reason
    assert row.mfu == pytest.approx(357.6 / 312, rel=1e-3)
    assert row.least_flop_per_second == pytest.approx(209e12, rel=1e-4)
    assert row.ceiling_fraction == pytest.approx(209 / 250, rel=1e-4)
    assert row.limit is not None and row.limit == ("matmul", row.ceiling_fraction)


@pytest.mark.parametrize("old", [False, True])
def test_what_checkpointing_does_again_counts_for_the_limit_and_not_for_the_mfu(old: bool) -> None:
    """Of 244 TFLOP a sequence, 46 of them again, done at 55 % of what products reach, 45 % were
    left without those: its kernels were said to hold it back."""
    given = {"model": "llama-3.1-8b", "batch_size": 1, "sequence_length": 4096}
    workload = llama.WORKLOAD
    case = make_case(
        workload="llama",
        mode="train",
        version=workload.version_of("train"),
        parameters={**given, "gradient_checkpointing": True},
    )
    kind = workload.modes["train"].parameters
    counted = workload.work("train", msgspec.convert(case.parameters, kind), PRECISIONS["bf16"])
    assert counted.least_flop == pytest.approx(197.6e12, rel=1e-3)
    seconds = (197.6e12 + 46.2e12) / (0.55 * 250e12)
    if old:
        counted = msgspec.structs.replace(counted, again_flop=None)
    ceiling = make_measured(PRODUCT / 2.5e14, flop=PRODUCT)
    launches = [
        *make_launches(MATMUL, [ceiling] * 3),
        *make_launches(case, [make_measured(seconds, work=counted)] * 3, 3),
    ]
    row = summarize(make_file([MATMUL, case], launches, device={"name": A100}))[1]
    assert row.limit is not None and row.limit[0] == "matmul"
    assert row.limit[1] == pytest.approx(0.55, rel=1e-3)
    assert counted.flop is not None
    assert row.mfu == pytest.approx(counted.flop / seconds / 312e12, rel=1e-3)


@pytest.mark.parametrize("old", [False, True])
def test_more_than_the_peak_of_what_must_be_done_is_void(old: bool) -> None:
    row = long_row(320e12, old)
    assert row.status == "void"
    assert row.reason.startswith("103% of the bf16 peak of A100 SXM 80GB")


@pytest.mark.parametrize(
    "changes", [{"version": 99}, {"precision": "fp4"}, {"parameters": {"model": "of tomorrow"}}]
)
def test_of_work_that_this_release_does_not_know_the_record_is_believed(changes: Any) -> None:
    case = msgspec.structs.replace(prefill(), **changes)
    assert least_flop(case, Work(items=1, unit="token", flop=100)) == 100
    assert least_flop(case, Work(items=1, unit="token", flop=100, least_flop=60)) == 60
    assert least_flop(case, Work(items=1, unit="token")) is None


def test_the_least_time_of_a_prefill_is_that_of_what_must_be_done() -> None:
    shapes = Shapes(Settings(block_seconds=0.01), {"bf16": 1e12})
    least = work().least_flop
    assert least is not None
    assert shapes.least_seconds(prefill()) == pytest.approx(LEAST_BLOCKS * least / 1e12)
    shapes.note(prefill(), outcome(2e12, old=False))
    assert shapes.least_seconds(prefill()) == pytest.approx(LEAST_BLOCKS * least / 2e12)


def test_least_flop_are_no_more_than_all() -> None:
    with pytest.raises(ValueError, match="least_flop = 3 is above flop = 2"):
        Work(items=1, unit="token", flop=2, least_flop=3)


@pytest.mark.parametrize(
    ("workload", "mode", "parameters", "left"),
    [
        ("resnet50", "infer", {"batch_size": 32}, 0.722),
        ("resnet50", "train", {"batch_size": 32}, 0.722),
        ("diffusion", "infer", {"model": "sdxl-unet"}, 0.829),
        ("diffusion", "infer", {"model": "dit-s-2"}, 1.0),
        ("vit-b16", "infer", {}, 1.0),
    ],
)
def test_what_winograd_spares_of_convolutions_is_not_impossible(
    workload: str, mode: str, parameters: dict[str, Any], left: float
) -> None:
    """A quarter of the multiplications of those of 3x3 and stride 1 is left, of which ResNet-50 has
    13, each of 115.6 of its 4,089 M multiply-adds; more than the peak by what is left is void."""
    one = catalogue.workload(workload)
    case = make_case(
        workload=workload, mode=mode, version=one.version_of(mode), parameters=parameters
    )
    kind = one.modes[mode].parameters
    counted = one.work(mode, msgspec.convert(parameters, kind), PRECISIONS["bf16"])
    flop = counted.flop or 0

    def judged(share: float) -> Row:
        outcome = make_measured(left * flop / (share * 312e12), work=counted)
        return summarize(make_file([case], make_launches(case, [outcome] * 3), device=DEVICE))[0]

    row = judged(0.97)
    assert row.status == "measured" and row.mfu == pytest.approx(0.97 / left)
    assert row.least_flop_per_second == row.flop_per_second, "as a share of what was measured"
    assert judged(1.03).status == "void"
