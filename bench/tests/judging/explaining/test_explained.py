"""Accounts judged: bounds, shares, coverage and flags, of figures that can be done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bench import guide
from bench.judging.explaining.bounds import bound, of_several, priced
from bench.judging.explaining.explained import MEANINGS, Verdict, explain_run
from bench.judging.explaining.explained_answer import answers
from bench.judging.explaining.explained_pairs import explained_pairs
from bench.judging.explaining.remedies import helped, said
from bench.judging.summary import summarize
from bench.records.explained import Ceilings, Kind, Operator, Tried
from bench.tests.judging.explaining.accounts import (
    ADD,
    CEILINGS,
    MM,
    MS,
    REFUSED,
    SGD,
    VIEWS,
    account,
    explained_file,
    judged,
    operator,
)


@pytest.mark.parametrize(
    ("op", "ms", "by"),
    [
        (MM, 20.0, "matmul bf16"),
        (ADD, 15.0, "read"),
        (SGD, 5.0, "copy"),
        (operator("aten::fill_", "copy", 9.0, written_bytes=50_000_000), 5.0, "write"),
        (operator("aten::mul", "elementwise", 1.0, read_bytes=4, calls=3), 0.003, "launch"),
        (
            operator("aten::sdpa", "attention", 9.0, precision="bf16", flop=10**9),
            1.0,
            "matmul bf16",
        ),
    ],
)
def test_a_bound_is_the_largest_of_arithmetic_bytes_and_calls(
    op: Operator, ms: float, by: str
) -> None:
    found = bound(op, CEILINGS)
    assert found is not None
    assert found.ns / MS == pytest.approx(ms) and found.by == by


def test_what_does_no_counted_work_has_no_bound() -> None:
    assert bound(VIEWS, CEILINGS) is None
    unknown = operator("fused", "elementwise", 1.0, read_bytes=None, written_bytes=None)
    assert bound(unknown, CEILINGS) is None
    other = operator("aten::_scaled_mm", "matmul", 1.0, precision="fp8", flop=10**9)
    assert bound(other, Ceilings(bytes_per_second={}, launch_ns=1.0)) is None
    moving = msgspec.structs.replace(other, read_bytes=10**8, written_bytes=10**8)
    assert bound(moving, CEILINGS) is None, "nobody knows how fast its arithmetic could be"
    uncounted = msgspec.structs.replace(moving, flop=0, precision="")
    assert bound(uncounted, CEILINGS) is None, "nor how much it is"
    own = operator("mylib::fused_mlp", "other", 51.0, read_bytes=10**7, written_bytes=10**6)
    assert bound(own, CEILINGS) is None, "it may be a product or anything"
    told = msgspec.structs.replace(own, flop=10**9, precision="bf16")
    assert bound(told, CEILINGS) == (1 * MS, "matmul bf16")


def test_a_box_of_no_known_launch_bounds_by_what_is_moved() -> None:
    """Of several processes, those that know it have the say."""
    small = operator("aten::mul", "elementwise", 1.0, read_bytes=4, calls=3)
    blind = msgspec.structs.replace(CEILINGS, launch_ns=None)
    found = bound(small, blind)
    assert found is not None and found.by == "read"
    assert of_several([blind, blind]).launch_ns is None
    assert of_several([blind, CEILINGS]).launch_ns == CEILINGS.launch_ns
    assert priced([small], [blind, CEILINGS]) is None
    assert "launch" not in judged(account(ceilings=blind)).ceilings


def test_the_parts_of_a_step_add_up_to_it() -> None:
    case = judged(account())
    parts = (case.operators_ms, case.freeing_ms, case.host_ms)
    assert [p.value for p in parts if p] == pytest.approx([86.0, 4.0, 10.0])
    assert case.coverage is not None and case.coverage.value == pytest.approx(0.90)
    assert case.verdict == "EXPLAINED" and case.step_ms is not None and case.step_ms.low is None
    assert sum(row.ms.value for row in case.classes) == pytest.approx(86.0)
    assert [row.kind for row in case.classes] == ["matmul", "elementwise", "optimizer", "other"]


def test_coverage_is_the_quotient_of_the_means_beside_it() -> None:
    """Operators and freeing of 90 ms: 100 %, 90 % and 69 % of the launches' steps, 86 % in their
    mean, but 270 of 320 ms in all."""
    case = judged(*(account(step_ns=(round(step * MS),)) for step in (90, 100, 130)))
    assert case.coverage is not None and case.coverage.value == pytest.approx(270 / 320)
    assert case.coverage.low is not None and case.coverage.high is not None
    assert case.coverage.low < 270 / 320 < case.coverage.high
    assert case.verdict == "NOT-EXPLAINED" and "84%" in case.reason


def test_a_class_is_held_against_the_bounds_of_its_operators() -> None:
    matmul, elementwise, optimizer, other = judged(account()).classes
    assert matmul.times_bound == pytest.approx(3.0) and matmul.above_ms == pytest.approx(40.0)
    assert elementwise.share == pytest.approx(0.2) and elementwise.above_ms == pytest.approx(5.0)
    assert optimizer.flags == ("BEATS-BOUND",) and other.times_bound is None
    assert matmul.replayed_share == pytest.approx(60 / 84), "views do no work"
    assert matmul.profiled_share == pytest.approx(60 / 90)


def test_operators_stand_in_the_order_of_what_they_are_above_their_bounds() -> None:
    rows = judged(account()).operators
    assert [row.name for row in rows] == [
        "aten::mm",
        "aten::add_",
        "aten::_fused_sgd_",
        "aten::view",
    ]
    assert rows[2].flags == ("BEATS-BOUND",) and rows[3].above_ms is None


def test_several_launches_give_an_interval() -> None:
    case = judged(account(0.99), account(1.0), account(1.01))
    assert case.step_ms is not None and case.step_ms.low is not None
    assert case.step_ms.low < case.step_ms.value == pytest.approx(100.0)
    assert case.classes[0].ms.high is not None and case.launches == 3


def test_an_operator_that_a_launch_lacks_took_no_time_there() -> None:
    less = msgspec.structs.replace(
        account(), operators=account().operators[1:], order=(), call_ns=()
    )
    rows = {row.name: row for row in judged(account(), less).operators}
    assert rows["aten::mm"].ms is not None and rows["aten::mm"].ms.value == pytest.approx(30.0)
    assert rows["aten::mm"].bound_ms == pytest.approx(10.0), "and had no bound there"


def test_one_operator_in_two_classes_is_two_rows() -> None:
    """Backward adds gradients up as the optimizer adds momentum."""
    mine = operator("aten::add_", "optimizer", 3.0, read_bytes=10**6, written_bytes=10**6)
    made = account()
    case = judged(msgspec.structs.replace(made, operators=(*made.operators, mine)))
    rows = {row.kind: row for row in case.operators if row.name == "aten::add_"}
    assert {kind: row.ms.value for kind, row in rows.items() if row.ms} == pytest.approx(
        {"elementwise": 20.0, "optimizer": 3.0}
    )


@pytest.mark.parametrize(
    ("step_ms", "verdict"), [(120, "NOT-EXPLAINED"), (100, "EXPLAINED"), (80, "VOID")]
)
def test_too_little_and_too_much_is_not_explained(step_ms: int, verdict: str) -> None:
    case = judged(account(step_ns=(round(step_ms * MS),)))
    assert case.verdict == verdict and bool(case.reason) == (verdict != "EXPLAINED")


@pytest.mark.parametrize(
    ("floor_us", "step_ms", "calls"),
    [(15.0, 100, True), (5.0, 100, False), (30.0, 96, False), (1.0, 120, False), (45.0, 120, True)],
)
def test_a_host_that_makes_calls_is_told_from_work_that_nobody_saw(
    floor_us: float, step_ms: int, calls: bool
) -> None:
    """504 calls; 90 ms of operators and freeing, and the rest is the host's."""
    host = step_ms - 90
    case = judged(account(step_ns=(round(step_ms * MS),), call_floor_ns=floor_us * 1e3))
    said_of = f"{host / step_ms:.0%} of the step: 504 calls, each {host / 504 * 1e3:.1f} us beside"
    assert case.flags.get("HOST-BOUND", "").startswith(said_of) if calls else True
    assert ("HOST-BOUND" in case.flags) is calls
    if step_ms == 120:
        assert ("work that was not seen" in case.reason) is not calls


