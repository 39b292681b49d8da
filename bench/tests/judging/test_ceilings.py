"""Shares of the box's own ceilings, and what limits a case."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bench.judging.ceilings import with_ceilings
from bench.judging.load import BURST, Load
from bench.judging.row import Row
from bench.judging.summary import summarize
from bench.records.outcome import Skipped, Void
from bench.tests.judging.rows import CASE, row
from bench.tests.values import make_case, make_file, make_launches, make_measured

# --- Shares of the ceiling -----------------------------------------------------------------------


def test_short_and_8_bit_arithmetic_have_ceilings_of_their_own_and_integers_are_no_flop() -> None:
    """gemm at 1,000, 2,000, 3,000 and 4,000 a second; the work at 1,000: each to its own."""
    names = ("fp32", "tf32", "fp8", "int8")
    ceilings = [make_case(precision=name) for name in names]
    work = [make_case(workload="bert", mode="infer", precision=name) for name in names]
    launches = []
    for k, case in enumerate(ceilings, start=1):
        launches += make_launches(case, [make_measured(0.01, items=10 * k, flop=10 * k)])
    for case in work:
        launches += make_launches(case, [make_measured(0.01, items=2, flop=10)])
    found = summarize(make_file([*ceilings, *work], launches))
    assert [r.ceiling_fraction for r in found[4:]] == [
        pytest.approx(1 / k) for k in range(1, len(names) + 1)
    ]
    assert [r.operation for r in found[4:]] == ["FLOP", "FLOP", "FLOP", "OP"]


def test_shares_are_of_the_best_matmul_at_the_same_arithmetic() -> None:
    """Two bf16 shapes at 2,000 and 4,000 FLOP/s and one fp32 at 1,000; the work runs 10 FLOP a step
    of two items, 100 steps a second: 1,000 FLOP/s.
    """
    slow, fast = (make_case(parameters={"shape": s}) for s in ("1x1x1", "2x2x2"))
    single = make_case(precision="fp32")
    half = make_case(workload="bert", mode="infer")
    mixed = make_case(workload="bert", mode="train", precision="bf16-amp")
    full = make_case(workload="bert", mode="infer", precision="fp32")
    odd = make_case(workload="bert", mode="infer", precision="fp16")
    ceilings = {slow.fingerprint: 20, fast.fingerprint: 40, single.fingerprint: 10}
    launches = []
    for case in (slow, fast, single, half, mixed, full, odd):
        flop = ceilings.get(case.fingerprint, 10)
        items = flop if case.workload == "gemm" else 2
        outcome = make_measured(0.01, items=items, flop=flop)
        launches += make_launches(case, [outcome])
    found = summarize(make_file([slow, fast, single, half, mixed, full, odd], launches))
    assert [r.flop_per_second for r in found] == pytest.approx(
        [2000, 4000, 1000, 1000, 1000, 1000, 1000]
    )
    assert [r.ceiling_fraction for r in found] == [
        pytest.approx(0.5),
        pytest.approx(1.0),
        pytest.approx(1.0),
        pytest.approx(0.25),
        pytest.approx(0.25),
        pytest.approx(1.0),
        None,
    ]


def test_a_product_of_a_decodes_shape_is_no_ceiling_of_other_work() -> None:
    """It moves a matrix for one row: beside it a prefill had 127 times its ceiling."""
    narrow = make_case(parameters={"shape": "1x14336x4096"})
    other, square = make_case(workload="bert", mode="infer"), make_case()
    launches = [
        *make_launches(narrow, [make_measured(0.01, flop=10)]),
        *make_launches(other, [make_measured(0.01, flop=1000)]),
    ]
    found = summarize(make_file([narrow, other], launches))
    assert [r.ceiling_fraction for r in found] == [None, None]
    launches += make_launches(square, [make_measured(0.01, flop=2000)])
    found = summarize(make_file([narrow, other, square], launches))
    assert [r.ceiling_fraction for r in found] == pytest.approx([0.005, 0.5, 1.0])


def test_a_precision_of_a_newer_version_is_a_ceiling_of_its_own() -> None:
    newer = make_case(precision="fp4")
    other = make_case(workload="bert", mode="infer", precision="fp4")
    launches = [
        *make_launches(newer, [make_measured(0.01, flop=20)]),
        *make_launches(other, [make_measured(0.01, flop=10)]),
        *make_launches(CASE, [make_measured(0.01, flop=10)]),
    ]
    found = summarize(make_file([newer, other, CASE], launches))
    assert [r.ceiling_fraction for r in found] == pytest.approx([1.0, 0.5, 1.0])


def test_a_share_above_the_ceiling_is_shown_as_it_is() -> None:
    other = make_case(workload="resnet50", mode="infer")
    launches = [
        *make_launches(CASE, [make_measured(0.01, items=10, flop=10)]),
        *make_launches(other, [make_measured(0.01, flop=13)]),
    ]
    found = summarize(make_file([CASE, other], launches))
    assert found[1].ceiling_fraction == pytest.approx(1.3)


def test_a_share_is_as_unsure_as_the_case_and_the_ceiling_together() -> None:
    """The ceiling itself is all of itself, however unsure; of one launch nobody knows."""
    bert, once = (make_case(workload="bert", mode=mode) for mode in ("infer", "train"))
    launches = [
        *make_launches(CASE, [make_measured(s, items=10, flop=10) for s in (0.008, 0.01, 0.012)]),
        *make_launches(bert, [make_measured(s, flop=5) for s in (0.0099, 0.01, 0.0101)]),
        *make_launches(once, [make_measured(0.01, flop=4)]),
    ]
    best, work, brief = summarize(make_file([CASE, bert, once], launches))
    assert best.interval is not None
    assert work.interval is not None
    assert best.share_half_widths == {} and best.limit_half_width is None
    both = math.hypot(best.interval.half_width, work.interval.half_width)
    assert work.share_half_widths == {"matmul": pytest.approx(both)}
    assert work.limit is not None
    assert work.limit_half_width == pytest.approx(both)
    assert brief.share_half_widths == {"matmul": pytest.approx(best.interval.half_width)}


def test_a_brief_run_of_the_ceilings_work_has_a_width_of_its_own() -> None:
    """The same work sustained is the ceiling; neither stands in for the other's interval."""
    seconds = ((0.0099, 0.01, 0.0101), (0.01, 0.02, 0.03))
    sure, unsure = (
        summarize(make_file([CASE], make_launches(CASE, [make_measured(s, flop=10) for s in of])))[
            0
        ]
        for of in seconds
    )
    brief = msgspec.structs.replace(unsure, load=Load(seconds=1.0))
    found = with_ceilings([sure, brief])
    assert sure.interval is not None and brief.interval is not None
    both = math.hypot(sure.interval.half_width, brief.interval.half_width)
    assert [one.share_half_widths for one in found] == [{}, {"matmul": pytest.approx(both)}]


