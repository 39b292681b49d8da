"""The card: its next step, its width, and records of odd contents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import catalogue
from bench.judging.summary import summarize
from bench.records.outcome import Outcome, Skipped, Void
from bench.records.run import RunFile
from bench.records.runfile import read
from bench.report import Canvas
from bench.reports.table import REPORT
from bench.reports.wording.rows import next_step
from bench.tests.scripts.regenerate import RUN
from bench.tests.values import (
    COMPLETE,
    failed,
    make_case,
    make_file,
    make_launch,
    make_launches,
    make_measured,
)

FINE = make_measured(0.01)
HELD = make_measured(flags=("QUOTA",), causes={"QUOTA": "held back: set OMP_NUM_THREADS=1"})


def file(*outcomes: Outcome, **changes: Any) -> RunFile:
    return make_file([make_case()], make_launches(make_case(), outcomes), **changes)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (file(failed(), failed()), "gemm-matmul has no number"),
        (file(Void(reason="wrong")), "gemm-matmul has no number"),
        (file(end=None), "where it was made: accelmark run --resume fake.jsonl"),
        (
            file(end=None, command=("accelmark", "ab", "quick")),
            "not every case was reached; run again: accelmark run quick",
        ),
        (file(*[make_measured(flags=("NO_STEADY_STATE",))] * 3), "never became steady"),
        (file(*[HELD] * 3), "no more threads than the CPU quota has cores (OMP_NUM_THREADS)"),
        (file(*[make_measured(flags=("CONTENDED",))] * 3), "end other work on this machine"),
        (file(FINE, FINE, FINE, failed(), failed()), "too many launches failed. See why"),
        (file(FINE, FINE, FINE), "--launches auto"),
        (file(FINE, FINE), "--launches auto"),
        (file(*[FINE] * 5), "hand fake.jsonl to whoever compares"),
        (file(Skipped(reason="no bf16")), "nothing was measured. See why, then take another"),
    ],
)
def test_the_next_step_is_the_most_useful_one(run: RunFile, text: str) -> None:
    step = next_step(run, summarize(run))
    assert step.startswith("Next: ") and text in step and "\n" not in step


def test_a_quota_is_named_on_the_card_with_what_helps_and_no_other_work() -> None:
    text = " ".join(REPORT.render([file(*[HELD] * 3)], Canvas(width=100)).split())
    assert "INVALID" in text and "held back: set OMP_NUM_THREADS=1" in text
    assert "QUOTA all launches slowed from outside: " in text
    assert "other work" not in text


@pytest.mark.parametrize(
    ("facts", "environment", "said"),
    [
        ({"instructions_used": "bf16 sse41"}, {}, "threads 2, instructions bf16 sse41"),
        ({"read_back": "not observable: it"}, {}, "instructions not observable: it"),
        ({}, {}, "threads 2, instructions avx512f"),  # an older record: what the machine has
        ({"threads_used": "2"}, {}, "threads 2, "),
        ({"threads_used": "1"}, {}, "threads 2 (1 ran), "),
        ({"threads_used": "not observable: x"}, {}, "threads 2, "),
        ({}, {"variables": {"OMP_NUM_THREADS": "2,1"}}, "threads 2, "),
        (
            {"threads_used": "1"},
            {"variables": {"OMP_NUM_THREADS": "4"}},
            "threads 2 (1 ran, OMP_NUM_THREADS asks for 4), ",
        ),
    ],
)
def test_the_stack_says_what_ran_and_not_what_the_machine_has(
    facts: dict[str, str], environment: dict[str, Any], said: str
) -> None:
    told = {"threads": 2, "device_state": {"instructions": "avx512f"}, **environment}
    launches = [make_launch(FINE, make_case(), environment=told)]
    device = {"backend": "cpu", "index": 0, "name": "Fake CPU", "facts": facts}
    card = REPORT.render([make_file([make_case()], launches, device=device)], Canvas(width=120))
    (stack,) = [line for line in card.splitlines() if line.startswith("threads ")]
    assert said in stack + ", "


def test_the_way_a_run_ended_is_in_the_headline() -> None:
    def headline(**changes: Any) -> str:
        return REPORT.render([file(FINE, **changes)], Canvas(width=120)).splitlines()[0]

    assert headline() == "accelmark fake on Fake CPU (cpu): 1 launch of 1 case"
    assert headline(end=None).endswith(", UNFINISHED")
    interrupted = type(COMPLETE)(reason="interrupted", finished_at="")
    assert headline(end=interrupted).endswith(", INTERRUPTED")


@pytest.mark.parametrize(
    ("count", "said"), [(2, "gemm-matmul bf16 (b 0), gemm-matmul bf16 (b 1)"), (5, "5 cases")]
)
def test_a_flag_names_a_few_cases_and_counts_many(count: int, said: str) -> None:
    cases = [make_case(parameters={"b": b}) for b in range(count + 1)]
    flagged = make_measured(0.01, flags=("DRIFT",))
    launches = [x for case in cases[:-1] for x in make_launches(case, [flagged] * 3)]
    run = make_file(cases, [*launches, *make_launches(cases[-1], [FINE] * 3)])
    text = " ".join(REPORT.render([run], Canvas(width=100)).split())
    assert f"DRIFT step times moved by more than 5 % within a launch: {said}" in text


def test_colour_only_where_it_is_asked_for() -> None:
    plain = REPORT.render([file(FINE)], Canvas(width=100))
    coloured = REPORT.render([file(FINE)], Canvas(width=100, colour=True))
    assert "\x1b[" in coloured and "\x1b" not in plain
    assert "FEW LAUNCHES" in plain, "the verdict is a word, not a colour"


def test_a_run_without_any_measured_case_has_its_card() -> None:
    card = REPORT.render([file(failed(), failed())], Canvas(width=100))
    assert "FAILED" in card and "it broke" in card


PLACES: list[tuple[int, tuple[str, ...]]] = [
    (0, ("device", "facts")),
    (0, ("device", "name")),
    (0, ("device",)),
    (0, ("host",)),
    (1, ("environment",)),
    (1, ("environment", "packages")),
    (1, ("environment", "device_state")),
    (1, ("environment", "threads")),
]


@pytest.mark.parametrize("name", catalogue.plug_ins("reports"))
@pytest.mark.parametrize("value", [{}, [], None, 3, "x"], ids=repr)
@pytest.mark.parametrize(("line", "place"), PLACES)
def test_free_descriptions_of_another_version_are_borne(
    tmp_path: Path, name: str, value: Any, line: int, place: tuple[str, ...]
) -> None:
    """What a record says of host, device and stack may change; a card is printed all the same."""
    lines = [json.loads(text) for text in RUN.read_text(encoding="utf-8").splitlines()]
    target = lines[line]
    for key in place[:-1]:
        target = target[key]
    if len(place) == 1 and not isinstance(value, dict):
        return  # a description is a table: the reader refuses anything else
    target[place[-1]] = value
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    text = catalogue.load("reports", name).render([read(path)], Canvas())
    assert "resnet50" in text