@pytest.mark.parametrize(
    ("floor_us", "step_ms", "said_of"),
    [
        (30, 120, ""),  # 4 of 504 calls do work: they are queued in 0.1 ms
        (20_000, 120, ""),  # in 80 ms, beside which the device has 120
        (25_000, 120, "25% of the step: 4 calls, each 7.50 ms beside"),
        (25_000, 96, ""),  # queueing it takes all of the step, and nothing beside its operators
    ],
)
def test_what_is_queued_while_the_device_works_takes_nothing_of_the_step(
    floor_us: float, step_ms: int, said_of: str
) -> None:
    """90 ms of operators and freeing, each operator by itself."""
    floor, step = floor_us * 1e3, (round(step_ms * MS),)
    case = judged(account(how="operands rotated", step_ns=step, call_floor_ns=floor))
    assert case.flags.get("HOST-BOUND", "").startswith(said_of)
    assert ("HOST-BOUND" in case.flags) is bool(said_of)
    assert ("work that was not seen" in case.reason) is (step_ms == 120 and not said_of)


def test_a_profiler_that_answers_has_queued_no_more_than_was_recorded() -> None:
    """500 kernels of 4 calls that do work."""
    kernels = (operator("kernel", "matmul", 98.0, calls=500),)
    rotated = account(
        how="operands rotated",
        step_ns=(round(200 * MS),),
        call_floor_ns=180e3,
        profiled_operators=kernels,
    )
    case = judged(rotated)
    assert (case.how, case.verdict) == ("profiler", "EXPLAINED") and "HOST-BOUND" not in case.flags