def test_a_burst_has_no_share_of_what_goes_on() -> None:
    """It may be faster than the ceiling, which is of a device that works and is hot."""
    cases = CASE, make_case(mode=BURST)
    launches = [x for one in cases for x in make_launches(one, [make_measured(0.01, flop=10)])]
    shares = [one.ceiling_fraction for one in summarize(make_file(cases, launches))]
    assert shares == [pytest.approx(1.0), None]


def test_a_void_matmul_is_no_ceiling() -> None:
    other = make_case(workload="bert", mode="infer")
    launches = [
        *make_launches(CASE, [make_measured(0.01, flop=10), Void(reason="wrong")]),
        *make_launches(other, [make_measured(0.01, flop=10)]),
    ]
    assert summarize(make_file([CASE, other], launches))[1].ceiling_fraction is None


def test_work_without_arithmetic_has_no_flop_and_bytes_have_their_rate() -> None:
    """12 bytes a step of 3 items, 100 steps a second."""
    found = row([make_measured(0.01, items=3, moved_bytes=12)])
    assert found.flop_per_second is None and found.ceiling_fraction is None
    assert found.bytes_per_second == pytest.approx(1200)


@pytest.mark.parametrize(
    ("cache", "ceiling"), [(None, True), ("unknown", True), (64, True), (65, False), (1152, False)]
)
def test_a_stream_that_caches_may_hold_is_no_ceiling_and_says_so(
    cache: int | str | None, ceiling: bool
) -> None:
    """Arrays of 256 MiB beside last-level caches of so many MiB."""
    triad = make_case(workload="memory", mode="triad", parameters={"size_bytes": 256 * 2**20})
    facts = {"last_level_cache_bytes": str(cache * 2**20 if isinstance(cache, int) else cache)}
    device = {"name": "Fake CPU", "facts": {} if cache is None else facts}
    outcome = make_measured(0.01, moved_bytes=10)
    launches = make_launches(triad, [outcome]) + make_launches(CASE, [outcome])
    stream, work = summarize(make_file([triad, CASE], launches, device=device))
    assert (work.bandwidth_fraction is not None) == (not stream.in_cache) == ceiling
    assert stream.bytes_per_second == pytest.approx(1000) and work.in_cache == ""
    skipped = make_launches(triad, [Skipped(reason="no room")])
    (none,) = summarize(make_file([triad], skipped, device=device))
    assert none.in_cache == ""
    if cache == 1152:
        assert stream.in_cache == (
            "arrays of 256 MiB are less than 4 times the 1.1 GiB of last-level caches, so no "
            f"ceiling. Take size_bytes = {4 * 1152 * 2**20}"
        )


