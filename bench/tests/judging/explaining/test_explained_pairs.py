"""Two explained runs held together: what the chip is, what its software, and how surely."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from bench.errors import ComparisonError, RecordError
from bench.judging.explaining.explained_pairs import ClassPair, ExplainedPair, explained_pairs
from bench.records.explained import Explained
from bench.records.run import RunFile
from bench.reports.terminal import explained_pairs as pairs_card
from bench.tests.judging.explaining.accounts import (
    CEILINGS,
    MM,
    MS,
    REFUSED,
    account,
    explained_file,
    operator,
)
from bench.tests.values import another


def test_the_differences_of_the_parts_are_that_of_the_steps() -> None:
    faster = msgspec.structs.replace(
        account(0.5),
        ceilings=msgspec.structs.replace(CEILINGS, flop_per_second={"matmul bf16": 4e12}),
    )
    (pair,) = explained_pairs(explained_file(account()), explained_file(faster))
    assert pair.difference_ms == pytest.approx(-50.0)
    assert sum(part.difference_ms for part in pair.parts) == pytest.approx(-50.0)
    matmul = pair.parts[0]
    assert matmul.name == "matmul" and matmul.chip == pytest.approx(4.0)
    assert matmul.software == pytest.approx(0.5), "twice as fast, on four times as fast a chip"
    assert {part.name for part in pair.parts} >= {"host", "freeing"}


def test_a_class_is_split_only_where_all_of_it_has_a_bound() -> None:
    """A kernel that is known by its name alone takes 50 ms less: no ceiling says why."""
    named = {"read_bytes": None, "written_bytes": None, "operands": ""}
    sides = [
        account(
            operators=(*account().operators, operator("vendor_gemm", "matmul", ms, **named)),
            step_ns=(round((100 + ms) * MS),),
            order=(),
            call_ns=(),
        )
        for ms in (60.0, 10.0)
    ]
    (pair,) = explained_pairs(*map(explained_file, sides))
    matmul = next(part for part in pair.parts if part.name == "matmul")
    assert (matmul.base_ms, matmul.other_ms) == pytest.approx((120.0, 70.0))
    assert matmul.chip is None and matmul.software is None
    for part in pair.parts:
        if part.chip is not None and part.software is not None:
            assert part.chip * part.software == pytest.approx(part.base_ms / part.other_ms)


def with_environment(file: RunFile, **environment: Any) -> RunFile:
    """As if its processes had said so."""
    given = [msgspec.structs.replace(e, environment=environment) for e in file.explanations]
    return msgspec.structs.replace(file, explanations=tuple(given))


def test_two_explained_runs_are_refused_and_doubted_as_compare_does() -> None:
    base, other = explained_file(account()), explained_file(account(2.0))
    with pytest.raises(ComparisonError, match="are the same run"):
        explained_pairs(base, base)
    with pytest.raises(RecordError, match=r"line 7 is broken\. An incomplete run is not compared"):
        explained_pairs(base, msgspec.structs.replace(other, damage="line 7 is broken"))
    device = {**other.run.device, "simulated": True}
    run = msgspec.structs.replace(other.run, device=device)
    (pair,) = explained_pairs(base, msgspec.structs.replace(other, run=run))
    assert pair.reason == "other: a simulated device" and not pair.parts
    known: dict[str, Any] = {"variables": {}, "variables_looked_for": ["OMP_*"]}
    set_otherwise = with_environment(other, **{**known, "variables": {"OMP_NUM_THREADS": "1"}})
    base = with_environment(base, **known)
    (pair,) = explained_pairs(base, with_environment(other, **known))
    assert pair.parts and not pair.chip_doubt
    (pair,) = explained_pairs(base, set_otherwise)
    assert pair.chip_doubt == "a setting may be the cause: OMP_NUM_THREADS (absent, 1)"
    for width, heading in ((60, r"ceil\w* +share"), (100, "ceiling +share")):
        text = pairs_card.card(base, set_otherwise, [pair], width)
        assert "No verdict on the chip: a setting may be the cause" in text.replace("\n", " ")
        assert re.search(heading, text) and max(map(len, text.splitlines())) <= width
        assert "software" not in text and text.count("chip") == 1, "in the doubt alone"


def test_another_layout_is_no_other_operator_and_what_one_side_lacks_is_said() -> None:
    theirs = operator("aten::mm", "matmul", 80.0, operands="bf16[64,64/1,64]")
    other = account(operators=(theirs, *account().operators[2:]), order=(), call_ns=())
    (pair,) = explained_pairs(explained_file(account()), explained_file(other))
    top = {one.name: (one.base_ms, one.other_ms) for one in pair.operators}
    assert top["aten::mm"] == pytest.approx((60.0, 80.0))
    assert top["aten::add_"][0] == pytest.approx(20.0) and top["aten::add_"][1] is None


def test_only_what_is_explained_on_both_sides_is_held_together() -> None:
    (pair,) = explained_pairs(explained_file(account()), explained_file(REFUSED))
    assert pair.reason.startswith("other REFUSED: tape and replay")
    bare = msgspec.structs.replace(explained_file(), explanations=())
    with pytest.raises(ComparisonError, match="explains nothing"):
        explained_pairs(explained_file(account()), bare)


def test_settings_of_each_side_s_own_are_not_held_together() -> None:
    files = []
    for batch in (8, 16):
        file = explained_file(account())
        (tuned,) = (
            msgspec.structs.replace(e, choice={"batch_size": batch}) for e in file.explanations
        )
        files.append(msgspec.structs.replace(file, explanations=(tuned,)))
    alike = another(files[0])
    (apart,), (together,) = (explained_pairs(files[0], other) for other in (files[1], alike))
    assert apart.reason == "each side was tuned to settings of its own: batch 8; batch 16"
    assert not apart.parts and not together.reason


def held_together(base: Explained, other: Explained) -> ExplainedPair:
    (pair,) = explained_pairs(explained_file(base), explained_file(other))
    return pair


def part(pair: ExplainedPair, name: str) -> ClassPair:
    (found,) = (one for one in pair.parts if one.name == name)
    return found


def with_operators(*operators: Any) -> Explained:
    ms = sum((op.ns or 0.0) for op in operators) / MS
    return account(
        operators=operators,
        step_ns=(round((ms + 5) * MS),),
        freeing_ns=0.0,
        profile=None,
        profile_absent="-",
        order=(),
        call_ns=(),
    )


def test_more_operators_for_the_same_are_no_other_chip() -> None:
    """Four passes over the weights where the other side makes one, on equal boxes."""
    bytes_each = {"read_bytes": 8_000_000, "written_bytes": 8_000_000}
    passes = [
        operator(f"aten::_foreach_{name}", "optimizer", 1.0, **bytes_each)
        for name in ("mul", "add", "addcmul", "addcdiv")
    ]
    fused = operator("aten::_fused_adamw_", "optimizer", 1.0, **bytes_each)
    found = part(held_together(with_operators(MM, *passes), with_operators(MM, fused)), "optimizer")
    assert (found.chip, found.software) == pytest.approx((1.0, 4.0))


def test_of_what_stands_in_another_class_no_ratio_is_made() -> None:
    """Attention as two products, and as one operator."""
    flop = {"precision": "bf16", "flop": 5 * 10**9}
    products = operator("aten::bmm", "matmul", 30.0, calls=2, **flop)
    attention = operator("aten::_scaled_dot_product", "attention", 10.0, **flop)
    pair = held_together(with_operators(MM, products), with_operators(MM, attention))
    for name in ("matmul", "attention"):
        assert part(pair, name).chip is None and part(pair, name).software is None


def test_a_ceiling_that_one_side_lacks_makes_no_ratio() -> None:
    less = msgspec.structs.replace(CEILINGS, flop_per_second={})
    pair = held_together(account(), account(ceilings=less))
    assert part(pair, "matmul").chip is None
    assert part(pair, "elementwise").chip == pytest.approx(1.0)


def test_a_difference_says_how_surely_it_is_one() -> None:
    one = _card(explained_file(account()), explained_file(account(0.95)))
    assert "-5.000 ms (-5.0%, no interval; 1 and 1 launches)" in one
    five = [explained_file(*map(account, each)) for each in ((0.99, 1.0, 1.01), (0.94, 0.95, 0.96))]
    (pair,) = explained_pairs(*five)
    assert pair.ratio is not None and pair.launches == (3, 3)
    low, value, high = pair.ratio.low, pair.ratio.value, pair.ratio.high
    assert low is not None and high is not None and low < value < high
    assert value == pytest.approx(0.95, abs=0.001)
    said = f"95% interval of geometric means {low - 1:+.1%} to {high - 1:+.1%}; 3 and 3 launches)"
    assert said in " ".join(_card(*five).split())
    (step, *others) = pairs_card.rows(five[0], five[1], [pair])
    assert (step["ratio_low"], step["ratio_high"], step["base_launches"]) == (low, high, 3)
    assert all(one.keys() == step.keys() for one in others)


def test_the_percent_is_that_of_the_figures_beside_it() -> None:
    """One launch took three times as long: on the log scale other would be slower."""
    base = explained_file(*map(account, (1.0, 1.0, 3.0)))
    other = explained_file(*map(account, (1.6, 1.6, 1.6)))
    assert "step 166.7 -> 160.0 ms: -6.667 ms (-4.0%, 95% interval of" in _card(base, other)


def test_what_disturbed_a_side_is_said() -> None:
    cause = {"CONTENDED": "other processes had 31% of these cores"}
    base, other = explained_file(account(causes=cause)), explained_file(account())
    text = _card(base, other)
    assert "base CONTENDED other processes had 31% of these cores" in text
    assert "other CONTENDED" not in text
    (step, *_) = pairs_card.rows(other, base, explained_pairs(other, base))
    assert step["disturbed"] == "other CONTENDED other processes had 31% of these cores"


def _card(base: RunFile, other: RunFile) -> str:
    return pairs_card.card(base, other, explained_pairs(base, other), 100)
