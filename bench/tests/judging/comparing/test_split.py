"""Chip or software: a ratio in two, by the ceilings that both runs measured."""

from __future__ import annotations

import pytest

from bench.judging.comparing.compare import compare
from bench.records.case import Case
from bench.records.outcome import Outcome
from bench.records.run import RunFile
from bench.tests.judging.two_runs import CASE, FULL, GEMM, runs, steps
from bench.tests.judging.two_systems import on, runs_on
from bench.tests.values import make_case

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


def test_what_the_other_counts_otherwise_is_the_bases_item() -> None:
    """Bytes by even loads of the experts there, and by those that were hit here."""
    base, (work, *ceilings) = boxed(0.01, 0.05, 0.01), boxed(0.01, 0.05, 0.01)
    assert work[0] == CASE
    fewer = CASE, steps([0.01] * 5, flop=10, moved_bytes=9)
    found = compare(runs(*base), runs(fewer, *ceilings)).cases[0].split
    assert found is not None and found.ceiling == "memory bandwidth"
    assert (found.chip, found.software) == pytest.approx((1, 1))
    assert found.shares == pytest.approx((0.5, 0.5))


def test_the_ceiling_is_the_one_that_the_base_is_nearer_to() -> None:
    """Base: 50 % of matmul and 10 % of the bandwidth; the other is the other way round."""
    base, other = runs(*boxed(0.05, 0.01, 0.01)), runs(*boxed(0.01, 0.05, 0.01))
    forth, back = compare(base, other).cases[0].split, compare(other, base).cases[0].split
    assert forth is not None and forth.ceiling == "matmul"
    assert forth.chip == pytest.approx(5)
    assert back is not None and back.ceiling == "memory bandwidth"


@pytest.mark.parametrize(
    ("flop", "ceiling", "shares"),
    [(40, "memory bandwidth", (0.5, 0.4)), (240, "matmul", (0.6, 0.48))],
)
def test_of_several_devices_each_has_its_part_of_the_work(
    flop: int, ceiling: str, shares: tuple[float, float]
) -> None:
    """Base: four devices do 4,000 B/s, 1,000 each of 2,000. Ranks that share a host share its
    cores, and have no part that one device would do."""

    def spread(seconds: float, *, shared: bool = False) -> RunFile:
        work = on("dp4"), steps([seconds] * 5, flop=flop, moved_bytes=40)
        return runs_on(work, *boxed(0.01, 0.05, 0.01)[1:], shared=shared)

    split = compare(spread(0.01), spread(0.0125)).cases[0].split
    assert split is not None and split.ceiling == ceiling
    assert split.shares == pytest.approx(shares)
    both = compare(spread(0.01, shared=True), spread(0.0125, shared=True)).cases[0]
    assert both.ratio == pytest.approx(0.8) and both.split is None


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
