"""What a case is called on a card: short, and never like another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bench.records.case import Case
from bench.reports.wording.labels import fitted, labels
from bench.tests.values import make_case


def decode(execution: str = "eager", **parameters: Any) -> Case:
    usual = {"model": "smollm2-135m", "batch_size": 1, "prompt_length": 128, "new_tokens": 32}
    merged = {**usual, **parameters}
    return make_case(workload="llama", mode="decode", execution=execution, parameters=merged)


@pytest.mark.parametrize(
    ("cases", "texts"),
    [
        ([decode()], ["llama-decode bf16"]),
        ([decode(batch_size=8)], ["llama-decode bf16, batch 8"]),
        ([decode(), decode("graph")], ["llama-decode bf16", "llama-decode bf16 graph"]),
        (
            [decode("compile"), decode("compile-graph", batch_size=8)],
            ["llama-decode bf16 compile", "llama-decode bf16 compile-graph, batch 8"],
        ),
        (
            [decode(), decode(batch_size=8)],
            ["llama-decode bf16, batch 1", "llama-decode bf16, batch 8"],
        ),
        (
            # What differs comes first, then what is unusual.
            [decode(model="toy", prompt_length=n) for n in (128, 512)],
            ["llama-decode bf16, prompt 128, toy", "llama-decode bf16, prompt 512, toy"],
        ),
    ],
)
def test_what_differs_is_shown_and_what_is_usual_is_not(
    cases: list[Case], texts: list[str]
) -> None:
    found = labels("quick", cases)
    assert [found[case.fingerprint].text for case in cases] == texts


def test_a_short_name_has_only_what_tells_cases_apart() -> None:
    cases = [decode(model="toy", batch_size=n) for n in (1, 8)]
    found = labels("quick", [*cases, decode("graph", model="toy")])
    assert [label.short for label in found.values()] == [
        "llama-decode bf16 (batch 1)",
        "llama-decode bf16 (batch 8)",
        "llama-decode bf16 graph",
    ]


WORDS = st.sampled_from(["", "a", "8", "a, b", "x" * 40, "漢" * 30, "on", "\x1b[2J"])
VALUES = st.sampled_from([False, True, 1, 8, 1.0]) | WORDS
CASES = st.builds(
    make_case,
    workload=st.sampled_from(["same", "w" * 60, "漢" * 40]),
    parameters=st.dictionaries(st.sampled_from(["a", "b", "on", "x_steps"]), VALUES, max_size=3),
)


@given(st.lists(CASES, min_size=2, max_size=6, unique_by=lambda case: case.fingerprint))
def test_no_two_cases_are_called_alike_at_any_width(cases: list[Case]) -> None:
    found = list(labels("quick", cases).values())
    assert len({label.text for label in found}) == len(cases)
    for width in (16, 30, 60):
        texts = fitted(found, width)
        assert len(set(texts)) == len(cases) and max(map(cell_len, texts)) <= width
