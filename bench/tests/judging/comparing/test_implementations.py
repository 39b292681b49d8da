"""Operators that are others in one run than in the other, and tokens that went to other experts."""

from __future__ import annotations

import json
from typing import Any

from bench.judging.comparing.compare import compare
from bench.records.executed import Executed
from bench.records.outcome import Work
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.flat.comparison import flat
from bench.reports.json import REPORT
from bench.reports.table import REPORT as TABLE
from bench.reports.terminal.comparison import render
from bench.tests.judging.two_runs import CASE, only, runs
from bench.tests.values import another, make_case, make_measured

FLASH, MATH = "aten::_flash_attention_forward", "no operator of its own (aten::_safe_softmax)"
CASES = [make_case(workload=name, mode="train") for name in ("llama", "vit-b16", "a", "b")]


def ran(tokens: tuple[int, ...] = (), **operators: str) -> Executed:
    return Executed(
        operators={kind: (name,) for kind, name in operators.items()}, expert_tokens=tokens
    )


def looked(*seen: Executed | None) -> RunFile:
    """A run of one case whose launches saw this; the first launch looks, others need not."""
    return runs((CASE, [make_measured([0.01], executed=one) for one in seen]))


def several(*seen: Executed) -> RunFile:
    """A run of several cases, each of which saw one of these."""
    pairs = zip(CASES, seen, strict=False)
    return runs(*((case, [make_measured([0.01], executed=one)]) for case, one in pairs))


def differences(base: RunFile, other: RunFile) -> dict[str, tuple[str, str]]:
    return {d.name: (d.base, d.other) for d in compare(base, another(other)).differences}


def test_another_operator_is_told_in_one_line_before_the_figures() -> None:
    base, other = looked(ran(attention=FLASH), None), looked(ran(attention=MATH), None)
    assert differences(base, other) == {"attention operators (bert-train)": (FLASH, MATH)}
    card = render([compare(base, another(other))], Canvas(width=200))
    line = f"MAY EXPLAIN IT attention operators (bert-train): {FLASH} | {MATH}"
    assert card.index(line) < card.index("bert-train bf16")


def test_what_is_alike_or_was_not_seen_is_no_difference() -> None:
    flash = looked(ran(attention=FLASH))
    assert differences(flash, flash) == {}
    assert differences(flash, looked(None)) == {}  # an older record
    assert differences(flash, looked(Executed(absent="not observable"))) == {}
    assert differences(flash, looked(ran(attention=FLASH, convolution="aten::x"))) == {}


def test_cases_that_differ_alike_share_a_line() -> None:
    base = several(*[ran(attention=FLASH)] * 4)
    other = several(*[ran(attention=MATH)] * 4)
    name = "attention operators (llama-train, vit-b16-train, a-train and 1 more)"
    assert differences(base, other) == {name: (FLASH, MATH)}
    mixed = several(ran(attention=MATH), ran(attention=FLASH))
    crossed = several(ran(attention=FLASH), ran(attention=MATH))
    assert differences(mixed, crossed) == {
        "attention operators (llama-train)": (MATH, FLASH),
        "attention operators (vit-b16-train)": (FLASH, MATH),
    }


def test_tokens_that_went_to_other_experts_are_counted() -> None:
    base, other = looked(ran((10, 20, 30))), another(looked(ran((12, 20, 28))))
    found = compare(base, other)
    said = "0.033 of the tokens went to other experts at seed 0"
    assert only(found).experts_remark == said
    (case,) = json.loads(json.dumps(flat(found)))["cases"]
    assert case["experts_remark"] == said
    assert f"EXPERTS {said}: bert-train" in render([found], Canvas(width=160))
    for same in (looked(ran((10, 20, 30))), looked(ran()), looked(None), looked(ran((60,)))):
        assert only(compare(base, another(same))).experts_remark == ""


def rendered(found: RunFile) -> str:
    return TABLE.render([found], Canvas(width=200, wide=True))


def test_details_and_flat_rows_say_what_ran() -> None:
    found = looked(ran((1, 2, 9), attention=FLASH, experts="aten::_grouped_mm"))
    said = TABLE.render([found], Canvas(width=200, wide=True))
    assert (
        f"attention: {FLASH}; experts: aten::_grouped_mm; tokens an expert: 1 to 9, 4.00 if even"
    ) in said
    (row,) = json.loads(REPORT.render([found], Canvas()))
    assert row["operators"] == {"attention": [FLASH], "experts": ["aten::_grouped_mm"]}
    assert row["expert_tokens"] == [1, 2, 9] and row["operators_absent"] is None
    hit = Executed(operators={}, expert_tokens=(1, 2, 9), experts_hit=2.5)
    assert "9, 4.00 if even; experts hit: 2.50 a layer" in rendered(looked(hit))
    counted = Work(items=1, unit="token", moved_bytes=9, experts_hit=2.25)
    found = runs((CASE, [make_measured([0.01], executed=hit, work=counted)]))
    assert "experts hit: 2.25 a layer, whose bytes are counted" in rendered(found)
    (row,) = json.loads(REPORT.render([found], Canvas()))
    assert row["experts_hit"] == 2.25
    seen = {"AI_CORE": ("MatMulV3",), "host": ("A", "B", "C", "D", "E", "F")}
    kernels = looked(Executed(kernels=seen))
    said = rendered(kernels)
    assert "kernels on AI_CORE: MatMulV3; kernels on host: A, B, C, D and 2 more" in said
    (row,) = json.loads(REPORT.render([kernels], Canvas()))
    assert row["kernels"] == {place: [*names] for place, names in seen.items()}
    absent: Any = looked(Executed(absent="not observable: compiled code calls no operators"))
    (row,) = json.loads(REPORT.render([absent], Canvas()))
    assert row["operators"] is None and row["expert_tokens"] is None
    said = TABLE.render([absent], Canvas(width=200, wide=True))
    assert "operators not observable: compiled code calls no operators" in said
