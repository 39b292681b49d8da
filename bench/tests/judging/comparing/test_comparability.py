"""What may not be compared, and every reason why."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from bench.judging.comparing.comparability import unequal
from bench.judging.comparing.compare import compare
from bench.records.execution import ALL_EXECUTIONS
from bench.records.run import Settings
from bench.tests.judging.two_runs import (
    CASE,
    FAST,
    FULL,
    REFUSED,
    SIMULATED,
    SLOW,
    changed,
    only,
    run,
    seen,
)
from bench.tests.values import another


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
    assert only(compare(on, another(on))).verdict == "EQUIVALENT"
    said = "float32 products were not allowed the shorter mantissa that the precision asks for"
    assert only(compare(on, off)).reasons == (f"other: {said}",)
    half = seen({"float32_reduced": True})
    assert only(compare(run(FAST), half)).verdict == "SLOWER", "it has no float32 products"


LEFT = {
    "device": {"backend": "cpu"},
    "job": {"optimizer": "SGD(fused=True)"},
    "torch": "2.13.0+cpu",
}
"""What a record says of a bf16 training whose weights torch left as they were."""


def test_a_training_whose_weights_did_not_move_is_refused() -> None:
    found = only(compare(run(FAST), seen(LEFT)))
    assert found.verdict == "INCOMPARABLE"
    assert found.reasons[0].startswith("other: its weights did not train: the fused SGD of torch")
    others: list[dict[str, Any]] = [
        {"device": {"backend": "fake"}},
        {"job": {"optimizer": "SGD(foreach=True)"}},
        {"job": {"optimizer": "AdamW(fused=True)"}},
        {"torch": "2.14.1"},
        {"job": "of another version"},
    ]
    for change in others:
        assert only(compare(run(FAST), seen({**LEFT, **change}))).verdict == "SLOWER", change
    full = only(compare(run(FAST, FULL), seen(LEFT, FULL)))
    assert full.verdict == "SLOWER", "float32 weights it moves"


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


@pytest.mark.parametrize(("mine", "theirs"), [*itertools.permutations(ALL_EXECUTIONS, 2)])
def test_no_execution_is_set_against_another(mine: str, theirs: str) -> None:
    found = only(compare(run(FAST, changed(execution=mine)), run(SLOW, changed(execution=theirs))))
    assert (found.verdict, found.codes) == ("INCOMPARABLE", ("other-execution",))
    assert found.ratio is None


def test_equal_cases_have_no_difference() -> None:
    assert list(unequal(CASE, changed())) == []


def test_ranks_that_share_a_host_are_no_devices() -> None:
    """Two such runs compare; one of them with devices that are two does not."""
    case = changed(devices=2, parallelism="dp2")
    shared, apart = (seen({"world": {"shared_host": one}}, case) for one in (True, False))
    said = "its 2 ranks share one host, the other side's none"
    assert only(compare(shared, apart)).reasons == (f"base: {said}",)
    assert only(compare(apart, shared)).reasons == (f"other: {said}",)
    assert only(compare(apart, shared)).codes == ("shared-host",)
    assert only(compare(shared, another(shared))).verdict == "EQUIVALENT"
    assert only(compare(apart, another(apart))).verdict == "EQUIVALENT"
