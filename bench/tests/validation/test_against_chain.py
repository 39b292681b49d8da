"""The script that sets decode beside a chain of its products: all of them, each once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.planning import plan
from bench.tests.small_workloads import WORKLOADS, build, one_thread, site
from bench.tests.validation import against_chain, against_kernels
from bench.tests.workloads.test_norms import kernels

__all__ = ["one_thread"]  # a fixture, used by being here

PRODUCTS = ("aten::linear", "aten::mm", "aten::bmm", "aten::addmm")


class Products(TorchDispatchMode):
    """Shapes of what is multiplied, and how often it attends."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and its compiler takes seconds to import

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removesuffix(".out")
        if name in PRODUCTS or "attention" in name:
            self.found.append((name, *(x.shape for x in args if hasattr(x, "shape"))))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_chain_has_the_products_of_a_step_and_nothing_else(batch: int) -> None:
    job: Any = build("llama", "decode", site(), batch_size=batch, prompt_length=9, new_tokens=4)
    chain = against_chain.chain_of(job)
    seen = []
    for work in (job.step, chain):
        counted: Any = Products()
        with counted:
            work()
        seen.append(sorted(counted.found))
    assert seen[0] == seen[1] and len(seen[0]) == 3 * 8 + 1
    assert isinstance(job.token, torch.Tensor)


def test_the_bound_has_the_other_kernels_of_a_layer_and_no_more() -> None:
    job: Any = build("llama", "decode", site(), batch_size=3, prompt_length=9, new_tokens=4)
    job.step()
    token = ["embedding", "layer_norm", "max", "mul"]
    seen = [kernels(work) for work in (job.step, against_kernels.bound_of(job))]
    for name in token:
        seen[0].remove(name)
    ours, bound = (sorted(name.replace("silu_", "silu") for name in found) for found in seen)
    assert ours == bound and len(ours) == 3 * 18 + 1


def test_a_launch_gives_one_ratio_and_the_bytes_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    case = against_chain.cases("eager")[0]
    given = {**case.parameters, "model": "tiny", "prompt_length": 9, "new_tokens": 4}
    small = type(case)(
        workload="llama", version=case.version, mode="decode", precision="fp32", parameters=given
    )
    assert against_chain.take_turns(small, turns=2).ratio > 0
    assert "GB/s of weights and cache" in capsys.readouterr().out


def test_what_is_compared_is_one_token_of_three_batches() -> None:
    for execution, cases in against_chain.BY_EXECUTION.items():
        assert {case.execution for case in cases} == {execution}
        assert sorted({case.parameters["batch_size"] for case in cases}) == [1, 8, 32]
        for case in cases:
            plan.parameters_of(case, WORKLOADS["llama"])
