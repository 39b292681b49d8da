"""The next step of a card: the command that it gives measures what the run measured."""

from __future__ import annotations

from typing import Any

import pytest

from bench.judging.comparing.compare import compare
from bench.judging.summary import summarize
from bench.records.outcome import Outcome
from bench.records.run import RunFile
from bench.report import Canvas
from bench.reports.terminal.comparison import render
from bench.reports.wording.rows import next_step
from bench.tests.values import failed, make_case, make_file, make_launches, make_measured

CASE = make_case()
FINE = make_measured(0.01)


def step(*outcomes: Outcome, **changes: Any) -> str:
    found: RunFile = make_file([CASE], make_launches(CASE, outcomes), **changes)
    return next_step(found, summarize(found))


@pytest.mark.parametrize(
    ("typed", "again"),
    [
        ("accelmark run", "fake"),
        ("accelmark run quick", "quick"),
        ("accelmark run --device cpu my.toml", "my.toml --device cpu"),
        ("accelmark run --device=cpu --launches 3 my.toml", "my.toml --device cpu"),
        ("accelmark run quick --devices 4 --device cuda:1", "quick --device cuda:1 --devices 4"),
        ("accelmark run --explain --wide quick --out runs", "quick"),
        ("accelmark run --launches 3 -- quick", "quick"),
        (
            "accelmark run llm --precision=fp8 --framework mindspore --python python",
            "llm --framework mindspore --precision fp8",
        ),
        ("accelmark run --budget-minutes 5", "fake"),
        ("accelmark run (private) (private) --device cpu", "fake --device cpu"),
        ("accelmark run quick --device (private)", "quick"),
        ("accelmark ab --device cpu --device cuda:2 quick", "quick --device cpu:0"),
        ("accelmark ab --device cuda:2 --device cuda:2 quick", "quick --device cuda:2"),
        ("pytest -k fast --pyargs bench.suite --accelmark-suite my.toml", "my.toml"),
        (
            "pytest tests/x.py --accelmark-device=cpu --accelmark-precision fp32",
            "fake --device cpu --precision fp32",
        ),
    ],
)
def test_a_command_measures_the_same_work_on_the_same_device(typed: str, again: str) -> None:
    command = tuple(typed.split())
    only = f": accelmark run {again} --only 'gemm-matmul'"
    assert step(failed(), failed(), command=command).endswith(only)
    assert step(FINE, FINE, FINE, failed(), failed(), command=command).endswith(only)
    assert step(FINE, FINE, FINE, command=command).endswith(
        f": accelmark run {again} --launches auto"
    )
    if command[1] != "run":
        assert step(end=None, command=command).endswith(f": accelmark run {again}")


@pytest.mark.parametrize(
    ("typed", "again"), [("quick", "quick@2"), ("quick@2", "quick@2"), ("quick.toml", "quick.toml")]
)
def test_a_suite_has_the_number_that_it_had_then(typed: str, again: str) -> None:
    """`quick` is another one today, whose launches would not be compared with these."""
    said = step(failed(), failed(), suite="quick@2", command=("accelmark", "run", typed))
    assert f"accelmark run {again} --only" in said


def test_what_was_asked_for_alone_is_measured_alone_again() -> None:
    command = ("accelmark", "run", "quick", "--only", "gemm-*", "--device=cpu")
    again = "accelmark run quick --device cpu --only"
    assert step(FINE, command=command).endswith(f": {again} 'gemm-*' --launches auto")
    assert step(failed(), failed(), command=command).endswith(f": {again} 'gemm-matmul'")


def test_what_is_typed_next_is_quoted() -> None:
    command = ("accelmark", "run", "my suite.toml", "--device", "a b")
    said = "accelmark run 'my suite.toml' --device 'a b' --only"
    assert said in step(failed(), failed(), command=command)


def test_a_record_that_is_only_explained_is_for_explain() -> None:
    """What is typed there may be the name of a case, which is no suite."""
    command = ("accelmark", "explain", "resnet50-train")
    said = step(failed(), failed(), command=command, only_explained=True)
    assert said.endswith("accelmark explain fake.jsonl")


@pytest.mark.parametrize(
    ("base", "other", "again"),
    [
        ("quick --device cuda", "quick --device cpu", "fake"),
        ("x --precision fp32 --only gemm", "x --only gemm --precision=fp32", "fake {both}"),
        ("--device cpu my.toml", "my.toml", "my.toml"),
    ],
)
def test_a_comparison_repeats_what_both_were_asked_for(base: str, other: str, again: str) -> None:
    first, second = (
        make_file(
            [CASE], make_launches(CASE, [FINE] * 3), command=("accelmark", "run", *typed.split())
        )
        for typed in (base, other)
    )
    last = render([compare(first, second)], Canvas(width=200)).splitlines()[-1]
    said = again.format(both="--precision fp32 --only gemm")
    assert last.endswith(f"on both machines: accelmark run {said} --launches 10")


@pytest.mark.parametrize(
    ("typed", "other"),
    [
        ("quick --device cpu --env OMP_NUM_THREADS=1", True),
        ("quick --device cuda:0 --device cuda:1", False),
        ("quick --python old/python --python=new/python", True),
    ],
)
def test_sides_of_one_ab_are_measured_by_the_same_ab_again(typed: str, other: bool) -> None:
    """`accelmark run` would have neither its variables nor its Python, nor two devices.

    other: whether a `run` of one side would be something else.
    """
    command = ("accelmark", "ab", *typed.split())

    def card(launches: int) -> str:
        outcomes = [make_measured(0.01 * (1 + k % 3)) for k in range(launches)]
        base, other = (
            make_file([CASE], make_launches(CASE, outcomes), command=command, run_id=f"one{end}")
            for end in ("-a", "-b")
        )
        return render([compare(base, other)], Canvas(width=200)).splitlines()[-1]

    assert card(0) == "Next: see why above, then the same accelmark ab --launches 10"
    assert card(3) == "Next: for verdicts: the same accelmark ab --launches 10"
    assert card(10) == "Next: narrower intervals: the same accelmark ab --launches 20"
    assert ("the same accelmark ab --launches auto" in step(FINE, command=command)) == other
    alone = step(failed(), failed(), command=command)
    assert alone.endswith("the same accelmark ab --only 'gemm-matmul'") == other