def test_flags_say_what_was_seen() -> None:
    tiny = operator("aten::mul", "elementwise", 0.001, read_bytes=4, calls=1)
    seen = account(
        operators=(*account().operators, tiny),
        causes={"CONTENDED": "its threads waited for a core 9% of the time"},
        profile=msgspec.structs.replace(
            account().profile or pytest.fail(), calls={"aten::mm": 1.0, "aten::add_": 1.0}
        ),
    )
    flags = judged(seen).flags
    assert flags["CONTENDED"] == "its threads waited for a core 9% of the time"
    assert flags["TINY"] == "1 operator, 0.0% of the step"
    assert flags["BEATS-BOUND"] == "1 operator, 4.0% of the step"
    assert "TINY" not in judged(msgspec.structs.replace(seen, how="operands rotated")).flags
    assert flags["CHANGED-BY-RECORDING"].startswith(
        "3 operators, 64.0% of the step: aten::mm 2 for 1"
    )


@pytest.mark.parametrize("lacking", range(6))
def test_a_launch_without_a_ceiling_makes_no_bound_smaller(lacking: int) -> None:
    """Of five: where there was no room for buffers larger than the caches."""
    without = account(ceilings=msgspec.structs.replace(CEILINGS, bytes_per_second={}))
    case = judged(*[without] * lacking, *[account()] * (5 - lacking))
    (add,) = (row for row in case.operators if row.name == "aten::add_")
    assert add.bound_ms == (None if lacking == 5 else pytest.approx(15.0))
    assert any(note.startswith("no bandwidth ceiling") for note in case.notes) is (lacking > 0)


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ((150, 115, 75, 75, 95), "VOID"),  # 60, 78, 120, 120 and 95 %: 88 % of all steps
        ((150, 95, 95, 95, 75), "EXPLAINED"),  # two of five
        ((108, 108, 100), "EXPLAINED"),  # 83, 83 and 90 %: to one side
    ],
)
def test_launches_that_miss_it_to_both_sides_are_no_answer(
    steps: tuple[int, ...], verdict: str
) -> None:
    case = judged(*(account(step_ns=(round(step * MS),)) for step in steps))
    assert case.coverage is not None and 0.85 < case.coverage.value < 1.05
    assert case.verdict == verdict
    if verdict == "VOID":
        assert case.reason.startswith("its operators took 60% to 120% of the step over 5 launches")


def test_the_profiler_answers_where_only_it_explains_the_step() -> None:
    kernels = (operator("kernel", "matmul", 100.0),)
    both = account(profiled_operators=kernels)
    assert answers([both]) == [both]
    blind = msgspec.structs.replace(both, step_ns=(round(200 * MS),))
    (answer,) = answers([blind])
    assert answer.operators == kernels and answer.how == "profiler"
    assert judged(blind).verdict == "EXPLAINED"
    hot = msgspec.structs.replace(blind, causes={"HOT": "3 operators", "QUOTA": "1 s"})
    assert [*judged(hot).flags] == ["QUOTA"], "its operands are the step's own"
    assert "HOT" in judged(msgspec.structs.replace(hot, step_ns=both.step_ns)).flags
    (pair,) = explained_pairs(explained_file(blind), explained_file(both))
    assert pair.reason.startswith("base is explained by profiler, other by tape in order: under a")
    rotated = msgspec.structs.replace(both, how="operands rotated")
    (pair,) = explained_pairs(explained_file(rotated), explained_file(both))
    assert not pair.reason, "steps that nobody looked at"


