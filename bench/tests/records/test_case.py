"""The fingerprint: stable, and different wherever the work is."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from bench.tests.values import make_case

PARAMETERS = {"batch_size": 8, "rate": 0.5, "shape": "a", "on": True}


def test_fingerprint_is_the_same_for_ever() -> None:
    """The first 16 digits that `sha256sum` gives for this text, worked out apart from the code."""
    canonical = (
        '{"workload":"gemm","version":1,"mode":"matmul","precision":"bf16","execution":"eager",'
        '"parameters":{"shape":"64x64x64"},"devices":1,"parallelism":"none"}'
    )
    assert hashlib.sha256(canonical.encode()).hexdigest()[:16] == "2f4be6dc7bc17f46"
    assert make_case().fingerprint == "2f4be6dc7bc17f46"


def test_fingerprint_ignores_the_order_of_parameters() -> None:
    reordered = dict(reversed(PARAMETERS.items()))
    assert list(reordered) != list(PARAMETERS)
    a, b = make_case(parameters=PARAMETERS), make_case(parameters=reordered)
    assert a.fingerprint == b.fingerprint


def test_fingerprint_changes_with_every_field() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"workload": "memory"},
        {"version": 2},
        {"mode": "copy"},
        {"precision": "fp32"},
        {"execution": "compile"},
        {"parameters": {"shape": "64x64x65"}},
        {"parameters": {"shapes": "64x64x64"}},
        {"parameters": {"shape": "64x64x64", "batch_size": 1}},
        {"parameters": {}},
        {"devices": 2},
        {"parallelism": "data"},
        {"tuned": {"batch_size": (1, 2)}},
    ]
    prints = {make_case(**change).fingerprint for change in changes}
    assert len(prints) == len(changes)
    named = {key for change in changes for key in change}
    assert named == set(make_case().__struct_fields__), "a new field needs a line above"


@pytest.mark.parametrize(
    "change",
    [
        *({name: ""} for name in ("workload", "mode", "precision", "execution", "parallelism")),
        {"version": 0},
        {"devices": 0},
    ],
    ids=str,
)
def test_a_case_without_content_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"case without a|start at 1"):
        make_case(**change)


def test_a_case_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        make_case().version = 2  # type: ignore[misc]


def test_what_is_off_or_once_goes_without_saying() -> None:
    off = {"batch_size": 8, "gradient_checkpointing": False, "accumulation_steps": 1}
    on = {"batch_size": 8, "gradient_checkpointing": True, "accumulation_steps": 4}
    assert make_case(parameters=off).detail == "batch 8"
    assert make_case(parameters={"size_bytes": 8, "chained": 1}).detail == "size 8 B"
    assert make_case(parameters={"size_bytes": 8, "chained": 2}).detail == "size 8 B, chained 2"
    assert make_case(parameters=on).detail == "batch 8, gradient checkpointing, accumulation 4"


def test_names_tell_cases_apart_on_one_line() -> None:
    case = make_case(
        workload="llama",
        mode="train",
        execution="compile",
        parameters={"model": "toy", "batch_size": 8, "sequence_length": 512, "new_tokens": 4},
    )
    assert case.name == "llama-train"
    assert case.detail == "toy, batch 8, sequence 512, new 4"
    assert case.label == "llama-train bf16 compile (toy, batch 8, sequence 512, new 4)"


def test_a_case_made_of_another_has_its_own_fingerprint() -> None:
    """Which is computed once for each, and is no part of it."""
    case = make_case()
    before = msgspec.json.encode(case)
    other = msgspec.structs.replace(case, version=case.version + 1)
    assert len({case.fingerprint, case.fingerprint, other.fingerprint}) == 2
    assert case == make_case() and msgspec.json.encode(case) == before


def test_a_case_without_parameters_has_no_brackets() -> None:
    assert make_case(parameters={}).label == "gemm-matmul bf16"
