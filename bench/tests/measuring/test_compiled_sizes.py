"""What is timed is compiled for its own sizes, though the gate's twin ran the same code before."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import torch

from bench.backends.cpu import CpuBackend
from bench.measuring import messages
from bench.measuring.launch import Launch
from bench.measuring.messages import Request
from bench.records.case import Case
from bench.records.outcome import Measured, Outcome, Void
from bench.tests.measuring.test_asked import SETTINGS
from bench.tests.small_workloads import WORKLOADS, one_thread
from bench.workloads import memory

__all__ = ["one_thread"]  # a fixture, used by being here

SIZES: dict[tuple[str, str], dict[str, Any]] = {
    ("bert", "infer"): {"model": "tiny", "batch_size": 3, "sequence_length": 48},
    ("gpt-oss", "decode"): {"model": "tiny", "batch_size": 3, "prompt_length": 40, "new_tokens": 4},
    ("memory", "triad"): {"size_bytes": 2**21},
}
"""None of the twin's."""


class Symbols(list[list[Any]]):
    """Of each graph that a CPU's compiler is given, which inputs are symbols for a size."""

    limit = 2
    """Graphs that it compiles."""
    disabling = 0
    """After so many of them torch.compile does nothing."""


@pytest.fixture
def symbols(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Symbols]:
    found = Symbols()

    def noting(graph: Any, inputs: list[Any]) -> Any:
        if len(found) == found.limit:
            raise RuntimeError("too large")
        found.append([x for x in inputs if isinstance(x, torch.SymInt)])
        config.disable = len(found) == found.disabling
        return graph.forward

    torch._dynamo.register_backend(noting, name=request.node.name)
    monkeypatch.setattr(CpuBackend, "compilers", (request.node.name,))
    config: Any = torch._dynamo.config
    torch._dynamo.reset()
    with config.patch(automatic_dynamic_shapes=True, suppress_errors=False, disable=False):
        yield found
    torch._dynamo.reset()


def launched(name: str, mode: str) -> Outcome:
    workload = WORKLOADS[name]
    parameters = msgspec.convert(SIZES[name, mode], workload.modes[mode].parameters)
    case = Case(
        workload=name,
        version=workload.version_of(mode),
        mode=mode,
        precision="fp32",
        execution="compile",
        parameters=msgspec.to_builtins(parameters),
    )
    asking = Request(case=case, backend="cpu", index=0, settings=SETTINGS, samples=10, seed=0)
    return Launch(asking, messages.Channel(io.BytesIO())).run().outcome


@pytest.mark.parametrize(("name", "mode"), SIZES)
def test_no_size_of_what_is_timed_is_a_symbol(name: str, mode: str, symbols: Symbols) -> None:
    outcome = launched(name, mode)
    assert isinstance(outcome, Measured), outcome
    assert symbols == [[], []], "the twin's graph, and that of what is timed"


def test_the_twins_code_takes_none_of_the_timed_jobs_room(symbols: Symbols) -> None:
    """Two sizes of one function, where torch may compile it once."""
    config: Any = torch._dynamo.config
    with config.patch(recompile_limit=1):
        outcome = launched("memory", "triad")
    assert isinstance(outcome, Measured), outcome
    assert len(symbols) == 2


def test_what_only_the_twin_was_compiled_for_is_void(symbols: Symbols) -> None:
    """Something switches torch's compiler off meanwhile."""
    symbols.disabling = 1
    outcome = launched("memory", "triad")
    assert isinstance(outcome, Void), outcome
    assert "no graph from torch.compile" in outcome.reason


def broken(target: torch.Tensor, source: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A triad in two graphs."""
    scaled = memory.SCALAR * other
    torch._dynamo.graph_break()
    return torch.add(source, scaled, out=target)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_step_is_not_half_eager(
    limit: int, symbols: Symbols, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two graphs of the twin's and two of the timed job's one is too large for the compiler,
    where torch was told to go on without it."""
    config: Any = torch._dynamo.config
    monkeypatch.setattr(memory, "KERNELS", {"triad": broken})
    symbols.limit = limit
    with config.patch(suppress_errors=True):
        outcome = launched("memory", "triad")
    assert len(symbols) == limit
    assert not isinstance(outcome, Measured) and "too large" in str(outcome)