# --- What limits a case --------------------------------------------------------------------------


def limited(
    queue_ns: tuple[int, ...] | None = None,
    moved_bytes: int | None = None,
    flop: int = 4,
    measured: tuple[str, ...] = ("gemm", "memory"),
    **changes: Any,
) -> Row:
    """10 ms and 4 FLOP a step, beside a matmul of 1,000 FLOP/s and a triad of 1,000 B/s.

    measured: which of these two were.
    """
    matmul = make_case(workload="gemm", mode="matmul")
    triad = make_case(workload="memory", mode="triad", precision="fp32")
    case = make_case(workload="llama", mode="decode")
    no = Skipped(reason="not here")
    launches = [
        *make_launches(matmul, [make_measured(0.01, flop=10) if "gemm" in measured else no] * 3),
        *make_launches(
            triad, [make_measured(0.01, moved_bytes=10) if "memory" in measured else no] * 3, 3
        ),
        *make_launches(
            case,
            [make_measured(0.01, flop=flop, moved_bytes=moved_bytes, queue_ns=queue_ns, **changes)]
            * 3,
            6,
        ),
    ]
    return summarize(make_file([matmul, triad, case], launches))[-1]


@pytest.mark.parametrize(
    ("queue_ns", "moved_bytes", "limit"),
    [
        (None, None, ("kernels", 0.4)),
        (None, 3, ("kernels", 0.4)),
        (None, 8, ("memory", 0.8)),
        ((9_000_000,) * 5, 8, ("host", 0.9)),
        ((15_100_000,) * 5, 8, ("host", 1.0)),
        ((7_000_000,) * 5, None, ("kernels", 0.4)),  # hidden behind the device's own time
        ((7_000_000,) * 5, 6, ("memory", 0.6)),
        ((1_000, 2_000_000, 3_000_000), None, ("kernels", 0.4)),
    ],
)
def test_a_case_is_held_back_by_the_ceiling_that_it_is_nearest_to_or_by_its_kernels(
    queue_ns: tuple[int, ...] | None, moved_bytes: int | None, limit: tuple[str, float]
) -> None:
    found = limited(queue_ns, moved_bytes).limit
    assert found is not None
    assert found[0] == limit[0]
    assert found[1] == pytest.approx(limit[1])


