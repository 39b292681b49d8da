"""What a tuned case may leave open, in a suite and as a value, and the choices that it means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.errors import SuiteError
from bench.planning import plan, selected
from bench.planning.suite_file import Suite
from bench.planning.tuning import candidates, in_words, settled
from bench.records.case import Case, Choice
from bench.records.run import Settings
from bench.tests.planning.tuned_runs import fixed_case, tuned_case
from bench.tests.small_workloads import WORKLOADS
from bench.tests.values import make_case, make_launch


def planned(**entry: Any) -> tuple[Case, ...]:
    entry = {"workload": "resnet50", "mode": "infer", **entry}
    suite = Suite(name="s", source="s.toml", description="", settings=Settings(), entries=(entry,))
    return plan.plan(suite)


def test_a_tuned_entry_is_one_case_whatever_it_leaves_open() -> None:
    (case,) = planned(
        tuned={
            "memory_format": ["contiguous", "channels_last"],
            "batch_size": {"from": 2, "doubling_to": 8},
            "execution": ["eager", "compile"],
        }
    )
    assert case.space == {
        "batch_size": (2, 4, 8),
        "execution": ("compile", "eager"),
        "memory_format": ("channels_last", "contiguous"),
    }
    assert case.track == "tuned"
    assert "batch_size" not in case.parameters
    assert case.parameters["image_size"] == 224
    assert case.label == (
        "resnet50-infer bf16 tuned (image 224, batch 2 to 8, compile or eager, "
        "channels_last or contiguous)"
    )


def test_lists_outside_the_table_are_sweeps_of_tuned_cases() -> None:
    cases = planned(precision=["bf16", "fp32"], tuned={"batch_size": [1, 2]})
    assert [case.precision for case in cases] == ["bf16", "fp32"]
    assert [case.execution for case in cases] == ["eager", "eager"]


def test_the_order_in_which_values_are_written_does_not_make_another_case() -> None:
    (one,) = planned(tuned={"batch_size": [1, 2], "execution": ["eager", "compile"]})
    (other,) = planned(tuned={"execution": ["compile", "eager"], "batch_size": [2, 1]})
    assert one.fingerprint == other.fingerprint


def test_what_is_left_open_is_part_of_the_fingerprint() -> None:
    prints = {
        tuned_case().fingerprint,
        tuned_case(batch_size=(1, 2)).fingerprint,
        tuned_case(batch_size=(1, 2, 4)).fingerprint,
        fixed_case(1).fingerprint,
    }
    assert len(prints) == 4


def test_a_fixed_case_says_nothing_of_tuning_so_its_fingerprint_is_what_it_was() -> None:
    assert b"tuned" not in msgspec.json.encode(make_case())
    assert make_case().fingerprint == "2f4be6dc7bc17f46"


def test_a_tuned_case_survives_its_json() -> None:
    case = tuned_case()
    assert msgspec.json.decode(msgspec.json.encode(case), type=Case) == case


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"tuned": {}}, "must be a table .*what may be chosen. For example: tuned ="),
        ({"tuned": True}, "must be a table"),
        ({"tuned": [{"batch_size": [1, 2]}]}, "must be a table"),
        (
            {"tuned": {"image_size": [32, 64]}},
            "`image_size` cannot be tuned. Allowed: batch_size, exec",
        ),
        ({"tuned": {"batch": [1, 2]}}, "`batch` cannot be tuned"),
        ({"tuned": {"batch_size": [1, 2]}, "batch_size": 4}, "is in the case and in its `tuned`"),
        ({"tuned": {"batch_size": 4}}, "gives 1 choice. Allowed: 2 to 1000"),
        ({"tuned": {"batch_size": []}}, r"s.toml, case 1, tuned: `batch_size` is an empty list"),
        ({"tune": {"batch_size": [1, 2]}}, "unknown key|Only `batch_size`"),
        ({"memory_format": "channels_last"}, "Only a table `tuned` may name it"),
        ({"tuned": {"batch_size": [1, 1]}}, "names a value of `batch_size` twice"),
        ({"tuned": {"batch_size": [0, 1]}}, "batch_size must be from 1 to 65536, not 0"),
        ({"tuned": {"batch_size": [1, "2"]}}, "`batch_size` must be a whole number, not .2."),
        ({"tuned": {"batch_size": [1, True]}}, "names a value|must be a whole number, not true"),
        ({"tuned": {"batch_size": {"from": 4, "doubling_to": 1}}}, "no smaller"),
        ({"tuned": {"execution": ["eager", "compiled"]}}, "unknown execution `compiled`.*compile"),
        *(
            (
                {"mode": "train-pipeline", "tuned": {"execution": ["eager", how]}},
                f"resnet50-train-pipeline has no execution `{how}`: compiled are models and",
            )
            for how in ("graph", "compile-graph")
        ),
        ({"tuned": {"execution": ["eager", ["compile"]]}}, "unknown execution"),
        ({"tuned": {"compiler": ["default", "max-autotune"]}}, "one of the executions compiled"),
        (
            {"tuned": {"compiler": ["max-autotune"], "execution": ["eager", "compile"]}},
            r"must be ..default., .max-autotune..",
        ),
        (
            {"tuned": {"compiler": ["default", "max"], "execution": ["eager", "compile"]}},
            "unknown compiler `max`",
        ),
        ({"tuned": {"memory_format": ["channels", "contiguous"]}}, "unknown memory_format `chan"),
        (
            {
                "workload": "bert",
                "tuned": {"memory_format": ["contiguous", "channels_last"]},
            },
            "unknown memory_format `channels_last` for bert-infer. Allowed: contiguous",
        ),
        (
            {"workload": "gemm", "mode": "matmul", "tuned": {"batch_size": [1, 2]}},
            "gemm-matmul has no `batch_size`. Remove it",
        ),
        ({"tuned": {"batch_size": list(range(1, 1002))}}, "gives 1001 choices"),
        (
            {
                "workload": "serve",
                "mode": "load",
                "arrival": "poisson",
                "concurrency": 0,
                "rate": 1.0,
                "tuned": {"execution": ["eager", "graph"]},
            },
            "nothing is tuned at a given rate, which every choice gives. Leave out `tuned`, or `a",
        ),
    ],
)
def test_what_cannot_be_left_open_is_refused_before_anything_runs(
    entry: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SuiteError, match=complaint) as caught:
        planned(**entry)
    assert str(caught.value).startswith("s.toml, case 1")


@pytest.mark.parametrize(
    "space",
    [
        {"precision": ("bf16", "fp32")},
        {"batch_size": (2, 1)},
        {"batch_size": (1, 1)},
        {"batch_size": (1, "2")},
        {"batch_size": ("1", "2")},
        {"execution": (1, 2)},
        {"batch_size": (1,)},
        {"batch_size": ()},
        {"image_size": (32, 64)},
        {"batch_size": tuple(range(1, 1002))},
        {},
    ],
)
def test_a_case_that_leaves_open_what_it_cannot_is_not_constructed(space: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tuned case|ascending"):
        make_case(tuned=space)


def test_only_finds_the_tuned_ones() -> None:
    (one,) = planned(tuned={"batch_size": [1, 2]})
    cases = (fixed_case(1), one)
    assert selected.select(cases, "*-tuned") == (one,)
    assert selected.select(cases, "resnet50-infer-bf16-tuned") == (one,)
    assert selected.select(cases, "resnet50-infer") == cases


def test_choices_double_the_batch_within_all_else() -> None:
    assert [in_words(choice) for choice in candidates(tuned_case())] == [
        "batch 1, compile",
        "batch 2, compile",
        "batch 4, compile",
        "batch 1, eager",
        "batch 2, eager",
        "batch 4, eager",
    ]


def test_a_fixed_case_has_nothing_to_choose() -> None:
    assert list(candidates(fixed_case(1))) == []


def test_a_choice_makes_the_fixed_case_that_runs() -> None:
    assert settled(tuned_case(), {"batch_size": 2, "execution": "compile"}) == fixed_case(
        2, "compile"
    )
    formats = tuned_case(memory_format=("channels_last", "contiguous"))
    assert settled(formats, {"memory_format": "channels_last"}) == fixed_case(8)


@pytest.mark.parametrize(
    ("choice", "search"),
    [
        ({"batch_size": 3, "execution": "eager"}, False),
        ({"batch_size": 2}, False),
        ({"batch_size": 2, "execution": "eager", "memory_format": "contiguous"}, False),
        (None, False),
        (None, True),
    ],
)
def test_a_launch_of_a_choice_that_was_not_open_is_no_launch(
    choice: Choice | None, search: bool
) -> None:
    with pytest.raises(ValueError, match="is none of resnet50-infer"):
        make_launch(case=tuned_case(), choice=choice, search=search)


def test_a_launch_of_a_fixed_case_has_no_choice() -> None:
    with pytest.raises(ValueError, match="is none of"):
        make_launch(choice={"batch_size": 2})
    with pytest.raises(ValueError, match="is none of"):
        make_launch(search=True)


def test_a_fixed_case_is_contiguous_whatever_its_workload_may_be_tuned_to() -> None:
    formats = {name: workload.memory_formats for name, workload in WORKLOADS.items()}
    assert {some[0] for some in formats.values()} == {"contiguous"}
    assert {name for name, some in formats.items() if len(some) > 1} == {"resnet50", "diffusion"}
