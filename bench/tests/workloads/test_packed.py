"""The layout `packed`: the same weights and tokens, fewer products; asked for, seen, and gated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.errors import SuiteError
from bench.measuring.asked import complaint
from bench.measuring.gates import numerics
from bench.planning import plan
from bench.planning.suite_file import Suite
from bench.precision import PRECISIONS
from bench.records.run import Settings
from bench.tests.small_workloads import WORKLOADS, build, one_thread, site, small
from bench.workload import PACKED, Unsupported
from bench.workloads.layers import packed as packing

__all__ = ["one_thread"]  # a fixture, used by being here

MODELS = [("llama", "tiny", 4), ("qwen3", "tiny", 4), ("qwen3", "tiny-moe", None)]


class Counted(TorchDispatchMode):
    """How many matrices a step multiplies by."""

    count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and its compiler takes seconds to import

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name() in ("aten::mm", "aten::mm.out", "aten::linear")
        return func(*args, **(kwargs or {}))


def decode(name: str, model: str, memory_format: str = PACKED) -> Any:
    given: dict[str, Any] = {"model": model, "batch_size": 2, "prompt_length": 9, "new_tokens": 5}
    return build(name, "decode", site(memory_format=memory_format), **given)


@pytest.mark.parametrize(("name", "model", "products"), MODELS)
def test_packed_decode_picks_the_same_tokens_in_fewer_products(
    name: str, model: str, products: int | None
) -> None:
    plain, packed = decode(name, model, "contiguous"), decode(name, model)
    assert packed.facts["memory_format"] == PACKED
    assert packed.facts["decode"] == "by a forward of our own"
    for _ in range(6):
        plain.step()
        packed.step()
        torch.testing.assert_close(packed._output, plain._output, rtol=1e-4, atol=1e-5)
        assert torch.equal(packed.token, plain.token)
    if products is not None:
        counting: Any = Counted
        with counting() as counted:
            packed.step()
        assert counted.count == products * 3 + 1
    assert complaint(plain.looks()) == complaint(packed.looks()) == ""


def test_matrices_that_lie_apart_after_all_are_told() -> None:
    job = decode("llama", "tiny")
    attention = job.generator.model.model.layers[0].self_attn
    attention.k_proj.weight = torch.nn.Parameter(attention.k_proj.weight.clone())
    assert "layout of the projections: asked for packed, got contiguous" in complaint(job.looks())


def test_the_gate_judges_what_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    at, parameters = site(PRECISIONS["bf16"], memory_format=PACKED), small("llama", "decode")
    assert numerics.gate(WORKLOADS["llama"], "decode", parameters, at).passed
    right = packing.packed

    def gate_and_up_turned(model: Any) -> Any:
        layers: Any = right(model)
        return [one._replace(gate_up=one.gate_up.roll(1, 0)) for one in layers]

    monkeypatch.setattr("bench.workloads.decoding.generation.packed", gate_and_up_turned)
    assert not numerics.gate(WORKLOADS["llama"], "decode", parameters, at).passed


def test_what_cannot_be_packed_says_so() -> None:
    with pytest.raises(Unsupported, match="of DeepseekV2Attention here there is no such layout"):
        decode("deepseek", "tiny")
    with pytest.raises(Unsupported, match="Ask for `contiguous`"):
        build("llama", "decode", site(PRECISIONS["int8"], memory_format=PACKED))


def suite(mode: str) -> Suite:
    tuned = {"memory_format": ["contiguous", PACKED]}
    entry = {"workload": "llama", "mode": mode, "precision": "bf16", "tuned": tuned}
    return Suite(name="s", source="s", description="", settings=Settings(), entries=(entry,))


def test_a_tuned_decode_may_leave_the_layout_open_and_nothing_else_may() -> None:
    (case,) = plan.plan(suite("decode"))
    assert case.space == {"memory_format": ("contiguous", PACKED)}
    with pytest.raises(SuiteError, match="packed"):
        plan.plan(suite("train"))
