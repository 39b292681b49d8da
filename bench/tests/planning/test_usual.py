"""What goes without saying of a case: by its suite where that is shipped, else by its workload."""

from __future__ import annotations

from typing import Any

import pytest

from bench.planning.plan import plan
from bench.planning.suite_file import find_suite, read_suite
from bench.planning.usual import unusual, usual_of
from bench.records.case import Case
from bench.tests.values import make_case


def decode(**parameters: Any) -> Case:
    """The decode of `quick`, which is that of the workload's defaults too, but for changes."""
    usual = {"model": "smollm2-135m", "batch_size": 1, "prompt_length": 128, "new_tokens": 32}
    return make_case(workload="llama", mode="decode", parameters={**usual, **parameters})


def test_of_a_shipped_suite_nothing_is_unusual() -> None:
    for case in plan(read_suite(find_suite("quick"))):
        assert unusual("quick", case) == ()
    assert usual_of("quick") == "parameters as in suite quick"


def test_where_a_suite_sweeps_no_value_is_usual() -> None:
    """`llm` decodes at six batches: which of them a case has is never left out."""
    cases = [c for c in plan(read_suite(find_suite("llm"))) if c.name == "llama-decode"]
    assert cases and all("batch_size" in unusual("llm", case) for case in cases)


@pytest.mark.parametrize(
    ("suite", "parameters", "named"),
    [
        ("quick", {"batch_size": 8}, ("batch_size",)),
        ("quick", {"batch_size": True}, ("batch_size",)),  # 1 == True, and not for a fingerprint
        ("quick", {"unheard_of": 1}, ("unheard_of",)),
        ("mine", {}, ()),
        ("mine", {"model": "llama-3.1-8b", "prompt_length": 512}, ("model", "prompt_length")),
    ],
)
def test_what_differs_is_unusual(
    suite: str, parameters: dict[str, Any], named: tuple[str, ...]
) -> None:
    assert unusual(suite, decode(**parameters)) == named


def test_of_a_workload_that_is_not_here_everything_is_unusual() -> None:
    case = make_case(workload="unheard-of", parameters={"a": 1, "b": "x"})
    assert unusual("mine", case) == ("a", "b")
    assert usual_of("mine") == "default parameters"


def test_an_open_setting_is_a_parameter_like_any_other() -> None:
    case = make_case(execution="tuned", parameters={}, tuned={"execution": ("compile", "eager")})
    assert unusual("mine", case) == ("execution",)


@pytest.mark.parametrize("name", ["quick@1", "quick@2", "quick@3"])
def test_a_numbered_suite_has_parameters_of_its_own(name: str) -> None:
    """As a record names it: its cases say nothing that the suite does not."""
    assert usual_of(name) == f"parameters as in suite {name}"
    assert {unusual(name, case) for case in plan(read_suite(find_suite(name)))} == {()}
