"""While a reference is computed, libraries do not find the vendor's software."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from bench import catalogue
from bench.measuring.gates import numerics
from bench.measuring.gates.references import answered_no
from bench.records.outcome import Numerics
from bench.tests.small_workloads import WORKLOADS, one_thread, site, small

__all__ = ["one_thread"]  # a fixture, used by being here

NAME = "is_examplium_available"


def asks(**_: object) -> bool:
    return True


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that has imported the question, and kept one answer."""
    module = ModuleType("a_library")
    monkeypatch.setitem(sys.modules, "a_library", module)
    monkeypatch.setitem(sys.modules, "hidden", None)
    monkeypatch.setattr(module, NAME, asks, raising=False)
    monkeypatch.setattr(module, f"_{NAME}", True, raising=False)
    monkeypatch.setattr(module, "is_other_available", asks, raising=False)
    return module


def answers(library: ModuleType) -> tuple[bool, bool, bool]:
    return (
        library.is_examplium_available(check_device=True),
        library._is_examplium_available,
        library.is_other_available(),
    )


def test_the_named_questions_are_answered_no_and_then_as_before(library: ModuleType) -> None:
    assert answers(library) == (True, True, True)
    with answered_no([NAME]):
        assert answers(library) == (False, False, True)
    assert answers(library) == (True, True, True)
    assert library.is_examplium_available is asks


def test_they_are_as_before_where_the_reference_fails(library: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="broken"), answered_no([NAME]):
        raise RuntimeError("broken")
    assert answers(library) == (True, True, True)


def gate(library: ModuleType, monkeypatch: pytest.MonkeyPatch, *names: str) -> Numerics:
    """Of a model whose library has a function of the vendor's for any tensor, a wrong one."""
    from transformers.models.bert import modeling_bert

    forward = modeling_bert.BertModel.forward
    seen: list[bool] = []

    def branching(model: object, *arguments: object, **named: object) -> object:
        seen.append(library.is_examplium_available())
        if seen == [True, True]:
            raise NotImplementedError("no kernel for a tensor of the host")
        return forward(model, *arguments, **named)

    monkeypatch.setattr(modeling_bert.BertModel, "forward", branching)
    found = numerics.gate(WORKLOADS["bert"], "infer", small("bert", "infer"), site(), names)
    assert seen == [True, False]
    return found


def test_the_gates_reference_takes_no_branch_of_a_vendors(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gate(library, monkeypatch, NAME).passed


def test_without_the_name_the_reference_would_take_it(
    library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotImplementedError, match="no kernel"):
        gate(library, monkeypatch)


def test_every_backends_questions_are_ones_that_a_library_asks() -> None:
    """A misspelt or renamed one would hold nothing."""
    from transformers import utils

    named = [n for name in catalogue.plug_ins("backends") for n in _switches(name)]
    assert len(named) >= 3
    assert [name for name in named if not hasattr(utils, name)] == []


def _switches(name: str) -> tuple[str, ...]:
    return catalogue.backend(name).library_switches