def test_of_all_launches_one_and_the_same_is_the_answer() -> None:
    """And not of each the one that explains it, so that others would be left out for what they
    say."""
    good = account(profiled_operators=(operator("kernel", "matmul", 100.0),))
    less = msgspec.structs.replace(good, step_ns=(round(108 * MS),))
    for launches in ((less, good, good), (good, good, less)):
        case = judged(*launches)
        assert (case.how, case.launches) == ("tape in order", 3)
    case = judged(less, less, good)
    assert (case.how, case.launches) == ("tape in order", 3), "85.6 % in their mean"
    blind = msgspec.structs.replace(good, step_ns=(round(200 * MS),))
    assert (judged(blind, good, blind).how, judged(blind, good).launches) == ("profiler", 2)
    without = msgspec.structs.replace(blind, profiled_operators=())
    assert answers([blind, without]) == [blind, without], "not each has been seen"


def test_launches_that_do_not_count_are_said() -> None:
    assert judged(account(), REFUSED).notes == (f"1 of 2 launches refused it: {REFUSED.reason}",)
    other = msgspec.structs.replace(account(), how="operands rotated")
    case = judged(account(), other)
    assert case.launches == 1 and case.notes[0].startswith("1 of 2 launches went another way")


def test_a_refusal_is_a_row_with_its_reason() -> None:
    (case,) = explain_run(explained_file(REFUSED))
    assert (case.verdict, case.reason) == ("REFUSED", REFUSED.reason)
    (row,) = summarize(explained_file(REFUSED))
    assert not row.reached and row.reason.startswith("explained, not measured")


@pytest.mark.parametrize(
    ("before", "after", "held", "words"),
    [
        ((261, 260) * 3, (233, 232) * 3, True, "held in one launch"),
        ((261, 260, 261), (233, 232, 233), None, "not sure: faster in 3 of 3 turns"),
        ((260,) * 10, (250,) * 8 + (265,) * 2, None, "not sure: faster in 8 of 10 turns"),
        ((261, 260), (260, 259), False, "did not help"),
        ((190, 210), (260, 200), False, "did not help"),
        ((260, 200), (190, 210), None, "not sure: faster in 1 of 2 turns"),
    ],
)
def test_what_was_tried_is_told_truly(
    before: tuple[int, ...], after: tuple[int, ...], held: bool | None, words: str
) -> None:
    tried = Tried(
        remedy="x",
        before_ns=tuple(round(n * MS) for n in before),
        after_ns=tuple(round(n * MS) for n in after),
    )
    assert helped(tried) is held
    assert said(tried).endswith(f" ms, {words}")
    assert said(Tried(remedy="x", absent="no")) == "not tried: x: no"


@pytest.mark.parametrize(
    ("turns", "slower", "most"), [(10, 0, 51), (10, 1, 4), (8, 0, 12), (5, 0, 1), (10, 2, 0)]
)
def test_the_more_was_tried_the_surer_each_must_be(turns: int, slower: int, most: int) -> None:
    """Nine of ten turns are chance's once in a hundred: of seven remedies that do nothing one card
    in fourteen would name one."""
    after = (200,) * (turns - slower) + (300,) * slower
    tried = Tried(remedy="x", before_ns=(260,) * turns, after_ns=after)
    assert [helped(tried, of) for of in range(1, 60)] == [
        True if of <= most else None for of in range(1, 60)
    ]
    assert (most == 0) == said(tried, 1).endswith(f"faster in {turns - slower} of {turns} turns")


def test_every_word_of_an_account_stands_among_the_words() -> None:
    said_in = (Path(guide.__file__).parent / "words.md").read_text(encoding="utf-8")
    words = {*MEANINGS, *get_args(Verdict), *get_args(Kind)}
    assert [word for word in words if word not in said_in] == []