@pytest.mark.parametrize(
    ("measured", "moved_bytes", "word"),
    [
        (("memory",), 3, None),  # of arithmetic it may do as well as the device can
        (("gemm",), 3, None),
        (("memory",), 8, "memory"),
        (("gemm",), None, "kernels"),
        ((), 3, None),
    ],
)
def test_kernels_are_not_blamed_beside_a_ceiling_that_was_not_measured(
    measured: tuple[str, ...], moved_bytes: int | None, word: str | None
) -> None:
    found = limited(moved_bytes=moved_bytes, measured=measured).limit
    assert (found[0] if found else None) == word


@pytest.mark.parametrize(
    ("precision", "workload", "flop", "word"),
    [
        ("fp8", "llama", 3, None),
        ("int8", "bert", 3, None),
        ("fp8", "llama", 2, "kernels"),
        ("fp8", "llama", 6, "matmul"),
        ("bf16", "llama", 3, "kernels"),
        ("fp8", "gemm", 3, "kernels"),
    ],
)
def test_kernels_are_not_blamed_of_a_model_whose_attention_is_wider_than_its_ceiling(
    precision: str, workload: str, flop: int, word: str | None
) -> None:
    """At long contexts most of its FLOP are: perfect kernels reach little over half."""
    row = limited(flop=flop)
    case = msgspec.structs.replace(row.case, precision=precision, workload=workload)
    found = msgspec.structs.replace(row, case=case).limit
    assert (found[0] if found else None) == word


def test_arithmetic_at_the_devices_power_limit_is_held_back_by_power() -> None:
    """Only where it is near the ceiling of arithmetic: a low clock does not slow memory."""
    capped: dict[str, Any] = {"flags": ("POWER_CAPPED",)}
    for found, word, share in (
        (limited(flop=7, **capped).limit, "power", 0.7),
        (limited(flop=7).limit, "matmul", 0.7),
        (limited(moved_bytes=8, **capped).limit, "memory", 0.8),
        (limited(flop=1, **capped).limit, "kernels", 0.1),
    ):
        assert found is not None
        assert (found[0], round(found[1], 6)) == (word, share)


@pytest.mark.parametrize(
    ("flop", "waits", "limit"),
    [(3, 0.4, ("input", 0.4)), (6, 0.4, ("matmul", 0.6)), (3, 0.1, ("kernels", 0.3))],
)
def test_waiting_for_input_is_lost_time_and_named_before_slow_kernels(
    flop: int, waits: float, limit: tuple[str, float]
) -> None:
    outcome = make_measured(0.01, flop=flop)
    blocks = [
        msgspec.structs.replace(block, input_wait_ns=round(waits * block.wall_ns))
        for block in outcome.steady
    ]
    found = limited(flop=flop, steady=tuple(blocks)).limit
    assert found is not None
    assert (found[0], round(found[1], 6)) == limit


def brought(mode: str) -> Row:
    """Brings 7 bytes in 10 ms, beside a transfer of 10."""
    link = make_case(workload="transfer", mode=mode, precision="fp32")
    case = make_case(workload="resnet50", mode="train")
    launches = [
        *make_launches(link, [make_measured(0.01, items=10, unit="B")] * 3),
        *make_launches(case, [make_measured(0.01, items=4, transferred_bytes=7)] * 3, 3),
    ]
    return summarize(make_file([link, case], launches))[-1]


def test_a_step_that_brings_its_inputs_may_be_limited_by_the_link() -> None:
    found = brought("to-device")
    assert found.limit is not None and found.limit[0] == "transfer"
    assert found.limit[1] == found.transfer_fraction == pytest.approx(0.7)
    assert found.transferred_bytes_per_second == pytest.approx(700)
    assert found.transfer_ceiling == pytest.approx(1000)
    assert brought("to-host").limit is None, "inputs go the other way"


def test_without_a_measured_ceiling_nothing_is_said_of_limits() -> None:
    assert row([make_measured(0.01, flop=4)], make_case(workload="bert")).limit is None


def test_the_hosts_share_is_the_median_of_queueing_over_that_of_steps() -> None:
    found = limited((1_000, 2_000_000, 3_000_000))
    assert found.host_fraction == pytest.approx(0.2)
