"""The bare loops of products and attention: of every kind, and of the same work."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from bench.planning import plan
from bench.precision import PRECISIONS
from bench.tests.small_workloads import WORKLOADS, one_thread, site
from bench.tests.validation import kernels
from bench.tests.validation.bare import kernels as bare
from bench.tests.validation.bare.kernels import BARE
from bench.workloads.jobs import products

__all__ = ["one_thread"]  # a fixture, used by being here

SMALL = {"context_length": 64, "experts": 4, "shape": "16x128x128"}


def test_each_has_a_case() -> None:
    found = [f"{case.name} {case.precision}" for case in kernels.cases()]
    assert list(dict.fromkeys(found)) == list(BARE)


def small(name: str) -> Any:
    case = next(c for c in kernels.cases() if f"{c.name} {c.precision}" == name)
    given = {key: SMALL.get(key, value) for key, value in case.parameters.items()}
    return msgspec.structs.replace(case, parameters=given)


@pytest.mark.parametrize("name", BARE)
def test_both_sides_call_the_same_operators_and_take_turns(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(products, "MOST_BUFFERS", 2)
    monkeypatch.setattr(bare, "AT_ONCE", 1)
    case = small(name)
    workload = WORKLOADS[case.workload]
    job = workload.build(
        case.mode, plan.parameters_of(case, workload), site(PRECISIONS[case.precision])
    )
    loop = BARE[name](case.parameters)
    assert seen(job.step) == seen(loop.step)
    if name == "gemm-matmul int8":
        assert kernels.take_turns(case, turns=1).ratio > 0


def seen(step: Any) -> set[str]:
    """The operators that a step calls, but for what only looks at tensors."""
    names: set[str] = set()

    class Watch(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # its compiler takes seconds to import

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            names.add(func.name().partition(".")[0])
            return func(*args, **(kwargs or {}))

    mode: Any = Watch
    with mode():
        step()
    return names - {"aten::t", "aten::transpose"}
